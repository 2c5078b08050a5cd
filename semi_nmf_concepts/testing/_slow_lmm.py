"""What a vision-language model computes for one image, the plain and slow way.

The reference for `check_lmm`. It shares no code with the featurizer: one image at a time, so that
nothing is padded; no cache, the whole sequence runs again for every token; the caption is then run
once more ("teacher forcing") and states are read from all positions by hooks of its own.

Positions: with a prompt of P tokens, row P - 1 + p predicts caption token p.
"""

import re
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import torch

# Model inputs with one entry for each token of the prompt; a caption makes them longer.
_EXTENDED = (
    "input_ids",
    "attention_mask",
    "token_type_ids",
    "mm_token_type_ids",
    "cross_attention_mask",
    "image_attention_mask",
    "image_embeds_position_mask",
)


@dataclass
class SlowResult:
    """What the model does about one image and a caption.

    Attributes
    ----------
    ids : list of int
        The caption, without the token that ends it.
    caption : str
    states : dict layer -> ndarray of shape (n_prompt + len(ids), width)
    n_prompt : int
        Tokens of the prompt, image tokens included.
    logits : ndarray of shape (len(ids) + 1, vocabulary)
        Those that predict the caption's tokens and its end.
    own_error : float
        Largest relative difference between hooked states and the model's own `hidden_states`, NaN
        where the model gives none that fit.
    margin : float
        Smallest difference between the largest and the second largest logit on the way.
    """

    ids: list
    caption: str
    states: dict
    n_prompt: int
    logits: np.ndarray
    own_error: float
    margin: float

    def word_position(self, tokenizer, word):
        """Index of the caption token that begins the first whole-word `word`, or None."""
        text = _decode(tokenizer, self.ids)
        match = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, flags=re.IGNORECASE)
        if match is None:
            return None
        for p in range(len(self.ids)):
            if len(_decode(tokenizer, self.ids[: p + 1])) > match.start():
                return p

    def state_before(self, layer, position):
        """The state that predicts caption token `position`."""
        return self.states[layer][self.n_prompt - 1 + position]

    def probability(self, position):
        """What the model gives to the token that stands at `position` of the caption."""
        row = self.logits[position].astype(np.float64)
        return float(np.exp(row[self.ids[position]] - row.max()) / np.exp(row - row.max()).sum())


