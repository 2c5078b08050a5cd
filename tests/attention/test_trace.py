"""The trace of an answer, against what the models themselves say."""

import contextlib
import shutil
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from semi_nmf_concepts._quiet import quiet_transformers
from semi_nmf_concepts.attention import AnswerTrace, _capture, causal_graph, trace_answer
from semi_nmf_concepts.lmm import Answer, load_model, write_answer
from tests._families._marks import family_params
from tests._tiny_llava import build_tiny_llava, tiny_images

WITH_GRID = (
    "llava",
    "llava-opt",
    "llava-gpt2",
    "vipllava",
    "llava-next",
    "llava-onevision",
    "qwen2-vl",
    "qwen2.5-vl",
    "qwen3-vl",
    "qwen3-vl-moe",
    "internvl",
    "pixtral",
    "mistral3",
    "glm4v",
    "glm4.6v",
    "idefics3",
    "smolvlm",
    "paligemma",
    "paligemma2",
    "gemma3",
)
QUESTION = "what is this ?"


@contextlib.contextmanager
def eager(model):
    """The model with plain attention, which returns all weights."""
    configs = _capture._configs(model)
    own = [config._attn_implementation for config in configs]
    for config in configs:
        config._attn_implementation_internal = "eager"
    try:
        yield model
    finally:
        for config, name in zip(configs, own, strict=True):
            config._attn_implementation_internal = name


def mass(trace):
    return trace.attention.astype(np.float32).sum(axis=-1)


@pytest.mark.parametrize("name", family_params(WITH_GRID))
@pytest.mark.parametrize("n_images", (1, 2))
def test_rows_and_logits_of_a_family(name, n_images, build):
    handle = load_model(build(name))
    trace = trace_answer(handle, tiny_images(2)[:n_images], QUESTION, max_new_tokens=5)
    model, n_tokens = handle.loaded.model, len(trace.token_ids)
    rows = slice(trace.n_prompt - 1, n_tokens - 1)
    assert trace.attention.dtype == np.float16
    assert trace.attention.shape == (handle.n_layers, trace.n_heads, trace.n_tokens, n_tokens)
    np.testing.assert_allclose(mass(trace), 1, atol=2e-3)  # of numbers in half precision

    # A pass of its own with the kernel that the model uses (SDPA).
    run = write_answer(handle, trace.images, QUESTION, trace.token_ids[trace.n_prompt :].tolist())
    with torch.inference_mode():
        logits = run.run().logits[0, rows].float().cpu()
    own = logits.gather(1, torch.tensor(run.ids)[:, None])[:, 0].numpy()
    np.testing.assert_allclose(trace.logits, own, atol=1e-4)
    assert logits.argmax(dim=-1).tolist() == run.ids, "not the answer that the model writes"

    with eager(model), torch.inference_mode():
        attentions = run.run(output_attentions=True).attentions
    assert len(attentions) == len(trace.layers)
    for kept, weights in zip(trace.attention, attentions, strict=True):
        np.testing.assert_allclose(kept, weights[0, :, rows].float().cpu().numpy(), atol=1e-3)

    assert len(trace.grids) == n_images
    positions = np.concatenate([grid.positions for grid in trace.grids])
    n_image_tokens = int((trace.token_ids == handle.loaded.image_token_id).sum())
    assert len(set(positions.tolist())) == len(positions) == n_image_tokens
    for grid in trace.grids:
        placed = np.concatenate([block.tokens[block.tokens >= 0] for block in grid.blocks])
        breaks = np.isnan(grid.boxes[:, 0])
        assert sorted(placed.tolist()) == np.flatnonzero(~breaks).tolist()
    # A template may put its next word right behind the question.
    asked = [word.text for word in trace.question_words]
    assert asked[:2] == ["what", "is"] and asked[2].startswith("this")


