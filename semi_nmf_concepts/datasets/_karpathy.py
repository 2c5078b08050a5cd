"""Images and captions of the Karpathy splits of COCO and Flickr30k."""

from collections import Counter
from dataclasses import dataclass

from sklearn.utils import Bunch

from ._reading import (
    existing_file,
    existing_folder,
    find_images,
    read_json,
    refuse_repeated,
    understanding,
)

SPLITS = ("train", "val", "test", "restval")


@dataclass(frozen=True)
class _Entry:
    """One image of the file: folder below that of the images ("" for none), name, captions."""

    folder: str
    name: str
    split: str
    captions: list


def load_karpathy(file, images, split="train", *, restval=False):
    """List the images of a Karpathy split with their reference captions.

    Only names are read here: the images themselves are opened when a model needs them.

    Parameters
    ----------
    file : str or path-like
        ``dataset_coco.json`` or ``dataset_flickr30k.json``, or another file of that layout:
        ``{"images": [{"filepath", "filename", "split", "sentences": [{"raw"}, ...]}, ...]}``,
        where ``filepath`` (the folder of the image) may be absent.
    images : str or path-like
        Folder of the images. An image is looked for as ``images/filepath/filename``, then as
        ``images/filename``; so for COCO it is the folder that holds ``train2014`` and ``val2014``,
        or one with the images of both.
    split : {"train", "val", "test", "restval"}, default="train"
        COCO: 82,783, 5,000, 5,000 and 30,504 images; Flickr30k: 29,000, 1,014, 1,000 and none.
    restval : bool, default=False
        Add the images of ``restval``, what the other splits leave of COCO's ``val2014``, to
        ``train``. Captioning models are usually trained on both together; concepts were published
        for ``train`` alone.

    Returns
    -------
    Bunch
        ``images``: list of `pathlib.Path`, in the order of the file. ``captions``: list of lists
        of str in the same order, five an image; blank ones are left out.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        Where `file`, `images` or some of the images of the split are not there.
    ValueError
        Where the file has another layout, an image twice or no images of the split, or `split` or
        `restval` is none of the allowed values.

    References
    ----------
    Karpathy and Fei-Fei, "Deep Visual-Semantic Alignments for Generating Image Descriptions", CVPR
    2015 (arXiv 1412.2306), section 4.

    Examples
    --------
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> from semi_nmf_concepts.datasets import load_karpathy
    >>> entry = {"filename": "1.jpg", "split": "test", "sentences": [{"raw": "A dog runs."}]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Path(folder, "1.jpg").touch()
    ...     _ = Path(folder, "dataset.json").write_text(json.dumps({"images": [entry]}))
    ...     data = load_karpathy(Path(folder, "dataset.json"), folder, "test")
    >>> [path.name for path in data.images], data.captions
    (['1.jpg'], [['A dog runs.']])
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
    if restval and split != "train":
        raise ValueError(f"restval=True adds images to split='train', got split={split!r}")
    file, folder = existing_file(file, "file"), existing_folder(images, "images")
    with understanding(file, "file"):
        entries = _entries(read_json(file))
    wanted = (split, "restval") if restval else (split,)
    _check_filled(wanted, entries, file)
    chosen = [entry for entry in entries if entry.split in wanted]
    of = "split '" + "' and '".join(wanted) + "'"
    return Bunch(
        images=find_images(folder, [(entry.folder, entry.name) for entry in chosen], of),
        captions=[entry.captions for entry in chosen],
    )


def _entries(content):
    """The images of the file, each checked to be of the known layout."""
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise TypeError('expected an object with a list "images", as in dataset_coco.json')
    entries = []
    for number, image in enumerate(content["images"], start=1):
        try:
            entries.append(_entry(image))
        except KeyError as error:
            # An annotation file of COCO has a list of images, too.
            raise ValueError(
                f"image {number} has no {error}, which every image of a Karpathy split has "
                "(load_image_folder reads the annotation files of COCO itself)"
            ) from error
        except (AttributeError, TypeError) as error:
            raise ValueError(f"image {number} is of another layout: {error}") from error
    names = ("/".join(filter(None, (entry.folder, entry.name))) for entry in entries)
    refuse_repeated(names, "images are there")
    return entries


def _entry(image):
    folder, name, split = image.get("filepath", ""), image["filename"], image["split"]
    if not all(isinstance(text, str) for text in (folder, name, split)) or not name:
        raise TypeError(
            f"filepath, filename and split must be texts, got {folder!r}, {name!r} and {split!r}"
        )
    captions = [sentence["raw"].strip() for sentence in image["sentences"]]
    return _Entry(folder, name, split, [caption for caption in captions if caption])


def _check_filled(wanted, entries, file):
    counts = Counter(entry.split for entry in entries)
    for split in wanted:
        if not counts[split]:
            there = ", ".join(f"{name!r} ({count})" for name, count in counts.items())
            raise ValueError(
                f"split: {file} has no image of split {split!r}; "
                f"it has {there or 'no image at all'}"
            )
