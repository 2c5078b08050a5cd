"""Whether a map tells what an answer rests on: patches deleted and inserted in its order.

Boxes of image tokens may overlap (the whole image and its tiles), so an image is cut along all
their borders into *cells*. An order of tokens is an order of cells: each has the rank of the first
token whose box covers it.
"""

from dataclasses import dataclass
from numbers import Integral

import numpy as np

from semi_nmf_concepts._quiet import quiet_transformers

from ._maps import ImageMap
from ._results import Result
from ._words import tokens_of

FILLS = ("mean", "blur", "grey")
SCORES = ("probability", "logit")
# Of a batch; more are no faster on a CPU, and of a large model they would not fit.
_MAX_POSITIONS, _MAX_ROWS = 2048, 16
# Shares of the random orders that do as well as a map: up to here it is clearly better, and from
# here on no better.
_CLEAR, _CHANCE = 0.05, 0.2


@dataclass(eq=False, repr=False)
class FaithfulnessCurves(Result):
    """How a word's score falls and rises with the image; made by :func:`deletion_insertion`.

    Attributes
    ----------
    label : str
        Of the map.
    word : str
        The word (or words) that is scored.
    fractions : ndarray of float64, shape (n_steps + 1,)
        Share of the image that is deleted, or inserted: 0 to 1.
    deletion, insertion : ndarray of float64, shape (n_steps + 1,)
        Scores when that share, the most relevant first, is taken out of the image, and when nothing
        else is in it. ``deletion[0]`` and ``insertion[-1]`` are of the whole image.
    random_deletion, random_insertion : ndarray of float64, shape (n_random, n_steps + 1)
        The same for random orders.
    deletion_area, insertion_area : float
        Areas under the curves. A faithful map has a small area of deletion and a large one of
        insertion.
    random_deletion_areas, random_insertion_areas : ndarray of float64, shape (n_random,)
    score : {"probability", "logit"}
    fill : {"mean", "blur", "grey"}
    """

    label: str
    word: str
    fractions: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray
    random_deletion: np.ndarray
    random_insertion: np.ndarray
    deletion_area: float
    insertion_area: float
    random_deletion_areas: np.ndarray
    random_insertion_areas: np.ndarray
    score: str
    fill: str

    plotter = "plot_faithfulness"

    def __repr__(self):
        return (
            f"<FaithfulnessCurves of {self.word!r}: deletion {self.deletion_area:.3f}, insertion "
            f"{self.insertion_area:.3f}, {len(self.random_deletion)} random orders>"
        )

    def verdict(self, curve="deletion"):
        """Whether the map is better than random orders, in words.

        A map that tells nothing ranks anywhere among them, so what counts is the share of them that
        do as well: up to a twentieth the map is better, above a fifth it is no better.

        Parameters
        ----------
        curve : {"deletion", "insertion"}, default="deletion"

        Returns
        -------
        str
            A sentence that begins with "Better", "Not clearly better" or "No better"; empty without
            random orders.
        """
        area, random = getattr(self, f"{curve}_area"), getattr(self, f"random_{curve}_areas")
        n = len(random)
        if not n or not np.isfinite(area):
            return ""
        as_good = int(np.count_nonzero(random <= area if curve == "deletion" else random >= area))
        if as_good <= _CLEAR * n:
            better = f"all {n}" if as_good == 0 else f"{n - as_good} of {n}"
            return f"Better than {better} random orders."
        not_better = "No better" if as_good > _CHANCE * n else "Not clearly better"
        return f"{not_better} than random orders: {as_good} of {n} do as well or better."


def deletion_insertion(
    trace,
    map,
    word=None,
    *,
    n_steps=8,
    n_random=5,
    fill="mean",
    score="probability",
    random_state=0,
):
    """Check a map: delete patches in its order, or insert them into an empty image.

    If a map tells what a word rests on, its score falls quickly when the places that the map ranks
    first are taken out of the image, and rises quickly when these alone are put into an empty one.
    Each changed image goes through the model anew, the answer being dictated. Several images are
    ranked together.

    Parameters
    ----------
    trace : AnswerTrace
    map : ImageMap, or array-like, or list of array-like, one per image
        As for :meth:`AnswerTrace.image_map`: a value for each place, each cell of the grid, or each
        pixel. Tokens without a place in the image are left out. Where values are equal, the place
        that comes first goes first.
    word : int, str, or list of these, default=None
        Words of the answer whose score is looked at. None: those of the map; of a map of your own
        that names none, all of the answer.
    n_steps : int, default=8
        Points of a curve after the first. Each costs a pass of the model for the map's deletion,
        its insertion, and every random order.
    n_random : int, default=5
        Random orders to compare with. One set of images serves for deletion and insertion, because
        what an order has deleted is what its reverse has not inserted yet.
    fill : {"mean", "blur", "grey"}, default="mean"
        What stands in the place of what is deleted: the mean colour of the image, the image blurred
        beyond recognition, or a medium grey. No choice is neutral; a check that holds for one of
        them may be repeated with another.
    score : {"probability", "logit"}, default="probability"
        Of the word's tokens, of which the mean is taken.
    random_state : int, default=0
        Seed of the random orders.

    Returns
    -------
    FaithfulnessCurves

    Raises
    ------
    ValueError
        If the map has not one finite value for each image place, no token has a place in an image,
        a word is not in the answer, or a number or a choice
        is not allowed.

    References
    ----------
    .. [1] Petsiuk, Das and Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box
       Models", BMVC 2018. https://arxiv.org/abs/1806.07421

    Examples
    --------
    >>> from semi_nmf_concepts.attention import deletion_insertion, relevancy, trace_answer
    >>> from semi_nmf_concepts.datasets import load_scenes
    >>> trace = trace_answer(images=load_scenes("test", token="dog", n=1).images[0])
    >>> found = relevancy(trace, "dog").map("dog")
    >>> curves = deletion_insertion(trace, found, n_steps=4, n_random=2)
    >>> curves.fractions.tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0]
    >>> bool(curves.deletion_area < curves.random_deletion_areas.mean())
    True
    """
    return deletions_insertions(
        trace,
        [(map, word)],
        n_steps=n_steps,
        n_random=n_random,
        fill=fill,
        score=score,
        random_state=random_state,
    )[0]