def test_the_fast_kernel_comes_back(build):
    model = load_model(build("llava")).loaded.model
    before = [config._attn_implementation for config in _capture._configs(model)]

    def fail(call):
        raise RuntimeError("in the middle")

    broken = pytest.raises(RuntimeError, match="in the middle")
    with quiet_transformers(), broken, _capture.tapped(model, fail):
        model.get_decoder()(torch.zeros(1, 3, dtype=torch.long, device=model.device))
    assert [config._attn_implementation for config in _capture._configs(model)] == before
    assert set(before) == {"sdpa"}


def test_only_the_chosen_layers_are_kept(scenes, trace):
    some = trace_answer(images=scenes.images[0], layers=[-1, 1])
    assert some.layers == [1, 3]
    np.testing.assert_array_equal(some.attention, trace.attention[[1, 3]])
    np.testing.assert_array_equal(
        some.image_attention(layer=-1).values[0], trace.image_attention(layer=3).values[0]
    )
    with pytest.raises(ValueError, match=r"layer=0 is not kept: .*keeps 2 \(1, 3\)"):
        some.image_attention(layer=0)


def test_memory_grows_with_rows_and_layers(tmp_path, monkeypatch):
    """T rows of each kept layer, never S: in what is kept, and in what is made on the way."""
    made, alive = [], []
    plain = _capture.AttentionCall.plain

    def watched(self, rows=None):
        assert not any(ref() is not None for ref in made), "weights of a layer before are alive"
        output, weights = plain(self, rows)
        made.append(weakref.ref(weights))
        alive.append(tuple(weights.shape))
        return output, weights

    monkeypatch.setattr(_capture.AttentionCall, "plain", watched)
    handle = load_model(build_tiny_llava(tmp_path / "model", n_layers=4))
    shapes = []
    head = handle.loaded.model.get_output_embeddings()
    head.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape)))
    question = "what is this and " * 100  # a long sequence, of which few rows are wanted
    for n_layers in (1, 4):
        alive.clear(), made.clear(), shapes.clear()
        trace = trace_answer(
            handle, tiny_images(1)[0], question, answer="a dog", layers=range(n_layers)
        )
        length = len(trace.token_ids)
        assert length > 400 and trace.n_tokens == 2
        assert alive == [(1, trace.n_heads, 2, length)] * n_layers
        assert trace.attention.nbytes == 2 * n_layers * trace.n_heads * 2 * length
        assert shapes == [(1, 3, handle.config.text_config.vocab_size)], "logits of all positions"


def test_given_answers(scenes, trace):
    same = trace_answer(images=scenes.images[0], answer=trace.answer)
    np.testing.assert_array_equal(same.token_ids, trace.token_ids)
    np.testing.assert_array_equal(same.attention, trace.attention)
    other = trace_answer(images=scenes.images[0], answer="three black cats.")
    assert [word.text for word in other.words] == ["three", "black", "cats", "."]
    assert other.words[2] == type(other.words[2])("cats", 2, 4)  # cat + ##s
    assert other.probabilities[0] < trace.probabilities[0]
    assert other.provenance["answer"] == {"source": "given"}


def test_an_answer_ends_at_its_end(scenes, tmp_path):
    ended = trace_answer(images=scenes.images[0], answer="a dog [EOS] cat [EOS]")
    assert ended.answer == "a dog"
    by_ids = trace_answer(images=scenes.images[0], answer=[*ended.run_again.ids, 2, 7, 2])
    np.testing.assert_array_equal(by_ids.token_ids, ended.token_ids)
    ended.save(tmp_path / "trace.npz")
    assert AnswerTrace.load(tmp_path / "trace.npz").full_attention(0, 0).ndim == 2


def test_layers_are_looked_at_before_the_model_runs(monkeypatch, scenes):
    monkeypatch.setattr(Answer, "generate", lambda self, **options: pytest.fail("it ran"))
    with pytest.raises(ValueError, match="layer must be between"):
        trace_answer(images=scenes.images[0], layers=4)
    with pytest.raises(TypeError, match="layers must be an integer"):
        trace_answer(images=scenes.images[0], layers="all")


