"""Telling transformers about DePALM, so that a saved one loads without code in its folder."""


def register_config():
    """``AutoConfig`` reads the configuration of a DePALM."""
    from transformers import AutoConfig

    from ._configuration import MODEL_TYPE, DePALMConfig

    AutoConfig.register(MODEL_TYPE, DePALMConfig, exist_ok=True)


def register_classes():
    """``AutoModelForImageTextToText`` and ``AutoProcessor`` load a DePALM."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from ._configuration import DePALMConfig
    from ._modeling import DePALMForConditionalGeneration
    from ._processing import DePALMProcessor

    register_config()
    AutoModelForImageTextToText.register(
        DePALMConfig, DePALMForConditionalGeneration, exist_ok=True
    )
    AutoProcessor.register(DePALMConfig, DePALMProcessor, exist_ok=True)
