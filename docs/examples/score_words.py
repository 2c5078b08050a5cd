"""Score the words of the concepts of one report, by hand.

`evaluate` does this for several tokens and methods at once; here are the single functions. The
words of each concept are compared with test images (CLIPScore) and with their captions (BERTScore),
beside two kinds of random words: words of random directions, and the concepts' own words, each list
passed on to another concept.
"""

from functools import partial

from sklearn.base import clone

from semi_nmf_concepts import LMMTokenFeaturizer, SemiNMFConcepts, explain_concepts, ground_text
from semi_nmf_concepts.datasets import load_scenes
from semi_nmf_concepts.decomposition import recommended_setting
from semi_nmf_concepts.metrics import (
    bert_score,
    clip_score,
    load_bert,
    load_clip,
    mas_clip_score,
    overlap_score,
    random_words,
    stability_score,
)

K = 10
train, test = load_scenes("train", token="dog", n=240), load_scenes("test", token="dog", n=60)
featurizer = LMMTokenFeaturizer(token="dog", stop="token")
states = featurizer.extract(train.images, train.captions)
decomposer = SemiNMFConcepts(K, **recommended_setting(K), random_state=0).fit(states.Z)
decomposer.provenance_ = states.provenance  # which model the concepts belong to

report = explain_concepts(
    featurizer,
    decomposer,
    train.images,
    train.captions,
    test_images=test.images,
    test_captions=test.captions,
)
words = [concept.words for concept in report.concepts]
print(f"{report}; words of concept 0: {', '.join(words[0])}")

# Handles that load at first use and remember what they have encoded.
clip, bert = load_clip("bundled"), load_bert("bundled")
kept = report.test_samples  # the test images about which the model writes "dog"
test_images = [test.images[int(i)] for i in kept.indices]
rows = clip.encode_images(test_images)  # embeddings stand for the images from here on

ground = partial(ground_text, model=featurizer.handle)
word_lists = {
    "concepts": words,
    "random directions": random_words(words, ground=ground, width=report.components.shape[1]),
    "shuffled": random_words(words, mode="shuffle"),
}
print(f"{'words':20s}{'CLIPScore, top 1':>18s}{'top 3':>9s}{'BERTScore, top 1':>18s}{'top 3':>9s}")
for name, lists in word_lists.items():
    by_clip = clip_score(rows, report.test_activations, lists, model=clip)
    by_bert = bert_score(kept.references, report.test_activations, lists, model=bert)
    print(
        f"{name:20s}{by_clip[1].mean():18.3f}{by_clip[3].mean():9.3f}"
        f"{by_bert[1].mean():18.3f}{by_bert[3].mean():9.3f}"
    )

most_activating = [concept.image_indices for concept in report.concepts]
of_concepts = mas_clip_score(train.images, most_activating, words, model=clip)
best = int(of_concepts.argmax())
print(f"MAS CLIPScore: best concept {best} with {of_concepts[best]:.3f}, {', '.join(words[best])}")
print(f"overlap of words: {overlap_score(words):.3f}")

others = [clone(decomposer).set_params(random_state=seed).fit(states.Z) for seed in (1, 2)]
print(f"stability over three seeds: {stability_score([decomposer, *others]):.3f}")
