"""Reading attention while a model runs, whatever its family.

transformers lets models choose their attention by name from a registry. For the time of a pass, all
modules of the model get a name of ours, whose function hands every call to a *tap*: the tap decides
how the output is computed and what is kept. This is right also where a family's own
``output_attentions`` is empty or holds something else, and a kernel that keeps no weights (SDPA,
flash attention) needs no change at the user's end.

Shapes: query (batch, heads, rows, width); weights (batch, heads, rows, columns), rows sum to 1.
"""

import contextlib
import inspect
import sys
import threading
from dataclasses import dataclass

import torch

from semi_nmf_concepts.lmm import find_blocks

NAME = "semi_nmf_concepts"
_taps = threading.local()  # .current: the tap of this thread; calls of others go their usual way
_own = {}  # id of a configuration -> the implementation that it had before a tap
_lock = threading.RLock()  # one tap at a time


@dataclass(eq=False)
class AttentionCall:
    """One call of an attention function.

    Attributes
    ----------
    module : torch.nn.Module
        The attention module that calls.
    query, key, value : torch.Tensor
    mask : torch.Tensor or None
        Added to the scores, broadcast to (batch, heads, rows, columns); None where nothing is
        masked.
    options : dict
        What else the module passes: scaling, soft cap, dropout ...
    """

    module: object
    query: object
    key: object
    value: object
    mask: object
    options: dict

    def plain(self, rows=None):
        """(output, weights) of the family's own eager function, of some rows or all."""
        query, mask = self.query, self.mask
        if rows is not None:
            query = query[:, :, rows]
            if mask is not None and mask.shape[-2] != 1:
                mask = mask[..., rows, :]
        options = self.options | {"dropout": 0.0}
        function = _eager_function(self.module)
        return function(self.module, query, self.key, self.value, mask, **options)

    def weights(self, rows=None):
        """Attention weights (batch, heads, rows, columns)."""
        weights = self.plain(rows)[1]
        # Of several keys that only take probability (attention sinks of GPT-OSS), none is shown.
        return weights[..., : self.key.shape[-2]]

    def fast(self):
        """(output, None) by the kernel that the model uses otherwise."""
        own = _own.get(id(getattr(self.module, "config", None)), "sdpa")
        if own == "eager" or not _is_exact_with_sdpa(self.options):
            return self.plain()[0], None
        from transformers import AttentionInterface

        # Flash attention takes no mask of this form.
        function = AttentionInterface._global_mapping["sdpa"]
        return function(self.module, self.query, self.key, self.value, self.mask, **self.options)


def _is_exact_with_sdpa(options):
    """Whether SDPA computes the same; it knows neither soft caps nor sinks."""
    return options.get("softcap") is None and options.get("s_aux") is None


def _eager_function(module):
    for cls in type(module).__mro__:
        source = sys.modules.get(cls.__module__)
        function = getattr(source, "eager_attention_forward", None)
        if function is not None:
            return function
    raise ValueError(
        f"the attention of {type(module).__name__} cannot be read: its family has no plain "
        "attention function."
    )


def _attend(module, query, key, value, attention_mask=None, **options):
    """What the registry calls."""
    call = AttentionCall(module, query, key, value, attention_mask, options)
    tap = getattr(_taps, "current", None)
    return call.fast() if tap is None else tap(call)


@contextlib.contextmanager
def tapped(model, tap):
    """Within the block, `tap` answers every attention call of `model` in this thread.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    tap : callable
        Takes an :class:`AttentionCall` and returns (output, weights or None) as attention
        functions of transformers do: ``call.fast()``, or ``call.plain()``.
    """
    _register()
    with _lock:
        configs = _configs(model)
        before = getattr(_taps, "current", None)
        own = {id(config): config._attn_implementation for config in configs}
        _own.update(own)
        _taps.current = tap
        try:
            for config in configs:
                config._attn_implementation_internal = NAME
            yield
        finally:
            for config in configs:
                config._attn_implementation_internal = own[id(config)]
            _taps.current = before


def _register():
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    if NAME not in AttentionInterface._global_mapping:
        AttentionInterface.register(NAME, _attend)
        # Without a mask function of this name, causality would be lost silently.
        AttentionMaskInterface.register(NAME, eager_mask)


