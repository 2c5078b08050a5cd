"""What the app shows: pictures, rows of tables and HTML from results and choices.

Pure functions that know nothing of Gradio. Text of models and users is escaped where it becomes
HTML; pictures are RGB with a longest side of `LONGEST` pixels.
"""

import html
import math

import numpy as np

from semi_nmf_concepts.report import overlay

LONGEST = 512  # pixels of a picture that is shown
MAX_HEADS = 64  # in the strip of heads
_CHOSEN = (255, 214, 10)  # outline of chosen patches
_HEAD_LONGEST = 160
_ALL = (("mean of all", "mean"), ("largest of all", "max"))


# Choices


def word_choices(words):
    """(text, index) of the words of an answer, in their order."""
    return [(word.text.strip() or repr(word.text), i) for i, word in enumerate(words)]


def layer_choices(trace):
    """What the layer control offers: all together, or one that the trace keeps."""
    return [*_ALL, *((str(i), i) for i in trace.layers)]


def head_choices(trace):
    """As `layer_choices`, for heads."""
    return [*_ALL, *((str(i), i) for i in range(trace.n_heads))]


def most_visual_word(trace):
    """The word that looked at the image most in that head: one that users ask about.

    Stop words are not taken, unless there are no others.
    """
    layer, head = trace.most_visual_head()
    return max(trace.content_words(), key=lambda i: trace.masses(i, layer, head)["image"])


# Pictures


def shown_size(image, longest=LONGEST):
    """(width, height) at which an image is shown."""
    scale = longest / max(image.size)
    return tuple(max(1, round(side * scale)) for side in image.size)


def cropped(image, left, top, right, bottom):
    """Part of an image between percentages of its width and height.

    Raises ValueError where nothing would be left.
    """
    if not (0 <= left < right <= 100 and 0 <= top < bottom <= 100):
        raise ValueError(
            "crop: left must be below right and top below bottom, all from 0 to 100, got "
            f"left {left:g}, right {right:g}, top {top:g}, bottom {bottom:g}."
        )
    if (left, top, right, bottom) == (0, 0, 100, 100):
        return image
    width, height = image.size
    box = [
        math.floor(left * width / 100),
        math.floor(top * height / 100),
        math.ceil(right * width / 100),
        math.ceil(bottom * height / 100),
    ]
    return image.crop(box)


def crop_of_corners(first, second, size):
    """left, top, right, bottom in whole percent, from two opposite corners in pixels."""
    width, height = size
    (x0, x1), (y0, y1) = (sorted(pair) for pair in zip(first, second, strict=True))
    left, right = math.floor(100 * x0 / width), math.ceil(100 * (x1 + 1) / width)
    top, bottom = math.floor(100 * y0 / height), math.ceil(100 * (y1 + 1) / height)
    return left, top, min(right, 100), min(bottom, 100)


def map_picture(image_map, opacity=0.8, scale="linear", *, image=0, maximum=None, longest=LONGEST):
    """An image with a map over it.

    Parameters
    ----------
    image_map : ImageMap
    opacity, scale
        As `semi_nmf_concepts.report.overlay` takes them.
    image : int
    maximum : float, default=None
        What is drawn strongest, as `peak` measures it. None: the peak of this map.
    longest : int
        Longest side of the picture in pixels.
    """
    picture = image_map.images[image]
    picture = picture.resize(shown_size(picture, longest))
    density = image_map.pixels(image, picture.size)
    if maximum is not None:
        maximum /= density.size
    return overlay(picture, density, opacity, scale, maximum=maximum)


def peak(image_map, image=0):
    """The largest density of a map, per image instead of per pixel.

    So those of images of different sizes compare: a map that is even over its image has its sum.
    """
    density = image_map.pixels(image, shown_size(image_map.images[image]))
    return float(np.nan_to_num(density).max(initial=0.0)) * density.size


def head_strip(trace, words, layer, *, drop_sinks=False, opacity=0.8, scale="linear"):
    """A small map of every head for some words, that with the largest mass on the image first.

    Returns
    -------
    list of (picture, caption, head)
    """
    maps = [
        (trace.image_attention(words, layer, head, drop_sinks=drop_sinks), head)
        for head in range(trace.n_heads)
    ]
    maps.sort(key=lambda pair: -np.nan_to_num(pair[0].share))
    return [
        (
            map_picture(image_map, opacity, scale, longest=_HEAD_LONGEST),
            f"head {head}: {percent(image_map.share)}",
            head,
        )
        for image_map, head in maps[:MAX_HEADS]
    ]


