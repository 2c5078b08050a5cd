"""Text grounding: the words whose logits a concept direction raises most."""

import os
from dataclasses import dataclass, field

import numpy as np

from ._images import check_activations, check_count
from ._provenance import require_same_model
from ._report import ConceptReport
from ._vocabulary import is_real_word, token_words


@dataclass(frozen=True)
class WordGrounding:
    """Words of one concept, best first, with their logits and token ids.

    Attributes
    ----------
    words : list of str
    scores : list of float
        Logit of each word's best token.
    token_ids : list of int
        That token.
    """

    words: list[str]
    scores: list[float]
    token_ids: list[int] = field(default_factory=list)


def ground_text(
    components,
    model,
    *,
    n_words=10,
    n_candidates=50,
    final_norm=False,
    subtract_mean=False,
    word_filter="english",
    provenance=None,
):
    """Find the words that concept directions promote.

    1. If asked for, the mean of the directions is subtracted from each.
    2. If asked for, the model's final norm is applied.
    3. The unembedding matrix W (vocab, d) turns directions U (K, d) into logits U W^T. A bias of
       the unembedding is left out: it is the same for every direction, whatever its length.
    4. The `n_candidates` best tokens are decoded one by one, stripped and lower-cased; what
       continues a word, fails `word_filter` or came before is dropped; the first `n_words` stay.

    Parameters
    ----------
    components : array-like of shape (K, d), fitted estimator with ``components_``, or ConceptReport
        Concept directions.
    model : str, path or ModelHandle
        The model that the representations came from.
    n_words : int, default=10
        Number of words per concept at most.
    n_candidates : int, default=50
        Number of tokens that words are looked for in (50 as in the published method).
    final_norm : bool, default=False
        Apply the final norm of the model to the directions first, as logit lenses do with states.
        The published method does not, and neither does the default: a direction is a part of a
        state, not a state, and the norm's rescaling by the length of its input has no meaning for
        it. What remains of the norm is its gain, a factor per feature; try it where the gains
        differ much between features. Refused when `provenance` says that the representations are
        already normed.
    subtract_mean : bool, default=False
        Subtract the mean direction first. It removes what all concepts share, above all the token
        of interest itself, so that fewer words are common to all concepts. Off by default as in the
        published method.
    word_filter : "english", None or callable, default="english"
        "english": :func:`is_real_word`. A callable gets a lower-case word and returns whether to
        keep it (call `is_real_word` in it to restrict the default further). None keeps every
        decoded text that is not empty.
    provenance : dict, default=None
        Origin of the components, as in ``TokenRepresentations.provenance``. By default that of the
        report, or the attribute ``provenance_`` of the estimator, if there is one; see Notes.

    Returns
    -------
    groundings : list of WordGrounding
        One per component. Fewer than `n_words` words, or none, where the candidates hold no more;
        none for a direction of zeros.

    Raises
    ------
    ValueError
        If the width of the components is not that of the model, or `provenance` names another
        model, or the components are not finite.

    Notes
    -----
    A mere array has no origin, and neither has an estimator after a plain ``fit(Z)``: it saw an
    array, too. Only the width can be checked then, and another model of the same width goes
    unnoticed. Pass ``provenance=states.provenance``, or keep it with the estimator as
    ``estimator.provenance_ = states.provenance`` (again after each fit, which does not know of it).
    :func:`explain_concepts` does this for the decomposer that it fits.

    References
    ----------
    Parekh et al., "A Concept-Based Explainability Framework for Large Multimodal Models", 2024.
    """
    directions, origin = _directions(components)
    provenance = origin if provenance is None else provenance
    n_words, n_candidates = (
        check_count("n_words", n_words),
        check_count("n_candidates", n_candidates),
    )
    keep = check_filter(word_filter)
    handle = as_handle(model)
    check_origin(provenance, handle, final_norm)

    unembedding = np.asarray(handle.unembedding()[0])
    if directions.shape[1] != unembedding.shape[1]:
        raise ValueError(
            f"components have width {directions.shape[1]}, but the unembedding of the model has "
            f"width {unembedding.shape[1]}: they do not belong together."
        )
    directions = directions.astype(np.float32)
    if subtract_mean:
        check_mean_of(len(directions))
        directions = directions - directions.mean(axis=0)
    if final_norm:
        directions = np.asarray(handle.final_norm()(directions), dtype=np.float32)

    logits = directions @ unembedding.T
    words = token_words(handle)
    return [_first_words(row, words, keep, n_words, n_candidates) for row in logits]


def _directions(components):
    """Return the directions (K, d) of whatever holds them, and their provenance or None."""
    if isinstance(components, ConceptReport):
        values, origin = components.components, components.provenance
    else:
        values = getattr(components, "components_", components)
        origin = getattr(components, "provenance_", None)
    return check_activations(values, name="components"), origin


def as_handle(model):
    """Return a model handle for an id, a path or a handle."""
    if isinstance(model, str | os.PathLike):
        from semi_nmf_concepts.lmm import load_model

        return load_model(model)
    if not hasattr(model, "unembedding"):
        raise TypeError(
            f"model must be an id, a path or a ModelHandle, got {type(model).__name__}."
        )
    return model


def check_filter(word_filter):
    """Return the function that says whether a word is kept."""
    if word_filter is None:
        return bool
    if callable(word_filter):
        return word_filter
    if word_filter != "english":
        raise ValueError(f"word_filter must be 'english', None or a callable, got {word_filter!r}.")
    return is_real_word


def check_mean_of(n_components):
    """Refuse to subtract the mean of a single direction, which would leave nothing."""
    if n_components < 2:
        raise ValueError("subtract_mean=True needs at least two components.")


def check_origin(provenance, handle, final_norm=False):
    """Refuse components of another model, and a second final norm."""
    require_same_model(
        provenance,
        lambda: handle.fingerprint,
        what="The components",
        advice="Ground them with the unembedding of their own model.",
    )
    if final_norm and (provenance or {}).get("layer") == "final_norm":
        raise ValueError(
            "final_norm=True, but the representations were taken after the final norm."
        )


def _first_words(logits, words, keep, n_words, n_candidates):
    """Pick the first words among the tokens of the largest logits (ties: lower token id first)."""
    if np.ptp(logits) == 0:  # a zero direction, as of a dead atom, promotes nothing
        return WordGrounding([], [])
    if n_candidates < len(logits):
        # Take everything tied with the last candidate, so that the stable sort decides.
        threshold = np.partition(logits, -n_candidates)[-n_candidates]
        tokens = np.flatnonzero(logits >= threshold)
    else:
        tokens = np.arange(len(logits))
    tokens = tokens[np.argsort(-logits[tokens], kind="stable")][:n_candidates]
    best = {}
    for token in tokens.tolist():
        word = words[token]
        if word and word not in best and keep(word):
            best[word] = token
        if len(best) == n_words:
            break
    chosen = list(best.values())
    return WordGrounding(list(best), [float(logits[token]) for token in chosen], chosen)
