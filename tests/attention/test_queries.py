"""Image tokens that are learned queries: their values on the patches that they read."""

import numpy as np
import pytest
import torch

from semi_nmf_concepts import LMMTokenFeaturizer, SemiNMFConcepts, explain_concepts
from semi_nmf_concepts.attention import (
    AnswerTrace,
    _capture,
    causal_graph,
    deletion_insertion,
    explain_answer,
    trace_answer,
)
from semi_nmf_concepts.attention import _relevancy as module
from semi_nmf_concepts.lmm import load_model, write_answer
from semi_nmf_concepts.report._answer_data import answer_data, attention_data
from semi_nmf_concepts.report._answer_fitting import Pool
from tests._families import FAMILIES, _idefics_gemma
from tests._tiny_llava import tiny_images
from tests.attention.test_relevancy import Reference, full_matrix
from tests.attention.test_trace import eager
from tests.lmm._painting import flat, inside, make_position_wise, paint

NAMES = ("blip2-opt", "instructblip")
N_QUERIES, SIDE, N_STATES = 4, 4, 17  # patches of a side; states of a picture, class token first
# BLIP-2 takes one image unless the prompt has places for more.
TWO_IMAGES = "<image>" * N_QUERIES + " what is this"
ANSWER = "a dog on the red car"


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Folders of models of which several layers of the Q-Former read the image."""
    made, plain = {}, _idefics_gemma._qformer

    def build(name, **changes):
        key = name, *sorted(changes.items())
        if key not in made:
            changes = {"num_hidden_layers": 3, "cross_attention_frequency": 1} | changes
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(_idefics_gemma, "_qformer", lambda t: plain(t) | changes)
                folder = tmp_path_factory.mktemp("family") / "model"
                made[key] = str(FAMILIES[name].build(folder))
        return made[key]

    return build


@pytest.fixture(scope="module")
def trace_of(build):
    made = {}

    def trace_of(name, n_images=1):
        if (name, n_images) not in made:
            images = [image.resize((72, 40)) for image in tiny_images(n_images)]
            question = "what is this" if n_images == 1 else TWO_IMAGES
            handle = load_model(build(name), device="cpu", dtype="float32")
            made[name, n_images] = trace_answer(handle, images, question, ANSWER)
        return made[name, n_images]

    return trace_of


def cases():
    return [("blip2-opt", 1), ("blip2-opt", 2), ("instructblip", 1)]


@pytest.mark.parametrize(("name", "n_images"), cases())
def test_rows_logits_and_what_queries_read(name, n_images, trace_of):
    trace = trace_of(name, n_images)
    model, run, length = trace.model.loaded.model, trace.run_again, len(trace.token_ids)
    rows = slice(trace.n_prompt - 1, length - 1)
    shape = trace.model.n_layers, trace.n_heads, trace.n_tokens, length
    assert trace.attention.shape == shape
    np.testing.assert_allclose(trace.attention.astype(np.float32).sum(axis=-1), 1, atol=2e-3)
    with torch.inference_mode():
        logits = run.run().logits[0, rows].float()
    own = logits.gather(1, torch.tensor(run.ids)[:, None])[:, 0].numpy()
    np.testing.assert_allclose(trace.logits, own, atol=1e-4)

    given = {}
    hook = model.qformer.register_forward_pre_hook(
        lambda module, arguments, options: given.update(options), with_kwargs=True
    )
    with eager(model), torch.inference_mode():
        output = run.run(output_attentions=True)
        hook.remove()
        read = model.qformer(**given | {"output_attentions": True, "return_dict": True})
    for kept, weights in zip(
        trace.attention, output.language_model_outputs.attentions, strict=True
    ):
        np.testing.assert_allclose(kept, weights[0, :, rows].numpy(), atol=1e-3)
    crossing = torch.stack(read.cross_attentions)  # layers, images, heads, queries, states
    assert crossing.shape[0] == len(trace.grids[0].query_layers) == 3
    for image, grid in enumerate(trace.grids):
        wanted = np.zeros((N_QUERIES, n_images, N_STATES))
        wanted[:, image] = crossing[:, image].mean(dim=(0, 1))
        np.testing.assert_allclose(grid.encoder.toarray(), wanted.reshape(N_QUERIES, -1), atol=1e-6)
        np.testing.assert_allclose(grid.encoder.sum(axis=1), 1)
        assert np.ptp(grid.encoder.toarray(), axis=0).max() > 0.01, "all queries read the same"
        assert (
            grid.positions.tolist()
            == np.flatnonzero(trace.token_ids == trace.model.loaded.image_token_id)
            .reshape(n_images, -1)[image]
            .tolist()
        )


@pytest.mark.parametrize(("name", "n_images"), cases())
def test_views_are_sums_over_queries(name, n_images, trace_of):
    trace = trace_of(name, n_images)
    rows = trace.attention.astype(np.float64)[1, 2]
    found = trace.image_attention("dog", layer=1, head=2)
    [word] = trace.find_words("dog")
    token = trace.words[word].start
    mass = 0.0
    for image, (values, grid) in enumerate(zip(found.values, trace.grids, strict=True)):
        # The patches of this image's picture, row by row, behind its class token.
        first = image * N_STATES + 1
        read = grid.encoder.toarray()[:, first : first + SIDE**2]
        expected = sum(rows[token, p] * read[q] for q, p in enumerate(grid.positions))
        np.testing.assert_allclose(values, expected, atol=1e-6)
        assert [block.tokens.shape for block in grid.blocks] == [(SIDE, SIDE)]
        mass += rows[token, grid.positions].sum()
        # Drawn where the patches are: the picture is all of the image, cut into 4 x 4.
        drawn = found.pixels(image, (SIDE, SIDE))
        np.testing.assert_allclose(drawn, values.reshape(SIDE, SIDE), atol=1e-9)
    assert found.share == pytest.approx(mass, abs=1e-3)
    per_word = [
        trace.image_attention(i, layer=1, head=2).values[-1] for i in range(len(trace.words))
    ]
    scores = trace.words_for_patches([3, 9], layer=1, head=2, image=n_images - 1)
    np.testing.assert_allclose(scores.values, [v[[3, 9]].mean() for v in per_word], atol=1e-6)
    mask = np.zeros((40, 72), dtype=bool)
    mask[:10, 54:] = mask[20:30, 18:36] = True  # the same two places
    by_mask = trace.words_for_patches(mask, layer=1, head=2, image=n_images - 1)
    np.testing.assert_allclose(by_mask.values, scores.values, atol=1e-6)
    with pytest.raises(ValueError, match=r"places of the image \(0 to 15\)"):
        trace.words_for_patches([16])
    masses = trace.masses("dog", layer=1, head=2)
    assert masses["image"] == pytest.approx(mass, abs=1e-3)
    assert masses["entropy"] == pytest.approx(found.entropy, abs=1e-4)
    with pytest.raises(ValueError, match=r"the shape \(16,\): a value for each place"):
        trace.image_map([np.zeros(N_QUERIES)] * n_images)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("patch", [0, 6, 13])
def test_a_place_is_where_the_image_was_painted(name, patch, build):
    """With one layer, one head and an encoder of position-wise layers, a query's attention to any
    two places has a ratio that these two places alone decide."""
    folder = build(name, num_hidden_layers=1, num_attention_heads=1, cross_attention_frequency=1)
    handle = load_model(folder, device="cpu", dtype="float32")
    make_position_wise(handle.loaded.model)
    try:
        image = flat((300, 200))
        before = trace_answer(handle, image, "what is this", "a dog").grids[0]
        region = inside(before.boxes[patch], image.size)
        after = trace_answer(handle, paint(image, region), "what is this", "a dog").grids[0]
    finally:
        handle.unload()
    everywhere = np.eye(N_QUERIES)
    changes = after.to_places(everywhere) / before.to_places(everywhere)
    others = np.delete(changes, patch, axis=1)
    np.testing.assert_allclose(others, others[:, :1].repeat(SIDE**2 - 1, axis=1), rtol=1e-4)
    assert (np.abs(changes[:, patch] / others[:, 0] - 1) > 1e-3).any()


class QueryReference(Reference):
    """The reference for queries: the encoder's layers run first, the decoder's last."""

    def layers(self, token):
        row, found = self.gradients(token)
        c = [
            (weights * gradient).clamp(min=0).mean(dim=1).detach().double().numpy()
            for weights, gradient in zip(self.seen, found, strict=True)
        ]
        n_encoder = self.model.config.vision_config.num_hidden_layers
        decoder = [one[0] for one in c[-self.trace.model.n_layers :]]
        return row, decoder, [np.kron(np.eye(1), _diagonal(one)) for one in c[:n_encoder]]

    def rows(self, token):
        row, decoder, encoder = self.layers(token)
        language = (full_matrix(decoder) - np.eye(self.length))[row]
        vision, n_images = full_matrix(encoder), len(self.trace.grids)
        patches = np.delete(np.arange(n_images * N_STATES), np.arange(n_images) * N_STATES)
        start = np.full(len(vision), 0.0)
        start[patches] = 1 / len(patches)
        from_patches = (start @ (vision - np.eye(len(vision))))[patches]
        both = (self.mixture.T @ language[self.positions] @ vision)[patches]
        parts = []
        for grid in self.trace.grids:
            part = language[grid.positions] @ grid.encoder.toarray()[:, grid.patches.positions]
            parts.append(part / part.sum() * language[grid.positions].sum())
        image, text = np.concatenate(parts) / language.sum(), language / language.sum()
        text[self.positions] = 0
        return {
            "language": (image, text),
            "vision": (from_patches / from_patches.sum(), np.zeros_like(text)),
            "both": (image.sum() * both / both.sum(), text),
        }


def _diagonal(blocks):
    from scipy.linalg import block_diag

    return block_diag(*blocks)


def check_relevancy(trace, monkeypatch):
    reference = QueryReference(trace, monkeypatch)
    found = module.relevancies(trace)
    for word in (0, 3, len(trace.words) - 1):
        wanted = reference.rows(trace.words[word].start)
        assert trace.words[word].stop == trace.words[word].start + 1
        for through, result in found.items():
            image = np.concatenate([part[word] for part in result.image])
            np.testing.assert_allclose(image, wanted[through][0], atol=1e-5, err_msg=through)
            np.testing.assert_allclose(result.text[word], wanted[through][1], atol=1e-5)
            assert image.sum() + result.text[word].sum() == pytest.approx(1)
    maps = [np.concatenate(result.image, axis=1) for result in found.values()]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(maps[one] - maps[other]).max() > 1e-3
    return found


@pytest.mark.parametrize(("name", "n_images"), cases())
def test_relevancy_is_that_of_the_full_matrix(name, n_images, trace_of, monkeypatch):
    trace = trace_of(name, n_images)
    found = check_relevancy(trace, monkeypatch)
    map_ = found["both"].map("dog")
    assert [values.shape for values in map_.values] == [(SIDE**2,)] * n_images
    assert map_.pixels().sum() == pytest.approx(map_.values[0].sum())


def test_what_queries_see_of_each_other_is_no_layer_of_the_encoder(build, monkeypatch):
    """InstructBLIP's queries and the question they read may be as many as the encoder's states."""
    handle = load_model(build("instructblip"), device="cpu", dtype="float32")
    question = "what is this " + "dog " * 9
    trace = trace_answer(handle, tiny_images(1)[0], question.strip(), ANSWER)
    n_read = trace.run_again.inputs["qformer_input_ids"].shape[1]
    question = "what is this " + "dog " * (9 + N_STATES - N_QUERIES - n_read)
    trace = trace_answer(handle, tiny_images(1)[0], question.strip(), ANSWER)
    assert N_QUERIES + trace.run_again.inputs["qformer_input_ids"].shape[1] == N_STATES
    check_relevancy(trace, monkeypatch)


def test_queries_are_nodes_without_a_place(trace_of):
    trace = trace_of("blip2-opt", 2)
    whole = {"layer": 1, "head": 0, "alpha": 0.9, "threshold": 0.0}
    graph = causal_graph(trace, "car", **whole)
    images = [node for node in graph.nodes if node["kind"] == "image"]
    assert [node["label"] for node in images] == [
        f"image {image + 1}, query {query}" for image in (0, 1) for query in range(N_QUERIES)
    ]
    assert {node["patch"] for node in images} == {None}
    positions = np.concatenate([grid.positions for grid in trace.grids])
    assert [node["position"] for node in images] == positions.tolist()
    # Whatever the graph says, a weight lies where the query reads.
    graph.radius[:-1], graph.weights[:] = 1, 0.0
    graph.weights[[1, N_QUERIES + 2, len(images)]] = 0.5, 0.25, 0.25
    map_ = graph.map()
    np.testing.assert_allclose(map_.values[0], 0.5 * trace.grids[0].to_places(np.eye(4))[1])
    np.testing.assert_allclose(map_.values[1], 0.25 * trace.grids[1].to_places(np.eye(4))[2])
    assert map_.share == pytest.approx(0.75)


@pytest.mark.parametrize("name", NAMES)
def test_patches_are_deleted_in_the_order_of_a_map(name, trace_of):
    from semi_nmf_concepts.attention import _faithfulness

    trace = trace_of(name)
    map_ = trace.image_attention("dog")
    pictures = _faithfulness._Pictures(trace, "grey", np.linspace(0, 1, SIDE**2 + 1))
    numbers = pictures.curve(np.argsort(-map_.values[0]), insert=False)
    first = np.asarray(pictures.made[numbers[1]][0], dtype=int)
    gone = (first == 128).all(axis=-1) & (np.asarray(trace.images[0]) != 128).any(axis=-1)
    share = trace.grids[0].coverage(gone)
    assert np.flatnonzero(share > 0.9).tolist() == [map_.top(1)[0][0]]
    curves = deletion_insertion(trace, map_, n_steps=2, n_random=1)
    assert np.isfinite([curves.deletion_area, curves.insertion_area]).all()


def test_concepts_and_the_whole_page(build, tmp_path):
    folder = build("blip2-opt")
    images = [image.resize((40, 40)) for image in tiny_images(8)]
    report = explain_concepts(
        LMMTokenFeaturizer(folder, token="dog"),
        SemiNMFConcepts(3, n_active=2, random_state=0),
        images,
        ["a dog"] * 8,
    )
    explanation = explain_answer(
        folder, images[0], "what is this", ANSWER, concepts=report, words=["dog", "car"]
    )
    assert not explanation.settings["left_out"]
    found = explanation.concepts
    (word, concept), values = next(iter(found.image.items()))
    assert [part.shape for part in values] == [(SIDE**2,)]
    assert values[0].sum() == pytest.approx(found.image_shares[word, concept])
    assert found.map(concept, word).pixels().shape == (40, 40)

    explanation.to_html(tmp_path / "page.html")
    assert 'id="sinks"' not in (tmp_path / "page.html").read_text(encoding="utf-8")
    trace = explanation.trace
    pool = Pool(trace.grids)
    [image] = answer_data(explanation, pool)["images"]
    assert image["reads"]["shape"] == [N_QUERIES, SIDE**2] == [N_QUERIES, len(image["boxes"])]
    packed, left = attention_data(trace, pool, 10**6)
    assert left > 0
    n_words = len(trace.words)
    assert {tuple(one["shape"]) for one in packed["planes"]} == {(2, n_words, SIDE**2)}
    for graph in answer_data(explanation, pool)["causal"]:
        kinds = {(n["kind"] == "image", n["query"] is not None, n["patch"]) for n in graph["nodes"]}
        assert kinds <= {(True, True, None), (False, False, None)}


def test_saved_and_loaded(trace_of, tmp_path):
    trace = trace_of("blip2-opt", 2)
    trace.save(tmp_path / "trace.npz")
    loaded = AnswerTrace.load(tmp_path / "trace.npz")
    for one, other in zip(trace.grids, loaded.grids, strict=True):
        np.testing.assert_array_equal(one.encoder.toarray(), other.encoder.toarray())
        assert one.query_layers == other.query_layers
    for mine, theirs in zip(
        trace.image_attention("dog").values, loaded.image_attention("dog").values, strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)
    one, other = (module.relevancy(t, "dog", "both") for t in (trace, loaded))
    np.testing.assert_array_equal(one.image[1], other.image[1])
    one.save(tmp_path / "relevancy.npz")
    again = type(one).load(tmp_path / "relevancy.npz")
    np.testing.assert_array_equal(again.map("dog").pixels(1), one.map("dog").pixels(1))


# Bad input


def test_several_images_with_one_question(build):
    with pytest.raises(ValueError, match=r"instructblip.* reads one image|reads one image, with"):
        write_answer(build("instructblip"), tiny_images(2), "what is this")
    with pytest.raises(ValueError, match="4, 4 make 8 image tokens, but the prompt has 4"):
        trace_answer(build("blip2-opt"), tiny_images(2), "what is this", ANSWER)


def test_queries_whose_attention_is_not_seen(trace_of):
    model = trace_of("blip2-opt").model.loaded.model
    tap = _capture.QueryTap(model, trace_of("blip2-opt").grids[0].query_layers, lambda call: None)
    with pytest.raises(ValueError, match=r"of the 3 layers .* 0 attended"):
        tap.weights()
