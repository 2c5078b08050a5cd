"""A concept removed from the residual stream: what becomes of the answer."""

from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np

from semi_nmf_concepts.decomposition import KMeansConcepts, SimpleConcepts

from ._concept_states import (
    answer_rows,
    check_concept,
    module_of,
    open_report,
    states_pass_through,
)
from ._results import Result

_POSITIONS = ("answer", "all")


@dataclass(eq=False, repr=False)
class ConceptAblation(Result):
    """An answer with and without a concept; see :func:`ablate_concept`.

    Attributes
    ----------
    concept : int
        Index of the concept.
    concept_words : list of str
        Words of the concept.
    scale : float
        What its activation was multiplied by.
    activations : ndarray of float32, shape (T,)
        Activation before the change in the state that predicts each answer token.
    tokens : list of str
        The answer's tokens.
    logits_before, logits_after : ndarray of float32, shape (T,)
        Raw logits of the answer's tokens.
    probabilities_before, probabilities_after : ndarray of float32, shape (T,)
    words : list of str
        The answer's words.
    spans : list of tuple of int
        Answer tokens (start, stop) of each word.
    word_changes : ndarray of float32, shape (n_words,)
        Change of the logit of each word's first token, the one that decides for the word.
    answer_before, answer_after : str
        What the model writes without and with the change. ``answer_after`` is None where no answer
        was asked for.
    direction_given : bool
        Whether another direction than the concept's own was removed.
    control_logits : ndarray of float32, shape (n_controls, T), or None
        Raw logits of the answer's tokens with as much removed along other concepts.
    """

    concept: int
    concept_words: list
    scale: float
    activations: np.ndarray
    tokens: list
    logits_before: np.ndarray
    logits_after: np.ndarray
    probabilities_before: np.ndarray
    probabilities_after: np.ndarray
    words: list
    spans: list
    word_changes: np.ndarray
    answer_before: str
    answer_after: str | None
    direction_given: bool = False
    control_logits: np.ndarray | None = None

    plotter = "plot_concept_ablation"

    def __repr__(self):
        return (
            f"<ConceptAblation: concept {self.concept} scaled by {self.scale:g}, "
            f"{self.answer_before!r} -> {self.answer_after!r}>"
        )


