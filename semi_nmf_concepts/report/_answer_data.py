"""The data of an answer's page, for its script: what is drawn, with as much attention as fits.

Attention is kept by words, not by tokens: the row of a word is the mean over its tokens, of
whatever reduction over layers and heads, so that the page shows what ``AnswerTrace`` computes. Room
is given first to the reductions over heads, then to single heads; each to those over all layers
first, then to as many layers as fit, spread over the depth.
"""

import io
import json
from collections import Counter

import numpy as np

from ._answer_drawing import COLOURS
from ._answer_fitting import Pool
from ._answer_layout import lay_out
from ._answer_packing import fill, pack, pack_finely, spread
from ._text import clean, data_uri, is_number

_LONGEST, _PIXELS = 1024, 1_500_000  # of a stored image; of all together
_PLANES = 0.6  # of the room for attention at most, so that there is some for single heads
_TOP_WORDS, _CONCEPTS = 8, 12
# Of a causal graph, in the units that the page draws in: one of the layout, half the side of a
# patch, room for the name of a patch, the most letters of a word; and how much wider than high.
_UNIT, _PATCH, _NAME, _LETTERS, _STRETCH = 84.0, 26.0, 8.0, 12, 1.25


def answer_data(explanation, pool):
    """Collect the data of the page except attention, as values that JSON can write.

    `pool` (:class:`Pool`) says which places the page has.
    """
    trace = explanation.trace
    return {
        "words": _words(trace),
        "tokens": _tokens(trace),
        "side": pool.side,
        "question": clean(trace.question),
        "answer": clean(trace.answer),
        "images": _images(trace, pool),
        "relevancy": [_relevancy(r, name, pool) for name, r in explanation.relevancy.items()],
        "causal": [_causal(graph, pool) for _, graph in sorted(explanation.causal.items())],
        "concepts": _concepts(explanation, pool),
        "faithfulness": [_curves(one) for _, one in sorted(explanation.faithfulness.items())],
        "colours": {name: [list(stop) for stop in stops] for name, stops in COLOURS.items()},
    }


def _words(trace):
    return [
        {
            "text": shown(word.text),
            "tokens": int(word.stop - word.start),
            "start": int(word.start),
            # Of all its tokens, each given those before it.
            "probability": _number(
                np.prod(np.float64(trace.probabilities[word.start : word.stop]))
            ),
        }
        for word in trace.words
    ]


def _tokens(trace):
    return [
        {
            "text": shown(trace.tokens[trace.n_prompt + t]),
            "probability": _number(trace.probabilities[t]),
            "logit": _number(trace.logits[t]),
            "alternatives": [[shown(text), _number(p)] for text, p in trace.alternatives[t]],
        }
        for t in range(len(trace.probabilities))
    ]


def shown(text):
    """Return a word or a token as it is shown: one line, white space by a sign.

    >>> shown(" dog"), shown("\\n"), shown(" "), shown("")
    ('dog', '↵', '␣', '∅')
    """
    return clean(text) or ("↵" if "\n" in text else "␣" if text else "∅")


def _number(value):
    """A finite number with six digits, else None: JSON knows no other."""
    return float(f"{float(value):.6g}") if is_number(value) else None


def _numbers(values):
    """The same for nested lists."""
    return [_numbers(v) if isinstance(v, list) else _number(v) for v in values]


def _images(trace, pool):
    longest = min(_LONGEST, int((_PIXELS / len(trace.images)) ** 0.5))
    columns = trace.images, trace.image_names, trace.grids, pool.images
    return [
        _image(image, name, grid, places, longest)
        for image, name, grid, places in zip(*columns, strict=True)
    ]


def _image(image, name, grid, places, longest):
    small = image.convert("RGB")
    small.thumbnail((longest, longest))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=88, subsampling=0)
    return {
        "reads": _reads(grid, places) if grid.query_layers else None,
        "name": clean(name),
        "width": small.width,
        "height": small.height,
        "full": list(image.size),
        "uri": data_uri(stream.getvalue(), "jpeg"),
        "boxes": [_box(box) for box in places.boxes],
        "blocks": [
            {
                "name": clean(name),
                "rows": int(tokens.shape[0]),
                "cols": int(tokens.shape[1]),
                "tokens": tokens.ravel().tolist(),
            }
            for name, tokens in places.blocks
        ],
    }


def _box(box):
    return np.round(box, 5).tolist() if np.isfinite(box).all() else None


def _reads(grid, places):
    """What queries read of each place; of other image tokens each has its own."""
    of_places = np.zeros((len(grid.positions), len(places.boxes)))
    np.add.at(of_places.T, places.of, grid.to_places(np.eye(len(grid.positions))).T)
    return pack(of_places)


