"""What one word of an answer rests on, as a causal graph read from one attention head (CLEANN).

A head with the attention matrix A (S, S) makes its outputs as weighted sums of values, A V. With
values that are uncorrelated, the outputs have the covariance C = A A', so that A tells which tokens
are independent given which, as data would:

    rho = D^-1/2 C D^-1/2     D = diag(C)

A word of the answer is the row that predicted it, at position P - 1 + t for its token t, anything
else the row of its own position; a word of several tokens is the mean of their rows. Causal
discovery on rho with the order of the rows (later ones cause no earlier ones) gives the graph; what
is near the word in it explains it.

Rohekar, Gurwicz and Nisimov, "Causal Interpretation of Self-Attention in Pre-Trained Transformers",
NeurIPS 2023.
"""

from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np

from ._icd import icd
from ._independence import FisherZ, check_test
from ._maps import map_of
from ._pag import PAG
from ._results import Result

#: Fewest and most image patches that are nodes.
LEAST_PATCHES, MOST_PATCHES = 2, 50
#: Most words, besides the target, that are nodes.
MOST_WORDS = 50


@dataclass(eq=False, repr=False)
class CausalGraph(Result):
    """A causal graph over image patches and words, seen from one word of the answer.

    Attributes
    ----------
    word : str
        The target.
    word_index : int
        Its place among the words of the answer.
    layer, head : int
        The head whose attention was read.
    alpha : float
        Level of the tests of independence.
    n_records : int
        Number of records that the attention stands for in these tests.
    nodes : list of dict
        In the order of the sequence; the target comes last. Keys: ``kind`` ("image", "question",
        "answer" or "target"), ``label`` (a word, or "patch 7"), ``position`` (first token in the
        sequence), ``image`` and ``patch`` (which image, and which place of it; None for words),
        ``mass`` (attention to it when the target was predicted; None for the target). Image tokens
        that are queries (BLIP-2, InstructBLIP) stand for no place: ``patch`` is None, the label
        "query 7".
    marks : ndarray of int8, shape (n, n)
        Edges: ``marks[i, j]`` is the mark at j of the edge between i and j, as in :class:`PAG`: 0
        no edge, 1 circle, 2 arrowhead, 3 tail.
    p_values : ndarray of float64, shape (n, n)
        Largest p-value of independence of each pair, as in :class:`PAG`.
    radius : ndarray of int64, shape (n,)
        Distance from the target in the tree of possible d-separation: 0 for the target, -1 for
        nodes that are not in its explanation.
    weights : ndarray of float64, shape (n,)
        1 - p, with p the p-value of the node's independence from the target given the rest of the
        explanation; 0 for the target and for nodes outside the explanation.
    images, image_names, grids : list
        Of the trace.
    """

    word: str
    word_index: int
    layer: int
    head: int
    alpha: float
    n_records: int
    nodes: list
    marks: np.ndarray
    p_values: np.ndarray
    radius: np.ndarray
    weights: np.ndarray
    images: list
    image_names: list
    grids: list

    plotter = "plot_causal_graph"

    def __repr__(self):
        return (
            f"<CausalGraph of {self.word!r}, layer {self.layer}, head {self.head}: "
            f"{len(self.nodes)} nodes, {np.count_nonzero(self.marks) // 2} edges, "
            f"{np.count_nonzero(self.radius > 0)} in the explanation>"
        )

    def edges(self):
        """The edges as text, such as ``"patch 7 o-> dog"``; see :meth:`PAG.edges`."""
        names = [node["label"] for node in self.nodes]
        return PAG(self.marks, {}, self.p_values, 0).edges(names)

    def explanation(self, radius=3):
        """Nodes that explain the target, up to a distance in the tree of possible d-separation.

        Parameters
        ----------
        radius : int, default=3
            1: nodes with an edge to the target. The sets grow with the radius.

        Returns
        -------
        list of int
            Indices into ``nodes``, ascending, without the target.
        """
        _check_radius("radius", radius)
        return np.flatnonzero((self.radius > 0) & (self.radius <= radius)).tolist()

    def map(self, radius=3):
        """The weights of the image patches of the explanation.

        Parameters
        ----------
        radius : int, default=3
            As for :meth:`explanation`.

        Returns
        -------
        ImageMap
            0 at patches outside the explanation; ``share`` is the share of the patches in the
            weight of all nodes of the explanation (NaN if there are none). Queries spread their
            weights over the patches as they read them.
        """
        chosen = self.explanation(radius)
        values = [np.zeros(len(grid.positions)) for grid in self.grids]
        for i in chosen:
            node = self.nodes[i]
            if node["kind"] == "image":
                image = node["image"]
                token = np.searchsorted(self.grids[image].positions, node["position"])
                values[image][token] = self.weights[i]
        total = float(self.weights[chosen].sum())
        on_images = sum(float(part.sum()) for part in values)
        values = [grid.to_places(part) for grid, part in zip(self.grids, values, strict=True)]
        return map_of(
            self,
            values,
            label=f"causal explanation within radius {radius}",
            words=[self.word],
            word_indices=[self.word_index],
            share=on_images / total if total > 0 else np.nan,
        )


