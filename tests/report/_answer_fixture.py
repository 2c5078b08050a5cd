"""A synthetic explanation of one answer, for pages and figures: deterministic, no model runs."""

from types import SimpleNamespace

import numpy as np
from PIL import Image, ImageDraw

from semi_nmf_concepts.attention import (
    AnswerExplanation,
    AnswerTrace,
    AnswerWord,
    CausalGraph,
    ConceptAblation,
    ConceptActivationMap,
    FaithfulnessCurves,
    Relevancy,
)
from semi_nmf_concepts.lmm import Block, PatchGrid
from tests._example_report import example_report

NASTY = "</script><img src=x onerror=alert(1)>&'\"<!-- \u2028"


def picture(size=(224, 168), background="darkseagreen", number=1):
    image = Image.new("RGB", size, background)
    draw = ImageDraw.Draw(image)
    w, h = size
    draw.rectangle((0, 0.62 * h, w, h), fill="khaki")
    draw.ellipse((0.18 * w, 0.22 * h, 0.62 * w, 0.8 * h), fill="firebrick", outline="black")
    draw.rectangle((0.7 * w, 0.1 * h, 0.9 * w, 0.4 * h), fill="royalblue")
    draw.text((0.36 * w, 0.46 * h), str(number), fill="white")
    return image


def grid(start, rows, cols, size, tiles=False):
    """A block of rows x cols; `tiles`: also two halves, whose rows a token without a place ends."""
    boxes, blocks, count = [], [], 0
    parts = [("image", 0.0, 1.0, False)]
    if tiles:
        parts = [("whole image", 0.0, 1.0, False)]
        parts += [("tile 1 of 2", 0.0, 0.5, True), ("tile 2 of 2", 0.5, 1.0, True)]
    for name, left, right, ends in parts:
        places = np.zeros((rows, cols), int)
        for r in range(rows):
            for c in range(cols):
                places[r, c] = count
                width = (right - left) / cols
                boxes.append((left + c * width, r / rows, left + (c + 1) * width, (r + 1) / rows))
                count += 1
            if ends:
                boxes.append((np.nan,) * 4)
                count += 1
        blocks.append(Block(name, places))
    positions = np.arange(start, start + count)
    return PatchGrid(positions, np.array(boxes), blocks, None, size)


def example_trace(
    words=("a", "red", "ball", "on", "the", "beach"),
    *,
    n_layers=4,
    n_heads=5,
    shape=(7, 7),
    n_images=1,
    tiles=False,
    size=(224, 168),
    nasty=False,
    random_state=0,
):
    rng = np.random.default_rng(random_state)
    question = ["What", "is", "in", "the", "image", "?"]
    names = [f"scene {i + 1}.png" for i in range(n_images)]
    words = list(words)
    if nasty:
        words[1], question[1], names[0] = NASTY, NASTY, NASTY
    images = [picture(size, number=i + 1) for i in range(n_images)]
    grids, at, tokens = [], 2, ["<s>", "USER:"]
    for _ in range(n_images):
        grids.append(grid(at, *shape, size, tiles))
        tokens += ["<image>"] * len(grids[-1].positions) + [" "]
        at = len(tokens)
    question_words = []
    for word in question:
        question_words.append(AnswerWord(word, at, at + 1))
        tokens.append(f" {word}")
        at += 1
    tokens += [" ASSISTANT", ":"]
    n_prompt = len(tokens)
    answer_words, n = [], 0
    for i, word in enumerate(words):  # every third word has two tokens
        pieces = [word[:2], word[2:]] if i % 3 == 2 and len(word) > 2 else [word]
        tokens += [" " + pieces[0], *pieces[1:]]
        answer_words.append(AnswerWord(word, n, n + len(pieces)))
        n += len(pieces)
    attention = _attention(rng, n_layers, n_heads, n, n_prompt, len(tokens), grids)
    probabilities = rng.uniform(0.2, 0.99, n).astype(np.float32)
    alternatives = [
        [(tokens[n_prompt + t], float(p)), (" dog", 0.6 * (1 - p)), (NASTY, 0.2 * (1 - p))]
        for t, p in enumerate(probabilities)
    ]
    return AnswerTrace(
        images=images,
        image_names=names,
        question=" ".join(question),
        prompt="USER: <image>\n" + " ".join(question) + "\nASSISTANT:",
        token_ids=np.arange(len(tokens)),
        tokens=tokens,
        n_prompt=n_prompt,
        answer=" ".join(words),
        words=answer_words,
        question_words=question_words,
        grids=grids,
        layers=list(range(n_layers)),
        attention=attention,
        logits=rng.normal(12, 3, n).astype(np.float32),
        probabilities=probabilities,
        alternatives=alternatives,
        model=SimpleNamespace(model="bundled", n_layers=n_layers),
        provenance={
            "model": "some/<model> & co" if nasty else "bundled",
            "revision": None,
            "fingerprint": "0123456789abcdef",
            "package_version": "0.3.0",
            "random_state": 0,
            "prompt": "What is in the image?",
            "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
        },
    )


