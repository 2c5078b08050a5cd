import pytest

from semi_nmf_concepts.lmm._words import (
    WordMatcher,
    content_words,
    decode,
    first_subtokens,
    plural,
    token_at_character,
    word_forms,
)
from tests._tiny_llava import tiny_tokenizer


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("dog", "dogs"),
        ("bus", "buses"),
        ("baby", "babies"),
        ("boy", "boys"),
        ("bench", "benches"),
        ("box", "boxes"),
        ("giraffe", "giraffes"),
        ("photo", "photos"),
        ("tomato", "tomatoes"),
        ("person", "people"),
        ("fireman", "firemen"),
        ("fox", "foxes"),
        ("sheep", "sheep"),
        ("hot dog", "hot dogs"),
        ("Cake", "Cakes"),
    ],
)
def test_plural(word, expected):
    assert plural(word) == expected


def test_forms():
    assert word_forms("Dog") == ("dog", "dogs")
    assert word_forms("dog", "exact") == ("dog",)
    assert word_forms("dog", ["puppy", "Dog"]) == ("dog", "puppy")
    assert word_forms("hot  dog", "exact") == ("hot dog",)
    for token in ("", "  ", "...", "dog(", "dog.", "-dog", None, 3):
        with pytest.raises(ValueError, match="token must be a word"):
            word_forms(token)
    with pytest.raises(ValueError, match="forms"):
        word_forms("dog", "all")
    with pytest.raises(ValueError, match="forms"):
        word_forms("dog", ["cat", 3])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a dog", "dog"),
        ("Dogs run", "Dogs"),
        ("the DOG.", "DOG"),
        ("(dog)", "dog"),
        ("a dog's ball", "dog"),
        ("doghouse and dog", "dog"),
        ("a doghouse", None),
        ("hotdog", None),
        ("dogma", None),
        ("dog_1", None),
        ("dog2", None),
        ("", None),
    ],
)
def test_whole_words(text, expected):
    match = WordMatcher(word_forms("dog")).find(text)
    assert (match and text[slice(*match)]) == expected
    if text.startswith("doghouse and"):
        assert match[0] == 13


def test_forms_of_several_words_match_over_any_space():
    matcher = WordMatcher(word_forms("hot dog"))
    assert matcher.find("two hot  dogs")
    assert not matcher.find("a hot, dog")


def test_a_match_is_certain_only_when_nothing_can_follow_in_the_word():
    matcher = WordMatcher(word_forms("dog"))
    assert not matcher.find_certain("a dog")
    assert not matcher.find_certain("a dog ")
    assert not matcher.find_certain("a doghouse is")
    assert matcher.find_certain("a dog is")
    assert matcher.find_certain("a dog.")


def _tokenizers():
    """Three ways to mark word boundaries: "##" pieces, "▁" (also alone), byte-level spaces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    yield tiny_tokenizer(), "a dog next to two babies and a doghouse . dogs"
    pieces = ["<unk>", "▁", "dog", "▁a", "s", "▁two", "▁house", "house", "▁Dog", "▁hot"]
    sentencepiece = Tokenizer(models.Unigram([(p, -float(i)) for i, p in enumerate(pieces)], 0))
    sentencepiece.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    sentencepiece.decoder = decoders.Metaspace(prepend_scheme="first")
    yield (
        PreTrainedTokenizerFast(tokenizer_object=sentencepiece, unk_token="<unk>"),
        "a doghouse two dogs a Dog",
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("d", "o"), ("do", "g"), ("Ġ", "dog"), ("Ġ", "a")]
    vocabulary = {piece: i for i, piece in enumerate([*alphabet, "do", "dog", "Ġdog", "Ġa"])}
    bpe = Tokenizer(models.BPE(vocabulary, merges))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    yield PreTrainedTokenizerFast(tokenizer_object=bpe), "a doghouse é a dog, the Dog"


@pytest.mark.parametrize(("tokenizer", "text"), list(_tokenizers()))
def test_every_character_is_traced_to_the_token_that_brings_it(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    decoded = decode(tokenizer, ids)
    for character in range(len(decoded)):
        t = token_at_character(tokenizer, ids, character)
        assert len(decode(tokenizer, ids[: t + 1])) > character
        assert t == 0 or len(decode(tokenizer, ids[:t])) <= character


@pytest.mark.parametrize(("tokenizer", "text"), list(_tokenizers()))
def test_the_word_begins_at_its_own_piece_and_not_at_a_bare_boundary(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    start, end = WordMatcher(word_forms("dog")).find(decode(tokenizer, ids))
    t = token_at_character(tokenizer, ids, start)
    assert tokenizer.decode([ids[t]]).strip() in ("dog", "Dog")
    assert ids[t] in first_subtokens(tokenizer, word_forms("dog"))


def test_first_pieces_are_never_empty_boundaries_or_unknown():
    for tokenizer, _ in _tokenizers():
        ids = first_subtokens(tokenizer, word_forms("dog"))
        assert ids
        assert all(tokenizer.decode([i]).strip() for i in ids)
        assert tokenizer.unk_token_id not in ids
    assert first_subtokens(tiny_tokenizer(), ["éé"]) == []


def test_content_words_are_counted_once_per_text_and_ties_are_sorted():
    texts = ["the dog and the dog", "a cat with a dog", "Cat!", None]
    assert content_words(texts) == [("cat", 2), ("dog", 2)]