def _configs(model):
    """All configurations that choose an attention function, each once."""
    found, left = {}, [module.config for module in model.modules() if hasattr(module, "config")]
    while left:
        config = left.pop()
        if id(config) in found or not hasattr(config, "_attn_implementation_internal"):
            continue
        found[id(config)] = config
        left += [getattr(config, name, None) for name in getattr(config, "sub_configs", {})]
    return list(found.values())


def decoder_layers(model):
    """dict: attention module inside the decoder blocks -> index of its block."""
    _, blocks = find_blocks(model)
    return {module: i for i, block in enumerate(blocks) for module in block.modules()}


class RowTap:
    """Keeps chosen rows of the decoder's attention; outputs come from the fast kernel.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    rows : slice or sequence of int
        Positions of the sequence.
    length : int
        Positions of the sequence, S.
    keep : dict of int to callable
        Block -> what to do with the weights (heads, rows, S + V) of its attention.
    cross : CrossKeys, default=None
        Keys of images beside the sequence, V; None: there are none.
    """

    def __init__(self, model, rows, length, keep, cross=None):
        self._layers, self._rows = decoder_layers(model), rows
        self._length, self._keep = length, keep
        self._cross = CrossKeys(model, []) if cross is None else cross
        self.kept = {}

    def __call__(self, call):
        layer = self._layers.get(call.module)
        if layer in self._keep and call.query.shape[-2] == self._length:
            columns = self._cross.columns(call, self._length)
            if columns is not None:
                weights = self._cross.spread(call.weights(self._rows)[0], columns, self._length)
                self.kept[layer] = self._keep[layer](weights)
        return call.fast()


class CrossKeys:
    """Keys of images that the decoder attends to beside the sequence of S positions.

    Columns of attention are counted on: 0 to S - 1 are the positions, S to S + V - 1 the keys.
    Blocks of self-attention have weights on the former, those of cross-attention on the latter.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    grids : list of PatchGrid
        Of all images of the prompt.

    Attributes
    ----------
    n : int
        Keys of all images, V; 0 where the images are in the sequence.
    """

    def __init__(self, model, grids):
        beside = [grid for grid in grids if grid.cross_layers]
        self._modules = {model.get_submodule(name) for grid in beside for name in grid.cross_layers}
        self.n = sum(len(grid.positions) for grid in beside)

    def columns(self, call, length):
        """slice: the columns that a decoder's call attends to; None if they are not known."""
        first, n = (length, self.n) if call.module in self._modules else (0, length)
        return slice(first, first + n) if call.key.shape[-2] == n else None

    def spread(self, weights, columns, length):
        """Weights (..., S + V) that are 0 outside of `columns`."""
        if not self.n:
            return weights
        whole = weights.new_zeros(*weights.shape[:-1], length + self.n)
        whole[..., columns] = weights
        return whole


class QueryTap:
    """Keeps what learned queries read of images, and hands every call on to another tap.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    layers : list of str
        Names of the cross-attention modules by which they read.
    tap : callable
    """

    def __init__(self, model, layers, tap):
        self._modules = {model.get_submodule(name) for name in layers}
        self._tap, self._read = tap, []

    def __call__(self, call):
        if call.module in self._modules:
            self._read.append(call.weights().float().mean(dim=1).cpu())
        return self._tap(call)

    def weights(self):
        """float64 (images, queries, states): means over heads and layers; rows sum to 1."""
        if len(self._read) != len(self._modules):
            raise ValueError(
                f"of the {len(self._modules)} layers by which queries read the image, "
                f"{len(self._read)} attended with an attention function of transformers: what the "
                "queries read is not known."
            )
        mean = torch.stack(self._read).double().mean(dim=0)
        return (mean / mean.sum(dim=-1, keepdim=True)).numpy()  # exact also in half precision


def check_readable(model, name):
    """Raise a ValueError if no attention of the decoder can be read."""
    for module in decoder_layers(model):
        source = inspect.getmodule(type(module))
        if hasattr(source, "ALL_ATTENTION_FUNCTIONS") and hasattr(module, "config"):
            return
    raise ValueError(
        f"the attention of model {name!r} ({type(model).__name__}) cannot be read: it does not use "
        "the attention functions of transformers."
    )


def logits_with(run, tap):
    """Logits (T + 1, vocabulary) of one pass with `tap` on the attention."""
    with torch.inference_mode(), tapped(run.handle.loaded.model, tap):
        return run.last_logits()
