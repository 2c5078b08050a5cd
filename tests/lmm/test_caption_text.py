"""Which token brings which character, on every kind of tokenizer and in any spelling."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from benchmarks.check_representations import reference
from semi_nmf_concepts.lmm import LMMTokenFeaturizer, load_model
from semi_nmf_concepts.lmm._words import (
    CaptionText,
    WordMatcher,
    decoder,
    first_subtokens,
    word_forms,
)
from tests import _tiny_llava
from tests._tokenizers import BUILDERS, kind, slow_find

KINDS = list(BUILDERS)
TOKENS = ["dog", "polar bear", "t-shirt", "cat", "red", "big red ball", "3d"]
PLAIN = """a dog Dog dogs DOG doghouse dogma hot hotdog polar bear bears cat's t-shirt T-shirt 3d
the big red ball room dog's"""
OTHERS = ["café", "naïve", "犬", "犬。猫", "🐕", "straße"]
BETWEEN = [" ", " ", " ", "  ", ", ", "-", ".", "", "! "]


def texts_for(name):
    """Texts that tokenizers of this kind can write."""
    words = PLAIN.split() if name in ("Unigram", "WordPiece") else [*PLAIN.split(), *OTHERS]
    pairs = st.lists(st.tuples(st.sampled_from(words), st.sampled_from(BETWEEN)), max_size=8)
    texts = pairs.map(lambda pairs: "".join(part for pair in pairs for part in pair).rstrip())
    if name == "Unigram":  # a space more is no other text
        return texts.map(lambda text: " ".join(text.split()))
    if name == "WordPiece":  # lower case, with a space around everything
        unknown = kind(name).tokenizer.unk_token_id
        known = texts.map(lambda text: ids(name, text)).filter(lambda ids: unknown not in ids)
        return known.map(kind(name).tokenizer.decode)
    return texts


def ids(name, text):
    return kind(name).tokenizer.encode(text, add_special_tokens=False)


@st.composite
def spellings(draw, name):
    """Ids that write some text, as the tokenizer would do it or not."""
    text = draw(texts_for(name))
    if draw(st.booleans()):
        return text, ids(name, text)

    def choose(choices):
        assume(choices)
        # Pieces of one letter among them, and bytes where the tokenizer has them.
        return draw(st.sampled_from(choices))

    return text, kind(name).spell(text, choose)


def caption_of(name, ids):
    return CaptionText(decoder(kind(name).tokenizer), ids)


@pytest.mark.parametrize("name", KINDS)
@given(data=st.data())
@settings(max_examples=60)
def test_every_character_comes_with_the_token_that_writes_its_first_byte(name, data):
    text, ids = data.draw(spellings(name))
    caption = caption_of(name, ids)
    assert caption.text == text
    first_byte, owner = 0, []
    for token, piece in enumerate(kind(name).spelled(ids)):
        owner += [token] * len(piece)
    for character, letter in enumerate(text):
        assert caption.token_at(character) == owner[first_byte]
        assert caption.before(owner[first_byte]) == text[: caption_length(owner, text, first_byte)]
        first_byte += len(letter.encode())


def caption_length(owner, text, first_byte):
    """Number of characters whose first byte comes before the token that writes `first_byte`."""
    starts = np.cumsum([0] + [len(letter.encode()) for letter in text])[:-1]
    return sum(owner[start] < owner[first_byte] for start in starts)


@pytest.mark.parametrize("name", KINDS)
@given(data=st.data())
@settings(max_examples=60)
def test_a_word_is_found_at_the_token_that_brings_its_first_letter(name, data):
    text, ids = data.draw(spellings(name))
    forms = word_forms(data.draw(st.sampled_from(TOKENS)))
    caption = caption_of(name, ids)
    match = WordMatcher(forms).find(caption.text)
    start = slow_find(text, forms)
    assert (match and match[0]) == start
    if match:
        before, token = b"", -1
        while len(before) <= len(text[:start].encode()):
            token += 1
            before += kind(name).spelled(ids)[token]
        assert caption.token_at(start) == token


