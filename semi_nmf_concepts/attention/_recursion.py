"""Gradient-weighted attention, from one answer token down through the decoder and the encoder.

With A the attention weights of a layer, dA the gradient of the token's logit with respect to them,
and c = mean over heads of max(0, dA * A), the relevancy of all positions for all is R = I below the
first layer, and R + c R above the next one. Of R one row is needed: r, found from the top layer
down by r + r c, which is the order in which gradients come. So attention is computed once more when
its gradient arrives, r goes one layer down, and both are dropped: whatever the number of layers,
there is never more than one layer's attention in memory, and nothing accumulates.

Rows are kept without what they began with (the identity), so that no precision is lost to it.

Where images are keys of cross-attention beside the sequence, R is over positions and then keys.
The decoder changes no key: c of a layer of self-attention is 0 at them, and c of one of
cross-attention has rows at positions and columns at keys.
"""

import contextlib
import dataclasses
from collections import Counter

import numpy as np
import torch

from semi_nmf_concepts._models import hooked

from ._capture import CrossKeys, decoder_layers, tapped


class _Watched(torch.autograd.Function):
    """Attention that hands its weights and their gradients to `receive` on the way back."""

    @staticmethod
    def forward(ctx, query, key, value, call, receive):
        ctx.save_for_backward(query, key, value)
        # Without the tensors, which would keep the graph alive beside the saved ones.
        ctx.call = dataclasses.replace(call, query=None, key=None, value=None)
        ctx.receive = receive
        return call.fast()[0]

    @staticmethod
    def backward(ctx, gradient):
        needed = ctx.needs_input_grad[:3]
        inputs = [
            tensor.detach().requires_grad_(is_needed)
            for tensor, is_needed in zip(ctx.saved_tensors, needed, strict=True)
        ]
        with torch.enable_grad():
            call = dataclasses.replace(
                ctx.call, **dict(zip(("query", "key", "value"), inputs, strict=True))
            )
            output, weights = call.plain()
            wanted = [weights, *(tensor for tensor in inputs if tensor.requires_grad)]
            found = torch.autograd.grad(output, wanted, gradient, allow_unused=True)
        if found[0] is None:
            raise ValueError(
                f"the attention of {type(call.module).__name__} has no gradient: its output does "
                "not depend on the weights that it returns."
            )
        n_keys = call.key.shape[-2]  # sinks that only take probability come behind them
        ctx.receive(weights.detach()[..., :n_keys], found[0][..., :n_keys])
        rest = iter(found[1:])
        return *(next(rest) if is_needed else None for is_needed in needed), None, None


def _contribution(weights, gradient):
    """c (batch, rows, columns) in float32."""
    return (weights.float() * gradient.float()).clamp_(min=0).mean(dim=1)


