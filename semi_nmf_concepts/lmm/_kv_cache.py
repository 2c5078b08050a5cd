"""Room for the keys and values of a whole caption, taken once.

The cache that transformers makes by default is a new, longer copy at every token. With a batch of
prompts that contain images this is most of what a step moves in memory.
"""

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ._architecture import is_encoder_decoder, text_config


def roomy_cache(model, n_new_tokens):
    """An empty cache for `model.generate`, or None where the model makes one of another kind.

    That is the case with windows, linear attention, or an encoder.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    n_new_tokens : int
        Tokens that will follow the prompt, at most.
    """
    config = model.config
    if is_encoder_decoder(config) or not model._supports_default_dynamic_cache():
        return None
    cache = DynamicCache(config=text_config(config))
    if not cache.layers or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None
    cache.layers = [RoomyLayer(n_new_tokens) for _ in cache.layers]
    return cache


class RoomyLayer(DynamicLayer):
    """Keys and values of one layer, written into memory that is there already.

    Parameters
    ----------
    n_new_tokens : int
        Positions that will follow those of the first update, at most.
    """

    def __init__(self, n_new_tokens):
        super().__init__()
        self.n_new_tokens = n_new_tokens
        self._room = None

    def update(self, key_states, value_states, *args, **kwargs):
        """Append positions; returns all keys and values, as views of the memory."""
        if self._room is None and not self.is_initialized:
            self._take_room(key_states, value_states)
        begin = self.get_seq_length()
        end = begin + key_states.shape[-2]
        # Whoever replaced or cut what is stored goes on with copies.
        if self.keys is not self._seen or end > self._room[0].shape[-2]:
            return super().update(key_states, value_states, *args, **kwargs)
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[..., begin:end, :] = states
        self.keys, self.values = (room[..., :end, :] for room in self._room)
        self._seen = self.keys
        return self.keys, self.values

    def _take_room(self, key_states, value_states):
        self.lazy_initialization(key_states, value_states)

        def empty(states):
            shape = list(states.shape)
            shape[-2] += self.n_new_tokens
            return torch.empty(shape, dtype=states.dtype, device=states.device)

        self._room = (empty(key_states), empty(value_states))
        self._seen = self.keys

    def reset(self):
        """Forget everything."""
        super().reset()
        self._room = None