def test_the_reference_knows_scripts_without_spaces():
    for text in ("dog犬", "犬dog", "犬。dogs犬"):
        match = WordMatcher(word_forms("dog")).find(text)
        assert match[0] == slow_find(text, word_forms("dog"))
    assert slow_find("doghouse", ["dog"]) is None


@pytest.mark.parametrize("name", KINDS)
@given(data=st.data())
@settings(max_examples=60)
def test_text_that_is_there_stays_whatever_comes(name, data):
    """Also for tokens that make no sense together: half characters, special tokens, anything."""
    some = st.sampled_from(range(len(kind(name).tokenizer)))
    ids = data.draw(spellings(name))[1] if data.draw(st.booleans()) else []
    ids = ids + data.draw(st.lists(some, max_size=12))
    whole, growing = caption_of(name, ids), caption_of(name, [])
    for n, index in enumerate(ids):
        growing.append(index)
        assert whole.text.startswith(growing.text)
        assert [growing.token_at(c) for c in range(len(growing.text))] == [
            whole.token_at(c) for c in range(len(growing.text))
        ]
        assert all(growing.token_at(c) <= n for c in range(len(growing.text)))
    assert "\ufffd" not in whole.text[-1:]


@pytest.mark.parametrize("name", KINDS)
@given(data=st.data())
@settings(max_examples=60)
def test_stopping_when_certain_gives_the_same_position(name, data):
    ids = data.draw(spellings(name))[1]
    ids = ids + data.draw(st.lists(st.sampled_from(range(len(kind(name).tokenizer))), max_size=4))
    matcher = WordMatcher(word_forms(data.draw(st.sampled_from(TOKENS))))
    whole, growing = caption_of(name, ids), caption_of(name, [])
    match = matcher.find(whole.text)
    for n, index in enumerate(ids):
        growing.append(index)
        if matcher.find_certain(growing.text):
            start = matcher.find(growing.text)[0]
            assert start == match[0]
            assert growing.token_at(start) == whole.token_at(start) <= n
            return
    # Nothing stopped it: there is no match, or one that only the end of the caption ends.
    assert not match or not matcher.find_certain(whole.text)


def test_characters_of_several_tokens():
    """Until a character is whole, decoders write as many broken ones as they like."""
    name = "BPE with byte fallback"
    kind_ = kind(name)
    whole = ids(name, "犬 dog")
    assert kind_.tokenizer.convert_ids_to_tokens(whole)[1:] == [
        "<0xE7>",
        "<0x8A>",
        "<0xAC>",
        "▁dog",
    ]
    lengths = [len(kind_.tokenizer.decode(whole[:n])) for n in range(1, 6)]
    assert lengths == [0, 1, 2, 1, 5]  # not ascending
    caption = caption_of(name, whole)
    assert [caption.token_at(c) for c in range(5)] == [1, 4, 4, 4, 4]
    half = caption_of(name, ids(name, "a dog 犬")[:-1])
    assert half.text == "a dog "  # and no half character


@pytest.mark.parametrize("name", KINDS)
def test_special_tokens_write_nothing_and_take_no_space_away(name):
    special = kind(name).tokenizer.bos_token_id
    first, second = ids(name, "a dog")
    for sequence in (
        [special, first, second],
        [first, special, special, second, special],
    ):
        caption = caption_of(name, sequence)
        assert caption.text == "a dog"
        assert caption.token_at(0) == sequence.index(first)
        assert caption.token_at(2) == sequence.index(second)


def test_a_letter_that_may_still_become_another_is_no_end_of_a_word():
    name = "byte-level BPE"
    matcher = WordMatcher(word_forms("caf", "exact"))
    letters = [i for i, piece in kind(name).pieces.items() if piece in (b"c", b"a", b"f")]
    letters.sort(key=lambda i: b"caf".index(kind(name).pieces[i]))
    by_bytes = {piece: i for i, piece in kind(name).pieces.items()}
    caption = caption_of(name, [*letters, by_bytes[b"\xc3"]])
    assert caption.text == "caf"
    assert not matcher.find_certain(caption.text)
    caption.append(by_bytes[b"\xa9"])
    assert caption.text == "café"
    assert matcher.find(caption.text) is None