def _attention(rng, n_layers, n_heads, n_tokens, n_prompt, length, grids):
    """Rows that sum to 1 over earlier positions: a bump on each image, a sink, noise."""
    attention = np.zeros((n_layers, n_heads, n_tokens, length), np.float16)
    later = np.arange(length) >= n_prompt + np.arange(n_tokens)[:, None]
    for layer in range(n_layers):
        rows = rng.gamma(0.4, 1.0, (n_heads, n_tokens, length))
        rows[..., 0] += 0.15 * length
        for one in grids:
            boxes = np.nan_to_num(one.boxes, nan=-9)
            centres = rng.uniform(0.2, 0.8, (n_heads, n_tokens, 1, 2))
            centres[::2] = (0.4, 0.5)
            near = ((boxes[:, :2] + boxes[:, 2:]) / 2 - centres) ** 2
            height = 4 + np.arange(n_heads)[:, None, None]
            rows[..., one.positions] += height * np.exp(-30 * near.sum(axis=-1))
        rows[:, later] = 0
        attention[layer] = rows / rows.sum(axis=-1, keepdims=True)
    return attention


THROUGH = ("language", "vision", "both")


def example_explanation(*, concepts=True, causal=True, through=THROUGH, **options):
    """An AnswerExplanation with all views, or without those that are switched off."""
    trace = example_trace(**options)
    rng = np.random.default_rng(1)
    many = len(trace.words) > 2
    return AnswerExplanation(
        trace=trace,
        relevancy={name: _relevancy(trace, rng, name) for name in through},
        causal={i: _causal(trace, rng, i) for i in (1, 2)} if causal and many else {},
        faithfulness={2: _curves(rng, trace.words[2].text)} if causal and many else {},
        concepts=_concepts(trace, rng) if concepts else None,
        concept_report=example_report(n_concepts=8, n_local=4) if concepts else None,
        settings={"through": list(through), "seconds": {"trace": 0.5}, "left_out": {}},
    )


def pictures_of(trace):
    return {name: getattr(trace, name) for name in ("images", "image_names", "grids")}


def _relevancy(trace, rng, through):
    """Of all words but the last; the ball matters, and the words before."""
    n = len(trace.words) - 1
    image = [rng.gamma(0.3, 1.0, (n, len(one.positions))) for one in trace.grids]
    for values, one in zip(image, trace.grids, strict=True):
        boxes = np.nan_to_num(one.boxes, nan=-9)
        near = (boxes[:, :2] + boxes[:, 2:]) / 2 - (0.4, 0.5)
        values += 9 * np.exp(-40 * (near**2).sum(1))
    share = np.ones(n) if through == "vision" else rng.uniform(0.2, 0.8, n)
    total = sum(values.sum(1) for values in image)
    image = [values * (share / total)[:, None] for values in image]
    answer = [
        AnswerWord(w.text, trace.n_prompt + w.start, trace.n_prompt + w.stop) for w in trace.words
    ]
    context = [*trace.question_words, *answer]
    text = np.zeros((n, len(trace.tokens)))
    for i in range(n):
        text[i, [one.start for one in context[: len(trace.question_words) + i]]] = 1.0
        text[i] *= (1 - share[i]) / (text[i].sum() or 1)
    return Relevancy(
        words=[word.text for word in trace.words[:n]],
        word_indices=list(range(n)),
        image=image,
        text=text,
        shares=np.stack([share, 1 - share], axis=1),
        through=through,
        context=context,
        n_answer_words=len(answer),
        **pictures_of(trace),
    )


