"""Decoding against what checkpoints say about generation."""

import numpy as np
import pytest
from transformers import GenerationConfig

from semi_nmf_concepts.lmm import load_model
from semi_nmf_concepts.lmm._decoding import decoding, end_ids
from semi_nmf_concepts.lmm._records import Request
from semi_nmf_concepts.lmm._states import StateCollector
from tests._tiny_llava import tiny_images

REQUEST = Request(layers=(0, -1), tokens=("dog",), max_new_tokens=10)


@pytest.fixture
def loaded(tiny_model):
    """The tiny model; its generation settings are what they were after the test."""
    loaded = load_model(tiny_model, device="cpu").loaded
    own = loaded.model.generation_config
    yield loaded
    loaded.model.generation_config = own


def _records(loaded):
    return StateCollector(loaded, REQUEST)(tiny_images(4))


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.8, "no_repeat_ngram_size": 2},
        {"do_sample": True, "temperature": 5.0, "top_k": 3, "top_p": 0.5, "min_p": 0.2},
        {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True},
        {"bad_words_ids": [[4], [5], [30]], "suppress_tokens": list(range(4, 60))},
        {"begin_suppress_tokens": list(range(4, 90))},
        {"forced_bos_token_id": 5, "forced_eos_token_id": 2},
        {"min_length": 60, "min_new_tokens": 9, "max_length": 3, "max_time": 0.0},
        {"sequence_bias": [[[25], 50.0]], "exponential_decay_length_penalty": (2, 50.0)},
        {"stop_strings": ["a"], "renormalize_logits": True},
        {"output_hidden_states": True, "output_scores": True, "return_dict_in_generate": True},
        {"use_cache": False, "cache_implementation": "static"},
        {"prompt_lookup_num_tokens": 2},
        {"encoder_repetition_penalty": 3.0, "guidance_scale": 3.0},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_of_the_checkpoint_change_nothing(loaded, settings):
    expected = _records(loaded)
    own = loaded.model.generation_config
    hostile = GenerationConfig(
        eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id, **settings
    )
    loaded.model.generation_config = hostile
    for row, wanted in zip(_records(loaded), expected, strict=True):
        for key, record in wanted.items():
            assert row[key].caption == record.caption
            assert row[key].position == record.position
            assert row[key].probability == record.probability
            np.testing.assert_array_equal(row[key].state, record.state)
    assert loaded.model.generation_config is hostile


def test_settings_come_back_after_an_error(loaded):
    own = loaded.model.generation_config
    with pytest.raises(KeyError), decoding(loaded, max_new_tokens=1):
        raise KeyError
    assert loaded.model.generation_config is own


def test_end_tokens_of_settings_and_tokenizer(loaded):
    end = loaded.tokenizer.eos_token_id
    for listed, expected in [(None, {end}), (7, {7, end}), ([7, 9], {7, 9, end}), ([end], {end})]:
        loaded.model.generation_config = GenerationConfig(eos_token_id=listed)
        assert end_ids(loaded) == expected


def test_every_listed_end_token_ends_a_caption(loaded):
    """A word of the captions, declared an end, cuts them off before it."""
    captions = [next(iter(row.values())).caption for row in _records(loaded)]
    word = next(w for w in captions[0].split()[1:] if w.isalpha() and w in loaded.tokenizer.vocab)
    loaded.model.generation_config = GenerationConfig(
        eos_token_id=[loaded.tokenizer.vocab[word], loaded.tokenizer.eos_token_id],
        pad_token_id=loaded.tokenizer.pad_token_id,
    )
    cut = [next(iter(row.values())).caption for row in _records(loaded)]
    assert cut != captions
    assert all(word not in caption.split() for caption in cut)
    assert all(old.startswith(new) for old, new in zip(captions, cut, strict=True))
