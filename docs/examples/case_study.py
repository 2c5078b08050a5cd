"""A wrong answer of the bundled model, traced to its cause.

Scene 4738 of the test scenes shows a brown dog on the beach and nothing else. The model says that
it is next to a chair. Which part of the image says so, is it the cause, and where in the model does
the chair turn up first?
"""

import numpy as np
from PIL import Image, ImageDraw

from semi_nmf_concepts import RECOMMENDED, LMMTokenFeaturizer, SemiNMFConcepts, explain_concepts
from semi_nmf_concepts.attention import (
    ablate_concept,
    causal_graph,
    concept_activation_map,
    deletion_insertion,
    relevancies,
    trace_answer,
)
from semi_nmf_concepts.datasets import load_scenes
from semi_nmf_concepts.lmm import write_answer

scenes = load_scenes("test")
factors = scenes.factors
image = scenes.images[4738]

# What the model says, and how sure it is.
trace = trace_answer(images=image)
print(f"{trace.answer!r}; true companion: {factors.companion[4738]}")
for word in ("dog", "next", "chair"):
    place = trace.words[trace.find_words(word)[0]].start
    likeliest = ", ".join(f"{text} {p:.2f}" for text, p in trace.alternatives[place][:3])
    print(f"  in the place of {word!r}: {likeliest}")

# Where the words come from: the share of the image, of the dog's box, of the foremost token.
found = relevancies(trace, ["dog", "next", "chair"])
left, top, right, bottom = factors.boxes[4738][0]
for through, of_words in found.items():
    for word in of_words.words:
        density = of_words.map(word).pixels()
        in_box = density[top:bottom, left:right].sum() / density.sum()
        token, value, _ = of_words.map(word).top(1)[0]
        share = of_words.map(word).share
        print(
            f"{through:8s} {word:5s} image {share:.2f}, of it in the dog's box {in_box:.2f}; "
            f"most on token {token}: {value:.2f}"
        )
print("words before 'chair':", [f"{w} {v:.2f}" for w, v in found["language"].top_words("chair", 3)])
attention = trace.image_attention("chair")
token, value, _ = attention.top(1)[0]
print(f"raw attention of 'chair': image {attention.share:.2f}, most on token {token}: {value:.2f}")

# Do these maps say what the probability of "chair" rests on?
maps = {f"relevancy, {name}": one.map("chair") for name, one in found.items()}
maps["raw attention"] = attention
curves = {name: deletion_insertion(trace, one) for name, one in maps.items()}
for name, one in curves.items():
    print(
        f"{name:19s} deletion {one.deletion_area:.2f}, insertion {one.insertion_area:.2f}"
        f" (random {one.random_deletion_areas.mean():.2f})"
    )

# The causal graph of every head: is the token in what explains "chair"?
graphs = {
    (layer, head): causal_graph(trace, "chair", layer, head)
    for layer in trace.layers
    for head in range(trace.n_heads)
}
explained = {
    place: [graph.nodes[i]["label"] for i in graph.explanation()] for place, graph in graphs.items()
}
with_33 = [place for place, labels in explained.items() if "patch 33" in labels]
print(
    f"causal graphs: {len(graphs)} heads, {sum(not labels for labels in explained.values())} "
    f"explanations empty, token 33 in those of (layer, head) {with_33}"
)
print(f"  edges there: {[edge for edge in graphs[with_33[0]].edges() if 'chair' in edge]}")
most = trace.most_visual_head("chair")
print(f"  the head that looks at the image most, {most}: {explained[most] or 'empty'}")


# The test of the token: paint over one square of the image after the other.
def square(token):
    """Left, top, right, bottom in pixels of what an image token stands for."""
    return tuple(int(round(share * 224)) for share in trace.grids[0].boxes[token])


def changed(picture, token):
    """The scene with a picture in the place of a token's square."""
    copy = image.copy()
    copy.paste(picture, square(token)[:2])
    return copy


def probability(picture, word="chair"):
    """Of a word of the same answer about another image."""
    other = trace_answer(images=picture, answer=trace.answer, layers=[0])
    return float(other.probabilities[trace.words[trace.find_words(word)[0]].start])


blank = Image.new("RGB", (32, 32), tuple(int(v) for v in np.asarray(image).mean(axis=(0, 1))))
occluded = np.array([probability(changed(blank, token)) for token in range(49)])
lowest, second = np.argsort(occluded)[:2]
print(
    f"probability of 'chair' without token {lowest}: {occluded[lowest]:.2f}, "
    f"without any other one: at least {occluded[second]:.4f}"
)

