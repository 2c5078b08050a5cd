"""Words in captions: forms of a word, whole-word matches, and the token that begins a match.

A word is matched in *text*, not in token ids, because one word has many tokenisations (" dog",
"Dog", "dog" + "##s", "do" + "gg" + "y"). The match is then traced back to the generated token in
which its first character appeared.
"""

import functools
import re
import unicodedata
from bisect import bisect_right
from collections import Counter

import numpy as np

# Plurals that no rule below gives. Extra forms cost nothing, a wrong one could be another word.
_IRREGULAR = {
    "bison": "bison",
    "buffalo": "buffaloes",
    "calf": "calves",
    "child": "children",
    "deer": "deer",
    "elf": "elves",
    "fish": "fish",
    "foot": "feet",
    "goose": "geese",
    "half": "halves",
    "hero": "heroes",
    "hoof": "hooves",
    "knife": "knives",
    "leaf": "leaves",
    "life": "lives",
    "loaf": "loaves",
    "man": "men",
    "mango": "mangoes",
    "moose": "moose",
    "mouse": "mice",
    "ox": "oxen",
    "person": "people",
    "potato": "potatoes",
    "quiz": "quizzes",
    "scarf": "scarves",
    "sheep": "sheep",
    "shelf": "shelves",
    "thief": "thieves",
    "tomato": "tomatoes",
    "tooth": "teeth",
    "volcano": "volcanoes",
    "wife": "wives",
    "wolf": "wolves",
    "woman": "women",
}
# Compounds of these are irregular, too ("fireman"; but "fox" is no ox), save for the second line.
_ENDINGS = ("man", "child", "shelf", "wife", "knife")
_NO_MEN = ("caiman", "german", "human", "norman", "ottoman", "roman", "shaman", "talisman")
# Scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, kana, Chinese characters.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U000323af"
)
# Ways to write the same punctuation within a word.
_ALIKE = {"'": "['\u2019]", "\u2019": "['\u2019]", "-": "[-\u2010\u2011]"}
# What decoders write in place of bytes that are (not yet) a character.
_BROKEN = "\ufffd"


def plural(word):
    """English plural of the last word of `word`; of other scripts, `word` itself.

    >>> [plural(w) for w in ("dog", "bus", "baby", "toy", "bench", "snowman", "hot dog")]
    ['dogs', 'buses', 'babies', 'toys', 'benches', 'snowmen', 'hot dogs']
    """
    before, last = re.fullmatch(r"(.*\W)?(\w*)", word, flags=re.DOTALL).groups(default="")
    lower = last.lower()
    if not unicodedata.name(lower[-1:] or " ", "").startswith("LATIN"):
        return word
    ending = next((e for e in _ENDINGS if lower.endswith(e) and lower not in _NO_MEN), lower)
    if lower in _IRREGULAR or ending in _IRREGULAR:
        singular = lower if lower in _IRREGULAR else ending
        return before + last[: len(last) - len(singular)] + _IRREGULAR[singular]
    if lower.endswith(("s", "x", "z", "ch", "sh")):
        return before + last + "es"
    if lower.endswith("y") and lower[-2:-1] not in tuple("aeiou"):
        return before + last[:-1] + "ies"
    return before + last + "s"


@functools.cache
def _marks():
    """Accents and vowel signs as a set for `re`: parts of words that its "\\w" leaves out."""
    ranges = []
    for code in (*range(0x300, 0x20000), *range(0xE0100, 0xE01F0)):
        if unicodedata.category(chr(code)).startswith("M"):
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


def _is_word(text):
    """Whether a text can be found as whole words: other edges would never match."""
    if not isinstance(text, str):
        return False
    return re.fullmatch(rf"\w(.*[\w{_marks()}])?", text.strip(), re.DOTALL) is not None


def word_forms(token, forms="plural"):
    """The words that count as `token`: itself and its plural, itself alone, or itself and a list.

    >>> word_forms("bus")
    ('bus', 'buses')
    >>> word_forms("dog", forms=["puppy", "puppies"])
    ('dog', 'puppy', 'puppies')
    """
    if not _is_word(token):
        raise ValueError(
            f"token must be a word such as 'dog' or 'polar bear', which begins and ends with a "
            f"letter or digit; got {token!r}."
        )
    if isinstance(forms, str):
        if forms not in ("plural", "exact"):
            raise ValueError(f"forms must be 'plural', 'exact' or a list of words, got {forms!r}.")
        token = unicodedata.normalize("NFC", token.strip())
        words = [token, plural(token)] if forms == "plural" else [token]
    else:
        words = [token, *forms]
        bad = [w for w in words if not _is_word(w)]
        if bad:
            raise ValueError(f"forms must be a list of words, got {bad[0]!r} in it.")
    plain = (unicodedata.normalize("NFC", " ".join(word.lower().split())) for word in words)
    return tuple(dict.fromkeys(plain))


