"""Which tokens are words: word-boundary marks, an English word list, stop words."""

from functools import cache
from weakref import WeakKeyDictionary

# scikit-learn's stop words contain numbers and words with a meaning that an image can show (a bill,
# a fire, the front, someone alone); these stay words.
_NUMBERS = (
    "one two three four five six eight nine ten eleven twelve fifteen twenty forty fifty sixty "
    "hundred first third"
)
_MEANINGFUL = (
    "alone amount back bill bottom call cry describe detail due empty fill find fire found front "
    "full interest keep last mill mine move name part put serious show side sincere system thick "
    "thin together top"
)
# Function words that scikit-learn's list does not have, heads of contractions that tokenizers cut
# at the apostrophe, and "nan", which is what a missing value prints.
_MORE_STOP_WORDS = (
    "did does doing having just theirs ain aren couldn didn doesn don hadn hasn haven isn mustn "
    "needn shouldn wasn weren won wouldn nan"
)

# Frequency on the Zipf scale, log10 of occurrences per 10^9 words. Rare plurals such as "poodles"
# lie near 2.4; below 2 there are mostly foreign words and fragments.
MIN_ZIPF = 2.0
MIN_LETTERS = 3

# Marks that tokenizers put where a word begins: SentencePiece, byte-level BPE.
_WORD_START = ("▁", "Ġ")
_WORD_END = "</w>"


@cache
def stop_words():
    """Return the stop words: scikit-learn's, without numbers and words that an image can show."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    kept = {*_NUMBERS.split(), *_MEANINGFUL.split()}
    return frozenset(ENGLISH_STOP_WORDS - kept) | frozenset(_MORE_STOP_WORDS.split())


def is_real_word(word):
    """Tell whether `word` is an English word that says something.

    It has at least three letters and nothing but letters (numbers as digits are no words), occurs
    in English with a frequency of at least 2 on the Zipf scale (once in ten million words; the word
    list is that of the package wordfreq), and is not a stop word. The stop words are those of
    scikit-learn without number words ("two") and words that name something visible ("fire").

    Parameters
    ----------
    word : str
        Lower-case word.

    Returns
    -------
    bool

    Examples
    --------
    >>> [word for word in ("dog", "the", "qx", "xqzvk", "two", "123") if is_real_word(word)]
    ['dog', 'two']
    """
    if len(word) < MIN_LETTERS or not word.isalpha() or word in stop_words():
        return False
    from wordfreq import zipf_frequency

    return zipf_frequency(word, "en") >= MIN_ZIPF


class TokenWords:
    """The word that each token of a tokenizer stands for, decoded on demand and remembered.

    A token that continues a word is none: a WordPiece piece "##s", and, in a vocabulary that marks
    where words begin (SentencePiece, byte-level BPE) or end, a piece without the mark. Word
    fragments such as "ing" are as frequent as rare words, so a frequency list cannot tell them
    apart, but the mark can.
    """

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self._special = {int(i) for i in getattr(tokenizer, "all_special_ids", ())}
        pieces = list(tokenizer.get_vocab())
        self._marks_start = any(p.startswith(_WORD_START) and len(p) > 1 for p in pieces)
        self._marks_end = any(p.endswith(_WORD_END) and p != _WORD_END for p in pieces)
        self._words = {}

    def __getitem__(self, token):
        """Return the lower-case word of a token id, "" when the token is not one."""
        if token not in self._words:
            self._words[token] = self._decode(token)
        return self._words[token]

    def _decode(self, token):
        piece = self._tokenizer.convert_ids_to_tokens(token)
        # An unembedding may have more rows than the tokenizer has tokens.
        if token in self._special or piece is None or piece.startswith("##"):
            return ""
        if self._marks_start and not piece.startswith(_WORD_START):
            return ""
        if self._marks_end and not piece.endswith(_WORD_END):
            return ""
        text = self._tokenizer.decode([token])
        return text.strip().strip("▁Ġ").removesuffix(_WORD_END).strip().lower()


# Loaded model -> its words: they are dropped together with the model, when its handle is unloaded.
_known = WeakKeyDictionary()


def token_words(handle):
    """Return the (shared) ``TokenWords`` of a model handle."""
    loaded = handle.loaded
    if loaded not in _known:
        _known[loaded] = TokenWords(loaded.tokenizer)
    return _known[loaded]