def ablate_concept(
    trace,
    concepts,
    k,
    scale=0.0,
    *,
    positions="answer",
    direction=None,
    regenerate=True,
    max_new_tokens=None,
    n_controls=0,
):
    """Remove a concept from the residual stream, or scale it, and see what the model answers.

    In the module that the report is about, the state h becomes::

        h - (1 - scale) * v_k(h) * u_k

    with the activation ``v_k(h) = report.encode(h)[k]`` of that state and the concept's direction
    u_k, everything else left as it is. A concept that a word depends on takes logit from the word
    when it is removed; that it correlates with the word is not enough. So this is the causal check
    of a concept. The dictionary describes states that predict the report's token best: of others,
    ``explained`` of :func:`concept_activation_map` says how well.

    Parameters
    ----------
    trace : AnswerTrace
    concepts : ConceptReport, or path of the folder of a saved one
        Of the model that answered; states at the position of a caption's token.
    k : int
        Index of the concept.
    scale : float, default=0.0
        0 removes the concept, 1 changes nothing, more than 1 makes it stronger.
    positions : {"answer", "all"}, default="answer"
        "answer": in the rows that predict tokens of the answer, which is where the concepts were
        learned. "all": in every position, the image's and the prompt's included.
    direction : array-like of shape (d,), default=None
        Remove as much along this direction as would be removed along u_k: it is scaled to the norm
        of u_k and takes its place, while v_k(h) stays. For controls.
    regenerate : bool, default=True
        Whether the model also writes a new answer under the change.
    max_new_tokens : int, default=None
        Longest new answer. None: as for the answer of the trace; 64 where that was given.
    n_controls : int, default=0
        Number of other concepts (drawn with a fixed seed, all if there are not so many) along whose
        directions the same length is removed, for ``control_logits``: any change of the states
        moves logits, and only what goes beyond these is due to this concept. Each takes a pass.

    Returns
    -------
    ConceptAblation
        Logits and probabilities are those of the trace's answer, with the change and without, in
        one pass over prompt and answer each. The new answer is written as that of the trace was
        (temperature, seed). Where this was given, or drawn without a seed, ``answer_before`` is
        written for the comparison, too.

    Raises
    ------
    ValueError
        If the report comes from another model, there is no such concept, the scale is not finite,
        the direction has another length or is zero, or the activations are closenesses (KMeans and
        Simple), which are not amounts of a direction.

    Notes
    -----
    Activations are computed again in every state, so that each position loses what it has of the
    concept. In one pass positions do not see each other's change within the module, only in the
    blocks behind it. After the last block, each token's logits change by the change of its own row
    alone.

    Removing v_k(h) u_k does not always bring the activation to 0: where other concepts share the
    direction, the code of what is left may use concept k again.

    References
    ----------
    .. [1] Parekh et al., "A Concept-Based Explainability Framework for Large Multimodal Models",
       NeurIPS 2024.

    Examples
    --------
    >>> from semi_nmf_concepts import LMMTokenFeaturizer, SemiNMFConcepts, explain_concepts
    >>> from semi_nmf_concepts.attention import ablate_concept, trace_answer
    >>> from semi_nmf_concepts.datasets import load_scenes
    >>> scenes = load_scenes("train", token="dog", n=60)
    >>> report = explain_concepts(
    ...     LMMTokenFeaturizer(token="dog"),
    ...     SemiNMFConcepts(8, n_active=3, random_state=0),
    ...     scenes.images,
    ... )
    >>> trace = trace_answer(images=load_scenes("test", token="dog", n=1).images[0])
    >>> same = ablate_concept(trace, report, k=0, scale=1.0)
    >>> same.answer_after == trace.answer, float(abs(same.word_changes).max())
    (True, 0.0)
    """
    scale = _check(scale, positions)
    report = open_report(concepts, trace)
    k = check_concept(k, report)
    vector = _vector(report, k, direction)
    run = trace.run_again
    removal = _Removal(report, k, vector, scale, answer_rows(run), positions)
    others = _other_directions(report, k, n_controls)
    before, _ = _logits(run, None)
    after, activations = _logits(run, removal)
    controls = [
        _logits(run, _Removal(report, k, other, scale, answer_rows(run), positions))[0]
        for other in others
    ]
    answers = (trace.answer, None)
    if regenerate:
        answers = _answers(trace, run, removal, max_new_tokens)
    ids, spans = np.array(run.ids), [(word.start, word.stop) for word in trace.words]
    logits = [one[np.arange(len(ids)), ids] for one in (before, after)]
    firsts = [start for start, _ in spans]
    return ConceptAblation(
        concept=k,
        concept_words=list(report.concepts[k].words),
        scale=scale,
        activations=activations,
        tokens=list(trace.tokens[trace.n_prompt :]),
        logits_before=logits[0],
        logits_after=logits[1],
        probabilities_before=_probabilities(before, ids),
        probabilities_after=_probabilities(after, ids),
        words=[word.text for word in trace.words],
        spans=spans,
        word_changes=(logits[1] - logits[0])[firsts],
        answer_before=answers[0],
        answer_after=answers[1],
        direction_given=direction is not None,
        control_logits=np.stack([one[np.arange(len(ids)), ids] for one in controls])
        if controls
        else None,
    )


def _check(scale, positions):
    if isinstance(scale, bool) or not isinstance(scale, Real) or not np.isfinite(scale):
        raise ValueError(f"scale must be a finite number, got {scale!r}.")
    if positions not in _POSITIONS:
        raise ValueError(f"positions must be one of {_POSITIONS}, got {positions!r}.")
    return float(scale)


def _other_directions(report, k, n):
    """Directions of n other concepts with the length of concept k's."""
    if isinstance(n, bool) or not isinstance(n, Integral) or n < 0:
        raise ValueError(f"n_controls must be an integer of at least 0, got {n!r}.")
    others = np.random.default_rng(0).permutation([i for i in range(len(report)) if i != k])
    others = [i for i in others[:n] if np.any(report.components[i])]
    return [_vector(report, k, report.components[i]) for i in others]