class WordMatcher:
    """Finds the first whole-word occurrence of any of `forms`, in any case.

    Letters with their accents, digits and underscores make words; everything else separates them.
    So "dog" is found in "a dog's ball" and in "hot-dog", but not in "doghouse". Within a form, it
    does not matter how much space stands between words and around punctuation ("t - shirt"), nor
    how apostrophes, hyphens and accents are encoded. In scripts that put no spaces between words
    (Chinese, Japanese, Thai, ...) every occurrence counts.

    >>> WordMatcher(["car"]).find("carrots and a Car.")
    (14, 17)
    """

    def __init__(self, forms):
        self.forms = tuple(forms)
        # Longest first: of two forms that begin at the same place the longer one is reported.
        written = {spelling for form in self.forms for spelling in _spellings(form)}
        written = sorted(written, key=lambda spelling: (-len(spelling), spelling))
        self._pattern = _compile([_whole(spelling) for spelling in written])
        begun = [pattern for spelling in written for pattern in _beginnings(spelling)]
        self._begun = _compile(begun) if begun else None

    def find(self, text):
        """(start, end) in characters of the first match in `text`, or None."""
        match = self._pattern.search(text)
        return match.span() if match else None

    def find_certain(self, text):
        """Whether `text` has a match that stays the first one, however the text goes on."""
        match = self._pattern.search(text)
        if match is None or match.end() == len(text):
            return False
        # "a big red" has a match of "red", but may go on to a match of "big red dog".
        begun = self._begun.search(text) if self._begun else None
        return begun is None or begun.start() >= match.start()

    def in_any(self, texts):
        """Whether any of `texts` contains a form."""
        return any(self._pattern.search(text) for text in texts)


def _spellings(form):
    """`form`, also with accents as characters of their own and in capitals ("SS" for sharp s)."""
    cases = [form] if form.isascii() else [form, form.upper()]
    return {unicodedata.normalize(kind, case) for case in cases for kind in ("NFC", "NFD")}


def _compile(patterns):
    """One pattern that finds any of `patterns`, which begin with a letter, at a word's start."""
    unspaced = [pattern for pattern in patterns if _is_unspaced(pattern[0])]
    spaced = [pattern for pattern in patterns if not _is_unspaced(pattern[0])]
    alternatives = unspaced
    if spaced:
        letters = "".join(sorted({pattern[0] for pattern in spaced}))
        start = rf"(?-i:(?:(?<!\w)|(?<=[{_UNSPACED}]))(?<![{_marks()}]))"
        # The letters come first, at which most places of a text fail quickly.
        alternatives = [rf"(?=[{letters}]){start}(?:{'|'.join(spaced)})", *unspaced]
    return re.compile("|".join(alternatives), flags=re.IGNORECASE)


def _whole(form):
    """Pattern of `form` and the end of its last word."""
    end = "" if _is_unspaced(form[-1]) else rf"(?:(?!\w)|(?=[{_UNSPACED}]))"
    # An accent after the last letter belongs to it.
    return rf"{''.join(_characters(form))}(?-i:{end}(?![{_marks()}]))"


def _beginnings(form):
    """Patterns of all beginnings of `form` at the end of a text, if another word can be in it."""
    if re.fullmatch(rf"[\w{_marks()}]*", form):
        return []
    characters = _characters(form)
    return [rf"{''.join(characters[:n])}\s*\Z" for n in range(1, len(characters))]


def _characters(form):
    """A pattern for every character of `form`."""
    patterns = []
    for char in form:
        if char.isspace():
            patterns.append(r"\s+")
        elif re.match(rf"[\w{_marks()}]", char):
            patterns.append(re.escape(char))
        else:
            patterns.append(rf"\s*{_ALIKE.get(char, re.escape(char))}\s*")
    return patterns


def _is_unspaced(char):
    return re.match(f"[{_UNSPACED}]", char) is not None