def test_numbers_may_be_those_of_numpy(scenes):
    options = {"temperature": np.float32(0.5), "top_p": np.float32(0.9)}
    answer = write_answer(
        "bundled", scenes.images[0], max_new_tokens=np.int64(3), random_state=0, **options
    )
    assert len(answer.ids) == 3


def test_drawn_answers_depend_on_the_seed_alone(scenes):
    options = {"temperature": 3.0, "top_p": 0.95, "max_new_tokens": 8}
    answers = [
        write_answer("bundled", scenes.images[0], random_state=seed, **options).ids
        for seed in (0, 0, 1, 2)
    ]
    assert answers[0] == answers[1]
    assert len(set(map(tuple, answers))) > 1


def test_views_are_means_of_the_rows(trace):
    rows = trace.attention.astype(np.float64)
    positions = trace.grids[0].positions
    word = trace.words[1]
    assert word.text == "dog"
    map_ = trace.image_attention("dog", layer=2, head=1)
    np.testing.assert_allclose(map_.values[0], rows[2, 1, word.start, positions], atol=1e-6)
    assert map_.share == pytest.approx(rows[2, 1, word.start, positions].sum(), abs=1e-3)
    largest = trace.image_attention(["dog", "white"], layer=[0, 2], head="max")
    expected = rows[[0, 2]].mean(axis=0).max(axis=0)[[1, 4]][:, positions].mean(axis=0)
    np.testing.assert_allclose(largest.values[0], expected, atol=1e-6)

    scores = trace.words_for_patches([22, 23], layer=2, head=1)
    expected = rows[2, 1][:, positions[[22, 23]]].mean(axis=-1)
    np.testing.assert_allclose(scores.values, expected, atol=1e-6)
    assert scores.words == [word.text for word in trace.words]

    for to, columns in (("image", positions), ("question", trace.question_positions)):
        masses = trace.heads_by_layers(to)
        # Shares: stored rows sum to 1 up to the rounding of half precision.
        expected = (rows[..., columns].sum(axis=-1) / rows.sum(axis=-1)).mean(axis=-1)
        np.testing.assert_allclose(masses.values, expected, atol=1e-5)
        assert masses.values.max() <= 1
    masses = trace.masses("dog", layer=2)
    assert masses["image"] + masses["question"] + masses["other"] == pytest.approx(1)
    assert 0 <= masses["entropy"] <= np.log(len(positions))


def test_a_region_stands_for_the_patches_it_covers(trace):
    mask = np.zeros((224, 224), dtype=bool)
    mask[96:128, 32:96] = True  # patches 22 and 23: the fourth row, second and third column
    by_mask = trace.words_for_patches(mask, layer=2)
    np.testing.assert_allclose(by_mask.values, trace.words_for_patches([22, 23], layer=2).values)
    mask[:, :] = False
    with pytest.raises(ValueError, match="covers no place"):
        trace.words_for_patches(mask)
    with pytest.raises(ValueError, match=r"height and width of the image, \(224, 224\), got \(7"):
        trace.words_for_patches(np.ones((7, 7), dtype=bool))


def test_the_head_that_looks_at_the_image_most(trace):
    layer, head = trace.most_visual_head("dog")
    values = trace.heads_by_layers("image", "dog").values
    assert values[layer, head] == values.max()
    assert trace.most_visual_head("dog", layer=-1) == (3, int(values[3].argmax()))
    graph = causal_graph(trace, "dog")
    assert (graph.layer, graph.head) == (layer, head)


def test_results_are_named_in_a_line(trace):
    shown = [repr(trace.image_attention("dog")), repr(trace.heads_by_layers())]
    shown.append(repr(trace.words_for_patches(3)))
    assert shown[0].startswith("<ImageMap: attention of 'dog', 49 places, share 0.")
    assert shown[1] == (
        "<HeadMasses: attention to the image of 'a', 'dog', 'that', 'is' ..., 4 layers of 5 heads>"
    )
    assert shown[2].startswith("<WordScores: a 0.0")
    assert all("\n" not in text and len(text) < 250 for text in shown)


