"""Images that the language model reads by cross-attention, beside its prompt (Mllama)."""

import numpy as np
import pytest
import torch

from semi_nmf_concepts.attention import (
    AnswerTrace,
    causal_graph,
    deletion_insertion,
    trace_answer,
)
from semi_nmf_concepts.attention import _relevancy as module
from semi_nmf_concepts.attention._recursion import Recursion
from semi_nmf_concepts.lmm import load_model
from semi_nmf_concepts.report._answer_data import Rows
from tests._tiny_llava import tiny_images
from tests.attention.test_relevancy import Reference, full_matrix
from tests.attention.test_trace import eager

ANSWER = "a dog on the red car"
KEYS = 4 * 17  # of an image: four tiles with a class token each
CROSS = [1, 3]  # of four blocks


@pytest.fixture(scope="module")
def trace_of(build):
    made = {}

    def trace_of(n_images):
        if n_images not in made:
            images = [image.resize((72, 40)) for image in tiny_images(n_images)]
            handle = load_model(build("mllama"), device="cpu", dtype="float32")
            made[n_images] = trace_answer(handle, images, "what is this", ANSWER)
        return made[n_images]

    return trace_of


@pytest.mark.parametrize("n_images", [1, 2])
def test_rows_and_logits(n_images, trace_of):
    trace = trace_of(n_images)
    model, run, length = trace.model.loaded.model, trace.run_again, len(trace.token_ids)
    rows = slice(trace.n_prompt - 1, length - 1)
    assert trace.attention.shape == (4, 4, trace.n_tokens, length + n_images * KEYS)
    np.testing.assert_allclose(trace.attention.astype(np.float32).sum(axis=-1), 1, atol=2e-3)
    with torch.inference_mode():
        logits = run.run().logits[0, rows].float()
    own = logits.gather(1, torch.tensor(run.ids)[:, None])[:, 0].numpy()
    np.testing.assert_allclose(trace.logits, own, atol=1e-4)
    with eager(model), torch.inference_mode():
        attentions = run.run(output_attentions=True).attentions
    for layer, (kept, weights) in enumerate(zip(trace.attention, attentions, strict=True)):
        columns = slice(length, None) if layer in CROSS else slice(length)
        np.testing.assert_allclose(kept[..., columns], weights[0, :, rows].numpy(), atol=1e-3)
        assert kept[..., columns].sum() > 0.99 * kept.sum()
    for image, grid in enumerate(trace.grids):
        first = length + image * KEYS
        assert grid.positions.tolist() == list(range(first, first + KEYS))
    assert [word.text for word in trace.question_words] == ["what", "is", "this"]


def test_views(trace_of):
    trace = trace_of(2)
    length = len(trace.token_ids)
    np.testing.assert_allclose(
        trace.heads_by_layers().values,
        [[float(layer in CROSS)] * 4 for layer in range(4)],
        atol=1e-3,
    )
    [word] = trace.find_words("dog")
    row = trace.attention[1, 2, trace.words[word].start].astype(float)
    found = trace.image_attention("dog", layer=1, head=2)
    np.testing.assert_allclose(np.concatenate(found.values), row[length:], atol=1e-6)
    assert found.share == pytest.approx(1.0)
    assert trace.image_attention("dog", layer=0).share == 0.0
    assert trace.image_attention("dog").share == pytest.approx(0.5, abs=1e-3)  # of the layers
    scores = trace.words_for_patches([1, 5], layer=1, head=2, image=1)
    assert scores.values[word] == pytest.approx(row[length + KEYS + np.array([1, 5])].mean())
    np.testing.assert_allclose(Rows(trace).on_image(1)[2 + 2, word], row[length:], atol=1e-6)


