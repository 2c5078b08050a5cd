"""Where the files of a model are: a folder, the bundled one, or the hub."""

from pathlib import Path

BUNDLED = "bundled"


def checked(handle):
    """`handle`, if its revision can mean something."""
    if handle.revision is not None and (handle.model == BUNDLED or folder_of(handle) is not None):
        kind = "the bundled model" if handle.model == BUNDLED else "a folder"
        raise ValueError(
            f"revision={handle.revision!r} belongs to ids of the Hugging Face hub, but "
            f"model={handle.model!r} is {kind}: leave revision out."
        )
    return handle


def location_of(handle):
    """Folder or hub id from which transformers loads."""
    folder = folder_of(checked(handle))
    if folder is None:
        return handle.model
    if not folder.is_dir():
        raise ValueError(f"model={handle.model!r}: there is no such folder.")
    if not (folder / "config.json").is_file():
        found = sorted(path.name for path in folder.iterdir())[:5]
        raise ValueError(
            f"model={handle.model!r} is a folder without a config.json, so it is no model in the "
            f"Hugging Face format; it holds {found or 'nothing'}."
        )
    return str(folder)


def folder_of(handle):
    """The folder that `handle` means, or None if it is a hub id."""
    if handle.model == BUNDLED:
        from ..datasets import bundled_model_path

        return Path(bundled_model_path())
    path = Path(handle.model).expanduser()
    looks_local = path.is_absolute() or handle.model.startswith((".", "~")) or "\\" in handle.model
    if path.exists() or looks_local or len(path.parts) > 2:
        return path
    return None


def is_bundled(handle):
    """Whether `handle` is the bundled model, by its name or by its folder."""
    if handle.model == BUNDLED:
        return True
    folder = folder_of(handle)
    if folder is None:
        return False
    from ..datasets import bundled_model_path

    try:
        return Path(bundled_model_path()).resolve() == folder.resolve()
    except FileNotFoundError:  # a checkout without the model's files
        return False


def hub_options(handle):
    """What `from_pretrained` is told besides the place."""
    options = {"trust_remote_code": handle.trust_remote_code}
    if folder_of(handle) is None and handle.revision is not None:
        options["revision"] = handle.revision
    return options


def local_folder(handle):
    """The folder with the model's files; that of a hub id once its configuration is here."""
    folder = folder_of(handle)
    if folder is None:
        folder = Path(hub_file(handle, "config.json", handle.revision)).parent
    return folder


def hub_file(handle, name, revision, **options):
    """Path of a file of a hub id on this machine."""
    from transformers.utils import cached_file

    handle.config  # noqa: B018 - the clear errors about a model that cannot be had
    return cached_file(handle.model, name, revision=revision, **options)
