"""States saved by the published code of the method (xl-vlms), read without running what a file
may hold."""

import copy
import hashlib
import re
import warnings
from pathlib import Path

import numpy as np

from .._messages import callers_level, some
from ._representations import TokenRepresentations
from ._words import WordMatcher, word_forms

_KEYS = ("hidden_states", "token_of_interest_mask")
# "language_model.model.layers.31", "model.transformer.blocks.31", "transformer.h.31"
_BLOCK = re.compile(r"(?:^|\.)(?:layers|blocks|h)\.(\d+)$")
# The norm after the blocks of Llama, Mistral and Qwen, of OPT, and of GPT-2 and Molmo.
_FINAL_NORMS = ("norm", "final_layer_norm", "ln_f")
# Towers and connectors have blocks and norms of the same names.
_NOT_LANGUAGE = re.compile(r"vision|visual|image|connector|projector|perceiver|resampler|qformer")


def load_xl_vlms_features(file, *, token=None, module=None):
    """Read the states that the published code of the method saved.

    Files of ``save_features.py`` in github.com/mshukor/xl-vlms, with the hook
    ``save_hidden_states_for_token_of_interest``. They are loaded without unpickling objects, so
    that a file from elsewhere cannot run code.

    That code decides by the first sub-token of the word, so that other words with the same
    beginning count, too, and with some tokenizers every prompt does; which samples are kept is left
    as it decided. Where `token` is given, a warning counts those without the word in their caption.

    Parameters
    ----------
    file : str or path-like
        What ``torch.save`` wrote of a dict with lists of one entry per sample: ``hidden_states``
        ({module name: tensor (1, 1, width)}), ``token_of_interest_mask`` (bool tensor (1,)), and,
        where they were saved, ``image`` ([path]) and ``model_predictions`` ([caption]).
    token : str, default=None
        The token of interest that was asked for, which the file does not say.
    module : str, default=None
        Only the states of this module.

    Returns
    -------
    dict of str to TokenRepresentations
        Module name -> its states, in float32, also where there is one module only; or, with
        `module`, the states of this one. Samples without the token are left out, because their
        states mean nothing, and listed in ``dropped["not_generated"]``. ``indices`` are positions
        in the file, and ``provenance["images"]`` has the path of each of its samples (None where
        none were saved). What the file does not tell: ``positions`` are -1, ``token_probability``
        is NaN, captions that were not saved are "". ``prefixes`` are what a caption has before its
        first `token`, "" where it has none. ``layer`` is the number of the block or "final_norm"
        where the module's name says so.

        ``provenance`` names the file and its SHA-256, but no model: which one it was cannot be
        checked when concepts of these states are put into words.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, cannot be loaded without running code, or has another layout, or if
        `token` is no word or `module` is not in the file.

    Examples
    --------
    >>> import tempfile, torch
    >>> from pathlib import Path
    >>> from semi_nmf_concepts.lmm import load_xl_vlms_features
    >>> name = "language_model.model.layers.31"
    >>> features = {
    ...     "hidden_states": [{name: state.half()} for state in torch.eye(2).view(2, 1, 1, 2)],
    ...     "token_of_interest_mask": [torch.tensor([True]), torch.tensor([False])],
    ...     "image": [["1.jpg"], ["2.jpg"]],
    ...     "model_predictions": [["A dog runs."], ["A cat sleeps."]],
    ... }
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save(features, Path(folder, "features.pth"))
    ...     states = load_xl_vlms_features(Path(folder, "features.pth"), token="dog")
    >>> states[name]
    TokenRepresentations(token='dog', layer=31, 1 of 2 samples kept, width 2)
    >>> states[name].prefixes, states[name].dropped, states[name].provenance["images"]
    (['A'], {'not_generated': [1]}, ['1.jpg', '2.jpg'])
    """
    forms = None if token is None else word_forms(token)
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"file: no such file: {file}")
    content, digest = _load_safely(file)
    try:
        states, found = _states(content)
        common = _common(content, found, token, forms)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"file: {file} has another layout than xl-vlms writes: {error}") from error
    if module is not None and module not in states:
        raise ValueError(f"module={module!r} is not in {file}, which has {', '.join(states)}.")
    origin = {"source": "xl-vlms", "file": file.name, "sha256": digest}
    result = {
        name: _representations(name, rows, common, origin)
        for name, rows in states.items()
        if module in (None, name)
    }
    return result if module is None else result[module]


