"""The decomposers that are compared, by name."""

import joblib
from sklearn.base import clone

from semi_nmf_concepts.decomposition import (
    KMeansConcepts,
    PCAConcepts,
    SemiNMFConcepts,
    SimpleConcepts,
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
RESERVED = (*RANDOM.values(), NOISE, GROUND_TRUTH)


def make_methods(methods):
    """dict of table name -> unfitted estimator, Semi-NMF first.

    Parameters
    ----------
    methods : list of str, dict of str to estimator, or None
    """
    names = list(METHODS) if methods is None else methods
    if isinstance(names, str):
        names = [names]
    if hasattr(names, "items") and names:
        taken = [name for name in names if name in RESERVED]
        if taken:
            raise ValueError(f"methods must not be called {taken}: tables have rows of that name.")
        return dict(names)
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        raise ValueError(
            f"methods must be some of {list(METHODS)}, or a dict of estimators; got {methods!r}."
        )
    names = sorted(dict.fromkeys(names), key=list(METHODS).index)
    return {label: kind() for label, kind in (METHODS[name] for name in names)}


def with_components(estimator, n_components, *, seed, **changes):
    """A clone with this many components, this random state where it has one, and the changes."""
    estimator = clone(estimator)
    known = estimator.get_params()
    changes = {"n_components": n_components, "random_state": seed, **changes}
    return estimator.set_params(**{k: v for k, v in changes.items() if k in known})


def describe(estimator):
    """Class and parameters, as JSON values that tell two estimators apart.

    The code of a class is not part of it.
    """
    kind = type(estimator)
    return [kind.__module__, kind.__qualname__, joblib.hash(estimator.get_params())]
