"""The decomposers that are compared, by name."""

import numpy as np
from sklearn.base import clone

from semi_nmf_concepts.decomposition import (
    KMeansConcepts,
    PCAConcepts,
    SemiNMFConcepts,
    SimpleConcepts,
    recommended_setting,
)

SEMI_NMF = "Semi-NMF"
#: Name on the command line -> (name in tables, class).
METHODS = {
    "semi-nmf": (SEMI_NMF, SemiNMFConcepts),
    "kmeans": ("KMeans", KMeansConcepts),
    "pca": ("PCA", PCAConcepts),
    "simple": ("Simple", SimpleConcepts),
}
# Baselines that have no decomposer of their own.
RANDOM = {"direction": "Rnd-Words (direction)", "shuffle": "Rnd-Words (shuffle)"}
NOISE, GROUND_TRUTH = "Noise-Imgs", "GT-captions"


def make_methods(methods, setting):
    """dict of table name -> unfitted estimator, Semi-NMF first.

    Parameters
    ----------
    methods : list of str, dict of str to estimator, or None
    setting : dict or None
        Parameters of Semi-NMF; None is the recommended setting, which depends on the number of
        components and is filled in by :func:`with_components`.
    """
    names = list(METHODS) if methods is None else methods
    if isinstance(names, str):
        names = [names]
    if hasattr(names, "items"):
        return dict(names)
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        raise ValueError(
            f"methods must be some of {list(METHODS)}, or a dict of estimators; got {methods!r}."
        )
    names = sorted(dict.fromkeys(names), key=list(METHODS).index)
    made = {}
    for name in names:
        label, kind = METHODS[name]
        made[label] = kind(**(setting or {})) if kind is SemiNMFConcepts else kind()
    return made


def with_components(estimator, n_components, *, seed, setting=None, is_default=False):
    """A clone with this many components and, where it has one, this random state.

    `is_default` says that the estimator is Semi-NMF in the recommended setting, of which a part
    depends on the number of components.
    """
    estimator = clone(estimator)
    known = estimator.get_params()
    changes = {"n_components": n_components, "random_state": seed}
    if is_default:
        changes |= recommended_setting(n_components)
    changes |= setting or {}
    return estimator.set_params(**{k: v for k, v in changes.items() if k in known})


def describe(estimator):
    """Class and parameters, as text that tells two estimators apart."""
    parameters = {
        name: _digest(value) if isinstance(value, np.ndarray) else repr(value)
        for name, value in sorted(estimator.get_params().items())
    }
    return [type(estimator).__module__, type(estimator).__qualname__, parameters]


def _digest(array):
    import hashlib

    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
