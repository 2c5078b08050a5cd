"""Which concepts are at work while an answer is written, and where in the image they come from."""

from dataclasses import dataclass
from numbers import Integral

import numpy as np

from ._concept_states import (
    activation_gradient,
    module_of,
    open_report,
    states_of,
    states_pass_through,
)
from ._maps import map_of, on_places
from ._results import Result
from ._words import AnswerWord, find_words

_OF_WORD = ("max", "mean", "first")


@dataclass(eq=False, repr=False)
class ConceptActivationMap(Result):
    """Concepts at every token of an answer; see :func:`concept_activation_map`.

    Attributes
    ----------
    activations : ndarray of float32, shape (T, K)
        Activation of each concept in the state that predicts each answer token.
    explained : ndarray of float32, shape (T,)
        Share of the state's variation (its squared distance from the mean of the states that the
        concepts were learned on) that the active concepts explain, at most 1; NaN where the
        decomposer cannot tell. Where it is low, activations mean little.
    words : list of str
        The answer's words.
    spans : list of tuple of int
        Answer tokens (start, stop) of each word.
    word_activations : ndarray of float32, shape (n_words, K)
        Activation for each word.
    of_word : {"max", "mean", "first"}
        How the activations of a word follow from those of its tokens.
    concepts : list of dict
        One per concept: ``index``, ``words``, ``mean_activation`` (over the report's samples that
        activate it) and ``factors`` (what it is known to detect).
    image : dict of (int, int) to list of ndarray
        (word, concept) -> relevancy of the places of each image, for the pairs with a map.
    image_shares : dict of (int, int) to float
        (word, concept) -> share of the relevancy that the images have.
    token : str or None
        The word that the report is about.
    layer : int or str
        The layer of its states.
    images, image_names, grids
        As in the trace.
    """

    activations: np.ndarray
    explained: np.ndarray
    words: list
    spans: list
    word_activations: np.ndarray
    of_word: str
    concepts: list
    image: dict
    image_shares: dict
    token: str | None
    layer: object
    images: list
    image_names: list
    grids: list

    plotter = "plot_concept_activations"

    def __repr__(self):
        n_tokens, n_concepts = self.activations.shape
        about = "" if self.token is None else f" of {self.token!r}"
        return f"<ConceptActivationMap: {n_concepts} concepts{about} at {n_tokens} tokens>"

    def top(self, word, k=5):
        """The concepts that are most active for a word: (concept, activation), largest first.

        Concepts that are not active are left out.
        """
        values = self.word_activations[self._one_word(word)]
        order = np.argsort(-values, kind="stable")[:k]
        return [(int(i), float(values[i])) for i in order if values[i] > 0]

    def map(self, concept, word):
        """The image patches that raise a concept's activation for a word.

        Parameters
        ----------
        concept : int
        word : int or str
            By index, or by text if it occurs once.

        Returns
        -------
        ImageMap
            ``share`` is the part of the relevancy that the images have; the rest is the text's.

        Raises
        ------
        ValueError
            If there is no such word, or no map of this concept for it; the message lists those
            that there are.
        """
        index = self._one_word(word)
        if (index, concept) not in self.image:
            known = sorted(k for i, k in self.image if i == index)
            raise ValueError(
                f"there is no map of concept {concept!r} for the word {self.words[index]!r}; "
                f"there are maps of {known or 'none'}. Ask for more with top= or words= of "
                "concept_activation_map."
            )
        values = self.image[index, concept]
        return map_of(
            self,
            values,
            label=f"relevancy for concept {concept}",
            words=[self.words[index]],
            word_indices=[index],
            share=self.image_shares[index, concept],
        )

    def _one_word(self, word):
        words = [AnswerWord(text, *span) for text, span in zip(self.words, self.spans, strict=True)]
        found = find_words(words, word)
        if len(found) != 1:
            raise ValueError(
                f"word={word!r} stands for {len(found)} words of the answer ({found}); choose one "
                "by its index."
            )
        return found[0]