@pytest.mark.parametrize("name", KINDS)
def test_first_pieces_say_something_of_the_word(name):
    """No bare word boundary, nothing that every word or every capital begins with."""
    tokenizer, pieces = kind(name).tokenizer, kind(name).pieces
    for token in ("dog", "bear", "polar bear", "ball", "photo", "giraffe", "table"):
        forms = word_forms(token)
        found = first_subtokens(tokenizer, forms)
        assert found
        for index in found:
            letters = pieces[index].decode().strip().lower()
            assert letters
            assert any(form.startswith(letters) for form in forms)
        usual = ids(name, f"a {token}")[1]
        assert usual in found or not pieces[usual].strip()
    one_piece = [pieces[i] for i in first_subtokens(tokenizer, word_forms("dog"))]
    assert {piece.strip().lower() for piece in one_piece} <= {b"dog", b"dogs"}


def test_words_that_cannot_be_written_have_no_first_piece():
    for name in ("Unigram", "WordPiece"):
        for token in ("犬", "dog犬", "犬dog"):
            assert first_subtokens(kind(name).tokenizer, [token]) == []
        assert len(first_subtokens(kind(name).tokenizer, ["dog", "犬"])) >= 1
    for name in KINDS[:3]:
        assert first_subtokens(kind(name).tokenizer, ["犬"])


# Through a model


@pytest.fixture(scope="module", params=KINDS)
def model(request, tmp_path_factory):
    """(name of the kind, handle of a model that writes text with its tokenizer)."""
    tokenizer = copy.deepcopy(kind(request.param).tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", "[PAD]", "[UNK]"]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_tiny_llava, "tiny_tokenizer", lambda: tokenizer)
        handle = load_model(_tiny_llava.build_tiny_llava(tmp_path_factory.mktemp("model")))
    with torch.no_grad():
        head = handle.loaded.model.lm_head.weight
        for index, piece in kind(request.param).pieces.items():
            if not piece.isascii():  # no half characters, of which no plain text could be made
                head[index] = 0
            if b" dog" in piece or b" red" in piece:
                head[index] *= 1.5
    return request.param, handle


def plain_captions(name, handle, images, prompt, n_tokens):
    """(text, index of the token that writes each byte) of every caption, by a plain loop."""
    loaded, captions = handle.loaded, []
    special = set(loaded.tokenizer.all_special_ids)
    for image in images:
        ids = reference(loaded, image, prompt, ["dog"], n_tokens).ids
        kept = [p for p, index in enumerate(ids) if index not in special]
        spelled = kind(name).spelled([ids[p] for p in kept])
        owner = [p for p, piece in zip(kept, spelled, strict=True) for _ in piece]
        captions.append((b"".join(spelled).decode("ascii"), owner))
    return captions


def test_positions_in_captions_that_a_model_writes(model):
    """Only what was written counts, although the prompt has the words, too."""
    name, handle = model
    images, prompt = _tiny_llava.tiny_images(8), "<image>a dog, the red ball, a cat: "
    featurizer = LMMTokenFeaturizer(handle, prompt=prompt, max_new_tokens=16)
    captions = plain_captions(name, handle, images, prompt, 16)
    words = {w for text, _ in captions for w in text.lower().split() if w.isalpha()}
    n_found = []
    for word in ["dog", *sorted(words, key=lambda w: (-len(w), w))[:2]]:
        starts = [slow_find(text, [word]) for text, _ in captions]
        expected = {
            i: owner[start]
            for i, (start, (_, owner)) in enumerate(zip(starts, captions, strict=True))
            if start is not None
        }
        n_found.append(len(expected))
        featurizer.set_params(token=word, forms="exact", stop="caption")
        reps = featurizer.extract(images, on_empty="keep")
        assert dict(zip(reps.indices.tolist(), reps.positions.tolist(), strict=True)) == expected
        cut = featurizer.set_params(stop="token").extract(images, on_empty="keep")
        np.testing.assert_array_equal(cut.positions, reps.positions)
        np.testing.assert_array_equal(cut.indices, reps.indices)
        np.testing.assert_allclose(cut.Z, reps.Z, rtol=1e-3, atol=1e-4)
        assert cut.prefixes == reps.prefixes
    assert min(n_found[:2]) > 0