def _vector(report, k, direction):
    """float32 (d,): what the activation of concept k is multiplied with and removed."""
    if isinstance(report.decomposer, (KMeansConcepts, SimpleConcepts)):
        raise ValueError(
            f"concepts: activations of {type(report.decomposer).__name__} say how close a state is "
            "to a point; they are no amounts of a direction that could be removed. Use concepts of "
            "SemiNMFConcepts or PCAConcepts."
        )
    component = np.asarray(report.components[k], dtype=np.float32)
    if direction is None:
        return component
    direction = np.asarray(direction, dtype=np.float64)
    if direction.shape != component.shape:
        raise ValueError(
            f"direction must have shape {component.shape}, the states' width, got "
            f"{direction.shape}."
        )
    norm = np.linalg.norm(direction)
    if not 0 < norm < np.inf:
        raise ValueError("direction must be finite and not zero.")
    return (direction * (np.linalg.norm(component) / norm)).astype(np.float32)


class _Removal:
    """Changes states: h - (1 - scale) v_k(h) u_k."""

    def __init__(self, report, k, vector, scale, rows, positions):
        self.report, self._k, self._vector = report, k, vector
        self._factor, self._rows, self._positions = 1.0 - scale, rows, positions

    def of_sequence(self, states):
        """All positions of prompt and answer at once."""
        return self._changed(states, slice(None) if self._positions == "all" else self._rows)

    def of_step(self, states):
        """One step of the generation; the last position predicts the token of the step."""
        return self._changed(states, slice(None if self._positions == "all" else -1, None))

    def activations(self, states):
        """float32 (n,) of states (n, d)."""
        codes = self.report.encode(states.float().cpu().numpy())
        return np.asarray(codes, dtype=np.float32)[:, self._k]

    def _changed(self, states, rows):
        import torch

        amounts = self._factor * self.activations(states[0, rows])
        change = torch.from_numpy(amounts[:, None] * self._vector).to(states.device)
        changed = states.clone()
        changed[0, rows] -= change.to(states.dtype)
        return changed


def _logits(run, removal):
    """(float32 (T, vocabulary), activations (T,) or None) of one pass over prompt and answer."""
    import torch

    rows, kept = answer_rows(run), []

    def change(states):
        kept.append(removal.activations(states[0, rows]))
        return removal.of_sequence(states)

    with torch.inference_mode():
        if removal is None:
            return run.last_logits()[:-1].float().cpu().numpy(), None
        with _applied(run, removal, change):
            logits = run.last_logits()[:-1].float().cpu().numpy()
    return logits, kept[0]


def _applied(run, removal, change):
    model, report = run.handle.loaded.model, removal.report
    return states_pass_through(module_of(report, model), change, report.components.shape[1])


def _answers(trace, run, removal, max_new_tokens):
    """What the model writes without and with the change."""
    made = trace.provenance.get("answer", {})
    drawn = {name: made[name] for name in ("temperature", "top_p", "random_state") if name in made}
    longest = made.get("max_new_tokens", 64) if max_new_tokens is None else max_new_tokens
    if isinstance(longest, bool) or not isinstance(longest, Integral) or longest < 1:
        raise ValueError(f"max_new_tokens must be a positive integer, got {longest!r}.")
    can_be_compared = (
        made.get("source") == "generated"
        and longest == made.get("max_new_tokens")
        and (not drawn.get("temperature") or drawn.get("random_state") is not None)
    )
    before = trace.answer
    if not can_be_compared:
        before = run.answer_text(run.generate(max_new_tokens=longest, **drawn))
    with _applied(run, removal, removal.of_step):
        ids = run.generate(max_new_tokens=longest, **drawn)
    return before, run.answer_text(ids)


def _probabilities(logits, ids):
    """float32 (T,): softmax of each row of logits, at its token."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    chosen = shifted[np.arange(len(ids)), ids]
    return np.exp(chosen - np.log(np.exp(shifted).sum(axis=1))).astype(np.float32)