def causal_graph(
    trace,
    word,
    layer=None,
    head=None,
    n_records=128,
    alpha=0.01,
    *,
    threshold=0.01,
    n_patches=None,
    max_conditioning=3,
    max_radius=3,
):
    """Explain a word of an answer by a causal graph of image patches and words.

    The attention of one head is read as if it were the covariance of the tokens (CLEANN), and
    :func:`icd` finds a graph that fits, later tokens causing no earlier ones. Nodes are the word
    itself (the target), the image patches that it attended to most, and the words of the question
    and of the answer before it that it attended to.

    Parameters
    ----------
    trace : AnswerTrace
    word : int or str
        One word of the answer: its index, or its text if it occurs once.
    layer, head : int, default=None
        A layer that the trace keeps, and one of its heads; negative ones count from the end. None:
        the head with the largest attention to the images while the word was written.
    n_records : int, default=128
        Number of records that the attention stands for in the tests of independence. It is a free
        parameter of the method and nothing that can be counted: the published tool uses 128; more
        keeps weaker edges. At least 4.
    alpha : float, default=0.01
        Level of the tests, above 0 and below 1; a larger one keeps more edges.
    threshold : float, default=0.01
        Least attention to a patch or word that is to be a node, from 0 to 1: that of the row which
        predicted the target (the mean over its tokens), summed over the tokens of a word. The
        published tool uses 0.01. The most attended 2 patches always are nodes, and of patches and
        of words the most attended 50 at most.
    n_patches : int, default=None
        Number of image patches, 2 to 50, whatever their attention. None: by `threshold`.
    max_conditioning : int, default=3
        Largest conditioning set, see :func:`icd`; bounds the time. None: no limit.
    max_radius : int, default=3
        Greatest distance from the target of nodes in the explanation.

    Returns
    -------
    CausalGraph

    Raises
    ------
    ValueError, TypeError
        For a word that is not in the answer or occurs several times, a layer that is not kept, a
        head that does not exist, attention that is not finite, fewer than 4 records, parameters out
        of range. The message says what there is.

    Notes
    -----
    The last token of the prompt is no node: its row predicted the first token of the answer and
    stands for that.

    Where rows are nearly copies of each other, rho is nearly singular: it is then moved towards
    independence until its least eigenvalue is 1e-8. Of two such tokens each makes the other
    independent of all else, so that both may lose their edges.

    Where a model lets earlier tokens attend to later ones (image tokens of Gemma 3, the whole
    prompt of PaliGemma), the order of these tokens says nothing of causes, and is not used.

    The explanation is empty where no patch or word has an edge to the target: this head made the
    word of nothing that the others were made of. In the bundled model that is half of all words and
    heads.

    Where images are read by cross-attention, beside the prompt (Mllama), their patches come before
    all words, have nothing in common, and what a word has in common with one is the attention to
    it; a head of self-attention attends to none.

    Tokens that stand for no place of the image (ends of rows) are no nodes. Queries that read the
    whole image (BLIP-2, InstructBLIP) are, in the place of patches.

    Examples
    --------
    >>> from semi_nmf_concepts.attention import causal_graph, trace_answer
    >>> from semi_nmf_concepts.datasets import load_scenes
    >>> trace = trace_answer(images=load_scenes("test", token="dog", n=1).images[0])
    >>> graph = causal_graph(trace, "dog", layer=2, head=0)
    >>> [graph.nodes[i]["label"] for i in graph.explanation(radius=1)]
    ['patch 31']
    >>> [edge for edge in graph.edges() if "dog" in edge]
    ['patch 31 <-> dog']
    >>> graph.map(radius=2).top(1)[0][0] in [graph.nodes[i]["patch"] for i in graph.explanation(2)]
    True
    """
    check_test(n_records, alpha)
    _check_settings(threshold, n_patches)
    _check_radius("max_radius", max_radius)
    index = _one_word(trace, word)
    if layer is None or head is None:
        layer, best = trace.most_visual_head(index, layer)
        head = best if head is None else head
    A = np.asarray(trace.full_attention(layer, head), dtype=np.float64)
    if not np.isfinite(A).all():
        raise ValueError(f"the attention of layer {layer}, head {head} is not finite.")
    nodes, rows = _choose_nodes(trace, index, A, threshold, n_patches)
    rho, places = _correlation(A, rows)
    pag = icd(rho, n_records, places, alpha, max_conditioning=max_conditioning)
    target = len(nodes) - 1
    radius = pag.possible_d_sep(target, max_radius)
    return CausalGraph(
        word=trace.words[index].text,
        word_index=index,
        layer=int(layer) if layer >= 0 else int(layer) + trace.n_blocks,
        head=int(head) if head >= 0 else int(head) + trace.n_heads,
        alpha=float(alpha),
        n_records=int(n_records),
        nodes=nodes,
        marks=pag.marks,
        p_values=pag.p_values,
        radius=radius,
        weights=_weights(rho, n_records, radius, target),
        images=trace.images,
        image_names=trace.image_names,
        grids=trace.grids,
    )


