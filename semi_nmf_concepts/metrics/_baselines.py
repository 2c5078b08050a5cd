"""Baselines that concepts are compared with: words drawn at random, images of noise."""

import operator
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image
from sklearn.utils import check_random_state

from ._ranking import word_lists

# EXIF tag of the orientation, and its values under which an upright image is as wide as the stored
# one is high.
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)


def random_words(words, *, mode="direction", ground=None, width=None, random_state=0):
    """Draw words in the place of those of the concepts: the baseline Rnd-Words.

    Parameters
    ----------
    words : list of (list of str)
        Words of each concept; objects with an attribute ``words`` are accepted.
    mode : {"direction", "shuffle"}, default="direction"
        "direction": words of random unit directions, one per concept, as many words as the concept
        has (or fewer, where the direction gives fewer). "shuffle": the concepts' own word lists,
        each passed on to another concept at random; it shows what belongs to the concept rather
        than to all of them.
    ground : callable, default=None
        Only for "direction": turns directions (K, `width`) of float32 into one word list (or
        ``WordGrounding``) each, with the options that the concepts were grounded with.
    width : int, default=None
        Only for "direction": number of features of a direction.
    random_state : int, RandomState or None, default=0

    Returns
    -------
    drawn : list of list of str
        One list per concept.

    Raises
    ------
    ValueError
        If `mode` is unknown, "direction" comes without `ground` or `width`, or "shuffle" with a
        single concept.

    References
    ----------
    Parekh et al., "A Concept-Based Explainability Framework for Large Multimodal Models", 2024,
    which describes random words; both ways to draw them are found in accounts of it.

    Examples
    --------
    >>> random_words([["dog"], ["snow", "ice"]], mode="shuffle")
    [['snow', 'ice'], ['dog']]
    """
    if mode not in ("direction", "shuffle"):
        raise ValueError(f"mode must be 'direction' or 'shuffle', got {mode!r}.")
    if mode == "direction" and (ground is None or width is None):
        raise ValueError("mode='direction' needs ground and width.")
    rng = check_random_state(random_state)
    lists = word_lists(words)
    if mode == "shuffle":
        return [lists[k] for k in _derangement(len(lists), rng)]
    directions = rng.standard_normal((len(lists), width))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    drawn = word_lists(ground(directions.astype(np.float32)))
    return [new[: len(old)] for new, old in zip(drawn, lists, strict=True)]


def noise_images(images, *, random_state=0):
    """Images of noise in the place of the real ones: the baseline Noise-Imgs.

    Every pixel and colour channel is drawn uniformly from 0 to 255; each image has the size of the
    real one. The images are made when they are looked at, and image i depends on the seed, i and
    its size alone: neither order nor choice of the images matters.

    Parameters
    ----------
    images : sequence of paths, PIL images or arrays
        Only their sizes are looked at, those of the upright images (EXIF orientation applied), as
        the featurizer sees them. Of a file only the header is read (a PNG file as a whole, because
        it may note the orientation at its end). A DataFrame may hold them in a column "image".
    random_state : int, RandomState or None, default=0
        Seed; a RandomState or None draws it once, here.

    Returns
    -------
    noise : Sequence of PIL.Image
        Lazy, RGB: ``len``, iteration, an integer index; a slice gives another lazy sequence with
        the same images. It can be pickled if `images` can.

    Raises
    ------
    TypeError, ValueError
        If `images` is no sequence of images, or holds none; what is wrong with a single image
        shows when it is looked at.

    Notes
    -----
    The paper compares with representations of noise images but its code does not show how they
    come about: a captioner hardly ever writes the word of interest about noise, so that the state
    which chooses it would not exist. The way here: the noise image is shown, and the caption that
    the model generated for the *real* image is dictated (position="forced"); the state is then
    taken where the word stands in it. Everything else stays, the fit included::

        real = featurizer.extract(images)
        noise = noise_images([images[i] for i in real.indices])
        forced = clone(featurizer).set_params(position="forced")
        Z = forced.extract(noise, captions=list(real.captions)).Z

    Examples
    --------
    >>> from PIL import Image
    >>> noise = noise_images([Image.new("RGB", (4, 3)), Image.new("L", (5, 5))])
    >>> noise[0].size, noise[1].mode
    ((4, 3), 'RGB')
    >>> noise[1:][0] == noise[1]
    True
    """
    from semi_nmf_concepts.lmm import split_samples

    images, _ = split_samples(images, None, image_column="image", caption_column="caption")
    if isinstance(random_state, bool) or not hasattr(random_state, "__index__"):
        random_state = check_random_state(random_state).randint(2**31)
    seed = operator.index(random_state)
    if seed < 0:
        raise ValueError(f"random_state must not be negative, got {random_state!r}.")
    return NoiseImages(images, seed, range(len(images)))


class NoiseImages(Sequence):
    """What :func:`noise_images` returns; `indices` are positions among the real images."""

    def __init__(self, images, seed, indices):
        self.images = images
        self.seed = seed
        self.indices = indices

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, item):
        if isinstance(item, slice):
            return NoiseImages(self.images, self.seed, self.indices[item])
        index = self.indices[item]
        width, height = _upright_size(self.images[index], index)
        rng = np.random.default_rng([self.seed, index])
        return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))

    def __repr__(self):
        return f"NoiseImages({len(self)} images, seed={self.seed})"


def _upright_size(item, index):
    """(width, height) of an image as `to_rgb` would return it."""
    if isinstance(item, np.ndarray) and item.ndim in (2, 3):
        return item.shape[1], item.shape[0]
    if isinstance(item, Image.Image):
        return _turned(item)
    if isinstance(item, (str, os.PathLike)):
        try:
            with Image.open(item) as image:
                return _turned(image)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(
                f"image {index} ({os.fspath(item)}) cannot be read: {error}"
            ) from error
    raise TypeError(
        "images must be paths, PIL images or NumPy arrays, got "
        f"{type(item).__name__} at position {index}."
    )


def _turned(image):
    """(width, height) after the orientation noted in EXIF is applied."""
    width, height = image.size
    return (height, width) if image.getexif().get(_ORIENTATION) in _TURNED else (width, height)


def _derangement(n, rng):
    """Draw a permutation of n >= 2 entries that moves every one of them."""
    if n < 2:
        raise ValueError("mode='shuffle' needs at least two concepts.")
    while True:  # a permutation is one with probability 1/e
        order = rng.permutation(n)
        if (order != np.arange(n)).all():
            return order