def patch_at(grid, x, y):
    """The image token that stands for a place, or None.

    Parameters
    ----------
    grid : PatchGrid
    x, y : float
        Shares of the width and height. Of several tokens, as where tiles overlap a view of the
        whole image, that of the smallest place is taken.
    """
    left, top, right, bottom = grid.boxes.T
    inside = (left <= x) & (x < right) & (top <= y) & (y < bottom)  # False for NaN
    if not inside.any():
        return None
    areas = np.where(inside, (right - left) * (bottom - top), np.inf)
    return int(np.argmin(areas))


def patch_picture(image, grid, patches):
    """An image with its patches marked: chosen ones outlined strongly, the others faintly."""
    from PIL import ImageDraw

    picture = image.convert("RGB").resize(shown_size(image))
    lines = picture.copy()
    draw = ImageDraw.Draw(lines)
    for i in range(len(grid.boxes)):
        if np.isfinite(grid.boxes[i]).all():
            draw.rectangle(_in_pixels(grid.boxes[i], picture.size), outline=(128, 128, 128))
    picture.paste(lines, mask=picture.convert("L").point(lambda _: 70))
    draw = ImageDraw.Draw(picture)
    for i in patches:
        if np.isfinite(grid.boxes[i]).all():
            draw.rectangle(_in_pixels(grid.boxes[i], picture.size), outline=_CHOSEN, width=3)
    return picture


def _in_pixels(box, size):
    left, top, right, bottom = np.asarray(box) * np.tile(size, 2)
    return [left, top, max(right - 1, left), max(bottom - 1, top)]


# Text and tables


def percent(share):
    """A share as whole percent; a dash where it is not known."""
    return "–" if not np.isfinite(share) else f"{100 * share:.0f}%"


def number(value):
    """A number for people."""
    return "–" if value is None or not np.isfinite(value) else f"{value:.3g}"


def rounded(value):
    """A number for a table: four digits.

    >>> rounded(0.123456)
    0.1235
    """
    return float(f"{float(value):.4g}")


def word_chips(words, values, label):
    """HTML: words on a background as strong as their values, with the numbers."""
    values = np.nan_to_num(np.asarray(values, dtype=np.float64))
    largest = np.abs(values).max(initial=0.0) or 1.0
    chips = [
        f'<span class="chip" style="--strength: {abs(value) / largest:.3f}" '
        f'data-sign="{"minus" if value < 0 else "plus"}">{html.escape(word.strip() or repr(word))}'
        f"<small>{number(value)}</small></span>"
        for word, value in zip(words, values, strict=True)
    ]
    return f'<p class="chips" aria-label="{html.escape(label)}">{" ".join(chips)}</p>'


def lines(*texts):
    """HTML: a paragraph for every text, escaped; empty ones are left out."""
    return "".join(f"<p>{html.escape(text)}</p>" for text in texts if text)


def quoted(words):
    """Some words in quotes.

    >>> quoted(["a", "dog"])
    '“a”, “dog”'
    """
    return ", ".join(f"“{word.strip()}”" for word in words)


def mass_text(trace, words, layer, head, image_map):
    """Where the attention of some words went, in numbers."""
    masses = trace.masses(words, layer, head)
    return lines(
        f"Attention while writing {'the answer' if not words else quoted(image_map.words)}: "
        f"{percent(masses['image'])} on the image, {percent(masses['question'])} on the question, "
        f"{percent(masses['other'])} elsewhere; entropy over the patches "
        f"{number(masses['entropy'])} nats.",
        "Strongest patches: "
        + ", ".join(f"{token} ({number(value)})" for token, value, _ in image_map.top(5)),
    )


def token_rows(trace):
    """Rows of the answer's tokens: text, probability, logit, likeliest alternatives."""
    first = trace.n_prompt
    return [
        [
            trace.tokens[first + t],
            rounded(trace.probabilities[t]),
            rounded(trace.logits[t]),
            "  ".join(f"{text.strip() or repr(text)} {p:.2f}" for text, p in trace.alternatives[t]),
        ]
        for t in range(trace.n_tokens)
    ]


def share_text(relevancy):
    """Where the relevancy of its one word lies."""
    image, text = (float(value) for value in relevancy.shares[0])
    return lines(
        f"Relevancy for {quoted(relevancy.words)}: {percent(image)} in the image, "
        f"{percent(text)} in the text."
    )


