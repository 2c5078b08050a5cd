"""The model: image encoder, query pooling, causal language model.

Vallaeys et al., "Improved Baselines for Data-efficient Perceptual Augmentation of LLMs",
arXiv 2403.13499, in the variant whose visual tokens stand before the text.
"""

import inspect

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers import initialization as init

from ._configuration import DePALMConfig


class QueryPooling(nn.Module):
    """Many tokens of an image to a few tokens of the language model.

    The vision tokens are projected to a small width, learned query tokens are put after them, a
    transformer runs over both (post-norm, feed-forward layers as wide as the rest, no mask), and
    the outputs at the queries are projected to the width of the language model.

    Parameters
    ----------
    config : DePALMConfig
    """

    def __init__(self, config):
        super().__init__()
        width, n_vision = config.connector_width, config.vision_config.hidden_size
        # Encoders differ by orders of magnitude in the scale of their states.
        self.norm = nn.LayerNorm(n_vision)
        self.project = nn.Linear(n_vision, width)
        self.queries = nn.Parameter(torch.randn(config.n_visual_tokens, width))
        self.layers = nn.ModuleList(
            _Layer(width, config.connector_heads, config.connector_dropout)
            for _ in range(config.connector_layers)
        )
        self.output = nn.Linear(width, config.text_embedding_width)

    def forward(self, vision_states):
        """(n, vision tokens, vision width) to (n, visual tokens, width of the text embeddings)."""
        states = self.project(self.norm(vision_states.to(self.queries.dtype)))
        states = torch.cat([states, self.queries.expand(len(states), -1, -1)], dim=1)
        for layer in self.layers:
            states = layer(states)
        return self.output(states[:, -len(self.queries) :].contiguous())

    @torch.no_grad()
    def fit_scale(self, embeddings):
        """Begin with visual tokens about as large as words: what the language model expects."""
        # The spread of some thousand words is that of all, without a copy of a large matrix.
        scale = float(embeddings[:: max(1, len(embeddings) // 4096)].float().std())
        nn.init.normal_(self.output.weight, std=scale / self.output.in_features**0.5)
        nn.init.zeros_(self.output.bias)


class _Layer(nn.Module):
    """Attention and a feed-forward layer, each normalised after its residual is added."""

    # Not torch's TransformerEncoderLayer, whose results depend on whether gradients are on.

    def __init__(self, width, n_heads, dropout):
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width)
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states):
        heads = self.qkv(states).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(
            *heads, dropout_p=self.dropout.p if self.training else 0.0
        )
        attended = self.mix(attended.transpose(1, 2).flatten(2))
        states = self.norm1(states + self.dropout(attended))
        inner = self.dropout(F.gelu(self.inner(states)))
        return self.norm2(states + self.dropout(self.outer(inner)))


class DePALMForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """A frozen image encoder, a connector and a frozen causal language model, all of one dtype.

    An image becomes `config.n_visual_tokens` tokens, which take the places that the processor puts
    into the prompt for them; the language model then continues the prompt. Made from its parts by
    :func:`~semi_nmf_concepts.lmm.make_depalm`, trained by
    :func:`~semi_nmf_concepts.lmm.train_depalm`, and loaded from a folder by
    ``AutoModelForImageTextToText`` once :func:`~semi_nmf_concepts.lmm.load_model` was used or this
    class imported.

    Logits are those of the language model, whose vocabulary is left as it is: the placeholder of
    the image is looked up in no embedding.

    Parameters
    ----------
    config : DePALMConfig
    """

    config_class = DePALMConfig
    base_model_prefix = "depalm"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    _no_split_modules = ["QueryPooling"]
    _skip_keys_device_placement = ["past_key_values"]
    # What the parts support is checked where they are made.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config):
        super().__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.connector = QueryPooling(config)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, QueryPooling):
            init.normal_(module.queries)
        super()._init_weights(module)

    def get_input_embeddings(self):
        """Word embeddings of the language model."""
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self):
        """Unembedding of the language model."""
        return self.language_model.get_output_embeddings()

    def get_decoder(self):
        """The language model without its unembedding."""
        return self.language_model.get_decoder()

    @torch.no_grad()
    def encode_images(self, pixel_values):
        """Last states of the frozen image encoder, of all its tokens.

        Parameters
        ----------
        pixel_values : tensor of shape (n, channels, height, width)

        Returns
        -------
        tensor of shape (n, vision tokens, vision width)
        """
        return self.vision_tower(pixel_values=pixel_values, return_dict=True).last_hidden_state

    def forward(
        self,
        input_ids=None,
        pixel_values=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        vision_states=None,
        labels=None,
        logits_to_keep=0,
        **kwargs,
    ):
        """One pass, as of every causal language model of transformers.

        Parameters
        ----------
        input_ids : tensor of shape (n, length)
            With `config.n_visual_tokens` placeholders for every image.
        pixel_values : tensor of shape (images, channels, height, width), default=None
            In the order of their placeholders, row by row.
        attention_mask : tensor of shape (n, length), default=None
        position_ids : tensor of shape (n, length), default=None
            By default counted from the mask, so that padding on the left shifts nothing.
        past_key_values, inputs_embeds, labels, logits_to_keep, **kwargs
            As the language model takes them.
        vision_states : tensor, default=None
            What :meth:`encode_images` made of the images, instead of `pixel_values`.

        Returns
        -------
        transformers.modeling_outputs.CausalLMOutputWithPast
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of input_ids and inputs_embeds must be given.")
        if pixel_values is not None:
            vision_states = self.encode_images(pixel_values)
        if inputs_embeds is None:
            inputs_embeds = self._embed(input_ids, vision_states)
        if position_ids is None and attention_mask is not None and attention_mask.dim() == 2:
            position_ids = (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)
            position_ids = position_ids[:, -inputs_embeds.shape[1] :]
        if "position_ids" in inspect.signature(self.language_model.forward).parameters:
            kwargs["position_ids"] = position_ids
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            labels=labels,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )

    def _embed(self, input_ids, vision_states):
        """Embeddings of a prompt, the visual tokens in their places."""
        places = input_ids == self.config.image_token_id
        # The placeholder may lie outside the vocabulary, so another word is looked up for it.
        embeds = self.get_input_embeddings()(input_ids.masked_fill(places, 0))
        if vision_states is None and input_ids.shape[1] == 1:  # a step of cached generation
            return embeds
        n_images = 0 if vision_states is None else len(vision_states)
        n_places, n_wanted = int(places.sum()), n_images * self.config.n_visual_tokens
        if n_places != n_wanted:
            raise ValueError(
                f"input_ids have {n_places} places for visual tokens (id "
                f"{self.config.image_token_id}), but {n_images} images need {n_wanted} of them "
                f"({self.config.n_visual_tokens} each)."
            )
        if vision_states is None:
            return embeds
        visual = self.connector(vision_states).to(embeds.dtype)
        return embeds.masked_scatter(places.unsqueeze(-1), visual)
