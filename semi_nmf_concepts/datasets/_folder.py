"""Images from a folder, with reference captions from a file where there are some."""

import csv
import json
from collections import defaultdict
from pathlib import Path

from sklearn.utils import Bunch

from .._messages import some
from ._reading import (
    NAMED,
    existing_file,
    existing_folder,
    read_json,
    read_lines,
    refuse_repeated,
    understanding,
)

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".jfif", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
CAPTION_SUFFIXES = (".json", ".jsonl", ".csv", ".tsv")


def load_image_folder(folder, captions=None):
    """List the images of a folder and, from a file, their reference captions.

    Only names are read here: the images themselves are opened when a model needs them.

    Parameters
    ----------
    folder : str or path-like
        Folder searched with all its sub-folders. Hidden files and folders (their names begin with
        a dot) are passed over.
    captions : str or path-like, default=None
        File with reference captions of exactly the images of the folder, one or more for each (a
        COCO file may cover more images: the folder may be a part of the data set). An
        image is named by its path below ``folder``, or by a shorter or longer path with the same
        end where only one image fits. The suffix decides how the file is read (UTF-8):

        ``.json``
            the COCO layout (``{"images": [{"id", "file_name"}], "annotations": [{"image_id",
            "caption"}]}``), an object ``{image: caption or list of captions}``, or a list of
            records ``{"image", "caption"}``, where ``"captions"`` may hold a list.
        ``.jsonl``
            one such record a line.
        ``.csv``, ``.tsv``
            a table with the columns ``image`` and ``caption``, one caption a row.

    Returns
    -------
    Bunch
        ``images``: list of `pathlib.Path`, sorted by their path below ``folder``. ``captions``:
        list of lists of str in the order of ``images``, or None where no file was given.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        Where ``folder`` or ``captions`` is not there, or ``folder`` is a file.
    ValueError
        Where the folder has no images, the file cannot be understood, or images and captions do
        not belong together one to one.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from semi_nmf_concepts.datasets import load_image_folder
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (8, 8)).save(Path(folder, "a.png"))
    ...     _ = Path(folder, "captions.json").write_text('{"a.png": ["a dark square"]}')
    ...     data = load_image_folder(folder, Path(folder, "captions.json"))
    >>> [path.name for path in data.images], data.captions
    (['a.png'], [['a dark square']])
    """
    folder = existing_folder(folder, "folder")
    names = _image_names(folder)
    if not names:
        raise ValueError(
            f"folder: no images in {folder} or its sub-folders; known suffixes are "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    references = None if captions is None else _align(names, Path(captions))
    return Bunch(images=[folder / name for name in names], captions=references)


def _image_names(folder):
    """Paths of the images relative to the folder, with forward slashes, sorted."""
    # A link to nothing counts: a run is to name it rather than pass over it.
    relative = (
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file() or (path.is_symlink() and not path.exists())
    )
    return sorted(
        path.as_posix()
        for path in relative
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in path.parts)
    )


def _align(names, file):
    """Captions of the file in the order of the names; each must find the other."""
    by_base = defaultdict(list)
    for name in names:
        by_base[name.rpartition("/")[2]].append(name)
    captions = {name: [] for name in names}
    unknown = []
    pairs, covers_more = _read_captions(file)
    for key, caption in pairs:
        name = _strip_dot(key)
        if name not in captions:
            # One path may be the tail of the other: "a.png" for "x/a.png", or the reverse.
            candidates = [
                other
                for other in by_base.get(name.rpartition("/")[2], ())
                if f"/{other}".endswith(f"/{name}") or f"/{name}".endswith(f"/{other}")
            ]
            if len(candidates) > 1:
                raise ValueError(
                    f"captions: {key!r} could be any of {some(candidates, NAMED)}; "
                    "name it by its path below the folder"
                )
            if not candidates:
                unknown.append(key)
                continue
            name = candidates[0]
        captions[name].append(caption)
    if unknown and not covers_more:
        unknown = list(dict.fromkeys(unknown))
        raise ValueError(
            f"captions: {file} has captions for {len(unknown)} images that are not in the folder "
            f"({some(unknown, NAMED)}); remove these captions or add the images"
        )
    bare = [name for name, texts in captions.items() if not texts]
    if bare:
        raise ValueError(
            f"captions: {file} has no caption for {len(bare)} of {len(names)} images "
            f"({some(bare, NAMED)}); add them, or leave the captions out"
        )
    return list(captions.values())


def _read_captions(file):
    """(image, caption) pairs in the order of the file, and whether it may cover more images.

    A COCO annotation file belongs to a whole data set, of which the folder may hold a part; any
    other file is taken to be about this folder, and a name too many in it to be a mistake.
    """
    existing_file(file, "captions")
    covers_more = False
    suffix = file.suffix.lower()
    if suffix not in CAPTION_SUFFIXES:
        raise ValueError(
            f"captions: {file} must end in one of {', '.join(CAPTION_SUFFIXES)}; got {suffix!r}"
        )
    with understanding(file, "captions"):
        if suffix == ".json":
            content = read_json(file)
            covers_more = isinstance(content, dict) and "annotations" in content
            pairs = _pairs_of_json(content)
        elif suffix == ".jsonl":
            pairs = _pairs_of_records([_line(*line) for line in read_lines(file)])
        else:
            pairs = _pairs_of_table(file, "\t" if suffix == ".tsv" else ",")
    return pairs, covers_more


def _line(number, line):
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number} is no JSON object ({error})") from error


def _pairs_of_json(content):
    if isinstance(content, list):
        return _pairs_of_records(content)
    if not isinstance(content, dict):
        raise TypeError(f"expected an object or a list, got {type(content).__name__}")
    if "annotations" in content:
        refuse_repeated([image["id"] for image in content["images"]], "images have the same id")
        names = {image["id"]: image["file_name"] for image in content["images"]}
        return [
            _pair(names[entry["image_id"]], entry["caption"]) for entry in content["annotations"]
        ]
    return [_pair(image, text) for image, texts in content.items() for text in _as_list(texts)]


def _pairs_of_records(records):
    pairs = []
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict) or "image" not in record:
            raise ValueError(f'record {number} is no object with "image" and "caption"')
        texts = record["captions"] if "captions" in record else record["caption"]
        pairs.extend(_pair(record["image"], text) for text in _as_list(texts))
    return pairs


def _pairs_of_table(file, separator):
    with open(file, encoding="utf-8-sig", newline="") as stream:
        rows = csv.DictReader(stream, delimiter=separator)
        columns = rows.fieldnames or []
        if not columns:
            raise ValueError("it is empty; its first line must name the columns")
        absent = {"image", "caption"} - set(columns)
        if absent:
            raise ValueError(f"no column {' and '.join(sorted(absent))} among {list(columns)}")
        pairs = []
        for row in rows:
            # What is too much is under None, what is too little is None.
            if None in row or None in row.values():
                raise ValueError(
                    f"line {rows.line_num} has not {len(columns)} values, as the first line has; "
                    f"a text with {separator!r} in it needs quotation marks"
                )
            pairs.append(_pair(row["image"], row["caption"]))
    return pairs


def _pair(image, caption):
    if not isinstance(image, str) or not isinstance(caption, str) or not caption.strip():
        raise ValueError(
            f"image and caption must be texts that are not empty, got {image!r}: {caption!r}"
        )
    return image, caption.strip()


def _as_list(texts):
    if not isinstance(texts, (str, list)):
        raise TypeError(f"captions must be a text or a list of texts, got {texts!r}")
    return [texts] if isinstance(texts, str) else texts


def _strip_dot(name):
    return name.replace("\\", "/").removeprefix("./")
