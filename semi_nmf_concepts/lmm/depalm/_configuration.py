"""What a DePALM consists of, in the form that transformers reads and writes (config.json)."""

from transformers import AutoConfig, CLIPVisionConfig, OPTConfig, PreTrainedConfig

MODEL_TYPE = "depalm"


class DePALMConfig(PreTrainedConfig):
    """Configuration of :class:`~semi_nmf_concepts.lmm.DePALMForConditionalGeneration`.

    Parameters
    ----------
    vision_config : dict or PreTrainedConfig, default=None
        The image encoder; None is that of CLIP with its defaults.
    text_config : dict or PreTrainedConfig, default=None
        The language model; None is OPT with its defaults.
    image_token_id : int, default=50265
        Token that holds a place for a visual token in the prompt.
    n_visual_tokens : int, default=10
        Tokens that an image becomes.
    connector_width, connector_layers, connector_heads : int, default=1024, 2, 8
        Size of the transformer of the connector.
    connector_dropout : float, default=0.1
        During training only.
    **kwargs
        What every configuration of transformers has.

    Examples
    --------
    >>> from transformers import LlamaConfig
    >>> from semi_nmf_concepts.lmm import DePALMConfig
    >>> config = DePALMConfig(text_config=LlamaConfig(hidden_size=256), n_visual_tokens=4)
    >>> config.vision_config.model_type, config.text_embedding_width
    ('clip_vision_model', 256)
    """

    model_type = MODEL_TYPE
    sub_configs = {"text_config": AutoConfig, "vision_config": AutoConfig}

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    image_token_id: int = 50265
    n_visual_tokens: int = 10
    connector_width: int = 1024
    connector_layers: int = 2
    connector_heads: int = 8
    connector_dropout: float = 0.1

    def __post_init__(self, **kwargs):
        self.vision_config = _part(self.vision_config, CLIPVisionConfig)
        self.text_config = _part(self.text_config, OPTConfig)
        super().__post_init__(**kwargs)

    @property
    def text_embedding_width(self):
        """Width of the language model's input embeddings, which is not always that of its states.

        (OPT-350m projects embeddings of 512 to states of 1024.)
        """
        return (
            getattr(self.text_config, "word_embed_proj_dim", None) or self.text_config.hidden_size
        )


def _part(config, default):
    if config is None:
        return default()
    return AutoConfig.for_model(**config) if isinstance(config, dict) else config
