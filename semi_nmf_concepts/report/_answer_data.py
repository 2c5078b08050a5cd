"""The data of an answer's page, for its script: what is drawn, with as much attention as fits.

Attention is kept by words, not by tokens: the row of a word is the mean over its tokens, of
whatever reduction over layers and heads, so that the page shows what ``AnswerTrace`` computes. Room
is given first to the reductions over heads, then to single heads; each to those over all layers
first, then to as many layers as fit, spread over the depth.
"""

import io

import numpy as np

from ._answer_drawing import COLOURS
from ._answer_packing import fill, pack, pack_finely, spread
from ._text import clean, data_uri, is_number

_LONGEST, _PIXELS = 1024, 1_500_000  # of a stored image; of all together
_PLANES = 0.6  # of the room for attention at most, so that there is some for single heads
_TOP_WORDS, _CONCEPTS = 8, 12


def answer_data(explanation):
    """Collect the data of the page except attention, as values that JSON can write."""
    trace = explanation.trace
    return {
        "words": _words(trace),
        "tokens": _tokens(trace),
        "question": clean(trace.question),
        "answer": clean(trace.answer),
        "images": _images(trace),
        "relevancy": [_relevancy(r, name) for name, r in explanation.relevancy.items()],
        "causal": [_causal(graph) for _, graph in sorted(explanation.causal.items())],
        "concepts": _concepts(explanation),
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


def _images(trace):
    longest = min(_LONGEST, int((_PIXELS / len(trace.images)) ** 0.5))
    return [
        _image(image, name, grid, longest)
        for image, name, grid in zip(trace.images, trace.image_names, trace.grids, strict=True)
    ]


def _image(image, name, grid, longest):
    small = image.convert("RGB")
    small.thumbnail((longest, longest))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=88, subsampling=0)
    boxes = np.round(grid.boxes, 5)
    # What queries read of each place; of other image tokens each has its own.
    reads = grid.to_places(np.eye(len(grid.positions))) if grid.query_layers else None
    return {
        "reads": None if reads is None else pack(reads),
        "name": clean(name),
        "width": small.width,
        "height": small.height,
        "full": list(image.size),
        "uri": data_uri(stream.getvalue(), "jpeg"),
        "boxes": [box.tolist() if np.isfinite(box).all() else None for box in boxes],
        "blocks": [
            {
                "name": clean(block.name),
                "rows": int(block.tokens.shape[0]),
                "cols": int(block.tokens.shape[1]),
                "tokens": np.asarray(block.tokens).ravel().tolist(),
            }
            for block in grid.blocks
        ],
    }


class Rows:
    """The attention of an answer, one layer after the other, with its reductions over the layers.

    Attributes
    ----------
    columns : ndarray of int
        Positions of the image tokens of all images, one after the other.
    question : ndarray of int
        Positions of the question's words.
    """

    def __init__(self, trace):
        self._trace = trace
        self.columns = np.concatenate([grid.positions for grid in trace.grids])
        spans = [np.arange(word.start, word.stop) for word in trace.question_words]
        self.question = np.unique(np.concatenate([np.zeros(0, int), *spans]))
        self._sinks = np.unique([0, *(int(grid.positions[0]) for grid in trace.grids)])
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
        return np.concatenate([g.to_places(rows[..., g.positions]) for g in grids], axis=-1)

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


def attention_data(trace, room):
    """Pack the attention of the answer's words in about `room` bytes.

    Returns
    -------
    dict
        ``layers`` (their numbers in the model) and ``heads`` (how many); ``sums``: those of
        :meth:`Rows.sums`, each (2 + layers, 2 + heads, words), where the first two of layers and of
        heads are the mean and the largest over all; ``planes`` and ``by_head``: of how many layers
        the page holds the reductions over heads (2, words, image tokens) and the heads themselves
        (heads, words, image tokens), "mean" and "max" over the layers among them. The first two
        planes are there whatever the room.
    """
    rows, n = Rows(trace), len(trace.layers)
    keys = ["mean", "max", *range(n)]
    sums = [rows.sums(key) for key in keys]
    data = {
        "layers": [int(layer) for layer in trace.layers],
        "heads": int(trace.attention.shape[1]),
        "sums": {name: pack_finely(np.stack([part[name] for part in sums])) for name in sums[0]},
    }
    order = ["mean", "max", *spread(n)]
    room -= sum(len(part["data"]) for part in data["sums"].values())
    share = int(_PLANES * room)
    planes, left = fill(share, order, lambda key: rows.on_image(key)[:2], always=2)
    heads, _ = fill(room - share + left, order, lambda key: rows.on_image(key)[2:])
    # As lists beside their key: names in JSON objects are texts only.
    data["planes"] = [{"layer": key} | packed for key, packed in planes.items()]
    data["by_head"] = [{"layer": key} | packed for key, packed in heads.items()]
    return data


def _relevancy(relevancy, through):
    return {
        "through": clean(through),
        "words": [int(i) for i in relevancy.word_indices],
        "image": pack(np.concatenate([np.asarray(part) for part in relevancy.image], axis=1)),
        "shares": [[_number(share) for share in pair] for pair in relevancy.shares],
        "top": [
            [[shown(text), _number(v)] for text, v in relevancy.top_words(i, _TOP_WORDS)]
            for i in map(int, relevancy.word_indices)
        ],
    }


def _causal(graph):
    return {
        "word": shown(graph.word),
        "index": int(graph.word_index),
        "layer": int(graph.layer),
        "head": int(graph.head),
        "alpha": _number(graph.alpha),
        "records": int(graph.n_records),
        "nodes": [
            {
                "kind": clean(node["kind"]),
                "label": shown(str(node["label"])),
                "image": None if node.get("image") is None else int(node["image"]),
                "patch": None if node.get("patch") is None else int(node["patch"]),
                "query": _query(node, graph.grids),
                "mass": _number(node.get("mass")),
                "radius": int(radius),
                "weight": _number(weight),
            }
            for node, radius, weight in zip(graph.nodes, graph.radius, graph.weights, strict=True)
        ],
        "marks": np.asarray(graph.marks).astype(int).tolist(),
    }


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


def _concepts(explanation):
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
    packed = pack(np.stack(maps)) if maps else None
    return {"items": items, "maps": packed, "n_all": int(values.shape[1])}


def _map(found, concept, word):
    """The map of one concept for one word over all images; None where there is none."""
    if not found.word_activations[word, concept] > 0:
        return None
    try:
        one = found.map(concept, word)
    except (KeyError, ValueError):
        return None
    return np.concatenate([np.asarray(values, dtype=np.float32) for values in one.values])
