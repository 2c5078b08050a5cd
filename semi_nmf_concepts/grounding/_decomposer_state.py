"""Fitted decomposers as arrays and JSON values, and back. No code is stored and none is run."""

import numpy as np

from semi_nmf_concepts.decomposition import (
    KMeansConcepts,
    PCAConcepts,
    SemiNMFConcepts,
    SimpleConcepts,
)

# Only these are rebuilt: a name in a file must never decide which code runs.
_CLASSES = {c.__name__: c for c in (KMeansConcepts, PCAConcepts, SemiNMFConcepts, SimpleConcepts)}
_PREFIX = "decomposer"


def to_state(estimator):
    """Take a fitted decomposer apart.

    Returns
    -------
    description : dict or None
        Class name, parameters and fitted attributes that are no arrays; None for an estimator of
        another package, or a subclass.
    arrays : dict of str to ndarray
        The parameters and fitted attributes that are arrays.
    """
    if type(estimator) not in _CLASSES.values():
        return None, {}
    fitted = {k: v for k, v in vars(estimator).items() if k.endswith("_") and k[0] != "_"}
    description, arrays = {"class": type(estimator).__name__}, {}
    for kind, values in (("params", estimator.get_params()), ("fitted", fitted)):
        description[kind] = {}
        for name, value in values.items():
            if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
                arrays[f"{_PREFIX}.{kind}.{name}"] = value
            elif isinstance(value, np.random.RandomState):
                description[kind][name] = None  # only a seed can be stored
            else:
                description[kind][name] = value
    return description, arrays


def from_state(description, arrays):
    """Put a decomposer together again; takes what belongs to it out of `arrays`.

    Raises KeyError, TypeError or AttributeError where the description is damaged.
    """
    values = {"params": dict(description["params"]), "fitted": dict(description["fitted"])}
    for key in [key for key in arrays if key.startswith(_PREFIX + ".")]:
        _, kind, name = key.split(".")
        # Loaded arrays are read-only views of the file; a fitted estimator owns its arrays.
        values[kind][name] = np.array(arrays.pop(key))
    estimator = _CLASSES[description["class"]](**values["params"])
    for name, value in values["fitted"].items():
        is_names = name == "feature_names_in_"
        setattr(estimator, name, np.array(value, dtype=object) if is_names else value)
    return estimator