# What about this square? The same pixels without colour, in another colour, without shape.
piece = image.crop(square(33))
hue, saturation, brightness = piece.convert("HSV").split()
pixels = np.asarray(piece).reshape(-1, 3)
variants = {
    "as it is": piece,
    "blank": blank,
    "grey": piece.convert("L").convert("RGB"),
    "blue": Image.merge("HSV", (hue.point(lambda v: (v + 128) % 256), saturation, brightness)),
    "pixels shuffled": Image.fromarray(
        np.random.default_rng(0).permutation(pixels).reshape(32, 32, 3)
    ),
}
pictures = {name: changed(one.convert("RGB"), 33) for name, one in variants.items()}
for name, picture in pictures.items():
    print(f"square {name}: {write_answer('bundled', picture).text!r}")
moved = Image.fromarray(np.roll(np.asarray(image), 3, axis=1))
print(f"the whole image 3 pixels to the right: {write_answer('bundled', moved).text!r}")

# Is it enough? The same square in twelve other scenes of the beach without a companion.
x0, y0, x1, y1 = square(33)
others = [
    scene
    for scene in np.flatnonzero((factors.companion == "none") & (factors.background == "beach"))
    if all(r <= x0 or x1 <= le or b <= y0 or y1 <= t for le, t, r, b in factors.boxes[scene])
][:12]


def pasted(scene, token):
    """Another scene with the square of a token of this image where token 33 is."""
    copy = scenes.images[scene].copy()
    copy.paste(image.crop(square(token)), (x0, y0))
    return copy


def chairs(pictures):
    """Number of pictures about which the model writes of a chair."""
    return sum("chair" in write_answer("bundled", picture).text for picture in pictures)


print(f"{len(others)} other scenes as they are: {chairs(scenes.images[i] for i in others)} chairs")
for token in (33, 32, 25):
    print(f"with square {token}: {chairs(pasted(i, token) for i in others)} chairs")

# Inside the model: concepts of "dog", after the second and after the last block.
train = load_scenes("train", token="dog", n=200)
reports, concept_maps = {}, {}
for layer in (1, -1):
    featurizer = LMMTokenFeaturizer(token="dog", layer=layer, stop="token")
    decomposer = SemiNMFConcepts(20, random_state=0, **RECOMMENDED)
    report = explain_concepts(featurizer, decomposer, train.images, train.captions)
    reports[layer] = report
    concept_maps[layer] = concept_activation_map(trace, report, words=["dog", "chair"], top=1)
    for word in ("dog", "chair"):
        k, activation = concept_maps[layer].top(word, 1)[0]
        print(
            f"layer {layer}, {word!r}: concept {k} ({', '.join(report.concepts[k].words[:4])}) is "
            f"most active: {activation:.1f}"
        )
report, concept_map = reports[1], concept_maps[1]
k = concept_map.top("dog", 1)[0][0]
of_images = [train.factors.companion.iloc[i] for i in report.concepts[k].image_indices]
print(f"concept {k} of layer 1: companions in its images: {', '.join(of_images)}")
token, value, _ = concept_map.map(k, "dog").top(1)[0]
print(f"  raised at 'dog' by token {token}: {value:.2f}")
without = trace_answer(images=changed(blank, 33), answer=trace.answer)
activation = concept_activation_map(without, report, top=0).word_activations[1, k]
print(f"  active at 'dog' with the square painted over: {activation:.1f}")

# Take the concept away, or double it.
controls = [
    ablate_concept(trace, report, k, direction=direction, regenerate=False).word_changes[-1]
    for j, direction in enumerate(report.components)
    if j != k
]
for scale in (0.0, 2.0):
    ablation = ablate_concept(trace, report, k, scale)
    print(
        f"concept {k} times {scale:g}: logit of 'chair' {ablation.word_changes[-1]:+.1f}, "
        f"probability {ablation.probabilities_after[-1]:.2f}; {ablation.answer_after!r}"
    )
print(f"  along other concepts instead: {np.mean(controls):+.1f} (lowest {min(controls):+.1f})")
last = ablate_concept(trace, reports[-1], concept_maps[-1].top("chair", 1)[0][0])
print(
    f"most active concept at 'chair' after the last block, taken away: logit "
    f"{last.word_changes[-1]:+.1f}, probability {last.probabilities_after[-1]:.2f}"
)


def side_by_side(*columns):
    """Pictures with a title each, as a figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.9 * len(columns), 2.15), layout="constrained")
    for axis, (title, picture) in zip(figure.subplots(1, len(columns)), columns, strict=True):
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
        axis.set_title(title, fontsize=8, wrap=True)
        axis.set(xticks=[], yticks=[])
    return figure


outlined = image.copy()
ImageDraw.Draw(outlined).rectangle(square(33), outline="red", width=2)
figures = {
    "case_relevancy": found["language"].plot(words=["dog", "next", "chair"]),
    "case_squares": side_by_side(
        ("the square of token 33", outlined),
        ("P(chair) without each square", occluded.reshape(7, 7)),
        ("no chair: grey", pictures["grey"]),
        ("no chair: shuffled", pictures["pixels shuffled"]),
        *((f"a chair: scene {scene}", pasted(scene, 33)) for scene in others[:2]),
    ),
    "case_concepts": concept_map.plot(n_concepts=6),
}
