"""Large multimodal models: loading one, and the state in which it chooses a word.

Images in, one row of features per image out: :class:`LMMTokenFeaturizer` writes a caption for every
image and returns the residual-stream state that predicts the token of interest.
"""

import importlib

# Public name -> private module; loaded at first use because torch and transformers are slow to
# import.
_HOMES = {
    "LMMTokenFeaturizer": "_featurizer",
    "LoadedModel": "_handle",
    "ModelHandle": "_handle",
    "NoSampleKeptError": "_representations",
    "TokenRepresentations": "_representations",
    "load_model": "_handle",
}

__all__ = sorted(_HOMES)


def __getattr__(name):
    if name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