def concept_activation_map(trace, concepts, *, words=None, top=3, of_word="max"):
    r"""Concepts at every token of an answer, and the image patches that raise them.

    The report's decomposer encodes the state that predicts each token of the answer, at the layer
    that the report is about. For the concepts that are most active at a word, the patches come from
    gradient-weighted attention as in :func:`relevancy`, with the concept's activation in the place
    of the logit: for the state :math:`h` in row :math:`P - 1 + t`, the target is the linear form
    :math:`w_k \cdot h` with :math:`w_k = \partial v_k / \partial h`, and the recursion goes from
    the report's layer downwards.

    Parameters
    ----------
    trace : AnswerTrace
    concepts : ConceptReport, or path of the folder of a saved one
        Of the model that answered; states at the position of a caption's token. Nothing in the
        folder is unpickled.
    words : int, str, or list of these, default=None
        Words of the answer to make maps for; None: all. Activations are of all words.
    top : int, default=3
        Maps are made of so many concepts at most for each word, the most active ones; each takes a
        pass backwards through the model. 0 makes none; None takes all that are active.
    of_word : {"max", "mean", "first"}, default="max"
        Activation for a word of several tokens: the largest, the mean, or that of the first. The
        state that predicts the word's first token is the one that reports are made of; those behind
        it choose how the word goes on ("dog" or "dogs"). Maps are of the token with the largest, of
        all tokens (mean of the rows), or of the first.

    Returns
    -------
    ConceptActivationMap

    Raises
    ------
    ValueError
        If the report comes from another model or is about states of the prompt, or a word is not in
        the answer (the message lists its words).

    Notes
    -----
    For Semi-NMF the activations :math:`v_A` of the active concepts :math:`A` are linear in the
    centred and whitened state :math:`z` as long as the active set stays the same,

    .. math:: v_A = (D_A D_A^\top)^{-1} (D_A z - \alpha),

    so that :math:`w_k` is row :math:`k` of :math:`(D_A D_A^\top)^{-1} D_A`, carried back through
    the whitening: a concept that is active beside others is raised by what they do not explain.
    PCA, and decomposers of other packages: :math:`w_k = u_k`.

    A report is about one word, so its dictionary describes the states that predict this word best.
    How well it does for the others, ``explained`` says.

    References
    ----------
    .. [1] Parekh et al., "A Concept-Based Explainability Framework for Large Multimodal Models",
       NeurIPS 2024.
    .. [2] Chefer, Gur and Wolf, "Generic Attention-model Explainability for Interpreting Bi-Modal
       and Encoder-Decoder Transformers", ICCV 2021.

    Examples
    --------
    >>> from semi_nmf_concepts import LMMTokenFeaturizer, SemiNMFConcepts, explain_concepts
    >>> from semi_nmf_concepts.attention import concept_activation_map, trace_answer
    >>> from semi_nmf_concepts.datasets import load_scenes
    >>> scenes = load_scenes("train", token="dog", n=60)
    >>> report = explain_concepts(
    ...     LMMTokenFeaturizer(token="dog"),
    ...     SemiNMFConcepts(8, n_active=3, random_state=0),
    ...     scenes.images,
    ... )
    >>> trace = trace_answer(images=load_scenes("test", token="dog", n=1).images[0])
    >>> found = concept_activation_map(trace, report, words="dog", top=1)
    >>> found.activations.shape  # answer tokens, concepts
    (12, 8)
    >>> concept, activation = found.top("dog", k=1)[0]
    >>> found.map(concept, "dog").pixels().shape
    (224, 224)
    """
    _check(top, of_word)
    report = open_report(concepts, trace)
    chosen = trace.find_words(words)
    run = trace.run_again
    states = states_of(run, report)
    activations = np.asarray(report.encode(states), dtype=np.float32)
    spans = [(word.start, word.stop) for word in trace.words]
    by_word = np.stack([_of_word(activations[slice(*span)], of_word) for span in spans])
    wanted = {
        (i, k): _tokens(activations[slice(*spans[i]), k], spans[i], of_word)
        for i in chosen
        for k in _most_active(by_word[i], top)
    }
    rows = _rows(trace, report, states, {(t, k) for (_, k), ts in wanted.items() for t in ts})
    maps = {
        (i, k): np.mean([rows[t, k] for t in tokens], axis=0) for (i, k), tokens in wanted.items()
    }
    images = {key: on_places(trace.grids, row) for key, row in maps.items()}
    return ConceptActivationMap(
        activations=activations,
        explained=_explained(report, states, activations),
        words=[word.text for word in trace.words],
        spans=spans,
        word_activations=by_word,
        of_word=of_word,
        concepts=[_described(concept) for concept in report.concepts],
        image=images,
        image_shares={
            key: float(sum(part.sum() for part in parts)) for key, parts in images.items()
        },
        token=report.provenance.get("token"),
        layer=report.provenance.get("layer"),
        images=trace.images,
        image_names=trace.image_names,
        grids=trace.grids,
    )


def _check(top, of_word):
    if top is not None and (isinstance(top, bool) or not isinstance(top, Integral) or top < 0):
        raise ValueError(f"top must be an integer of at least 0, or None, got {top!r}.")
    if of_word not in _OF_WORD:
        raise ValueError(f"of_word must be one of {_OF_WORD}, got {of_word!r}.")


def _of_word(activations, of_word):
    """(K,) activations of a word, from those of its tokens, (n, K)."""
    if of_word == "first":
        return activations[0]
    return activations.max(axis=0) if of_word == "max" else activations.mean(axis=0)


def _tokens(activations, span, of_word):
    """The answer tokens that a concept's map for a word is made of."""
    if of_word == "mean":
        return range(*span)
    return [span[0] + (int(np.argmax(activations)) if of_word == "max" else 0)]


def _most_active(values, top):
    """Concepts with a positive activation, largest first."""
    order = np.argsort(-values, kind="stable")[:top]
    return [int(k) for k in order if values[k] > 0]


def _rows(trace, report, states, wanted):
    """dict (token, concept) -> row of relevancy over all positions, its sum 1 (or all 0)."""
    from ._recursion import Recursion

    if not wanted:
        return {}
    run, kept, rows = trace.run_again, [], {}
    module = module_of(report, run.handle.loaded.model)
    with states_pass_through(module, kept.append, states.shape[1]):
        recursion = Recursion(run, trace.grids)
    for token, k in sorted(wanted):
        state = kept[0][0, run.n_prompt - 1 + token]
        form = state.new_tensor(activation_gradient(report, states[token], k))
        row, _ = recursion.rows(token, target=state @ form)
        total = row.sum()
        rows[token, k] = row / total if total > 0 else row
    return rows


def _explained(report, states, activations):
    """float32 (T,): 1 - ||h - reconstruction||^2 / ||h - mean||^2."""
    mean = getattr(report.decomposer, "mean_", None)
    if mean is None or not hasattr(report.decomposer, "inverse_transform"):
        return np.full(len(states), np.nan, dtype=np.float32)
    rebuilt = np.asarray(report.decomposer.inverse_transform(activations.astype(states.dtype)))
    error = ((states - rebuilt).astype(np.float64) ** 2).sum(axis=1)
    total = ((states - np.asarray(mean)).astype(np.float64) ** 2).sum(axis=1)
    return (1.0 - error / np.maximum(total, 1e-300)).astype(np.float32)


def _described(concept):
    return {
        "index": concept.index,
        "words": list(concept.words),
        "mean_activation": concept.mean_activation,
        "factors": list(concept.factors),
    }