def deletions_insertions(
    trace, pairs, *, n_steps=8, n_random=5, fill="mean", score="probability", random_state=0
):
    """:func:`deletion_insertion` of several maps, for which the random orders run once.

    Parameters
    ----------
    trace : AnswerTrace
    pairs : list of (map, word)

    Returns
    -------
    list of FaithfulnessCurves
    """
    _check(n_steps, n_random, fill, score)
    maps = [_values(trace, map) for map, _ in pairs]
    words = [_words(trace, *pair) for pair in pairs]
    pictures = _Pictures(trace, fill, np.linspace(0, 1, n_steps + 1))
    generator = np.random.default_rng(random_state)
    n_places = sum(len(grid.boxes) for grid in trace.grids)
    orders = [np.argsort(-values, kind="stable") for values in maps]
    random = [generator.permutation(n_places) for _ in range(n_random)]
    wanted = [pictures.curve(order, insert) for order in orders for insert in (False, True)]
    wanted += [pictures.curve(order, False) for order in random]
    scores = _scores(trace, pictures.made, score)  # (pictures, answer tokens)
    curves = np.array([scores[curve] for curve in wanted])
    return [
        _record(trace, pair[0], chosen, curves, row, len(pairs), pictures.fractions, fill, score)
        for row, (pair, chosen) in enumerate(zip(pairs, words, strict=True))
    ]


def _check(n_steps, n_random, fill, score):
    for name, value, least in (("n_steps", n_steps, 1), ("n_random", n_random, 0)):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}.")
    for name, value, allowed in (("fill", fill, FILLS), ("score", score, SCORES)):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}.")


def _values(trace, map):
    """One value for each place of all images."""
    parts = map.values if isinstance(map, ImageMap) else map
    values = np.concatenate(trace.image_map(parts).values)
    placed = ~np.isnan(np.concatenate([grid.boxes[:, 0] for grid in trace.grids]))
    if not placed.any():
        raise ValueError(
            f"the image tokens of model {trace.model.model!r} stand for no places in the image, so "
            "that none can be deleted."
        )
    if not np.isfinite(values[placed]).all():
        raise ValueError("map has values that are not finite.")
    return values


def _words(trace, map, word):
    """Indices of the words that are scored."""
    if word is None and isinstance(map, ImageMap):
        word = map.word_indices or map.words or None
    return trace.find_words(word)


class _Pictures:
    """The images to run, each once: parts of the originals in front of their fill."""

    def __init__(self, trace, fill, fractions):
        self.fractions = fractions
        self._images = trace.images
        self._fills = [_filled(image, fill) for image in trace.images]
        self._cells = [_Cells(grid.boxes) for grid in trace.grids]
        self._ends = np.cumsum([len(grid.boxes) for grid in trace.grids])
        # The first and last points of all curves.
        self.made = [list(trace.images), self._without([one.covered for one in self._cells])]

    def curve(self, order, insert):
        """Numbers of the images of one curve: deleted in this order of tokens, or inserted."""
        ranks = np.empty(len(order), dtype=np.int64)
        ranks[order] = np.arange(len(order))
        cells = [
            one.ranks(part, len(order))
            for one, part in zip(self._cells, np.split(ranks, self._ends[:-1]), strict=True)
        ]
        area = sum(
            np.bincount(rank.ravel(), one.areas.ravel(), len(order) + 1)
            for one, rank in zip(self._cells, cells, strict=True)
        )[:-1]
        reached = np.concatenate([[0.0], np.cumsum(area) / area.sum()])
        numbers = [1 if insert else 0]
        for fraction in self.fractions[1:-1]:
            n_first = np.abs(reached - fraction).argmin()
            gone = [
                one.covered & ((rank < n_first) ^ insert)
                for one, rank in zip(self._cells, cells, strict=True)
            ]
            self.made.append(self._without(gone))
            numbers.append(len(self.made) - 1)
        return [*numbers, 0 if insert else 1]

    def _without(self, cells):
        """The images without some of their cells (one array of bool for each image)."""
        from PIL import Image

        changed = []
        parts = zip(self._images, self._fills, self._cells, cells, strict=True)
        for image, fill, one, gone in parts:
            mask = Image.fromarray(one.pixels(gone, image.size).astype(np.uint8) * 255)
            changed.append(Image.composite(fill, image, mask))
        return changed