class Rows:
    """The attention of an answer, one layer after the other, with its reductions over the layers.

    Parameters
    ----------
    trace : AnswerTrace
    pool : Pool, default=None
        The places of the page; None: those of the trace.

    Attributes
    ----------
    columns : ndarray of int
        Positions of the image tokens of all images, one after the other.
    question : ndarray of int
        Positions of the question's words.
    """

    def __init__(self, trace, pool=None):
        self._trace, self._pool = trace, pool or Pool(trace.grids)
        self.columns, self.question = trace.image_positions, trace.question_positions
        self._sinks = trace.sink_positions
        self._over_layers = {}

    def of_tokens(self, layer):
        """Rows of all tokens: those of the mean over heads, the largest of all heads, each head.

        Parameters
        ----------
        layer : int or {"mean", "max"}
            Index of a layer, or all of them reduced, head by head.

        Returns
        -------
        ndarray of float32, shape (2 + heads, tokens, positions)
        """
        rows = self._layer(layer)
        return np.concatenate([rows.mean(axis=0)[None], rows.max(axis=0)[None], rows])

    def _layer(self, layer):
        if layer not in ("mean", "max"):
            return np.asarray(self._trace.attention[layer], dtype=np.float32)
        if not self._over_layers:
            mean = largest = self._layer(0)
            for other in range(1, len(self._trace.layers)):
                rows = self._layer(other)
                mean, largest = mean + rows, np.maximum(largest, rows)
            self._over_layers = {"mean": mean / len(self._trace.layers), "max": largest}
        return self._over_layers[layer]

    def of_words(self, rows):
        """Means over the tokens of each word: (heads, words, ...)."""
        return np.stack([rows[:, w.start : w.stop].mean(axis=1) for w in self._trace.words], axis=1)

    def on_image(self, layer):
        """(2 + heads, words, places of all images)."""
        return self.places(self.of_words(self.of_tokens(layer)))

    def places(self, rows):
        """Values of the places of all images, from rows over the positions."""
        grids = self._trace.grids
        values = [grid.to_places(rows[..., grid.positions]) for grid in grids]
        return self._pool.sum(np.concatenate(values, axis=-1))

    def sums(self, layer):
        """Sums of the rows of words, each (2 + heads, words).

        Returns
        -------
        dict
            ``image``, ``question``, ``all``; ``image_kept`` and ``all_kept`` without the positions
            that count as attention sinks.
        """
        rows = self.of_words(self.of_tokens(layer))
        lost = np.isin(self.columns, self._sinks)
        image, whole = rows[..., self.columns], rows.sum(axis=-1)
        return {
            "image": image.sum(axis=-1),
            "question": rows[..., self.question].sum(axis=-1),
            "all": whole,
            "image_kept": image[..., ~lost].sum(axis=-1),
            "all_kept": whole - rows[..., self._sinks].sum(axis=-1),
        }


def attention_data(trace, pool, room):
    """Pack the attention of the answer's words in `room` bytes.

    Returns
    -------
    data : dict
        ``layers`` (their numbers in the model) and ``heads`` (how many); ``sums``: those of
        :meth:`Rows.sums`, each (2 + layers, 2 + heads, words), where the first two of layers and of
        heads are the mean and the largest over all; ``planes`` and ``by_head``: of how many layers
        the page holds the reductions over heads (2, words, image tokens) and the heads themselves
        (heads, words, image tokens), "mean" and "max" over the layers among them. The first two
        planes are there whatever the room.
    room : int
        What is left; below 0 where these did not fit.
    """
    rows, n = Rows(trace, pool), len(trace.layers)
    keys = ["mean", "max", *range(n)]
    sums = [rows.sums(key) for key in keys]
    data = {
        "layers": [int(layer) for layer in trace.layers],
        "heads": int(trace.attention.shape[1]),
        "sums": {name: pack_finely(np.stack([part[name] for part in sums])) for name in sums[0]},
    }
    order = ["mean", "max", *spread(n)]
    room -= len(json.dumps(data))
    share = int(_PLANES * room)
    planes, left = fill(share, order, lambda key: rows.on_image(key)[:2], always=2)
    heads, left = fill(room - share + left, order, lambda key: rows.on_image(key)[2:])
    more, left = fill(left, order[len(planes) :], lambda key: rows.on_image(key)[:2])
    # As lists beside their key: names in JSON objects are texts only.
    data["planes"] = [{"layer": key} | packed for key, packed in (planes | more).items()]
    data["by_head"] = [{"layer": key} | packed for key, packed in heads.items()]
    return data, left


def _relevancy(relevancy, through, pool):
    return {
        "through": clean(through),
        "words": [int(i) for i in relevancy.word_indices],
        "image": pack(pool.sum(np.concatenate([np.asarray(p) for p in relevancy.image], axis=1))),
        "shares": [[_number(share) for share in pair] for pair in relevancy.shares],
        "top": [
            [[shown(text), _number(v)] for text, v in relevancy.top_words(i, _TOP_WORDS)]
            for i in map(int, relevancy.word_indices)
        ],
    }


