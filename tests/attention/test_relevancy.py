"""Relevancy against the full matrix of its definition, computed from a model that runs eagerly."""

import numpy as np
import pytest
import torch

from semi_nmf_concepts._quiet import quiet_transformers
from semi_nmf_concepts.attention import Relevancy, relevancy, trace_answer
from semi_nmf_concepts.attention import _relevancy as module
from semi_nmf_concepts.lmm import load_model
from tests._families._marks import family_params
from tests._tiny_llava import tiny_images

ANSWER = "a dog on the red car"


NAMES = (
    "llava",
    "llava-next",
    "qwen2.5-vl",
    "qwen3-vl",
    "smolvlm",
    "gemma3",
    "paligemma",
    "internvl",
    "qwen3.5",  # three of its four blocks have linear attention
)


@pytest.fixture
def trace_of(build):
    """Traces of a family's tiny model; another test may have had it in another precision."""

    def trace_of(name, n_images=1, dtype="float32", answer=ANSWER):
        images = [image.resize((72, 40)) for image in tiny_images(n_images)]
        handle = load_model(build(name), device="cpu", dtype=dtype)
        return trace_answer(handle, images, "what is this", answer)

    return trace_of


class Reference:
    """The definition, literally: all attention matrices, all gradients, full matrix products.

    Attention is whatever the eager functions of transformers take the softmax of, in the order in
    which they do.
    """

    def __init__(self, trace, monkeypatch):
        from transformers import AutoModelForImageTextToText

        with quiet_transformers():
            self.model = AutoModelForImageTextToText.from_pretrained(
                trace.model.model, dtype=torch.float32, attn_implementation="eager"
            ).eval()
        inputs = dict(trace.run_again.extended())
        inputs["pixel_values"] = inputs["pixel_values"].clone().requires_grad_()
        softmax, self.seen = torch.nn.functional.softmax, []

        def spy(*args, **options):
            result = softmax(*args, **options)
            if result.ndim == 4 and result.requires_grad:
                self.seen.append(result)
            return result

        with monkeypatch.context() as patch, quiet_transformers():
            patch.setattr(torch.nn.functional, "softmax", spy)
            self.logits = self.model(**inputs, use_cache=False).logits[0]
        self.trace, self.length = trace, len(trace.token_ids)
        self.positions = np.concatenate([grid.positions for grid in trace.grids])
        self.mixture = np.concatenate([grid.encoder.toarray() for grid in trace.grids])

    def gradients(self, token):
        row = self.trace.n_prompt - 1 + token
        logit = self.logits[row, self.trace.token_ids[row + 1]]
        found = torch.autograd.grad(logit, self.seen, retain_graph=True, allow_unused=True)
        return row, found

    def layers(self, token):
        """(row, c of each decoder block, c of each encoder layer), float64, bottom to top."""
        row, found = self.gradients(token)
        decoder, encoder = [], []
        chunks, n_states = [], self.mixture.shape[1]
        for weights, gradient in zip(self.seen, found, strict=True):
            if gradient is None:  # layers above the one whose features are taken
                continue
            c = (weights * gradient).clamp(min=0).mean(dim=1).detach().double().numpy()
            if weights.shape[-1] == self.length and len(encoder) and not chunks:
                decoder.append(c[0])
                continue
            chunks += list(c)
            if sum(len(chunk) for chunk in chunks) == n_states:
                encoder.append(block_diagonal(chunks))
                chunks = []
        assert not chunks
        assert decoder
        assert encoder
        return row, decoder, encoder

    def rows(self, token):
        """dict: through -> (values of image tokens, values of all positions), as documented."""
        row, decoder, encoder = self.layers(token)
        language = (full_matrix(decoder) - np.eye(self.length))[row]
        language /= language.sum()
        image, text = language[self.positions], language.copy()
        text[self.positions] = 0
        vision = full_matrix(encoder)
        patches = self.mixture.sum(axis=0) > 0
        uniform = patches / patches.sum()
        from_patches = self.on_tokens(uniform @ (vision - np.eye(len(vision))))
        # The language row once more without division, which the encoder's start does not know.
        start = self.mixture.T @ (full_matrix(decoder) - np.eye(self.length))[row, self.positions]
        both = self.on_tokens(start @ vision)
        return {
            "language": (image, text),
            "vision": (from_patches / from_patches.sum(), np.zeros_like(text)),
            "both": (image.sum() * both / both.sum(), text),
        }

    def on_tokens(self, states):
        shares = self.mixture / np.maximum(self.mixture.sum(axis=0), 1e-300)
        return shares @ states


def full_matrix(layers):
    R = np.eye(len(layers[0]))
    for c in layers:
        R = R + c @ R
    return R


def block_diagonal(chunks):
    from scipy.linalg import block_diag

    return block_diag(*chunks)


