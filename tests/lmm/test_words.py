import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semi_nmf_concepts.lmm import mentions
from semi_nmf_concepts.lmm._words import WordMatcher, content_words, plural, word_forms
from tests._tokenizers import slow_find


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
        ("snowman", "snowmen"),
        ("human", "humans"),
        ("bookshelf", "bookshelves"),
        ("café", "cafés"),
        ("T-shirt", "T-shirts"),
        ("3", "3"),
        ("犬", "犬"),
        ("कुत्ता", "कुत्ता"),
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


def test_spelling_does_not_matter():
    for token, texts in {
        "t-shirt": ("a T - shirt", "t\u2011shirts", "t-\nshirt"),
        "dog's": ("the dog \u2019 s ball", "dog's"),
        "café": ("CAFÉ", "two cafe\u0301s", "Cafés"),
        "straße": ("die Straße", "STRASSE"),
        "İstanbul": ("in İstanbul", "i\u0307stanbul"),
        "3d": ("3D", "a 3d-film"),
    }.items():
        matcher = WordMatcher(word_forms(token))
        assert all(matcher.find(text) for text in texts), token
        composed = WordMatcher(word_forms(unicodedata.normalize("NFD", token)))
        assert all(composed.find(text) for text in texts), token


@pytest.mark.parametrize(
    ("token", "text", "expected"),
    [
        # Accents and vowel signs belong to the word, although Python's "\\w" leaves them out.
        ("cafe", "a cafe\u0301", None),
        ("og", "a d\u0301og", None),
        ("कुत्ता", "एक कुत्ता बैठा है", (3, 9)),
        ("कुत्त", "एक कुत्ता बैठा है", None),
        ("собака", "большая Собака.", (8, 14)),
        ("собака", "собакам", None),
        # No spaces between words: every occurrence counts; letters of other scripts do not join.
        ("狗", "一只狗在公园里", (2, 3)),
        ("dog", "一只dog在公园里", (2, 5)),
        ("หมา", "ที่หมาวิ่ง", (3, 6)),
        ("ネコ", "黒いネコがいる", (2, 4)),
    ],
)
def test_words_of_other_languages(token, text, expected):
    assert WordMatcher(word_forms(token)).find(text) == expected
    assert mentions([text, ["x", text], None], token).tolist() == [expected is not None] * 2 + [
        False
    ]


# What captions are made of: words of interest, words that only begin or end like them, and what
# may stand between.
PARTS = """dog dogs Dog DOGS doghouse hotdog dogma d hot polar bear bears Polar cub big red a café t
shirt t-shirt dog's man 2 3d straße_ bé"""
BETWEEN = [" ", " ", " ", "  ", "-", "'", ". ", ", ", " - ", "\n", "", "!"]
TOKENS = [
    "dog",
    "polar bear",
    "t-shirt",
    "dog's",
    "hot dog",
    "big red dog",
    "red",
    "café",
    "bear cub",
]
texts = st.lists(
    st.tuples(st.sampled_from(PARTS.split()), st.sampled_from(BETWEEN)), max_size=9
).map(lambda parts: "".join(part for pair in parts for part in pair))
some_forms = st.lists(st.sampled_from(TOKENS), min_size=1, max_size=3).map(
    lambda tokens: tuple(form for token in tokens for form in word_forms(token))
)


@given(texts, some_forms)
def test_the_first_whole_word_is_found(text, forms):
    match = WordMatcher(forms).find(text)
    assert (match and match[0]) == slow_find(text, forms)


@given(texts, texts, some_forms)
def test_a_certain_match_stays_however_the_text_goes_on(text, more, forms):
    matcher = WordMatcher(forms)
    if matcher.find_certain(text):
        assert matcher.find(text + more)[0] == matcher.find(text)[0]


@given(texts, some_forms)
def test_a_match_is_certain_as_soon_as_it_can_be(text, forms):
    """One character after a word; a form of several words may have to be seen to its end."""
    matcher = WordMatcher(forms)
    match = matcher.find(text)
    if not match or match[1] == len(text):
        assert not matcher.find_certain(text)
    elif not matcher.find_certain(text):
        ways = [text + form[n:] for form in forms for n in range(len(form))]
        assert any(matcher.find(way)[0] < match[0] for way in ways)


def test_certain_examples():
    matcher = WordMatcher(word_forms("dog"))
    for text in ("a dog", "a doghouse is", "dogs", ""):
        assert not matcher.find_certain(text)
    for text in ("a dog ", "a dog is", "a dog.", "a dog-house", "a dog's"):
        assert matcher.find_certain(text)
    matcher = WordMatcher(["big red dog", "red"])
    assert not matcher.find_certain("a big red ")
    assert not matcher.find_certain("a big red d")
    assert matcher.find_certain("a big red dr")
    assert matcher.find_certain("a red d")
    assert matcher.find_certain("a red cat and a big ")
    assert matcher.find("a big red dog") == (2, 13)


def test_content_words_are_counted_once_per_text_and_ties_are_sorted():
    texts = ["the dog and the dog", "a cat with a dog", "Cat!", None]
    assert content_words(texts) == [("cat", 2), ("dog", 2)]