class Recursion:
    """One pass over prompt and answer, then a row of relevancy for each answer token asked for.

    Parameters
    ----------
    run : Answer
    grids : list of PatchGrid
        Those of a trace: where the image tokens are, how they are made of states of the vision
        encoder, and which of these states have a place.
    encoder : bool, default=False
        Whether to go on through the vision encoder.
    """

    def __init__(self, run, grids, encoder=False):
        self._run, self._mixture = run, None
        model = run.handle.loaded.model
        self._decoder, self._queries = decoder_layers(model), ()
        self._cross = CrossKeys(model, grids)
        if encoder:
            self._mixture = stacked([grid.encoder for grid in grids])
            self._places = stacked([grid.place_encoder for grid in grids])
            self._positions = np.concatenate([grid.positions for grid in grids])
            # Between encoder and decoder: queries attend to each other as the encoder's states do.
            layers = (model.get_submodule(name) for grid in grids for name in grid.query_layers)
            self._queries = tuple({type(layer) for layer in layers})
        self._length = len(run.sequence)
        self._n_states = Counter()  # encoder module -> states that it has seen so far
        self._leaves = []
        self._n_decoder = self._n_encoder = 0  # layers that contributed to the current row
        with gradients():
            self._logits = self._forward()

    def _forward(self):
        """Logits (T + 1, vocabulary) of the end of the sequence, with their graph."""
        model = self._run.handle.loaded.model
        # Tensors that were made under inference_mode cannot take part in a graph; clones can.
        inputs = {
            name: value.clone() if isinstance(value, torch.Tensor) else value
            for name, value in self._run.inputs.items()
        }
        if self._mixture is not None:
            self._leaves.append(inputs["pixel_values"].requires_grad_())
        with self._open_embeddings(model), tapped(model, self._tap):
            return self._run.last_logits(inputs)

    @contextlib.contextmanager
    def _open_embeddings(self, model):
        """Words' embeddings take part in the graph, although all parameters are frozen."""

        def open_up(module, arguments, output):
            leaf = output.detach().requires_grad_()
            self._leaves.append(leaf)
            return leaf.clone()  # some models write image features into it, which a leaf forbids

        with hooked(model.get_input_embeddings(), open_up):
            yield

    def _tap(self, call):
        n_rows, n_columns = call.query.shape[-2], call.key.shape[-2]
        inside = call.module in self._decoder
        receive = None
        if call.query.requires_grad:
            if inside:
                receive = self._decoder_receiver(call) if n_rows == self._length else None
            elif n_rows == n_columns and self._is_of_encoder(call.module):
                receive = self._encoder_receiver(call.module, call.query.shape[0] * n_rows)
        if receive is None:
            return call.fast()
        return _Watched.apply(call.query, call.key, call.value, call, receive), None

    def _is_of_encoder(self, module):
        return self._mixture is not None and not isinstance(module, self._queries)

    def _encoder_receiver(self, module, n):
        """For a call with the next `n` states of a layer: windows and images come one by one."""
        start = self._n_states[module]
        self._n_states[module] += n

        def receive(weights, gradient):
            # Other modules before the decoder (a resampler) see other numbers of states.
            if self._n_states[module] == self._mixture.shape[1]:
                self._receive_encoder(slice(start, start + n), weights, gradient)

        return receive

    def _decoder_receiver(self, call):
        columns = self._cross.columns(call, self._length)

        def receive(weights, gradient):
            self._n_decoder += 1
            c = _contribution(weights, gradient)[0]
            row = self._row.to(c.device)
            row[columns] += (row + self._unit.to(c.device))[: self._length] @ c
            self._row = row

        return None if columns is None else receive

    def _receive_encoder(self, states, weights, gradient):
        if not self._n_encoder:
            self._begin_encoder(weights.device)
        self._n_encoder += 1
        c = _contribution(weights, gradient)
        before = (self._begin + self._end)[:, states].unflatten(1, c.shape[:2])
        self._end[:, states] += torch.einsum("kbi,bij->kbj", before, c).flatten(1)

    def _begin_encoder(self, device):
        """Rows over the states: from all patches alike, and from the language row."""
        used = np.asarray(self._places.sum(axis=0)).ravel() > 0
        language = self._row.double().cpu().numpy()[self._positions]
        begin = np.stack([used / max(1, used.sum()), self._mixture.T @ language])
        self._begin = torch.from_numpy(begin).float().to(device)
        self._end = torch.zeros_like(self._begin)

    def rows(self, token, *, target=None, last=False):
        """Relevancy for one answer token, as (language, encoder).

        Parameters
        ----------
        token : int
            From 0.
        target : torch.Tensor without dimensions, default=None
            What the gradients are of: the token's raw logit if None, or another number in the graph
            of the pass that depends on the states in the token's row.
        last : bool, default=False
            Frees the pass; no other token can follow.

        Returns
        -------
        language : ndarray of float64, shape (S + V,)
            Row P - 1 + `token` of R - I, over the sequence and then over the keys of images that
            are read beside it; mostly there are none (V = 0).
        encoder : dict of str to (ndarray, ndarray), both of shape (n_states,), or None
            What a row over the encoder's states began with, and what came to it: "vision" from the
            mean of all states that have a place, "both" from the language row.
        """
        with gradients():
            self._descend(token, target, last)
        self._check_reached()
        language = self._row.double().cpu().numpy()
        if self._mixture is None:
            return language, None
        begin, end = (rows.double().cpu().numpy() for rows in (self._begin, self._end))
        return language, {name: (begin[i], end[i]) for i, name in enumerate(("vision", "both"))}

    def _descend(self, token, target, last):
        """One row, from the target down."""
        position = self._length - len(self._run.ids) - 1 + token
        self._unit = torch.zeros(self._length + self._cross.n, device=self._logits.device)
        self._unit[position] = 1.0
        self._row = torch.zeros_like(self._unit)
        self._n_decoder = self._n_encoder = 0
        target = self._logits[token, self._run.ids[token]] if target is None else target
        torch.autograd.grad(target, self._leaves, retain_graph=not last, allow_unused=True)
        if last:
            self._logits, self._leaves = None, []

    def _check_reached(self):
        name = self._run.handle.model
        if not self._n_decoder:
            raise ValueError(
                f"no attention of the decoder of model {name!r} has a gradient: its blocks do not "
                "attend to the whole sequence with an attention function of transformers."
            )
        if self._mixture is not None and not self._n_encoder:
            raise ValueError(
                f"the attention of the vision encoder of model {name!r} cannot be read: no module "
                f"attends to {self._mixture.shape[1]} states with an attention function of "
                "transformers. Use through='language'."
            )


def stacked(matrices):
    """Sparse matrices, one below the other."""
    from scipy.sparse import csr_array, vstack

    return csr_array(vstack(matrices))


@contextlib.contextmanager
def gradients():
    """Gradients, whatever the caller has switched off."""
    with torch.inference_mode(False), torch.enable_grad():
        yield
