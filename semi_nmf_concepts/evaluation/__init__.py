"""The published tables and figures for any model: methods, tokens, layers and settings compared."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Evaluation": "_result",
        "PRESETS": "_presets",
        "Preset": "_presets",
        "evaluate": "_evaluate",
    },
)