def _load_safely(file):
    """(content, SHA-256) of the file."""
    import torch

    with open(file, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        stream.seek(0)
        try:
            # To the CPU: the masks were saved from the device of the model.
            return torch.load(stream, map_location="cpu", weights_only=True), digest
        except MemoryError:
            raise
        except Exception as error:  # what a damaged or foreign file raises has no type in common
            raise ValueError(
                f"file: {file} is damaged, or not only tensors, texts and lists of these as "
                "xl-vlms writes them; it is not loaded, because loading other objects could run "
                "code."
            ) from error


def _states(content):
    """({module name: rows (n, width) as read}, whether each sample has the token)."""
    if not isinstance(content, dict) or not all(key in content for key in _KEYS):
        got = list(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"expected a dict with {' and '.join(_KEYS)}, got {got}")
    samples, masks = (_list(content, key) for key in _KEYS)
    if not samples or len(masks) != len(samples):
        raise ValueError(f"{len(samples)} hidden_states and {len(masks)} token_of_interest_mask")
    names = list(samples[0]) if isinstance(samples[0], dict) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError("hidden_states of sample 0 must be a dict of module names and tensors")
    states = {name: _rows(name, samples) for name in names}
    return states, np.asarray([_flag(mask, i) for i, mask in enumerate(masks)])


def _list(content, key):
    if not isinstance(content[key], (list, tuple)):
        raise TypeError(f"{key} must be a list, got {type(content[key]).__name__}")
    return content[key]


def _rows(name, samples):
    """States of one module, one row per sample."""
    import torch

    rows = []
    for i, sample in enumerate(samples):
        if not isinstance(sample, dict) or sample.keys() != samples[0].keys():
            raise ValueError(
                f"sample {i} has not the modules of sample 0 ({', '.join(samples[0])})"
            )
        state = sample[name]
        if not isinstance(state, torch.Tensor) or not state.is_floating_point():
            raise TypeError(f"{name} of sample {i} must be a tensor of floats")
        if state.ndim != 3 or state.shape[:2] != (1, 1):
            raise ValueError(
                f"{name} of sample {i} must have the shape (1, 1, width), as one state of one "
                f"sample, got {tuple(state.shape)}"
            )
        rows.append(state[0, 0])
        if len(rows[i]) != len(rows[0]):
            raise ValueError(
                f"{name} of sample {i} has {len(rows[i])} features, that of sample 0 {len(rows[0])}"
            )
    return torch.stack(rows)


def _flag(mask, i):
    import torch

    if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool or mask.numel() != 1:
        raise TypeError(f"token_of_interest_mask of sample {i} must be one bool in a tensor")
    return bool(mask)


def _texts(content, key, n):
    """The one text of every sample, or None if they were not saved."""
    if key not in content:
        return None
    entries = _list(content, key)
    if len(entries) != n:
        raise ValueError(f"{len(entries)} {key}, but {n} hidden_states")
    for i, entry in enumerate(entries):
        one = isinstance(entry, (list, tuple)) and len(entry) == 1
        if not one or not isinstance(entry[0], str):
            raise TypeError(f"{key} of sample {i} must be a list of one text, got {entry!r}")
    return [entry[0] for entry in entries]


def _common(content, found, token, forms):
    """What does not depend on the module."""
    n = len(found)
    captions, images = (_texts(content, key, n) for key in ("model_predictions", "image"))
    texts = [""] * n if captions is None else [caption.strip() for caption in captions]
    kept = np.flatnonzero(found)
    matcher = None if forms is None or captions is None else WordMatcher(forms)
    matches = [matcher and matcher.find(texts[i]) for i in kept]
    if matcher:
        _warn_without_word(kept, matches, token)
    return {
        "indices": kept,
        "captions": [texts[i] for i in kept],
        "all_captions": [None] * n if captions is None else texts,
        "positions": np.full(len(kept), -1),
        "token_probability": np.full(len(kept), np.nan, dtype=np.float32),
        "missing": ~found,
        "prefixes": [
            texts[i][: match[0]].strip() if match else ""
            for i, match in zip(kept, matches, strict=True)
        ],
        "token": token,
        "dropped": {"not_generated": np.flatnonzero(~found).tolist()},
        "provenance": {
            "token": token,
            "forms": None if forms is None else list(forms),
            "position": "generated",
            "images": images,
        },
    }


def _warn_without_word(kept, matches, token):
    without = [int(i) for i, match in zip(kept, matches, strict=True) if match is None]
    if without:
        warnings.warn(
            f"{len(without)} of {len(kept)} samples (positions {some(without)}) do not have the "
            f"word {token!r} in their caption: the code that made the file compares the first "
            "sub-token, so that other words count, too, and with some tokenizers every prompt.",
            stacklevel=callers_level(),
        )


def _representations(name, rows, common, origin):
    layer = _layer(name)
    provenance = {
        **origin,
        "module": name,
        "layer": layer,
        "dtype": str(rows.dtype).removeprefix("torch."),
        **common["provenance"],
    }
    states = rows[common["indices"]].float().numpy()
    # Copies, so that a change of one module's record does not reach the others.
    fields = copy.deepcopy({**common, "provenance": provenance})
    return TokenRepresentations(Z=states, layer=layer, module=name, **fields)


def _layer(name):
    """Number of a decoder block, "final_norm", or the name itself where it is something else."""
    block = _BLOCK.search(name)
    if _NOT_LANGUAGE.search(name):
        return name
    if block:
        return int(block[1])
    *parents, last = name.split(".")
    inside_block = any(part.isdigit() for part in parents)
    return "final_norm" if last in _FINAL_NORMS and not inside_block else name