class SlowModel:
    """A loaded model, run in the plain way.

    Parameters
    ----------
    loaded : LoadedModel
    n_layers : int
        Number of decoder blocks.
    layers : sequence of (int or str)
        As for :class:`~semi_nmf_concepts.lmm.LMMTokenFeaturizer`.
    """

    def __init__(self, loaded, n_layers, layers):
        self.loaded, self.model = loaded, loaded.model
        self.n_layers, self.layers = n_layers, list(dict.fromkeys(layers))
        text = self.model.config.get_text_config()
        #: Whether an encoder reads the prompt, so that the decoder begins with one start token.
        self.has_encoder = bool(getattr(text, "is_encoder_decoder", False))
        #: Whether the blocks pass several residual streams on, which are merged after the last.
        self.has_streams = False
        if self.has_encoder:
            own = self.model.generation_config.decoder_start_token_id
            self._start = text.decoder_start_token_id if own is None else own

    # Inputs

    def encode(self, image, text):
        """Model inputs for one image and what the user says about it."""
        processor = self.loaded.processor
        if getattr(processor, "chat_template", None) is not None:
            inputs = processor.apply_chat_template(
                _conversation(image, text),
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                **_template_options(processor),
            )
        else:
            inputs = self._encode_plain(image, text)
        return self._to_model(inputs)

    def _encode_plain(self, image, text):
        """For processors without a chat template, of which some place the image themselves."""
        processor = self.loaded.processor
        image_token = getattr(processor, "image_token", None) or "<image>"
        image_token = getattr(image_token, "content", image_token)
        try:
            inputs = processor(images=[[image]], text=[text], return_tensors="pt")
            image_id = self.loaded.tokenizer.convert_tokens_to_ids(image_token)
            if image_id in inputs["input_ids"][0].tolist():
                return inputs
        except ValueError:  # says that the text has no place for the image
            pass
        return processor(images=[[image]], text=[f"{image_token}\n{text}"], return_tensors="pt")

    def _to_model(self, inputs):
        import inspect

        taken = inspect.signature(self.model.forward).parameters
        if "token_type_ids" in inputs and "token_type_ids" not in taken:
            inputs.pop("token_type_ids")  # made by tokenizers of BERT's kind, never read
        inputs.pop("labels", None)
        return dict(inputs.to(self.loaded.device, self.loaded.dtype))

    def dictated_ids(self, inputs, image, text, caption):
        """Ids of `caption` behind the prompt, as the processor gives them for the whole text."""
        processor, n_prompt = self.loaded.processor, inputs["input_ids"].shape[1]
        tokenizer = self.loaded.tokenizer
        if getattr(processor, "chat_template", None) is not None:
            prompt = processor.apply_chat_template(
                _conversation(image, text), tokenize=False, **_template_options(processor)
            )[0]
            begins = bool(tokenizer.bos_token) and prompt.startswith(tokenizer.bos_token)
            marks = tokenizer.added_tokens_decoder.values()
            marked = any(mark.special and prompt.endswith(mark.content) for mark in marks)
            space = "" if prompt[-1:].isspace() or marked else " "
            whole = processor(
                images=[[image]],
                text=[prompt + space + caption],
                return_tensors="pt",
                **({"add_special_tokens": False} if begins else {}),
            )["input_ids"]
            if torch.equal(whole[:, :n_prompt].cpu(), inputs["input_ids"].cpu()):
                return whole[0, n_prompt:].tolist()
        return tokenizer.encode(caption, add_special_tokens=False)

    # Runs

    def write(self, inputs, max_new_tokens):
        """SlowResult of the caption that the model writes, greedily."""
        ids, margin = [], np.inf
        while len(ids) < max_new_tokens:
            with torch.inference_mode():
                output = self.model(**self._extended(inputs, ids), use_cache=False)
            two = self._possible(output.logits[0, -1:])[0].topk(2)
            margin = min(margin, float(two.values[0] - two.values[1]))
            best = int(two.indices[0])
            if best in self._end_ids():
                break
            ids.append(best)
        return self.run(inputs, ids, margin)

    def _possible(self, logits):
        """Logits of the tokens that the model may write, others minus infinity."""
        logits = logits.detach().float().clone()
        if self.model.config.model_type == "depalm":  # its placeholder for the image
            logits[:, self.model.generation_config.suppress_tokens or []] = -torch.inf
        return logits

    def run(self, inputs, ids, margin=np.nan):
        """SlowResult of a given caption."""
        n_prompt = 1 if self.has_encoder else inputs["input_ids"].shape[1]
        output, states = self._hooked(self._extended(inputs, ids))
        return SlowResult(
            ids=list(ids),
            caption=_decode(self.loaded.tokenizer, ids).strip(),
            states=states,
            n_prompt=n_prompt,
            logits=_to_numpy(self._possible(output.logits[0, n_prompt - 1 :])),
            own_error=self._own_error(output, states),
            margin=margin,
        )

    def _extended(self, inputs, ids):
        """Model inputs of prompt and caption."""
        if self.has_encoder:
            ids = torch.tensor([[self._start, *ids]], device=self.loaded.device)
            return {**inputs, "decoder_input_ids": ids}
        return _extended(inputs, ids)

    def _end_ids(self):
        """The end tokens of the checkpoint's settings, and the tokenizer's."""
        ids = self.model.generation_config.eos_token_id
        ids = list(ids) if isinstance(ids, (list, tuple)) else [ids]
        return [*ids, self.loaded.tokenizer.eos_token_id]

    def _hooked(self, inputs):
        """Output of the model, and the states of every layer at all positions."""
        states, hooks = {}, []

        def keep(layer):
            def hook(module, args, output=None):
                # Before the unembedding there is no output: what comes in is the normed state.
                value = args if output is None else output
                value = value[0] if isinstance(value, (tuple, list)) else value
                if value.ndim == 4:  # several residual streams (Gemma 3n): the active one
                    value = value[self.model.config.get_text_config().altup_active_idx]
                    self.has_streams = True
                states[layer] = _to_numpy(value[0])

            return hook

        for layer in self.layers:
            if layer == "final_norm":
                head = self.model.get_output_embeddings()
                hooks.append(head.register_forward_pre_hook(keep(layer)))
            else:
                hooks.append(self._module(layer).register_forward_hook(keep(layer)))
        try:
            with torch.inference_mode():
                output = self.model(**inputs, use_cache=False, output_hidden_states=True)
        finally:
            for hook in hooks:
                hook.remove()
        return output, states

    def _module(self, layer):
        if isinstance(layer, str):
            return self.model.get_submodule(layer)
        decoder = self.model.get_decoder()
        while hasattr(decoder, "decoder"):
            decoder = decoder.decoder
        for module in decoder.modules():
            if isinstance(module, torch.nn.ModuleList) and len(module) == self.n_layers:
                return module[layer]
        raise ValueError(f"no list of {self.n_layers} blocks in {type(self.model).__name__}.")

    def _own_error(self, output, states):
        """Hooked states against `hidden_states`: [i + 1] after block i, the last one normed."""
        own = getattr(output, "hidden_states", None)
        if own is None or len(own) != self.n_layers + 1:
            return np.nan
        errors = []
        for layer, state in states.items():
            index = self.n_layers if layer == "final_norm" else layer
            if isinstance(index, str):
                continue
            index = index % self.n_layers + 1 if layer != "final_norm" else index
            if index == self.n_layers and layer != "final_norm":
                continue  # the model gives the normed state in its place
            reference = _to_numpy(own[index][0])
            if reference.shape == state.shape:
                errors.append(relative_error(state, reference))
        return max(errors, default=np.nan)


