"""Where the bundled models lie."""

from __future__ import annotations

from pathlib import Path

MODEL_FOLDER = Path(__file__).parent / "data" / "model"
CLIP_FOLDER = MODEL_FOLDER.with_name("clip")


def bundled_model_path() -> Path:
    """Folder of the bundled vision-language model.

    A LLaVA-format model of about three million parameters, trained from scratch on the bundled
    training scenes; it loads with ``AutoModelForImageTextToText`` and ``AutoProcessor``.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    FileNotFoundError
        If the package was installed without its data.

    Examples
    --------
    >>> from semi_nmf_concepts.datasets import bundled_model_path
    >>> (bundled_model_path() / "config.json").is_file()
    True
    """
    return _existing(MODEL_FOLDER, "model")


def bundled_clip_path() -> Path:
    """Folder of the bundled CLIP, which says how well words fit a bundled scene.

    A CLIP-format model of about two million parameters, trained from scratch on the bundled
    training scenes, apart from the bundled vision-language model; it loads with ``CLIPModel`` or
    ``AutoModel`` and ``AutoProcessor``. It knows nothing but the bundled scenes, and its scores do
    not compare with those of other CLIPs.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    FileNotFoundError
        If the package was installed without its data.

    Examples
    --------
    >>> from semi_nmf_concepts.datasets import bundled_clip_path
    >>> (bundled_clip_path() / "config.json").is_file()
    True
    """
    return _existing(CLIP_FOLDER, "CLIP")


def _existing(folder: Path, what: str) -> Path:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"The bundled {what} is missing from {folder}: install the package from a wheel "
            "or a full checkout."
        )
    return folder