def _one_word(trace, word):
    """Index of the word, which must be one."""
    found = trace.find_words(word)
    if len(found) != 1:
        raise ValueError(
            f"word must be one word of the answer, got {word!r}, which stands for {len(found)}: "
            f"give one of the indices {', '.join(map(str, found))}."
        )
    return int(found[0])


def _choose_nodes(trace, index, A, threshold, n_patches):
    """The nodes, in the order of their rows, and the rows of each in A; the target is the last."""
    target = trace.words[index]
    rows = np.arange(target.start, target.stop) + trace.n_prompt - 1
    attended = _rows_of(A, rows).mean(axis=0)
    found = _patches(trace, attended, threshold, n_patches)
    found += _words(trace, index, attended, threshold)
    # Keys of images beside the sequence come before all of it.
    found.sort(key=lambda node: node[1][0] - (A.shape[1] if node[1][0] >= len(A) else 0))
    found.append((_node("target", target.text, rows[0] + 1), rows))
    return [node for node, _ in found], [rows for _, rows in found]


def _node(kind, label, position, *, image=None, patch=None, mass=None):
    return {
        "kind": kind,
        "label": label,
        "position": int(position),
        "image": image,
        "patch": patch,
        "mass": mass,
    }


def _patches(trace, attended, threshold, n_patches):
    """The image patches that are nodes: (node, rows)."""
    several = len(trace.grids) > 1
    tokens = [
        (image, int(token))
        for image, grid in enumerate(trace.grids)
        for token in _with_content(grid)
    ]
    positions = np.array([trace.grids[i].positions[k] for i, k in tokens], dtype=np.int64)
    masses = attended[positions]
    if n_patches is None:
        above = np.count_nonzero(masses >= threshold)
        n_patches = min(max(above, LEAST_PATCHES), MOST_PATCHES)
    found = []
    for k in np.argsort(-masses, kind="stable")[:n_patches]:
        image, token = tokens[k]
        is_query = bool(trace.grids[image].query_layers)
        label, patch = (f"query {token}", None) if is_query else (f"patch {token}", token)
        label = f"image {image + 1}, {label}" if several else label
        at, mass = positions[k], float(masses[k])
        node = _node("image", label, at, image=image, patch=patch, mass=mass)
        found.append((node, np.array([at])))
    return found


