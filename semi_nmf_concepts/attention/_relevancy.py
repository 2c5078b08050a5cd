"""Which parts of the image, and which words, an answer's words come from: relevancy."""

from dataclasses import dataclass

import numpy as np

from ._maps import map_of, on_places
from ._results import Result
from ._words import AnswerWord, find_words, tokens_of

THROUGH = ("language", "vision", "both")


@dataclass(eq=False, repr=False)
class Relevancy(Result):
    """Relevancy of every position for words of an answer; made by :func:`relevancy`.

    Attributes
    ----------
    words : list of str
        The words that are explained.
    word_indices : list of int
        Which words of the answer they are.
    image : list of ndarray of float64, shape (n_words, n_places)
        Of the places of each image: of its tokens or, where these are queries that read the whole
        image, of the patches. For a word of one token, all images and the text sum to 1; for a word
        of n tokens, to n.
    text : ndarray of float64, shape (n_words, S)
        Of the positions of the sequence, 0 at those of images.
    shares : ndarray of float64, shape (n_words, 2)
        Shares of the images and of the text. They sum to 1, or are both 0 where nothing has any
        relevancy (no gradient is positive).
    through : {"language", "vision", "both"}
    images : list of PIL.Image.Image
    image_names : list of str
    grids : list of PatchGrid
    context : list of AnswerWord
        The words of the question, then those of the answer; ``start`` and ``stop`` are positions
        in the sequence.
    n_answer_words : int
        How many of `context` are words of the answer.
    """

    words: list
    word_indices: list
    image: list
    text: np.ndarray
    shares: np.ndarray
    through: str
    images: list
    image_names: list
    grids: list
    context: list
    n_answer_words: int

    plotter = "plot_relevancy"

    def __repr__(self):
        return f"<Relevancy of {', '.join(map(repr, self.words))} through {self.through}>"

    def map(self, word=None):
        """Relevancy of the places of the images.

        Parameters
        ----------
        word : int, str, or list of these, default=None
            Words of the answer, by index or by text, as in :func:`relevancy`; None: all that are
            explained. The mean over several.

        Returns
        -------
        ImageMap

        Raises
        ------
        ValueError
            If a word is not in the answer or was not explained; the message lists the words.
        """
        rows = self._rows(word)
        values = [part[rows].mean(axis=0) for part in self.image]
        return map_of(
            self,
            values,
            label=f"relevancy ({self.through})",
            words=[self.words[row] for row in rows],
            word_indices=[self.word_indices[row] for row in rows],
            share=self.shares[rows, 0].mean(),
        )

    def top_words(self, word, k=5):
        """The words of the question, and of the answer before it, that a word comes from.

        Parameters
        ----------
        word : int, str, or list of these
            As for :meth:`map`.
        k : int, default=5

        Returns
        -------
        list of (str, float)
            Word and relevancy, largest first.
        """
        rows = self._rows(word)
        text = self.text[rows].mean(axis=0)
        # Of several words, what stands before the first.
        own = len(self.context) - self.n_answer_words + min(self.word_indices[r] for r in rows)
        before = self.context[:own]
        values = np.array([text[one.start : one.stop].sum() for one in before])
        order = np.argsort(-values, kind="stable")[:k]
        return [(before[i].text, float(values[i])) for i in order]

    def _rows(self, word):
        """Rows of the words."""
        if word is None:
            return list(range(len(self.words)))
        answer = self.context[len(self.context) - self.n_answer_words :]
        wanted = find_words(answer, word)
        rows = [self.word_indices.index(i) for i in wanted if i in self.word_indices]
        # A text stands for its occurrences that were explained; each word asked for must have one.
        asked = word if isinstance(word, (list, tuple)) else [word]
        if not all(set(find_words(answer, one)) & set(self.word_indices) for one in asked):
            explained = zip(self.word_indices, self.words, strict=True)
            raise ValueError(
                f"the word {word!r} was not explained; explained are "
                f"{', '.join(f'{i}: {text!r}' for i, text in explained)}."
            )
        return rows