def _causal(graph, pool):
    nodes = [
        {
            "kind": clean(node["kind"]),
            "label": shown(str(node["label"])),
            "image": None if node.get("image") is None else int(node["image"]),
            **_patch(node, graph.grids, pool),
            "half": _half(node, graph.grids),
            "query": _query(node, graph.grids),
            "mass": _number(node.get("mass")),
            "radius": int(radius),
            "weight": _number(weight),
        }
        for node, radius, weight in zip(graph.nodes, graph.radius, graph.weights, strict=True)
    ]
    marks = np.asarray(graph.marks).astype(int)
    return {
        "word": shown(graph.word),
        "index": int(graph.word_index),
        "layer": int(graph.layer),
        "head": int(graph.head),
        "alpha": _number(graph.alpha),
        "records": int(graph.n_records),
        "nodes": nodes,
        "marks": marks.tolist(),
        "layouts": _layouts(nodes, marks),
    }


def _half(node, grids):
    """Half the width and height that the page draws a node with: a patch, or a word in a frame."""
    is_patch = node.get("patch") is not None
    if is_patch and np.isfinite(grids[node["image"]].boxes[node["patch"]]).all():
        return [_PATCH, _PATCH]
    letters = min(max(len(shown(str(node["label"]))), 2), _LETTERS)
    return [round(4.6 * letters + 9, 1), 15.0]


def _layouts(nodes, marks):
    """Where nodes and edges are drawn: for each radius, and last with all nodes.

    Each has ``at``, (node, x, y), and ``bends``, (node, node, x, y) with the control point of an
    edge that is not straight.
    """
    radii = np.array([node["radius"] for node in nodes])
    shown_at = [(radii >= 0) & (radii <= r) for r in range(1, max(int(radii.max()), 1) + 1)]
    return [_layout(nodes, marks, np.flatnonzero(some)) for some in [*shown_at, radii == radii]]


def _layout(nodes, marks, among):
    # Only the target has 0; what is not in the explanation stands outside.
    rings = [nodes[i]["radius"] if nodes[i]["radius"] >= 0 else None for i in among]
    halves = [[(half + _NAME) / _UNIT for half in nodes[i]["half"]] for i in among]
    edges = np.argwhere(np.triu(marks[np.ix_(among, among)])).tolist()
    places, controls = lay_out(rings, edges, halves, _STRETCH)
    bends = [
        [int(among[i]), int(among[j]), *_scaled(control)]
        for (i, j), control in zip(edges, controls, strict=True)
        if not np.allclose(control, np.add(places[i], places[j]) / 2, atol=1e-3)
    ]
    at = [[int(i), *_scaled(place)] for i, place in zip(among, places, strict=True)]
    return {"at": at, "bends": bends}


def _scaled(point):
    return [round(_UNIT * value, 1) for value in point]


def _patch(node, grids, pool):
    """Which place of its image a node is, and its box if the page has only a larger one."""
    if node.get("patch") is None:
        return {"patch": None}
    image, patch = node["image"], node["patch"]
    own = {} if pool.side == 1 else {"box": _box(grids[image].boxes[patch])}
    return {"patch": int(pool.images[image].of[patch])} | own


def _query(node, grids):
    """Which query of its image a node is; None if it is none."""
    if node.get("image") is None or not grids[node["image"]].query_layers:
        return None
    return int(np.searchsorted(grids[node["image"]].positions, node["position"]))


def _curves(curves):
    names = ("fractions", "deletion", "insertion", "random_deletion", "random_insertion")
    data = {name: _numbers(np.asarray(getattr(curves, name)).tolist()) for name in names}
    areas = {name: _number(getattr(curves, name)) for name in ("deletion_area", "insertion_area")}
    return {"word": shown(str(curves.word)), "label": clean(curves.label)} | data | areas


def _concepts(explanation, pool):
    """The concepts that are most active in the answer, their values and maps; None without."""
    found = explanation.concepts
    if found is None:
        return None
    values = np.asarray(found.word_activations, dtype=np.float64)
    peaks = np.nan_to_num(np.abs(values)).max(axis=0, initial=0.0)
    chosen = [int(k) for k in np.argsort(-peaks, kind="stable")[:_CONCEPTS] if peaks[k] > 0]
    items, maps = [], []
    for k in chosen:
        item = {
            "index": int(found.concepts[k]["index"]),
            "words": [clean(word) for word in found.concepts[k]["words"]],
            "values": [_number(value) for value in values[:, k]],
            "maps": {},
        }
        for word in range(len(values)):
            one = _map(found, k, word)
            if one is not None:
                item["maps"][str(word)] = len(maps)
                maps.append(one)
        items.append(item)
    packed = pack(pool.sum(np.stack(maps))) if maps else None
    counts = Counter(word for word, _ in found.image)
    n_maps = max(counts.values(), default=0)
    return {"items": items, "maps": packed, "n_all": int(values.shape[1]), "n_maps": n_maps}


def _map(found, concept, word):
    """The map of one concept for one word over all images; None where there is none."""
    if not found.word_activations[word, concept] > 0:
        return None
    try:
        one = found.map(concept, word)
    except (KeyError, ValueError):
        return None
    return np.concatenate([np.asarray(values, dtype=np.float32) for values in one.values])