def relative_error(found, reference):
    """Largest norm(z - z_ref) / norm(z_ref) over rows."""
    reference = np.atleast_2d(np.asarray(reference, dtype=np.float64))
    difference = np.atleast_2d(np.asarray(found, dtype=np.float64)) - reference
    norms, errors = np.linalg.norm(reference, axis=1), np.linalg.norm(difference, axis=1)
    with np.errstate(divide="ignore"):
        relative = np.divide(errors, norms, out=np.zeros_like(errors), where=errors != 0)
    return float(np.max(np.where(np.isnan(relative), np.inf, relative)))


def _conversation(image, text):
    content = [{"type": "image", "image": image}]
    if text:
        content.append({"type": "text", "text": text})
    return [[{"role": "user", "content": content}]]


def _template_options(processor):
    """How templates are used: an answer at once, on the first of January 2025."""
    template = processor.chat_template
    template = template["default"] if isinstance(template, dict) else template
    today = datetime(2025, 1, 1, 12)
    template = re.sub(
        r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""",
        lambda call: repr(today.strftime(call[2])),
        template,
    )
    return {"chat_template": template, "add_generation_prompt": True, "enable_thinking": False}


def _extended(inputs, ids):
    """Model inputs of prompt and caption."""
    return {
        name: _extend(name, value, ids) if name in _EXTENDED else value
        for name, value in inputs.items()
    }


def _extend(name, value, ids):
    if not len(ids):
        return value
    if name == "input_ids":
        tail = torch.tensor([ids], dtype=value.dtype, device=value.device)
    elif name == "attention_mask":
        tail = value.new_ones((1, len(ids)))
    elif name == "image_embeds_position_mask":
        tail = value.new_zeros((1, len(ids)))
    elif name.endswith("token_type_ids"):
        # Where the types tell kinds of input apart (image 1, text 0), a caption is text. Where the
        # whole prompt is of type 0, they tell what is given (0) from what is written (1).
        prefix = name == "token_type_ids" and not value.any()
        tail = value.new_full((1, len(ids)), int(prefix))
    else:  # which images a token may look at: those that the last token of the prompt may
        tail = value[:, -1:].repeat(1, len(ids), *[1] * (value.ndim - 2))
    return torch.cat([value, tail], dim=1)


def _decode(tokenizer, ids):
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text.rstrip("\ufffd")  # the first bytes of a character whose others did not come


def _to_numpy(tensor):
    return tensor.detach().float().cpu().numpy()