@pytest.mark.parametrize("name", family_params(NAMES))
def test_rows_are_those_of_the_full_matrix(name, trace_of, monkeypatch):
    trace = trace_of(name, n_images=1 if name in ("paligemma",) else 2)
    reference = Reference(trace, monkeypatch)
    found = module.relevancies(trace)
    assert list(found) == ["language", "vision", "both"]
    for word in (0, 3, len(trace.words) - 1):
        span = range(trace.words[word].start, trace.words[word].stop)
        wanted = [reference.rows(token) for token in span]
        for through, result in found.items():
            image = np.concatenate([part[word] for part in result.image])
            np.testing.assert_allclose(
                image, sum(rows[through][0] for rows in wanted), atol=1e-5, err_msg=through
            )
            np.testing.assert_allclose(
                result.text[word], sum(rows[through][1] for rows in wanted), atol=1e-5
            )
    # Otherwise the comparison would be one of the same thing.
    language, vision, both = (np.concatenate(found[name].image, axis=1) for name in found)
    assert np.abs(language - both).max() > 1e-4
    assert np.abs(both - vision).max() > 1e-4
    load_model(trace.model.model, device="cpu", dtype="float32").unload()


def test_tokens_do_not_depend_on_those_before(trace_of):
    trace = trace_of("llava")
    together, alone = relevancy(trace, [2, 3], "both"), relevancy(trace, 3, "both")
    again = relevancy(trace, [2, 3], "both")
    for first, second in ((together, alone), (together, again)):
        rows = slice(-len(second.words), None)
        np.testing.assert_array_equal(first.text[rows], second.text)
        np.testing.assert_array_equal(first.shares[rows], second.shares)
        for left, right in zip(first.image, second.image, strict=True):
            np.testing.assert_array_equal(left[rows], right)


@pytest.mark.parametrize("through", ["language", "vision", "both"])
def test_words_are_sums_of_their_tokens_and_shares_sum_to_one(trace_of, through):
    trace = trace_of("llava-next", n_images=2, answer="a carrot doghouse umbrella")
    lengths = [word.stop - word.start for word in trace.words]
    assert max(lengths) > 2
    found = relevancy(trace, through=through)
    assert found.words == [word.text for word in trace.words]
    np.testing.assert_allclose(found.shares.sum(axis=1), 1)
    images = sum(part.sum(axis=1) for part in found.image)
    np.testing.assert_allclose(images + found.text.sum(axis=1), lengths)
    np.testing.assert_allclose(found.shares[:, 0], images / lengths)
    for image, grid in zip(found.image, trace.grids, strict=True):
        assert image.shape == (len(trace.words), len(grid.positions))
        assert (image >= 0).all()
        assert not found.text[:, grid.positions].any()
    for word, row in zip(trace.words, found.text, strict=True):
        assert not row[trace.n_prompt + word.stop - 1 :].any()  # what was not there yet
    if through == "vision":
        assert not found.text.any()
    else:
        language = relevancy(trace).shares
        np.testing.assert_allclose(found.shares, language)


def state_of(model):
    return (
        [
            (name, p.requires_grad, p.grad is None, p._version)
            for name, p in model.named_parameters()
        ],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        [m.config._attn_implementation for m in model.modules() if hasattr(m, "config")],
        model.training,
    )