class CrossReference(Reference):
    """The reference over positions and keys: every layer is a matrix over both."""

    def layers(self, token):
        row, found = self.gradients(token)
        c = [
            (weights * gradient).clamp(min=0).mean(dim=1).detach().double().numpy()
            for weights, gradient in zip(self.seen, found, strict=True)
        ]
        n_keys, decoder = sum(len(grid.positions) for grid in self.trace.grids), []
        for layer, one in enumerate(c[-4:]):
            matrix = np.zeros((self.length + n_keys,) * 2)
            first = self.length if layer in CROSS else 0
            matrix[: self.length, first : first + one.shape[-1]] = one[0]
            decoder.append(matrix)
        encoder = [torch.block_diag(*map(torch.from_numpy, one)).numpy() for one in c[:-4]]
        assert len(encoder) == 3  # two layers and a global one
        return row, decoder, encoder

    def rows(self, token):
        row, decoder, encoder = self.layers(token)
        language = (full_matrix(decoder) - np.eye(len(decoder[0])))[row]
        vision, patches = full_matrix(encoder), self.mixture.sum(axis=0) > 0
        start = self.mixture.T @ language[self.positions]
        language = language / language.sum()
        image, text = language[self.positions], language[: self.length]
        from_patches = self.on_tokens(patches / patches.sum() @ (vision - np.eye(len(vision))))
        both = self.on_tokens(start @ vision)
        return {
            "language": (image, text),
            "vision": (from_patches / from_patches.sum(), np.zeros_like(text)),
            "both": (image.sum() * both / both.sum(), text),
        }


@pytest.mark.parametrize("n_images", [1, 2])
def test_relevancy_is_that_of_the_full_matrix(n_images, trace_of, monkeypatch):
    trace = trace_of(n_images)
    reference, found = CrossReference(trace, monkeypatch), module.relevancies(trace)
    for word in (0, 3, len(trace.words) - 1):
        wanted = reference.rows(trace.words[word].start)
        for through, result in found.items():
            image = np.concatenate([part[word] for part in result.image])
            np.testing.assert_allclose(image, wanted[through][0], atol=1e-5, err_msg=through)
            np.testing.assert_allclose(result.text[word], wanted[through][1], atol=1e-5)
    assert found["language"].shares[:, 0].min() > 0.05
    maps = [np.concatenate(result.image, axis=1) for result in found.values()]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(maps[one] - maps[other]).max() > 1e-3


def test_a_target_in_between_has_keys_too(trace_of):
    """As of concepts, whose recursion stops at the decoder."""
    trace = trace_of(1)
    row, encoder = Recursion(trace.run_again, trace.grids).rows(1)
    assert encoder is None
    assert row.shape == (trace.attention.shape[-1],)
    found = module.relevancy(trace, "dog")
    np.testing.assert_allclose(row[trace.grids[0].positions] / row.sum(), found.image[0][0])


def test_patches_come_before_all_words(trace_of):
    trace = trace_of(1)
    length = len(trace.token_ids)
    full = trace.full_attention(1, 0)
    assert full.shape == (length, length + KEYS)
    rows = slice(trace.n_prompt - 1, length - 1)
    np.testing.assert_allclose(full[rows], trace.attention[1, 0], atol=1e-3)
    whole = {"alpha": 0.9, "threshold": 0.0, "n_patches": 6}
    graph = causal_graph(trace, "car", 1, 0, **whole)
    kinds = [node["kind"] for node in graph.nodes]
    assert kinds[:6] == ["image"] * 6 and "image" not in kinds[6:]
    grid, row = trace.grids[0], full[trace.n_prompt - 1 + trace.words[-1].start]
    placed = np.flatnonzero(~np.isnan(grid.boxes[:, 0]))
    most = placed[np.argsort(-row[grid.positions[placed]])[:6]]
    assert [node["patch"] for node in graph.nodes[:6]] == sorted(most)
    assert graph.nodes[0]["position"] == length + graph.nodes[0]["patch"]
    # Patches have nothing in common, whatever the level; words have something with patches.
    assert not graph.marks[:6, :6].any()
    assert graph.marks[:6, 6:].any()
    graph.radius[0], graph.weights[0] = 1, 0.5
    values = graph.map().values[0]
    assert values[graph.nodes[0]["patch"]] == 0.5


def test_saved_and_loaded_and_deleted(trace_of, tmp_path):
    trace = trace_of(1)
    trace.save(tmp_path / "trace.npz")
    loaded = AnswerTrace.load(tmp_path / "trace.npz")
    assert loaded.grids[0].cross_layers == trace.grids[0].cross_layers
    one, other = (module.relevancy(t, "dog", "both") for t in (trace, loaded))
    np.testing.assert_array_equal(one.image[0], other.image[0])
    curves = deletion_insertion(loaded, one.map("dog"), n_steps=2, n_random=1)
    assert np.isfinite([curves.deletion_area, curves.insertion_area]).all()
