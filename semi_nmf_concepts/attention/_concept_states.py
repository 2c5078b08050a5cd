"""The states of an answer that a concept report is about, and what its concepts make of them.

A report's concepts are directions of the residual stream after one module of the model. The state
in row P - 1 + t, which predicts answer token t, is of the kind that they were learned on; those of
the prompt and the image are not.
"""

import contextlib
import os

import numpy as np

from semi_nmf_concepts._models import hooked
from semi_nmf_concepts.decomposition import KMeansConcepts, SemiNMFConcepts, SimpleConcepts
from semi_nmf_concepts.grounding import ConceptReport, require_same_model
from semi_nmf_concepts.lmm import find_blocks, layer_index

# Positions of a report's states that predict a token of what the model writes.
_PREDICTING = ("generated", "forced", "last", -1)


def open_report(concepts, trace):
    """The ConceptReport that `concepts` is or names, if it is about the model of `trace`.

    Raises
    ------
    TypeError
        If `concepts` is neither a report nor a path.
    ValueError
        If the report cannot encode states, comes from another model, or is about states that
        predict no token.
    """
    if isinstance(concepts, (str, os.PathLike)):
        concepts = ConceptReport.load(concepts)
    if not isinstance(concepts, ConceptReport):
        raise TypeError(
            "concepts must be a ConceptReport or the folder of a saved one, got "
            f"{type(concepts).__name__}."
        )
    if concepts.decomposer is None:
        raise ValueError(
            "concepts: the report has no decomposer to encode states with. Those of this package "
            "are saved with a report; for another, keep the report in memory."
        )
    known = concepts.provenance
    require_same_model(
        known,
        trace.provenance.get("fingerprint"),
        what="concepts: those of the report",
        advice="Make a report with the model that answered.",
    )
    position = known.get("position")
    if position is not None and position not in _PREDICTING:
        raise ValueError(
            f"concepts: the report is about states at position={position!r} of the prompt, which "
            "predict no token of an answer; make one with position='generated' or 'forced'."
        )
    return concepts


def check_concept(k, report):
    """`k` as an index of a concept of the report, not negative."""
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)):
        raise TypeError(f"k must be the integer index of a concept, got {k!r}.")
    if not -len(report) <= k < len(report):
        raise ValueError(
            f"k={k} is no concept: the report has {len(report)} concepts (0 to {len(report) - 1})."
        )
    return int(k) % len(report)


def module_of(report, model):
    """The module whose output the report's states are."""
    name, layer = report.provenance.get("module"), report.provenance.get("layer")
    if name is None and isinstance(layer, (int, np.integer)):
        blocks = find_blocks(model)[1]
        return blocks[layer_index(layer, len(blocks))]
    try:
        return model.get_submodule(name or "-")
    except AttributeError:
        raise ValueError(
            f"concepts: the report's states come from the module {name!r}, which "
            f"{type(model).__name__} does not have."
        ) from None


@contextlib.contextmanager
def states_pass_through(module, change, width):
    """Within the block, ``change(states)`` takes the place of what `module` puts out.

    Parameters
    ----------
    module : torch.nn.Module
    change : callable
        Gets a tensor of shape (1, positions, width); returns another one, or None to change
        nothing.
    width : int
        Of a state.
    """

    def hook(module, args, output):
        # Blocks return a tensor in some versions and families and a tuple in others.
        states = output[0] if isinstance(output, (tuple, list)) else output
        shape = tuple(getattr(states, "shape", ()))
        if len(shape) != 3 or shape[0] != 1 or shape[-1] != width:
            raise ValueError(
                f"concepts: the report's states have {width} features, but what its module puts "
                f"out has the shape {shape}, not one state for each position."
            )
        changed = change(states)
        if changed is None or not isinstance(output, (tuple, list)):
            return changed
        return type(output)([changed, *output[1:]])

    with hooked(module, hook):
        yield


def states_of(run, report):
    """float32 (T, d): the states that predict the answer's tokens, from one pass."""
    import torch

    rows, kept = answer_rows(run), []

    def keep(states):
        kept.append(states[0, rows].float().cpu().numpy())

    module = module_of(report, run.handle.loaded.model)
    with torch.inference_mode(), states_pass_through(module, keep, report.components.shape[1]):
        run.last_logits()
    if not kept or len(kept[0]) != len(run.ids):
        raise ValueError(
            f"concepts: the report's module {report.provenance.get('module')!r} does not run over "
            "the positions of the answer; choose a module of the language model for it."
        )
    return kept[0]


def answer_rows(run):
    """Slice of the rows that predict the answer's tokens."""
    return slice(run.n_prompt - 1, run.n_prompt - 1 + len(run.ids))


def activation_gradient(report, state, k):
    """How the activation of concept k changes with the state.

    For Semi-NMF the codes of a state h are piecewise linear in it: with z the centred, whitened
    state and D_A the atoms of the active concepts A, ``v_A = (D_A D_A^T)^-1 (D_A z - alpha)``. The
    gradient is row k of ``(D_A D_A^T)^-1 D_A``, carried back through the whitening. A concept that
    is not active has none; its direction is returned, along which it would become so. KMeans and
    Simple: the derivative of ``1 / (1 + distance)``. PCA, and decomposers of other packages: the
    component.

    Parameters
    ----------
    report : ConceptReport
    state : ndarray of shape (d,)
    k : int

    Returns
    -------
    ndarray of float64, shape (d,)
    """
    estimator, state = report.decomposer, np.asarray(state, dtype=np.float64)
    component = np.asarray(estimator.components_[k], dtype=np.float64)
    if isinstance(estimator, (KMeansConcepts, SimpleConcepts)):
        distance = np.linalg.norm(component - state)
        return (component - state) / max(distance * (1.0 + distance) ** 2, 1e-300)
    if not isinstance(estimator, SemiNMFConcepts):
        return component
    active = np.flatnonzero(report.encode(state[None])[0] > 0)
    if k not in active:
        return component
    atoms = np.asarray(estimator.dictionary_, dtype=np.float64)[active]
    row = np.linalg.pinv(atoms).T[list(active).index(k)]
    if estimator.whitening_axes_ is None:
        return row
    return (row / np.asarray(estimator.whitening_scale_)) @ np.asarray(estimator.whitening_axes_)