def _with_content(grid):
    """The tokens of an image that stand for a place, or read some."""
    if grid.query_layers:
        return range(len(grid.positions))
    return np.flatnonzero(~np.isnan(grid.boxes[:, 0]))


def _words(trace, index, attended, threshold):
    """The words of the question, and of the answer before the target, that are nodes."""
    n_prompt = trace.n_prompt
    found = []
    for kind, words, first in (
        ("question", trace.question_words, 0),
        ("answer", trace.words[:index], n_prompt),
    ):
        for word in words:
            tokens = np.arange(first + word.start, first + word.stop)
            # The row of the prompt's last token stands for the first token of the answer.
            rows = tokens[tokens < n_prompt - 1] if kind == "question" else tokens - 1
            mass = float(attended[tokens].sum())
            if len(rows) and mass >= threshold:
                found.append((_node(kind, word.text, tokens[0], mass=mass), rows))
    return sorted(found, key=lambda node: -node[0]["mass"])[:MOST_WORDS]


def _rows_of(A, positions):
    """Rows of attention. Keys beside the sequence have none: they stand for themselves alone."""
    rows = np.zeros((len(positions), A.shape[1]))
    inside = positions < len(A)
    rows[inside] = A[positions[inside]]
    rows[~inside, positions[~inside]] = 1.0
    return rows


def _correlation(A, rows):
    """Correlation (n, n) of the nodes, and their places in the causal order (n,)."""
    means = np.stack([_rows_of(A, which).mean(axis=0) for which in rows])
    C = means @ means.T
    scale = np.sqrt(np.diagonal(C))
    if not (scale > 0).all():
        raise ValueError("attention rows of the nodes must not be 0 throughout.")
    rho = np.clip(C / np.outer(scale, scale), -1.0, 1.0)
    # The order between what comes before and after a place is known unless one before sees after.
    sees = np.array([[_rows_of(A, i)[:, j].max() for j in rows] for i in rows]) > 0
    known = [not sees[:k, k:].any() for k in range(1, len(rows))]
    return rho, np.cumsum([0, *known])


def _weights(rho, n_records, radius, target):
    """1 - p of independence from the target given the rest of the explanation (n,)."""
    test = FisherZ(rho, n_records)
    members = np.flatnonzero(radius > 0)
    # Where there are more than the records allow, those nearest to the target are conditioned on.
    nearest = members[np.lexsort((-np.abs(rho[members, target]), radius[members]))]
    weights = np.zeros(len(rho))
    for i in members:
        rest = nearest[nearest != i][: n_records - 4]
        weights[i] = 1.0 - test.p_values(target, np.array([i]), rest[None])[0, 0]
    return weights


def _check_settings(threshold, n_patches):
    if not isinstance(threshold, Real) or isinstance(threshold, bool):
        raise TypeError(f"threshold must be a number, got {threshold!r}.")
    if not 0.0 <= threshold <= 1.0:
        raise ValueError(f"threshold must be between 0 and 1, got {threshold}.")
    if n_patches is None:
        return
    if not isinstance(n_patches, Integral) or isinstance(n_patches, bool):
        raise TypeError(f"n_patches must be an int or None, got {n_patches!r}.")
    if not LEAST_PATCHES <= n_patches <= MOST_PATCHES:
        raise ValueError(
            f"n_patches must be between {LEAST_PATCHES} and {MOST_PATCHES}, got {n_patches}."
        )


def _check_radius(name, radius):
    if not isinstance(radius, Integral) or isinstance(radius, bool):
        raise TypeError(f"{name} must be an int, got {radius!r}.")
    if radius < 1:
        raise ValueError(f"{name} must be at least 1, got {radius}.")