def explanation_rows(graph, radius):
    """Rows of the nodes that explain the target within a radius: what, where, radius, weight."""
    names = {"image": "image patch", "question": "question", "answer": "answer"}

    def name(node):
        if node["kind"] == "image" and node["patch"] is None:
            return "image query"
        return names.get(node["kind"], node["kind"])

    return [
        [
            name(graph.nodes[i]),
            str(graph.nodes[i]["label"]),
            int(graph.radius[i]),
            rounded(graph.weights[i]),
        ]
        for i in graph.explanation(radius)
    ]


def explanation_text(graph, radius):
    """How many nodes explain the target; what may be done where none does, which is common."""
    where, n = f"in layer {graph.layer}, head {graph.head}", len(graph.explanation(radius))
    if n == 0:
        return lines(
            f"No patch or word stays dependent on {quoted([graph.word])} {where}, given the "
            "others: there is nothing that explains it. Try another head, a larger alpha, or more "
            "records."
        )
    return lines(
        f"{n} of {len(graph.nodes) - 1} patches and words explain {quoted([graph.word])} {where}, "
        f"within radius {radius}."
    )


def area_rows(curves):
    """Rows of the areas under the curves: of the map and of random maps."""

    def random(areas):
        mean, spread = float(np.mean(areas)), float(np.std(areas))
        return f"{mean:.3g} ± {spread:.2g}"

    return [
        ["deletion (lower is better)", number(curves.deletion_area)]
        + [random(curves.random_deletion_areas)],
        ["insertion (higher is better)", number(curves.insertion_area)]
        + [random(curves.random_insertion_areas)],
    ]


def concept_choices(report):
    """(label, index) of the concepts of a report, with their first words."""
    return [
        (f"{concept.index}: {', '.join(concept.words[:4]) or 'no words'}", concept.index)
        for concept in report.concepts
    ]


def concept_map(activation_map, k, word, opacity, scale):
    """The patches that raise a concept for a word; None where it is not active."""
    if (word, k) not in activation_map.image:
        return None
    return map_picture(activation_map.map(k, word), opacity, scale)


def concept_gallery(report, k):
    """(picture, caption) of the images that activate a concept most."""
    concept = report.concepts[k]
    pairs = zip(concept.image_indices, concept.image_activations, strict=True)
    return [(report.image("train", i), f"activation {number(value)}") for i, value in pairs]


def concept_rows(activation_map, word, n=10):
    """Rows of the concepts that are most active at a word: number, words, activation."""
    return [
        [k, ", ".join(activation_map.concepts[k]["words"]), rounded(value)]
        for k, value in activation_map.top(word, n)
    ]


def explained_text(activation_map, trace, word):
    """How well the concepts describe the state that wrote a word."""
    share = float(activation_map.explained[trace.words[word].start])
    if not np.isfinite(share):
        return ""
    return lines(
        f"The active concepts explain {percent(max(share, 0.0))} of the state that wrote "
        f"{quoted([trace.words[word].text])}; where that is little, activations mean little."
    )


def ablation_text(ablation):
    """The answer before and after a concept was scaled."""
    changed = ablation.answer_before != ablation.answer_after
    return lines(
        f"Before: {ablation.answer_before}",
        f"After: {ablation.answer_after}",
        "The answer changed." if changed else "The answer stayed the same.",
        "Control: the logits with the same length removed along other concepts instead (mean). "
        "What goes beyond it is due to this concept.",
    )


def ablation_rows(ablation):
    """Rows of the answer's tokens: logit before, after and of the control; probabilities."""
    controls = ablation.control_logits
    columns = zip(
        ablation.logits_before,
        ablation.logits_after,
        ablation.logits_before * np.nan if controls is None else controls.mean(axis=0),
        ablation.probabilities_before,
        ablation.probabilities_after,
        strict=True,
    )
    return [
        [token, *map(rounded, values)]
        for token, values in zip(ablation.tokens, columns, strict=True)
    ]


def comparison_rows(traces):
    """Rows of two answers side by side: what, first, second."""
    masses = [trace.masses() for trace in traces]
    rows = [["answer", *(trace.answer for trace in traces)]]
    rows += [["tokens", *(str(trace.n_tokens) for trace in traces)]]
    rows += [
        [f"attention on the {name}", *(percent(m[name]) for m in masses)]
        for name in ("image", "question")
    ]
    rows += [["entropy over the patches", *(number(m["entropy"]) for m in masses)]]
    geometric = (np.exp(np.mean(np.log(np.maximum(t.probabilities, 1e-12)))) for t in traces)
    return rows + [["mean probability of a token", *(number(value) for value in geometric)]]


def compared_pictures(maps, opacity, scale):
    """Pictures of two maps, in which the same colour is the same density."""
    maximum = max(map(peak, maps))
    return [map_picture(found, opacity, scale, maximum=maximum) for found in maps]