def relevancy(trace, words=None, through="language"):
    r"""Which parts of the image, and which words, words of an answer come from.

    Attention weights say where a layer looked, not whether it mattered. Relevancy weighs them by
    the gradient of what was said. For an answer token, let :math:`y` be its raw logit where it was
    predicted, :math:`A_l` the attention of layer :math:`l` and

    .. math:: c_l = \operatorname{mean}_h \max(0, \tfrac{\partial y}{\partial A_l} \odot A_l).

    With :math:`R_0 = I` and :math:`R_l = R_{l-1} + c_l R_{l-1}` the row :math:`P - 1 + t` of
    :math:`R - I` is the relevancy of every position for answer token :math:`t`; divided by its sum,
    it is what is reported. (That a position is relevant for itself, the identity, is left out.) A
    word is the sum of its tokens.

    Parameters
    ----------
    trace : AnswerTrace
        The model behind it runs once more, with gradients.
    words : int, str, or list of these, default=None
        Words of the answer, by index or by text (all its occurrences). None: all.
    through : {"language", "vision", "both"}, default="language"
        Which attention counts.

        - "language": that of the language model, whose row over the image tokens is the map.
        - "vision": that of the vision encoder, weighed by the gradient of the same logit. The row
          begins with all patches alike. There is no relevancy of text.
        - "both": the row of the language model over the image tokens goes on through the vision
          encoder. How much of the relevancy the images have, the language model alone says: the
          encoder only moves it between places.

        States of the encoder are brought back to the image tokens that are made of them (see
        ``PatchGrid.encoder``): a token has the sum over its states, and a state that several tokens
        take from is divided among them by their weights. States that belong to no token, such as
        the class token, are left out.

        Image tokens that are queries (BLIP-2, InstructBLIP) are carried to the patches by what
        they read of each, ``grid.to_places``; an image keeps the sum of its tokens. Through the
        encoder, they are carried to its states by the same weights, class token included, and
        those of the patches are reported.

    Returns
    -------
    Relevancy

    Raises
    ------
    ValueError
        If a word is not in the answer (the message lists its words), `through` is none of the
        three, the model's attention cannot be read, or, with "vision" or "both", the image tokens
        are no known mixture of the encoder's states.

    Notes
    -----
    Blocks without an attention matrix, such as those of linear attention, contribute nothing. Where
    the language model reads the images by cross-attention, beside its prompt (Mllama), :math:`R` is
    over the positions and the keys of the images, which no layer changes: the :math:`c` of a layer
    of cross-attention leads from positions to keys. The
    vision encoder counts from the layer downwards whose features the connector takes. Products are
    taken in float32, whatever the model's precision.

    References
    ----------
    .. [1] Chefer, Gur and Wolf, "Generic Attention-model Explainability for Interpreting Bi-Modal
       and Encoder-Decoder Transformers", ICCV 2021. https://arxiv.org/abs/2103.15679

    Examples
    --------
    >>> from semi_nmf_concepts.attention import relevancy, trace_answer
    >>> from semi_nmf_concepts.datasets import load_scenes
    >>> trace = trace_answer(images=load_scenes("test", token="dog", n=1).images[0])
    >>> found = relevancy(trace, "dog")
    >>> found.words, found.map("dog").pixels().shape
    (['dog'], (224, 224))
    >>> bool(found.shares[0, 0] > 0.5)  # most of it is on the image
    True
    """
    if through not in THROUGH:
        raise ValueError(f"through must be one of {', '.join(THROUGH)}, got {through!r}.")
    return relevancies(trace, words, (through,))[through]


def relevancies(trace, words=None, through=THROUGH):
    """:func:`relevancy` through several parts at once, from the same gradients.

    Returns
    -------
    dict of str to Relevancy
    """
    from ._recursion import Recursion

    chosen = trace.find_words(words)
    words = [trace.words[i] for i in chosen]
    tokens = tokens_of(words)
    encoder = not set(through) <= {"language"}
    if encoder:
        _check_known(trace)
    recursion = Recursion(trace.run_again, trace.grids, encoder)
    rows = {name: {} for name in through}  # through -> answer token -> (image, text)
    for token in tokens:
        language, states = recursion.rows(token, last=token == tokens[-1])
        for name in through:
            rows[name][token] = _normalised(name, language, states, trace)
    return {
        name: _assemble(
            trace,
            name,
            chosen,
            [[rows[name][t] for t in range(word.start, word.stop)] for word in words],
        )
        for name in through
    }


def _check_known(trace):
    """It must be known how image tokens are made of encoder states."""
    if any(grid.encoder is None for grid in trace.grids):
        raise ValueError(
            f"relevancy through the vision encoder of model {trace.model.model!r} is not known: "
            "its image tokens are no mixture of the encoder's states that is known beforehand. Use "
            "through='language'."
        )


def _normalised(through, language, encoder, trace):
    """Relevancy of all places and of all positions (0 at image tokens), summing to 1."""
    grids, language = trace.grids, _shared_out(language)
    image, text = np.concatenate(on_places(grids, language)), language.copy()
    text[trace.image_positions] = 0.0
    text = text[: len(trace.token_ids)]
    if through == "language":
        return image, text
    begin, end = encoder[through]
    if through == "vision":
        return _shared_out(_on_places(end, grids)), np.zeros_like(text)
    return image.sum() * _shared_out(_on_places(begin + end, grids)), text


def _shared_out(values):
    total = values.sum()
    return values / total if total > 0 else np.zeros_like(values)


def _on_places(states, grids):
    """Values of encoder states on the places made of them; those without a place are left out."""
    from ._recursion import stacked

    mixture = stacked([grid.place_encoder for grid in grids])
    takers = np.asarray(mixture.sum(axis=0)).ravel()
    return mixture @ np.divide(states, takers, out=np.zeros_like(states), where=takers > 0)


def _assemble(trace, through, chosen, rows):
    """The record, from the (image, text) of each token of each word."""
    image = np.array([np.sum([part for part, _ in of_word], axis=0) for of_word in rows])
    text = np.array([np.sum([part for _, part in of_word], axis=0) for of_word in rows])
    sums = np.stack([image.sum(axis=1), text.sum(axis=1)], axis=1)
    totals = sums.sum(axis=1, keepdims=True)
    ends = np.cumsum([len(grid.boxes) for grid in trace.grids])[:-1]
    answer = [_in_sequence(word, trace.n_prompt) for word in trace.words]
    return Relevancy(
        words=[trace.words[i].text for i in chosen],
        word_indices=chosen,
        image=np.split(image, ends, axis=1),
        text=text,
        shares=np.divide(sums, totals, out=np.zeros_like(sums), where=totals > 0),
        through=through,
        images=trace.images,
        image_names=trace.image_names,
        grids=trace.grids,
        context=[*trace.question_words, *answer],
        n_answer_words=len(answer),
    )


def _in_sequence(word, n_prompt):
    return AnswerWord(word.text, n_prompt + word.start, n_prompt + word.stop)
