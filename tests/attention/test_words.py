"""Words as ranges of tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semi_nmf_concepts.attention._words import AnswerWord, find_words, question_words
from semi_nmf_concepts.lmm import word_spans
from tests._families._parts import tokenizer_with
from tests._tiny_llava import tiny_tokenizer

WORDS = [AnswerWord(text, i, i + 1) for i, text in enumerate(["a", "Dog", "and", "a", "cat."])]


def test_words_are_found_by_text_and_index():
    assert find_words(WORDS, None) == [0, 1, 2, 3, 4]
    assert find_words(WORDS, "dog") == [1]
    assert find_words(WORDS, "A") == [0, 3]
    assert find_words(WORDS, "cat") == [4]
    assert find_words(WORDS, [-1, "dog", 1]) == [1, 4]
    with pytest.raises(TypeError, match="texts or indices"):
        find_words(WORDS, [1.5])


@pytest.mark.parametrize("make", (tiny_tokenizer, lambda: tokenizer_with(byte_level=True)))
def test_spans_of_words(make):
    tokenizer = make()
    text = "two doghouse , a cat ."
    spans = word_spans(tokenizer, tokenizer.encode(text, add_special_tokens=False))
    assert [word for word, _, _ in spans] == text.split()
    for word, start, stop in spans:
        ids = tokenizer.encode(text, add_special_tokens=False)[start:stop]
        assert tokenizer.decode(ids).strip() == word


@given(st.text(max_size=30))
def test_tokens_belong_to_one_word_at_most(text):
    tokenizer = tokenizer_with(byte_level=True)
    ids = tokenizer.encode(text, add_special_tokens=False)
    spans = word_spans(tokenizer, ids)
    ends = [0, *(stop for _, _, stop in spans)]
    for (word, start, stop), end in zip(spans, ends, strict=False):
        assert end <= start < stop <= len(ids)
        assert word.strip()


def test_the_question_within_a_prompt():
    tokenizer = tiny_tokenizer()
    image = tokenizer.convert_tokens_to_ids("<image>")
    before = tokenizer.encode("caption:", add_special_tokens=False)
    after = tokenizer.encode("what is this? caption:", add_special_tokens=False)
    ids = [*before, image, image, *after]
    places = {len(before), len(before) + 1}
    found = question_words(tokenizer, ids, places, "What is  this?")
    assert [word.text for word in found] == ["what", "is", "this"]
    assert [word.start for word in found] == [4, 5, 6]
    everything = question_words(tokenizer, ids, places, "")
    assert [word.text for word in everything] == [
        "caption",
        ":",
        *["what", "is", "this", "caption", ":"],
    ]
    assert question_words(tokenizer, ids, places, "not there") == []
    # Letters of other words are no question.
    assert question_words(tokenizer, ids, places, "apt") == []
    assert question_words(tokenizer, ids, places, "tion") == []
    assert question_words(tokenizer, ids, places, "?") == []