def mentions(captions, token, forms="plural"):
    """Tell which samples have a reference caption with the token of interest.

    `LMMTokenFeaturizer.extract` keeps none of the others, so they need not go through the model.

    Parameters
    ----------
    captions : sequence of (str | list of str | None)
        Reference captions of each sample.
    token : str
        Word of interest.
    forms : {"plural", "exact"} or list of str, default="plural"
        As for :class:`LMMTokenFeaturizer`.

    Returns
    -------
    found : ndarray of bool, shape (n_samples,)

    Examples
    --------
    >>> mentions([["Two dogs.", "snow"], ["a doghouse"], []], "dog")
    array([ True, False, False])
    """
    from ._images import as_references

    matcher = WordMatcher(word_forms(token, forms))
    references = as_references(captions, len(captions))
    return np.fromiter(map(matcher.in_any, references), dtype=bool)


def decoder(tokenizer):
    """Function from a tuple of ids to plain text, which remembers what it has decoded.

    Special tokens are left out, spaces are exactly as the tokens have them.
    """

    @functools.lru_cache(maxsize=2**14)
    def decode(ids):
        return tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    return decode


class CaptionText:
    """The text of a caption that grows token by token, and what every token brings of it.

    A token alone may not be decodable: bytes of one character can come in several tokens, and
    decoders drop the space at the beginning. So each is decoded together with the tokens before it,
    as far back as needed, and text that is there stays as it is. Bytes that are not yet a whole
    character are no part of the text.

    Parameters
    ----------
    decode : callable
        A :func:`decoder`.
    ids : iterable of int, default=()
        The tokens so far.

    Attributes
    ----------
    text : str
    """

    def __init__(self, decode, ids=()):
        self.text = ""
        self._decode, self._ids = decode, []
        self._ends = []  # number of characters up to and including each token
        self._n_settled = 0  # tokens whose characters are in the text
        self._context = (0, 0)  # token from which to decode, characters from there to the settled
        for index in ids:
            self.append(index)

    def append(self, index):
        """Add one token."""
        self._ids.append(index)
        start, n_known = self._context
        window = self._decode(tuple(self._ids[start:]))
        new = window[n_known:]
        self._ends.append(len(self.text) + len(new))
        if new.endswith(_BROKEN):
            return
        # Broken characters before this token may have been more than the one that they became: the
        # first token that took part in a character is the one that brings it.
        for t in reversed(range(self._n_settled, len(self._ids) - 1)):
            self._ends[t] = min(self._ends[t], self._ends[t + 1])
        self.text += new
        if new.strip():
            start = self._n_settled
            self._context = start, len(self._decode(tuple(self._ids[start:])))
        else:  # a decoder may drop what would now be a leading space
            self._context = start, len(window)
        self._n_settled = len(self._ids)

    def token_at(self, character):
        """Index of the token that brings the text's character at an offset."""
        return bisect_right(self._ends, character)

    def before(self, token):
        """The text before the token at an index."""
        return self.text[: self._ends[token - 1]] if token else ""


def first_subtokens(tokenizer, forms):
    """Ids of the tokens with which a form may begin, in lower, title and upper case.

    Tokenizers differ in whether the word boundary belongs to the word (" dog" as one piece), stands
    alone as an empty piece, or is not shown; a piece without any letter is skipped, since every
    word begins with it. A way to write a form counts only if its first piece says as much of the
    form as in lower case after a space: where "DOG" is "D" + "OG", a "D" is no sign of a dog.
    """
    found = {}
    for form in forms:
        usual = 0
        for written in dict.fromkeys((form, form.capitalize(), form.title(), form.upper())):
            for text in (f" {written}", written):
                index, piece = _first_piece(tokenizer, text)
                usual = usual or len(piece)
                if piece and len(piece) >= usual:
                    found[index] = None
    return list(found)


def _first_piece(tokenizer, text):
    """(id, letters) of the first piece of `text` that has letters; (None, "") if it has none."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = [] if tokenizer.unk_token_id in ids else ids
    written = ((index, tokenizer.decode([index]).strip()) for index in pieces)
    return next((pair for pair in written if pair[1]), (None, ""))


def content_words(texts, n=15):
    """The `n` most frequent words of `texts` (one count per text), stop words left out."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    counts = Counter()
    for text in texts:
        words = set(re.findall(r"[^\W\d_]{2,}", (text or "").lower()))
        counts.update(words - ENGLISH_STOP_WORDS)
    # Ties in alphabetical order, so that messages do not depend on the hash seed.
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:n]
