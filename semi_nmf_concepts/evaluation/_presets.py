"""The published experiments as presets: which model, images, words and settings."""

import os
from dataclasses import dataclass, field
from pathlib import Path

# Order in which a preset draws the images of a smaller run.
_SEED = 0
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class _Layout:
    """Where a data set lies below the folder that it was downloaded to.

    Attributes
    ----------
    files : tuple of str
        Places of the Karpathy file.
    images : tuple of (str, str)
        Pairs of the folder that image names start from and of one that must have images in it.
    """

    files: tuple
    images: tuple


_LAYOUTS = {
    "coco": _Layout(
        files=("dataset_coco.json", "annotations/dataset_coco.json"),
        images=(("", "train2014"), ("images", "images/train2014"), ("images", "images"), ("", "")),
    ),
    "flickr30k": _Layout(
        files=("dataset_flickr30k.json", "annotations/dataset_flickr30k.json"),
        images=tuple(
            (name, name) for name in ("flickr30k-images", "flickr30k_images", "images", "")
        ),
    ),
}


@dataclass(frozen=True)
class Preset:
    """One of the published experiments.

    Attributes
    ----------
    name : str
    model : str or None
        Id of the model on the Hugging Face hub. None where no hub has it in a format that
        transformers reads: its folder must then be given.
    dataset : {"coco", "flickr30k"}
    tokens : tuple of str
        Words of interest; the paper's tables show these four.
    methods : tuple of str
        Semi-NMF and what it is compared with.
    layer : int, default=31
        Block of the language model, counted from 0; the last one of 32.
    n_components : int, default=20
        Number of concepts K.
    setting : dict, default={}
        Parameters of :class:`~semi_nmf_concepts.decomposition.SemiNMFConcepts`. Empty: its
        defaults, the published objective (the L1 term has the weight alpha = 1 for states as they
        are). An evaluation of ``None`` would take the recommended setting of this package.
    clip : str
        Model of the CLIPScore.
    bert : str
        Model of the BERTScore.
    dtype : str, default="auto"
        Precision of the model, see :func:`~semi_nmf_concepts.lmm.load_model`.
    train_split, test_split : str, default="train", "test"
        Karpathy splits in which concepts are found and tested.
    restval : bool, default=False
        Whether COCO's "restval" images join the training images; published results do without.
    n_train, n_test : int, default=None
        At most so many images of a split, drawn with a fixed seed from those that have one of the
        tokens in a reference caption (no others are ever kept); the images of a smaller number are
        among those of a larger one. None: all of these.

    References
    ----------
    Parekh et al., "A Concept-Based Explainability Framework for Large Multimodal Models", NeurIPS
    2024 (arXiv 2406.08074), section 4.

    Examples
    --------
    >>> import dataclasses
    >>> from semi_nmf_concepts.evaluation import PRESETS
    >>> preset = PRESETS["llava-coco"]
    >>> preset.model, preset.layer, preset.tokens
    ('llava-hf/llava-1.5-7b-hf', 31, ('dog', 'bus', 'train', 'cat'))
    >>> trial = dataclasses.replace(preset, tokens=("dog",), n_train=2000, n_test=500)
    """

    name: str
    model: str | None
    dataset: str
    tokens: tuple = ("dog", "bus", "train", "cat")
    methods: tuple = ("semi-nmf", "kmeans", "pca", "simple")
    layer: int = 31
    n_components: int = 20
    setting: dict = field(default_factory=dict)
    clip: str = "openai/clip-vit-base-patch32"
    bert: str = "roberta-large"
    dtype: str = "auto"
    train_split: str = "train"
    test_split: str = "test"
    restval: bool = False
    n_train: int | None = None
    n_test: int | None = None

    def load(self, data):
        """List the training and the test images with their captions.

        Parameters
        ----------
        data : str or path-like
            Folder in the layout that the downloads have: for COCO ``dataset_coco.json`` and the
            folders ``train2014`` and ``val2014`` (or ``images/train2014`` and ``images/val2014``,
            or all images in the folder itself or in ``images``); for Flickr30k
            ``dataset_flickr30k.json`` and the images in ``flickr30k-images`` (or
            ``flickr30k_images``, ``images``, or the folder itself). The JSON file may also lie in
            ``annotations``.

        Returns
        -------
        train, test : Bunch
            As :func:`~semi_nmf_concepts.datasets.load_karpathy` returns them, without the images of
            whose references none has a token.

        Raises
        ------
        FileNotFoundError, NotADirectoryError
            Where the file, the folders or some images are not there; the message lists where they
            were looked for.
        ValueError
            Where the file has another layout, or the number of images is below one.
        """
        from semi_nmf_concepts.datasets import load_karpathy

        for option in ("n_train", "n_test"):
            number = getattr(self, option)
            if number is not None and number < 1:
                raise ValueError(f"{option} must be at least 1 or None, got {number!r}")
        file, images = _find(Path(data), self.dataset)
        train = load_karpathy(file, images, self.train_split, restval=self.restval)
        test = load_karpathy(file, images, self.test_split)
        return _draw(train, self.tokens, self.n_train), _draw(test, self.tokens, self.n_test)


def _find(folder, dataset):
    """The Karpathy file and the folder that its image names start from."""
    if not folder.is_dir():
        kind = "a file" if folder.exists() else "not there"
        raise NotADirectoryError(f"data must be the folder of {dataset}, but {folder} is {kind}")
    layout = _LAYOUTS[dataset]
    file = next((folder / name for name in layout.files if (folder / name).is_file()), None)
    images = next(
        (folder / start for start, within in layout.images if _has_images(folder / within)), None
    )
    sought = []
    if file is None:
        sought.append("the Karpathy split " + " or ".join(str(folder / f) for f in layout.files))
    if images is None:
        places = " or ".join(str(folder / within) for _, within in layout.images)
        sought.append(f"images ({', '.join(_IMAGE_SUFFIXES)}) in {places}")
    if sought:
        raise FileNotFoundError(
            f"data: {folder} does not hold {dataset}; absent: {'; '.join(sought)}"
        )
    return file, images


def _has_images(folder):
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(entry.name.lower().endswith(_IMAGE_SUFFIXES) for entry in entries)


def _draw(data, tokens, n):
    """At most `n` of the images that have one of the tokens in a reference, in their order."""
    import numpy as np
    from sklearn.utils import Bunch

    from semi_nmf_concepts.lmm import mentions

    rows = np.flatnonzero(np.any([mentions(data.captions, token) for token in tokens], axis=0))
    if n is not None and n < len(rows):
        rows = np.sort(np.random.default_rng(_SEED).permutation(rows)[:n])
    return Bunch(**{name: [values[i] for i in rows] for name, values in data.items()})


#: Published experiments by name.
PRESETS = {
    preset.name: preset
    for preset in (
        Preset("depalm-coco", model=None, dataset="coco"),
        Preset("llava-coco", model="llava-hf/llava-1.5-7b-hf", dataset="coco"),
        Preset("llava-flickr30k", model="llava-hf/llava-1.5-7b-hf", dataset="flickr30k"),
    )
}
