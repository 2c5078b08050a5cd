"""Words in captions: forms of a word, whole-word matches, and the token that begins a match.

A word is matched in *text*, not in token ids, because one word has many tokenisations (" dog",
"Dog", "dog" + "##s", "do" + "gg" + "y"). The match is then traced back to the generated token in
which its first character appeared.
"""

import re
from bisect import bisect_left
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
    "scarf": "scarves",
    "sheep": "sheep",
    "shelf": "shelves",
    "thief": "thieves",
    "tomato": "tomatoes",
    "tooth": "teeth",
    "wife": "wives",
    "wolf": "wolves",
    "woman": "women",
}


def plural(word):
    """English plural of the last word of `word`.

    >>> [plural(w) for w in ("dog", "bus", "baby", "toy", "bench", "snowman", "hot dog")]
    ['dogs', 'buses', 'babies', 'toys', 'benches', 'snowmen', 'hot dogs']
    """
    before, last = re.fullmatch(r"(.*\W)?(\w+)\W*", word, flags=re.DOTALL).groups(default="")
    lower = last.lower()
    for singular, irregular in _IRREGULAR.items():
        # Compounds of man and woman ("fireman"), but not of the short ones ("fox" is no ox).
        if lower == singular or (singular in ("man", "child") and lower.endswith(singular)):
            return before + last[: len(last) - len(singular)] + irregular
    if lower.endswith(("s", "x", "z", "ch", "sh")):
        return before + last + "es"
    if lower.endswith("y") and lower[-2:-1] not in tuple("aeiou"):
        return before + last[:-1] + "ies"
    return before + last + "s"


def _is_word(text):
    """Whether a text can be found as whole words: other edges would never match."""
    return isinstance(text, str) and re.fullmatch(r"\w(.*\w)?", text.strip(), re.DOTALL) is not None


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
    token = " ".join(token.split())
    if isinstance(forms, str):
        if forms not in ("plural", "exact"):
            raise ValueError(f"forms must be 'plural', 'exact' or a list of words, got {forms!r}.")
        words = [token, plural(token)] if forms == "plural" else [token]
    else:
        words = [token, *forms]
        bad = [w for w in words if not _is_word(w)]
        if bad:
            raise ValueError(f"forms must be a list of words, got {bad[0]!r} in it.")
    return tuple(dict.fromkeys(" ".join(word.lower().split()) for word in words))


class WordMatcher:
    """Finds the first whole-word occurrence of any of `forms`, in any case.

    Letters, digits and underscores make words; everything else separates them. So "dog" is found in
    "a dog's ball" and in "hot-dog", but not in "doghouse".

    >>> WordMatcher(["car"]).find("carrots and a Car.")
    (14, 17)
    """

    def __init__(self, forms):
        self.forms = tuple(forms)
        # Longest first: of two forms that begin at the same place the longer one is reported.
        alternatives = "|".join(
            r"\s+".join(re.escape(part) for part in form.split())
            for form in sorted(self.forms, key=len, reverse=True)
        )
        self._pattern = re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)", flags=re.IGNORECASE)

    def find(self, text):
        """(start, end) in characters of the first match in `text`, or None."""
        match = self._pattern.search(text)
        return match.span() if match else None

    def find_certain(self, text):
        """Whether a match exists that no continuation of `text` can undo."""
        match = self._pattern.search(text)
        return bool(match) and match.end() < len(text.rstrip())

    def in_any(self, texts):
        """Whether any of `texts` contains a form."""
        return any(self._pattern.search(text) for text in texts)


def mentions(captions, token, forms="plural"):
    """Tell which samples have a reference caption with the token of interest.

    `LMMTokenFeaturizer.extract` keeps none of the others, so they need not go through the model.

    Parameters
    ----------
    captions : sequence of (str or list of str)
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
    matcher = WordMatcher(word_forms(token, forms))
    texts = ([entry] if isinstance(entry, str) else entry for entry in captions)
    return np.fromiter((matcher.in_any(one) for one in texts), dtype=bool)


def token_at_character(tokenizer, ids, character):
    """Index in `ids` of the token that brings the decoded text's character at an offset.

    The text of the first t tokens grows with t, so the token is found by bisection over prefixes.
    This works for every tokenizer, also for those that give no character offsets when decoding.
    """
    return bisect_left(
        range(len(ids) - 1), True, key=lambda t: len(decode(tokenizer, ids[: t + 1])) > character
    )


def decode(tokenizer, ids):
    """Plain text of `ids`: special tokens left out, spaces exactly as the tokens have them."""
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def first_subtokens(tokenizer, forms):
    """Ids of the tokens with which a form may begin, in lower, title and upper case.

    Tokenizers differ in whether the word boundary belongs to the word (" dog" as one piece), stands
    alone as an empty piece, or is not shown; a piece without any letter is skipped, since every
    word begins with it.
    """
    found = {}
    for form in forms:
        for written in dict.fromkeys((form, form.capitalize(), form.title(), form.upper())):
            for text in (f" {written}", written):
                for index in tokenizer.encode(text, add_special_tokens=False):
                    if index == tokenizer.unk_token_id:
                        break
                    if tokenizer.decode([index]).strip():
                        found[index] = None
                        break
    return list(found)


def content_words(texts, n=15):
    """The `n` most frequent words of `texts` (one count per text), stop words left out."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    counts = Counter()
    for text in texts:
        words = set(re.findall(r"[^\W\d_]{2,}", (text or "").lower()))
        counts.update(words - ENGLISH_STOP_WORDS)
    # Ties in alphabetical order, so that messages do not depend on the hash seed.
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:n]