class _Cells:
    """An image cut along the borders of all boxes."""

    def __init__(self, boxes):
        boxes = np.round(boxes, 9)  # borders that differ by rounding are one
        placed = ~np.isnan(boxes[:, 0])
        self._placed, boxes = np.flatnonzero(placed), boxes[placed]
        self._x, self._y = np.unique(boxes[:, [0, 2]]), np.unique(boxes[:, [1, 3]])
        self._columns = np.searchsorted(self._x, boxes[:, [0, 2]])
        self._rows = np.searchsorted(self._y, boxes[:, [1, 3]])
        self.areas = np.outer(np.diff(self._y), np.diff(self._x))
        self.covered = self.ranks(np.zeros(len(placed), dtype=np.int64), 1) == 0

    def ranks(self, ranks, none):
        """Rank of every cell, from those of the tokens; `none` where no token covers it."""
        cells = np.full(self.areas.shape, none)
        for token, columns, rows in zip(self._placed, self._columns, self._rows, strict=True):
            part = cells[slice(*rows), slice(*columns)]
            np.minimum(part, ranks[token], out=part)
        return cells

    def pixels(self, cells, size):
        """bool (height, width): pixels whose centre lies in one of the chosen cells."""
        x, y = (
            np.searchsorted(edges, (np.arange(n) + 0.5) / n, side="right") - 1
            for edges, n in zip((self._x, self._y), size, strict=True)
        )
        framed = np.pad(cells, ((0, 1), (0, 1)))  # index -1 and the last: outside of all cells
        return framed[np.ix_(y, x)]


def _filled(image, fill):
    from PIL import Image, ImageFilter

    if fill == "blur":
        return image.filter(ImageFilter.GaussianBlur(min(image.size) / 8))
    mean = np.asarray(image, dtype=np.float64).mean(axis=(0, 1)) if fill == "mean" else [128] * 3
    return Image.new("RGB", image.size, tuple(int(round(value)) for value in mean))


def _scores(trace, pictures, score):
    """float64 (pictures, T): score of every answer token for every set of images."""
    import torch

    run = trace.run_again
    model, ids = run.handle.loaded.model, torch.tensor(run.ids)
    step = max(1, min(_MAX_ROWS, _MAX_POSITIONS // len(trace.token_ids)))
    found = []
    with torch.inference_mode(), quiet_transformers():
        for start in range(0, len(pictures), step):
            rows = [run.extended(run.encode(images)) for images in pictures[start : start + step]]
            for batch in _batches(rows):
                logits = model(**batch, use_cache=False, **run.last_only).logits
                logits = logits[:, -len(ids) - 1 : -1].float().cpu()
                values = logits.softmax(dim=-1) if score == "probability" else logits
                picked = values.gather(2, ids.expand(len(values), -1)[..., None])
                found.append(picked[..., 0].double().numpy())
    return np.concatenate(found)


def _batches(rows):
    """Inputs of several rows as one batch, or one by one if they cannot be put together."""
    import torch

    shapes = [
        {name: getattr(value, "shape", (0,))[1:] for name, value in row.items()} for row in rows
    ]
    tensors = all(isinstance(value, torch.Tensor) for row in rows for value in row.values())
    if len(rows) == 1 or not tensors or any(shape != shapes[0] for shape in shapes):
        return rows
    # Whatever a row has several of (tiles, patches, grids) stands one behind the other.
    return [{name: torch.cat([row[name] for row in rows]) for name in rows[0]}]


def _record(trace, map, chosen, curves, row, n_maps, fractions, fill, score):
    """The record of map `row`; `curves` (n_curves, n_points, T) has the random ones last."""
    tokens = tokens_of([trace.words[i] for i in chosen])
    scores = curves[..., tokens].mean(axis=-1)
    deletion, insertion = scores[2 * row], scores[2 * row + 1]
    random = scores[2 * n_maps :]
    area = np.trapezoid(random, fractions, axis=1)
    return FaithfulnessCurves(
        label=(map.label if isinstance(map, ImageMap) else "") or "map",
        word=" ".join(trace.words[i].text for i in chosen),
        fractions=fractions,
        deletion=deletion,
        insertion=insertion,
        random_deletion=random,
        # What the reversed order has inserted is what the order has not deleted yet.
        random_insertion=random[:, ::-1].copy(),
        deletion_area=float(np.trapezoid(deletion, fractions)),
        insertion_area=float(np.trapezoid(insertion, fractions)),
        random_deletion_areas=area,
        random_insertion_areas=area.copy(),
        score=score,
        fill=fill,
    )
