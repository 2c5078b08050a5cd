"""States and captions against a plain computation that shares no code with the package."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from benchmarks.check_representations import BAR, check, reference
from semi_nmf_concepts.lmm import LMMTokenFeaturizer, load_model
from semi_nmf_concepts.lmm._architecture import find_blocks, find_final_norm, resolve_layer
from semi_nmf_concepts.lmm._records import Request
from semi_nmf_concepts.lmm._states import StateCollector, _hook
from tests._tiny_llava import build_tiny_llava, tiny_images


def rel(a, b):
    return np.max(np.linalg.norm(a - b, axis=-1) / np.linalg.norm(b, axis=-1))


def test_states_captions_and_positions_equal_the_reference(tiny_model, images, word):
    figures, captions, _ = check(images, word, model=tiny_model, prompt="", max_new_tokens=12)
    assert max(figures.values()) <= BAR, figures
    assert all(captions.values()), captions


def test_the_state_is_the_one_that_chooses_the_word(make, images, word):
    """Through the final norm and the unembedding, Z predicts the first piece of the word."""
    handle = make(token=word).handle
    reps = make(token=word).extract(images)
    weight, bias = handle.unembedding()
    assert bias is None
    logits = handle.final_norm()(reps.Z) @ weight.T
    first = handle.loaded.tokenizer.encode(word, add_special_tokens=False)[0]
    assert (logits.argmax(axis=1) == first).all()
    probabilities = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    np.testing.assert_allclose(reps.token_probability, probabilities[:, first], rtol=1e-4)


def test_threads_share_a_model(make, images, word):
    expected = make(token=word).extract(images)
    loaded, ended = make(token=word).handle.loaded, threading.Event()

    def run_again_and_again():
        ids = torch.ones((1, 1), dtype=torch.long)  # as a step of a generation with one image
        with torch.inference_mode():
            while not ended.is_set():
                loaded.model(input_ids=ids)

    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(run_again_and_again)
        try:
            found = [make(token=word, batch_size=1).extract(images) for _ in range(3)]
        finally:
            ended.set()
        beside.result()
    for reps in found:
        np.testing.assert_allclose(reps.Z, expected.Z, rtol=1e-4, atol=1e-5)


def test_all_layers_in_one_pass_equal_single_ones(make, images, word):
    every = make(token=word).extract(images, layer=[0, -2, "final_norm"])
    assert list(every) == [0, -2, "final_norm"]
    for layer, reps in every.items():
        np.testing.assert_array_equal(reps.Z, make(token=word, layer=layer).extract(images).Z)
    assert every[-2].layer == 2
    assert every[-2].module == "model.language_model.layers.2"
    by_name = make(token=word, layer="model.language_model.layers.2").extract(images)
    np.testing.assert_array_equal(by_name.Z, every[-2].Z)


def test_prompts_of_different_length_are_padded_without_effect(tiny_model, images, word):
    loaded = load_model(tiny_model).loaded
    prompts = [f"<image>{'the red cat ' * i}caption:" for i in range(5)]
    for position in ("generated", "last", "mean", 0, -1, 5):
        in_caption = position == "generated"
        request = Request((1,), (word,) if in_caption else (), position=position, max_new_tokens=9)
        collector = StateCollector(loaded, request)
        together = collector(images[:5], prompts=prompts)
        for i in range(5):
            (key, alone), *_ = collector([images[i]], prompts=[prompts[i]])[0].items()
            assert together[i][key].caption == alone.caption
            assert together[i][key].position == alone.position
            assert rel(together[i][key].state, alone.state) < BAR


def prompt_states(handle, image, prompt):
    """All states of block 1 over the prompt of one image."""
    loaded = handle.loaded
    inputs = loaded.processor(images=image, text=prompt, return_tensors="pt")
    with torch.inference_mode():
        output = loaded.model(**inputs, output_hidden_states=True, use_cache=False)
    return output.hidden_states[2][0].numpy()


def test_positions_of_the_prompt(make, images):
    expected = [prompt_states(make().handle, image, "<image>what caption:") for image in images[:3]]
    for position, reduce in (
        ("last", lambda h: h[-1]),
        ("mean", lambda h: h.mean(axis=0)),
        (0, lambda h: h[0]),
        (5, lambda h: h[5]),
        (-2, lambda h: h[-2]),
    ):
        featurizer = make(position=position, layer=1, prompt="what ")
        assert rel(featurizer.transform(images[:3]), np.stack([reduce(h) for h in expected])) < BAR
    reps = featurizer.extract(images[:3])
    assert reps.all_captions == [None] * 3
    assert reps.positions.tolist() == [len(expected[0]) - 2] * 3
    assert reps.token is None
    assert not reps.missing.any()
    for outside in (40, -40):
        with pytest.raises(ValueError, match="outside the prompt, which has 7 tokens"):
            make(position=outside, prompt="what ").transform(images[:1])


def test_forced_captions(make, images):
    """A dictated caption gives the state of a plain forward pass over prompt and caption."""
    captions = [["no word here", "two cats on the beach"], "a red cat"] * 2
    reps = make(token="cat", position="forced", layer=1).extract(images[:4], captions)
    assert reps.all_captions == ["two cats on the beach", "a red cat"] * 2
    assert reps.positions.tolist() == [1, 2] * 2
    assert reps.prefixes == ["two", "a red"] * 2
    for z, image, prefix in zip(reps.Z, images, reps.prefixes, strict=False):
        state = prompt_states(make().handle, image, f"<image>caption: {prefix}")[-1]
        assert rel(z, state) < BAR


def test_forced_generated_captions_give_the_same_states(make, images, word, written):
    # A caption that begins inside a word is a different one when it is written down and read.
    chosen = [i for i, caption in enumerate(written) if not caption.startswith("##")]
    images, written = [images[i] for i in chosen], [written[i] for i in chosen]
    free = make(token=word).extract(images)
    forced = make(token=word, position="forced").extract(images, written)
    assert forced.all_captions == written
    np.testing.assert_array_equal(forced.indices, free.indices)
    np.testing.assert_array_equal(forced.positions, free.positions)
    assert rel(forced.Z, free.Z) < BAR
    np.testing.assert_allclose(forced.token_probability, free.token_probability, rtol=1e-4)


def test_stopping_at_the_token_changes_nothing_but_the_length(make, images, word):
    whole = make(token=word).extract(images)
    cut = make(token=word, stop="token").extract(images)
    np.testing.assert_array_equal(cut.indices, whole.indices)
    assert rel(cut.Z, whole.Z) < BAR
    for short, long in zip(cut.all_captions, whole.all_captions, strict=True):
        assert long.startswith(short)
    lengths = [[len(c.split()) for c in reps.captions] for reps in (cut, whole)]
    assert sum(lengths[0]) < sum(lengths[1])
    # The end of the word is certain one token after it.
    assert all(
        len(short.split()) <= len(prefix.split()) + 2
        for short, prefix in zip(cut.captions, cut.prefixes, strict=True)
    )


def test_peak_is_the_most_probable_position(make, images):
    """For a word in no caption: the position where its first piece was most probable."""
    loaded = make().handle.loaded
    Z = make(token="bus", layer=0, forms="exact").transform(images[:6])
    expected = [
        reference(loaded, image, "<image>caption:", ["bus"], max_new_tokens=14)
        for image in images[:6]
    ]
    assert rel(Z, np.stack([e.states[0] for e in expected])) < BAR
    assert len({e.position for e in expected}) > 1  # a test of something


def test_words_that_begin_like_the_token_do_not_match(make, images):
    captions = ["a carrot and a doghouse", "a car next to a dog"] * 3
    for token, position in (("car", 1), ("dog", 5)):
        reps = make(token=token, position="forced").extract(images[:6], captions)
        assert reps.indices.tolist() == [1, 3, 5]
        assert reps.positions.tolist() == [position] * 3


def test_a_word_of_several_pieces_is_found_at_its_first(make, images):
    reps = make(token="puppy", position="forced").extract(images[:1], ["two puppies or a puppy"])
    pieces = make().handle.loaded.tokenizer.tokenize("two puppies or a puppy")
    assert pieces[1:3] == ["pup", "##p"]
    assert reps.positions.tolist() == [1]


def test_hooks_accept_tuples_and_refuse_what_is_no_state_per_token():
    states, kept = torch.ones(2, 5, 3), []
    hook = _hook("x", kept, lambda s: s[:, -1], (2, 5))
    hook(None, None, (states, None))
    hook(None, None, states[:, :1])
    assert [tuple(k.shape) for k in kept] == [(2, 3), (2, 3)]
    for wrong in (states[:, :2], states[0], None):
        with pytest.raises(ValueError, match="'x'.*module of the language model"):
            _hook("x", [], None, (2, 5))(None, None, wrong)


def test_unknown_and_ambiguous_layers_list_candidates(make, images):
    for layer, message in (
        ("layers.1", "ambiguous.*vision_tower.*language_model.layers.1"),
        ("model.language_model.layer.1", "Did you mean"),
        ("xyz?!", "No module"),
    ):
        with pytest.raises(ValueError, match=message):
            make(position="last", layer=layer).transform(images[:1])
    for layer in (4, -5):
        with pytest.raises(ValueError, match="between -4 and 3"):
            make(position="last", layer=layer).transform(images[:1])
    with pytest.raises(ValueError, match="module of the language model"):
        make(position="last", layer="model.vision_tower.post_layernorm").transform(images[:1])


def test_inner_modules_can_be_read(make, images):
    featurizer = make(position="last", layer="model.language_model.layers.1.mlp.gate_proj")
    Z = featurizer.transform(images[:2])
    assert Z.shape == (2, 64)
    assert featurizer.get_feature_names_out()[-1] == f"{featurizer.layer}_63"


def test_checkpoint_settings_for_generation_do_not_matter(tiny_model, make, images, word, written):
    config = make().handle.loaded.model.generation_config
    before = config.to_dict()
    try:
        config.update(do_sample=True, temperature=3.0, repetition_penalty=5.0, num_beams=2)
        config.no_repeat_ngram_size = 1
        assert make(token=word).extract(images).all_captions == written
    finally:
        config.update(**{name: value for name, value in before.items() if hasattr(config, name)})


@pytest.mark.parametrize("text_model", ["opt", "gpt2"])
def test_other_language_models(text_model, tmp_path):
    """Absolute positions, a norm of another name: found without any adapter."""
    model = str(build_tiny_llava(tmp_path, text_model=text_model))
    handle = load_model(model)
    blocks, norm = find_blocks(handle.loaded.model)[0], find_final_norm(handle.loaded.model)[0]
    assert resolve_layer(handle.loaded.model, -1) == f"{blocks}.3"
    assert norm.endswith(("final_layer_norm", "ln_f"))
    images = tiny_images(5)
    featurizer = LMMTokenFeaturizer(model, prompt="", position="last", layer="final_norm")
    Z = featurizer.transform(images)
    loaded = handle.loaded
    inputs = loaded.processor(images=images[0], text="<image>caption:", return_tensors="pt")
    with torch.inference_mode():
        expected = loaded.model(**inputs, output_hidden_states=True).hidden_states[-1][0, -1]
    assert rel(Z[0], expected.numpy()) < BAR
    last = featurizer.set_params(layer=-1).transform(images)
    assert rel(handle.final_norm()(last), Z) < BAR
