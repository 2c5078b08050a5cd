"""Images and captions of a data set of the Hugging Face package `datasets`, which is not imported:
who has such an object has the package."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sklearn.utils import Bunch

# Under which a record may have its text, in the usual caption and question answering data sets.
TEXT_KEYS = ("raw", "caption", "answer", "text", "sentence")
_USED = ("features", "select_columns", "cast_column", "with_format", "__len__", "__getitem__")


class DatasetImages(Sequence):
    """The images of a data set, undecoded, each read from it when indexed.

    Behaves as a list of image files (``len``, iteration, an integer index), each the bytes of its
    content or its path, None where the row has no image; a slice gives another lazy sequence.
    """

    def __init__(self, dataset, column, rows=None):
        self._dataset, self._column = dataset, column
        self._rows = range(len(dataset)) if rows is None else rows

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, item):
        rows = self._rows[item]
        if isinstance(item, slice):
            return DatasetImages(self._dataset, self._column, rows)
        value = self._dataset[rows][self._column]
        if not isinstance(value, Mapping):
            return value
        return value.get("path") if value.get("bytes") is None else value["bytes"]

    def __repr__(self):
        return f"DatasetImages({self._column!r}, {len(self)} images)"


def load_hf_dataset(dataset, image_column="image", caption_column=None, prompt_column=None):
    """Take images, captions and questions from a data set of Hugging Face's `datasets`.

    The images stay where the data set has them, in memory or on disk: each is read when a model
    needs it, and decoded as any image file is.

    Parameters
    ----------
    dataset : datasets.Dataset
        One split, such as ``load_dataset("nlphuji/flickr30k", split="test")``; not a stream, whose
        rows can be read only in their order. Its format or transform is not applied.
    image_column : str, default="image"
        Column of images (the feature ``Image``), of paths, or of contents of image files.
    caption_column : str, default=None
        Column of reference captions: in each row a text, a record with the text under one of
        "raw", "caption", "answer", "text" and "sentence", or a list of such. A text that a row
        has twice is taken once; blank ones are left out.
    prompt_column : str, default=None
        Column of what the model is asked about the image: one text per row.

    Returns
    -------
    Bunch
        One entry per row in each of: ``images``, a sequence of bytes (the content of an image file)
        or paths, read when indexed; ``captions``, a list of lists of str, or None without
        `caption_column`; ``prompts``, a list of str, or None without `prompt_column`.

    Raises
    ------
    TypeError
        If `dataset` is no map-style data set: a stream, or a dict of splits.
    ValueError
        If a column is not there or holds something else, or there are no rows.

    Examples
    --------
    >>> from datasets import Dataset, Image
    >>> from semi_nmf_concepts.datasets import load_hf_dataset
    >>> dataset = Dataset.from_dict({"image": ["a.png", "b.png"], "text": ["a dog", "a cat"]})
    >>> data = load_hf_dataset(dataset.cast_column("image", Image()), caption_column="text")
    >>> data.images[0], data.captions
    ('a.png', [['a dog'], ['a cat']])
    """
    _check_dataset(dataset)
    columns = {"image_column": image_column}
    optional = {"caption_column": caption_column, "prompt_column": prompt_column}
    columns |= {name: column for name, column in optional.items() if column is not None}
    for parameter, column in columns.items():
        if column not in dataset.features:
            raise ValueError(
                f"{parameter}: the data set has no column {column!r}; its columns are "
                f"{list(dataset.features)}"
            )
    if len(dataset) == 0:
        raise ValueError("dataset has no rows: at least one image is needed")
    return Bunch(
        images=_images(dataset, image_column),
        captions=_captions(dataset, caption_column),
        prompts=_prompts(dataset, prompt_column),
    )


def _check_dataset(dataset):
    if isinstance(dataset, Mapping):
        raise TypeError(
            f"dataset must be one split, got a dict of splits; choose one of {list(dataset)}, as "
            f"in dataset[{next(iter(dataset), 'train')!r}]"
        )
    if all(hasattr(dataset, name) for name in _USED):
        return
    if hasattr(dataset, "features") and hasattr(dataset, "__iter__"):
        raise TypeError(
            "dataset must be a datasets.Dataset, got a stream "
            f"({type(dataset).__name__}), whose rows can be read only in their order: load it "
            "without streaming=True, or keep a part by datasets.Dataset.from_list(list("
            "dataset.take(1000)), features=dataset.features)"
        )
    raise TypeError(
        f"dataset must be a datasets.Dataset, got {type(dataset).__name__}; load_image_folder "
        "reads folders, and a list of images needs no reader"
    )


def _column(dataset, column):
    return dataset.select_columns([column]).with_format(None)


def _images(dataset, column):
    feature, images = dataset.features[column], _column(dataset, column)
    if type(feature).__name__ == "Image":
        # Not decoded here, so that all images go the same way, threads and errors included.
        images = images.cast_column(column, replace(feature, decode=False))
    elif not (
        getattr(feature, "dtype", None) in ("string", "large_string", "binary", "large_binary")
        or (isinstance(feature, dict) and feature.keys() <= {"bytes", "path"})
    ):
        raise ValueError(
            f"image_column: column {column!r} must hold an image in each row (Image), a path or "
            f"the content of an image file, got {feature}"
        )
    return DatasetImages(images, column)


def _captions(dataset, column):
    if column is None:
        return None
    captions = []
    for row, value in enumerate(_column(dataset, column)[:][column]):
        try:
            captions.append(list(dict.fromkeys(_texts(value))))
        except TypeError as error:
            raise ValueError(f"caption_column: row {row} of column {column!r}: {error}") from error
    return captions


def _texts(value):
    """The texts of a cell: a text, a record with a text, or a list of these."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value.strip()] if value.strip() else []
    if isinstance(value, (list, tuple)):
        return [text for one in value for text in _texts(one)]
    if isinstance(value, Mapping):
        key = next((key for key in TEXT_KEYS if key in value), None)
        if key is not None:
            return _texts(value[key])
        raise TypeError(f"a record must have one of {', '.join(TEXT_KEYS)}, got {list(value)}")
    raise TypeError(f"captions must be texts, records or lists of these, got {value!r}")


def _prompts(dataset, column):
    if column is None:
        return None
    prompts = list(_column(dataset, column)[:][column])
    for row, prompt in enumerate(prompts):
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError(
                f"prompt_column: row {row} of column {column!r} must be a text that is not blank, "
                f"got {prompt!r}"
            )
    return prompts