def _causal(trace, rng, word):
    patches = rng.choice(len(trace.grids[0].positions), 6, replace=False)
    nodes = [
        {
            "kind": "image",
            "label": f"patch {p}",
            "position": int(trace.grids[0].positions[p]),
            "image": 0,
            "patch": int(p),
            "mass": float(rng.uniform(0.01, 0.2)),
        }
        for p in patches
    ]
    nodes += [_text_node("question", w.text, w.start, rng) for w in trace.question_words[1:4]]
    nodes += [_text_node("target", trace.words[word].text, trace.n_prompt, rng)]
    n = len(nodes)
    marks = np.zeros((n, n), np.int8)
    for i, j, at_i, at_j in (
        (0, n - 1, 1, 2), (1, n - 1, 3, 2), (2, n - 1, 2, 2), (6, n - 1, 3, 2),
        (3, 0, 1, 2), (4, 1, 3, 2), (7, 6, 1, 1), (5, 3, 3, 2),
    ):  # fmt: skip
        marks[i, j], marks[j, i] = at_j, at_i
    radius = np.array([1, 1, 1, 2, 2, 3, 1, 2, -1, 0])
    return CausalGraph(
        word=trace.words[word].text,
        word_index=word,
        layer=2,
        head=3,
        alpha=0.01,
        n_records=128,
        nodes=nodes,
        marks=marks,
        p_values=np.ones((n, n)),
        radius=radius,
        weights=np.where(radius > 0, rng.uniform(0.3, 1.0, n), 0.0),
        **pictures_of(trace),
    )


def _text_node(kind, label, position, rng):
    mass = float(rng.uniform(0.01, 0.2))
    return dict(kind=kind, label=label, position=position, image=None, patch=None, mass=mass)


def _curves(rng, word):
    fractions = np.linspace(0, 1, 9)
    down, up = np.exp(-4 * fractions), 1 - np.exp(-4 * fractions)
    slow = 1 - fractions[None] + 0.04 * rng.standard_normal((5, 9))
    return FaithfulnessCurves(
        label="relevancy (language)",
        word=word,
        fractions=fractions,
        deletion=down,
        insertion=up,
        random_deletion=slow,
        random_insertion=1 - slow,
        deletion_area=0.24,
        insertion_area=0.76,
        random_deletion_areas=slow.mean(1),
        random_insertion_areas=1 - slow.mean(1),
        score="probability",
        fill="mean",
    )


def _concepts(trace, rng):
    n, k = len(trace.words), 8
    values = rng.gamma(2.0, 1.0, (n, k)) * (rng.random((n, k)) < 0.4)
    values[:, -1] = 0
    tokens = np.repeat(values, [w.stop - w.start for w in trace.words], axis=0)
    report = example_report(n_concepts=8, n_local=4)
    maps = {
        (w, c): [rng.gamma(0.5, 1.0, len(one.positions)) for one in trace.grids]
        for w in range(n)
        for c in range(k)
        if values[w, c] > 0
    }
    return ConceptActivationMap(
        activations=tokens.astype(np.float32),
        explained=rng.uniform(0.2, 0.9, len(tokens)).astype(np.float32),
        words=[word.text for word in trace.words],
        spans=[(word.start, word.stop) for word in trace.words],
        word_activations=values.astype(np.float32),
        of_word="max",
        concepts=[
            {"index": c.index, "words": c.words, "mean_activation": 1.0, "factors": []}
            for c in report.concepts
        ],
        image=maps,
        image_shares=dict.fromkeys(maps, 0.5),
        token="dog",
        layer=-1,
        **pictures_of(trace),
    )


def example_ablation(trace):
    n = trace.n_tokens
    before = np.linspace(14, 9, n, dtype=np.float32)
    change = np.where(np.arange(n) == 1, -4, 0.2).astype(np.float32)
    return ConceptAblation(
        concept=3,
        concept_words=["red", "crimson", NASTY],
        scale=0.0,
        activations=np.ones(n, np.float32),
        tokens=trace.tokens[trace.n_prompt :],
        logits_before=before,
        logits_after=before + change,
        probabilities_before=np.full(n, 0.9, np.float32),
        probabilities_after=np.full(n, 0.5, np.float32),
        words=[word.text for word in trace.words],
        spans=[(word.start, word.stop) for word in trace.words],
        word_changes=np.array([change[word.start] for word in trace.words]),
        answer_before=trace.answer,
        answer_after="a $blue$ ball",
    )
