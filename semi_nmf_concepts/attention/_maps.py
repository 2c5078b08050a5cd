"""Small results that are drawn: values on image patches, on words, on heads."""

from dataclasses import dataclass, field

import numpy as np
from scipy.special import entr

from ._results import Result


@dataclass(eq=False, repr=False)
class ImageMap(Result):
    """One value for each place of each image.

    Attributes
    ----------
    values : list of ndarray of shape (n_places,)
        One array per image, with a value for each of the boxes of its grid: of each image token,
        or, where these are queries that read the whole image, of each patch.
    images : list of PIL.Image.Image
    grids : list of PatchGrid
    image_names : list of str
    label : str
        What the values are.
    words : list of str
        The words of the answer that they belong to.
    share : float
        Share of the whole that lies on the images, such as the attention mass; NaN if the values
        are no part of a whole.
    entropy : float
        Of the values, as a distribution over places, in nats: 0 on one place, log(n) when all are
        equal. NaN where all are 0.
    word_indices : list of int
        The words, by their place among the words of the answer; empty where that is not known.
    """

    values: list
    images: list
    grids: list
    image_names: list
    label: str = ""
    words: list = field(default_factory=list)
    share: float = np.nan
    entropy: float = np.nan
    word_indices: list = field(default_factory=list)

    plotter = "plot_image_map"

    def __repr__(self):
        places = " + ".join(str(len(part)) for part in self.values)
        words = f" of {_named(self.words)}" if self.words else ""
        about = f"{self.label or 'values'}{words}"
        return f"<ImageMap: {about}, {places} places, share {self.share:.3f}>"

    def pixels(self, image=0, size=None):
        """The values as a density over an image.

        Parameters
        ----------
        image : int, default=0
        size : tuple of int, default=None
            Width and height of the result; None: those of the image.

        Returns
        -------
        ndarray of shape (height, width)
            Every value is spread evenly over the part of the image that it is of, so that the sum
            is the same for every size; overlapping tiles add up.
        """
        return self.grids[image].to_pixels(self.values[image], size)

    def top(self, k=5, image=0):
        """The k places of an image with the largest values: (place, value, box), largest first."""
        values = self.values[image]
        order = np.argsort(-values, kind="stable")[:k]
        boxes = self.grids[image].boxes
        return [(int(i), float(values[i]), tuple(boxes[i].tolist())) for i in order]


def map_of(result, values, *, label, words, word_indices, share):
    """The :class:`ImageMap` of a result, which has the images that the values are of.

    Parameters
    ----------
    result : AnswerTrace, Relevancy, CausalGraph or ConceptActivationMap
    values : list of ndarray of shape (n_places,)
    label, words, word_indices, share
        As of :class:`ImageMap`.
    """
    return ImageMap(
        values=values,
        images=result.images,
        grids=result.grids,
        image_names=result.image_names,
        label=label,
        words=words,
        share=float(share),
        entropy=entropy_of(values),
        word_indices=word_indices,
    )


def on_places(grids, row):
    """Relevancy of all positions on the places of each image: a list of arrays.

    An image keeps the sum of its tokens: what queries read of states without a place, such as the
    class token, is shared out like the rest. `row` may have axes before the positions.
    """
    parts = []
    for grid in grids:
        tokens = row[..., grid.positions]
        places = grid.to_places(tokens)
        if grid.query_layers:
            whole = places.sum(axis=-1, keepdims=True)
            scale = tokens.sum(axis=-1, keepdims=True) / np.where(whole > 0, whole, 1.0)
            places = places * scale
        parts.append(places)
    return parts


def entropy_of(values):
    """Entropy in nats of non-negative values as a distribution; NaN where all are 0."""
    values = np.concatenate([np.ravel(part) for part in values]).astype(np.float64)
    values = np.clip(values, 0, None)
    total = values.sum()
    return float(entr(values / total).sum()) if total > 0 else float("nan")


def _named(words, most=4):
    """Some words, as text."""
    return ", ".join(map(repr, words[:most])) + (" ..." if len(words) > most else "")


@dataclass(eq=False, repr=False)
class WordScores(Result):
    """One value for each word of the answer.

    Attributes
    ----------
    words : list of str
    values : ndarray of shape (n_words,)
    label : str
    """

    words: list
    values: np.ndarray
    label: str = ""

    plotter = "plot_words"

    def __repr__(self):
        pairs = zip(self.words, self.values, strict=True)
        return f"<WordScores: {', '.join(f'{word} {value:.3g}' for word, value in pairs)}>"


@dataclass(eq=False, repr=False)
class HeadMasses(Result):
    """One value for each head of each layer.

    Attributes
    ----------
    values : ndarray of shape (L, H)
    layers : list of int
        Block of each row.
    to : {"image", "question"}
        What the heads look at.
    words : list of str
        The words of the answer over whose tokens the values are means.
    """

    values: np.ndarray
    layers: list
    to: str
    words: list = field(default_factory=list)

    plotter = "plot_heads"

    def __repr__(self):
        layers, heads = self.values.shape
        return (
            f"<HeadMasses: attention to the {self.to} of {_named(self.words)}, {layers} layers of "
            f"{heads} heads>"
        )