def test_sinks_are_dropped_on_request(trace):
    plain, dropped = (trace.image_attention(drop_sinks=on).values[0] for on in (False, True))
    assert plain[0] > 0 and dropped[0] == 0
    np.testing.assert_array_equal(plain[1:], dropped[1:])


def test_full_attention_holds_the_rows(trace):
    whole = trace.full_attention(2, 1)
    rows = slice(trace.n_prompt - 1, len(trace.token_ids) - 1)
    assert whole.dtype == np.float64 and whole.shape == (len(trace.token_ids),) * 2
    np.testing.assert_allclose(whole[rows], trace.attention[2, 1], atol=1e-3)
    np.testing.assert_allclose(whole.sum(axis=1), 1, atol=1e-6)
    assert not np.triu(whole, k=1).any()


def test_saved_and_loaded(trace, tmp_path):
    trace.save(tmp_path / "trace.npz")
    loaded = AnswerTrace.load(tmp_path / "trace.npz")
    np.testing.assert_array_equal(loaded.attention, trace.attention)
    assert loaded.words == trace.words and loaded.provenance == trace.provenance
    assert loaded.images[0].tobytes() == trace.images[0].tobytes()
    np.testing.assert_array_equal(loaded.full_attention(0, 0), trace.full_attention(0, 0))


def test_another_model_does_not_take_the_place_of_the_first(trace, tmp_path, build):
    trace.save(tmp_path / "trace.npz")
    loaded = AnswerTrace.load(tmp_path / "trace.npz")
    loaded.model = load_model(build("llava"))
    with pytest.raises(ValueError, match="not the same model"):
        loaded.full_attention(0, 0)


def test_other_weights_in_the_same_folder(tmp_path):
    folder, image = tmp_path / "model", tiny_images(1)[0]
    build_tiny_llava(folder)
    traced = trace_answer(folder, image, QUESTION, "a dog")
    traced.save(tmp_path / "trace.npz")
    load_model(folder).unload()
    build_tiny_llava(folder, seed=1)
    with pytest.raises(ValueError, match="not the same model"):
        AnswerTrace.load(tmp_path / "trace.npz").full_attention(0, 0)


def test_attention_needs_no_model_once_it_is_saved(tmp_path):
    folder = build_tiny_llava(tmp_path / "model")
    traced = trace_answer(folder, tiny_images(1)[0], QUESTION, "a dog")
    traced.save(tmp_path / "trace.npz")
    shutil.rmtree(folder)
    load_model(folder).unload()
    loaded = AnswerTrace.load(tmp_path / "trace.npz")
    for view in (lambda t: t.image_attention("dog", layer=-1).values[0], lambda t: t.masses(0)):
        np.testing.assert_equal(view(loaded), view(traced))


def test_an_image_that_was_taken_is_taken_again(tmp_path):
    folder, image = build_tiny_llava(tmp_path / "model"), Image.new("1", (9000, 8000))
    traced = trace_answer(folder, image, QUESTION, "a dog", max_pixels=10**9)
    traced._run = None
    assert traced.full_attention(0, 0).shape == (len(traced.token_ids),) * 2


def test_threads_share_a_model(scenes, trace):
    """Traces in some threads, plain runs and changed states in others."""
    from semi_nmf_concepts.attention import relevancies
    from semi_nmf_concepts.attention._concept_states import states_pass_through

    model = trace.model.loaded.model
    block, width = model.get_decoder().layers[0], trace.model.width
    expected = relevancies(trace, "dog")["language"].image[0]

    def traced(_):
        again = trace_answer(images=scenes.images[0])
        np.testing.assert_array_equal(again.attention, trace.attention)
        np.testing.assert_allclose(relevancies(again, "dog")["language"].image[0], expected)

    def written(_):
        assert write_answer("bundled", scenes.images[0]).text == trace.answer

    def changed(_):
        with torch.inference_mode(), states_pass_through(block, torch.zeros_like, width):
            assert trace.run_again.last_logits().shape[0] == trace.n_tokens + 1

    own = model.generation_config
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(job, i) for i in range(4) for job in (traced, written, changed)]
        for job in jobs:
            job.result()
    assert model.generation_config is own


