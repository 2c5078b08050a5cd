"""Words of an answer and of the question, as ranges of tokens."""

import re
from dataclasses import dataclass
from numbers import Integral

from semi_nmf_concepts.lmm import word_spans


@dataclass(frozen=True)
class AnswerWord:
    """A word and its tokens.

    Attributes
    ----------
    text : str
    start, stop : int
        Its tokens are start, ..., stop - 1: answer tokens (from 0) for a word of the answer,
        positions in the sequence for a word of the question.
    """

    text: str
    start: int
    stop: int


def tokens_of(words):
    """The tokens of words, each once, ascending."""
    return sorted({t for word in words for t in range(word.start, word.stop)})


def content_words(words):
    """Indices of the words that are neither stop words nor punctuation; all if there are none."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    texts = [word.text.strip().casefold() for word in words]
    says = [
        i
        for i, text in enumerate(texts)
        if text not in ENGLISH_STOP_WORDS and any(map(str.isalnum, text))
    ]
    return says or list(range(len(words)))


def answer_words(tokenizer, ids):
    """The words of an answer of tokens `ids`; tokens that write nothing belong to none."""
    return [AnswerWord(*span) for span in word_spans(tokenizer, ids)]


def question_words(tokenizer, prompt_ids, image_positions, question):
    """The words of the question within the prompt; of an empty question, all words of the prompt.

    Parameters
    ----------
    tokenizer
    prompt_ids : sequence of int
    image_positions : set of int
    question : str

    Returns
    -------
    list of AnswerWord
        Empty if the question is not found, which happens where a tokenizer changes it.
    """
    within = question if question.strip() else None
    words = []
    for start, stop in _runs(len(prompt_ids), image_positions):
        spans = word_spans(tokenizer, list(prompt_ids[start:stop]), within)
        found = [AnswerWord(text, start + first, start + end) for text, first, end in spans]
        # A question stands behind the images, if a template writes something before them.
        words = words + found if within is None else found or words
    return words


def _runs(length, excluded):
    """(start, stop) of the runs of positions that are not excluded."""
    runs, start = [], None
    for position in range(length + 1):
        if position < length and position not in excluded:
            start = position if start is None else start
        elif start is not None:
            runs.append((start, position))
            start = None
    return runs


def find_words(words, wanted):
    """Indices of the wanted among `words` (of an answer), in their order.

    Parameters
    ----------
    words : list of AnswerWord
    wanted : None, int, str, or list of int and str
        None means all. A text means all its occurrences, whatever the case; an index may be
        negative.

    Raises
    ------
    ValueError
        If a word is not in the answer; the message lists its words.
    """
    if wanted is None:
        return list(range(len(words)))
    items = [wanted] if isinstance(wanted, (str, Integral)) else list(wanted)
    if not items:
        raise ValueError(f"words is empty; choose among {_listed(words)}.")
    found = set()
    for item in items:
        found.update(_occurrences(words, item))
    return sorted(found)


def _occurrences(words, item):
    if isinstance(item, Integral) and not isinstance(item, bool):
        if not -len(words) <= item < len(words):
            raise ValueError(
                f"there is no word {item}: the answer has {len(words)} words, {_listed(words)}."
            )
        return [int(item) % len(words)]
    if not isinstance(item, str):
        raise TypeError(f"words must be texts or indices, got {type(item).__name__}.")
    wanted = _bare(item)
    found = [i for i, word in enumerate(words) if _bare(word.text) == wanted]
    if not found:
        raise ValueError(f"the word {item!r} is not in the answer; it has {_listed(words)}.")
    return found


def _bare(text):
    """A word without case and the punctuation around it."""
    text = text.strip().casefold()
    return re.sub(r"^\W+|\W+$", "", text) or text


def _listed(words):
    return ", ".join(f"{i}: {word.text!r}" for i, word in enumerate(words))