def test_model_and_inputs_are_left_as_they_were(trace_of, monkeypatch):
    trace = trace_of("llava")
    model = trace.model.loaded.model
    before, inputs = state_of(model), dict(trace.run_again.inputs)
    relevancy(trace, through="both")
    assert state_of(model) == before
    assert not any(value.requires_grad for value in inputs.values())
    assert all(trace.run_again.inputs[name] is value for name, value in inputs.items())

    layer = model.model.language_model.layers[1]
    monkeypatch.setattr(layer.mlp, "forward", lambda states: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        relevancy(trace)
    monkeypatch.undo()
    assert state_of(model) == before
    monkeypatch.setattr("semi_nmf_concepts.attention._recursion._contribution", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        relevancy(trace)
    assert state_of(model) == before


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_works_where_the_caller_has_no_gradients(trace_of, off):
    wanted = relevancy(trace_of("llava"), "dog", "both")
    with off():
        found = relevancy(trace_of("llava"), "dog", "both")
    np.testing.assert_array_equal(found.image[0], wanted.image[0])


def test_one_layer_of_attention_is_in_memory_at_a_time(trace_of, monkeypatch):
    import weakref

    from semi_nmf_concepts.attention import _recursion

    seen, contribution = [], _recursion._contribution

    def watched(weights, gradient):
        assert not any(reference() is not None for reference in seen)
        seen.extend(weakref.ref(tensor) for tensor in (weights, gradient))
        return contribution(weights, gradient)

    monkeypatch.setattr(_recursion, "_contribution", watched)
    trace = trace_of("llava")
    relevancy(trace, through="both")
    n_layers = trace.model.n_layers + 1  # of two layers of the encoder the features are the first's
    assert len(seen) == 2 * trace.n_tokens * n_layers
    assert not any(reference() is not None for reference in seen)


def test_half_precision_gives_nearly_the_same(trace_of):
    exact, half = (relevancy(trace_of("llava", dtype=d)) for d in ("float32", "bfloat16"))
    assert half.image[0].dtype == np.float64
    np.testing.assert_allclose(half.image[0], exact.image[0], atol=0.1)
    assert np.corrcoef(half.image[0].ravel(), exact.image[0].ravel())[0, 1] > 0.95


def test_repeated_words_are_averaged_on_a_map(trace_of):
    found = relevancy(trace_of("llava", answer="a dog and a dog"))
    first, second = (found.map(index) for index in (1, 4))
    both = found.map("dog")
    assert both.words == ["dog", "dog"]
    np.testing.assert_allclose(both.values[0], (first.values[0] + second.values[0]) / 2)
    assert both.share == pytest.approx((first.share + second.share) / 2)


def test_top_words_stand_before_the_word(trace_of):
    trace = trace_of("llava", answer="a red dog on a red car")
    found = relevancy(trace)
    names = [name for name, _ in found.top_words(2, k=99)]
    assert sorted(names) == sorted(["what", "is", "this", "a", "red"])
    values = [value for _, value in found.top_words("car")]
    assert len(values) == 5
    assert values == sorted(values, reverse=True)
    word = trace.words[1]
    row = found.text[2]
    assert dict(found.top_words(2, k=99))["red"] == row[trace.n_prompt + word.start]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"words": "cat"}, "'cat' is not in the answer; it has 0: 'a', 1: 'dog'"),
        ({"words": 99}, "no word 99: the answer has 6 words"),
        ({"through": "connector"}, "through must be one of language, vision, both, got 'conn"),
    ],
)
def test_bad_arguments(trace_of, arguments, message):
    with pytest.raises(ValueError, match=message):
        relevancy(trace_of("llava"), **arguments)


def test_words_that_were_not_explained(trace_of):
    found = relevancy(trace_of("llava"), ["dog", "car"])
    with pytest.raises(ValueError, match="'red' was not explained; explained are 1: 'dog', 5: 'c"):
        found.map("red")
    with pytest.raises(ValueError, match="'cat' is not in the answer"):
        found.map("cat")


def test_encoder_that_is_not_known(trace_of):
    trace = trace_of("llava")
    trace.grids[0].encoder = None
    assert relevancy(trace).through == "language"
    with pytest.raises(ValueError, match=r"through the vision encoder .* Use\s+through='language'"):
        relevancy(trace, through="both")


def test_encoder_whose_attention_is_not_seen(trace_of):
    from scipy.sparse import csr_array

    trace = trace_of("llava")
    trace.grids[0].encoder = csr_array(np.eye(4, 77))
    with pytest.raises(ValueError, match="vision encoder .* no module attends to 77 states"):
        relevancy(trace, through="vision")


def test_saved_and_loaded(trace_of, tmp_path):
    found = relevancy(trace_of("llava"), ["dog", "car"])
    found.save(tmp_path / "relevancy.npz")
    loaded = Relevancy.load(tmp_path / "relevancy.npz")
    assert loaded.words == found.words
    np.testing.assert_array_equal(loaded.map("car").pixels(), found.map("car").pixels())
    assert loaded.top_words("car") == found.top_words("car")


def test_loaded_trace_gives_the_same(trace_of, tmp_path):
    trace = trace_of("llava")
    trace.save(tmp_path / "trace.npz")
    loaded = type(trace).load(tmp_path / "trace.npz")
    np.testing.assert_array_equal(relevancy(loaded).image[0], relevancy(trace).image[0])


def test_finds_the_object_of_scenes():
    from sklearn.metrics import roc_auc_score

    from semi_nmf_concepts.datasets import load_scenes

    scenes = load_scenes("test", token="dog", n=6)
    areas = {"language": [], "vision": [], "both": []}
    for image, boxes in zip(scenes.images, scenes.factors["boxes"], strict=True):
        inside = np.zeros((224, 224), dtype=bool)
        for left, top, right, bottom in boxes:
            inside[top:bottom, left:right] = True
        trace = trace_answer(images=image)
        word = next(i for i, one in enumerate(trace.words) if one.text.startswith("dog"))
        for through, result in module.relevancies(trace, word).items():
            density = result.map().pixels()
            areas[through].append(roc_auc_score(inside.ravel(), density.ravel()))
    assert all(np.mean(values) > 0.8 for values in areas.values()), areas


def test_each_word_of_a_map_must_be_explained(trace):
    found = relevancy(trace, "dog")
    with pytest.raises(ValueError, match=r"\['dog', 'grass'\] was not explained; explained are 1"):
        found.map(["dog", "grass"])