# Bad input


@pytest.mark.parametrize(
    ("change", "message"),
    (
        ({"images": None}, "no image"),
        ({"images": []}, "no image"),
        ({"images": "/no/such/file.png"}, "no/such/file.png"),
        ({"answer": ""}, "the answer has no tokens"),
        ({"answer": "  "}, "the answer has no tokens"),
        ({"answer": "[EOS] a dog"}, "the answer has no tokens"),
        ({"answer": "\u4e00\u53ea\u72d7"}, r"no words: its tokens are \['\[UNK\]'"),
        ({"answer": "a <image> dog"}, "contains the token that stands for an image"),
        ({"answer": "\ud83d"}, "cannot be tokenised"),
        ({"answer": [3]}, "contains the token that stands for an image"),
        ({"answer": [99_999]}, "token ids from 0 to 1190, got 99999"),
        ({"answer": [-1]}, "got -1"),
        ({"answer": [1.5]}, "got 1.5"),
        ({"layers": [9]}, "layer must be between -4 and 3"),
        ({"layers": []}, "empty list"),
        ({"max_pixels": 1000}, r"too large \(224 x 224 pixels\); at most 1000"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"random_state": "a"}, "random_state"),
        ({"image_names": ["a", "b"]}, "2 names for 1 image"),
    ),
)
def test_what_cannot_be_traced(scenes, change, message):
    arguments = {"images": scenes.images[0], **change}
    with pytest.raises(ValueError, match=message):
        trace_answer("bundled", **arguments)


def test_an_answer_that_ends_at_once(scenes, monkeypatch):
    monkeypatch.setattr(Answer, "generate", lambda self, **options: [])
    with pytest.raises(ValueError, match="no tokens: the model ended it at once"):
        trace_answer(images=scenes.images[0])


@pytest.mark.parametrize(
    ("call", "message"),
    (
        (lambda t: t.image_attention("zebra"), r"'zebra' is not in the answer; it has 0: 'a', 1:"),
        (lambda t: t.image_attention(12), "no word 12: the answer has 12 words"),
        (lambda t: t.image_attention([]), "words is empty"),
        (lambda t: t.image_attention(layer=4), r"4 layers \(0 to 3\)"),
        (lambda t: t.image_attention(head=5), r"5 heads \(0 to 4\)"),
        (lambda t: t.image_attention(layer="median"), "layer must be"),
        (lambda t: t.image_attention(head=[]), "head is an empty list"),
        (lambda t: t.heads_by_layers("nowhere"), "to must be"),
        (lambda t: t.words_for_patches([49]), "0 to 48"),
        (lambda t: t.words_for_patches([]), "0 to 48"),
        (lambda t: t.words_for_patches(2.0), "0 to 48"),
        (lambda t: t.words_for_patches(np.ones((224, 224), dtype=np.uint8)), "bool, got uint8"),
        (lambda t: t.words_for_patches(0, image=1), "image=1 does not exist"),
        (lambda t: t.full_attention(0, 5), r"5 heads"),
    ),
)
def test_what_is_not_in_a_trace(trace, call, message):
    with pytest.raises(ValueError, match=message):
        call(trace)


def test_a_model_that_reads_with_an_encoder(build):
    with pytest.raises(ValueError, match="reads its prompt with an encoder"):
        trace_answer(build("florence2"), tiny_images(1)[0], QUESTION)


def test_attention_that_cannot_be_read(monkeypatch):
    with pytest.raises(ValueError, match="attention of Linear cannot be read"):
        _capture._eager_function(torch.nn.Linear(1, 1))
    model = load_model().loaded.model
    source = sys.modules[type(model.get_decoder().layers[0].self_attn).__module__]
    monkeypatch.delattr(source, "ALL_ATTENTION_FUNCTIONS")
    with pytest.raises(ValueError, match=r"of model 'x' .* cannot be read: it does not use"):
        _capture.check_readable(model, "x")
