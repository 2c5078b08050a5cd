"""The states behind every token of interest: extracted once, for real and for noise images."""

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.base import clone

from semi_nmf_concepts.lmm import TokenRepresentations, mentions, split_samples, to_rgb
from semi_nmf_concepts.metrics import noise_images

from .._models import torch_device
from ._store import address

PARTS = ("train", "test")
#: Folder of the records of passes that were not finished.
UNFINISHED = "unfinished"
# Representations that stay in memory per token: both parts, real and noise, of a layer or two.
_RECENT = 6


@dataclass(eq=False)
class Images:
    """The images of one part that can be kept, with their references and known factors.

    Attributes
    ----------
    images : sequence
    references : list of list of str, or None
    factors : DataFrame or None
    key : str
        What tells these images and references from others.
    n_seen : int
        How many images there were before those were left out of whose references none has a token.
    """

    images: object
    references: list | None
    factors: pd.DataFrame | None
    key: str
    n_seen: int


@dataclass(eq=False)
class TokenData:
    """The kept samples of one token: what all methods, layers and settings are measured on.

    Attributes
    ----------
    token : str
    parts : dict of str to Images
        "train" and "test", with all images.
    extraction : Extraction
        Where the states are.
    rows : dict of str to ndarray of int
        For each part the positions of the kept samples among its images.
    """

    token: str
    parts: dict
    extraction: "Extraction"
    rows: dict = field(init=False)

    def __post_init__(self):
        self._recent = {}
        layer = self.extraction.layers[0]
        self.rows = {part: self.states("images", part, layer).indices for part in PARTS}

    def states(self, source, part, layer):
        """Representations of "images" or "noise"; the last few read stay in memory."""
        key = source, part, layer
        if key not in self._recent:
            while len(self._recent) >= _RECENT:
                self._recent.pop(next(iter(self._recent)))
            self._recent[key] = self.extraction.states(self.token, self.parts[part], source, layer)
        return self._recent[key]

    def forget(self):
        """Let go of the states in memory."""
        self._recent.clear()

    def references(self, part):
        """Reference captions of the kept samples, or None where none are known."""
        known = self.parts[part].references
        return None if known is None else [known[i] for i in self.rows[part]]

    def factors(self, part):
        """Known factors of the kept samples, or None."""
        table = self.parts[part].factors
        return None if table is None else table.iloc[self.rows[part]].reset_index(drop=True)

    @property
    def counts(self):
        """How many images were seen and kept."""
        return {
            f"{part}_{what}": int(n)
            for part in PARTS
            for what, n in (("seen", self.parts[part].n_seen), ("kept", len(self.rows[part])))
        }


class Rows(Sequence):
    """Some entries of a lazy sequence, in the order of `rows`."""

    def __init__(self, items, rows):
        self.items, self.rows = items, [int(row) for row in rows]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, item):
        if isinstance(item, slice):
            return Rows(self.items, self.rows[item])
        return self.items[self.rows[item]]


def images_of(data, name, featurizer, tokens):
    """`Images` of what a reader of `datasets` returned, or of a DataFrame.

    An image whose references have none of the tokens would never be kept, whatever the model writes
    about it: it is left out before the model runs.
    """
    columns = {
        "image_column": featurizer.image_column,
        "caption_column": featurizer.caption_column,
    }
    is_table = hasattr(data, "iloc")
    if not (is_table or hasattr(data, "images")):
        raise TypeError(
            f"{name} must have images (and captions, factors), as what load_scenes or "
            f"load_image_folder return, or be a DataFrame; got {type(data).__name__}."
        )
    given = (data, None) if is_table else (data.images, getattr(data, "captions", None))
    try:
        images, references = split_samples(*given, **columns)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error
    factors, n_seen = getattr(data, "factors", None), len(images)
    if factors is not None and len(factors) != n_seen:
        raise ValueError(
            f"{name}: factors must have one row per image, got {len(factors)} rows for "
            f"{n_seen} images."
        )
    if references is not None:
        has_token = [mentions(references, token, forms=featurizer.forms) for token in tokens]
        rows = np.flatnonzero(np.any(has_token, axis=0))
        if not len(rows):
            rows = np.array([0])  # will not be kept, but gives states of the right width
        if len(rows) < n_seen:
            images, references = Rows(images, rows), [references[i] for i in rows]
            factors = None if factors is None else factors.iloc[rows]
    key = address([content_keys(images), references])
    return Images(images, references, factors, key, n_seen)


def content_keys(images):
    """What tells the images apart, without decoding files.

    A sequence that knows its content without showing it (the bundled scenes, drawn from seeds)
    says so by a method ``content_keys``.
    """
    if isinstance(images, Rows) and hasattr(images.items, "content_keys"):
        known = images.items.content_keys()
        return [known[row] for row in images.rows]
    if hasattr(images, "content_keys"):
        return list(images.content_keys())
    keys = []
    for index, item in enumerate(images):
        if isinstance(item, str | os.PathLike):
            try:
                with open(item, "rb") as file:
                    keys.append(hashlib.file_digest(file, "sha256").hexdigest())
            except OSError:  # the featurizer's on_error decides about it
                keys.append(f"unreadable: {os.fspath(item)}")
        else:
            try:
                picture = to_rgb(item, index)
            except ValueError as error:  # likewise
                keys.append(f"unreadable: {error}")
                continue
            keys.append(hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest())
    return keys


class Extraction:
    """Runs the model over all images of all tokens, once, and keeps the states.

    Parameters
    ----------
    featurizer : LMMTokenFeaturizer
        Its token and layer are replaced.
    layers : list
        Every layer that is needed; the first is the one that noise images are run for.
    folder : path-like or None
        Where states are kept; None keeps them in memory.
    random_state : int
        Seed of the noise.
    """

    def __init__(self, featurizer, layers, folder, random_state):
        self.featurizer, self.layers, self.random_state = featurizer, list(layers), random_state
        self.folder = None if folder is None else Path(folder)
        self._memory = {}

    def missing(self, parts_of_tokens):
        """What has to go through the model: (Images, tokens) pairs, one pass each.

        Parameters
        ----------
        parts_of_tokens : dict of str to dict of str to Images
            Tokens that share data go through the model together.
        """
        groups = {}
        for part in PARTS:
            for token, parts in parts_of_tokens.items():
                images = parts[part]
                requests = (self._request(images, token, layer) for layer in self.layers)
                if any(self._load(request) is None for request in requests):
                    groups.setdefault(id(images), (images, []))[1].append(token)
        return list(groups.values())

    def run(self, images, tokens):
        """One pass over some images."""
        featurizer, records = self._resumable(images, tokens)
        found = featurizer.set_params(token=tokens[0]).extract(
            images.images, images.references, token=tokens, layer=self.layers, on_empty="keep"
        )
        for (token, layer), states in found.items():
            self._save(self._request(images, token, layer), states)
        _remove(records)

    def states(self, token, images, source, layer):
        """States of the kept samples; those of noise images are made when first asked for."""
        if source == "images":
            return self._load(self._request(images, token, layer))
        return self._noise(token, images)

    def _noise(self, token, images):
        """States of noise images at the word of the real images' captions, which are dictated."""
        layer = self.layers[0]
        request = self._request(images, token, layer) | {"noise": self.random_state}
        states = self._load(request)
        if states is None:
            real = self._load(self._request(images, token, layer))
            if not len(real):
                return real
            noise = noise_images(images.images, random_state=self.random_state)
            featurizer, records = self._resumable(images, [token, "noise"])
            featurizer.set_params(token=token, layer=layer, position="forced")
            states = featurizer.extract(Rows(noise, real.indices), real.captions)
            if len(states) != len(real):
                raise ValueError(
                    f"token {token!r} was lost from {len(real) - len(states)} of {len(real)} "
                    "captions when they were dictated for noise images."
                )
            self._save(request, states)
            _remove(records)
        return states

    def _resumable(self, images, tokens):
        """A featurizer with a cache, so that a run that is killed goes on where it was.

        Returns the folder to be removed afterwards, None where the user keeps a cache anyway.
        """
        featurizer = clone(self.featurizer)
        if self.folder is None or featurizer.cache is not None:
            return featurizer, None
        # Processes side by side have folders of their own, since each removes what it has done.
        records = self.folder / UNFINISHED / address([images.key, tokens])[:16]
        return featurizer.set_params(cache=records), records

    def _request(self, images, token, layer):
        featurizer = self.featurizer
        names = ("forms", "prompt", "position", "stop", "max_new_tokens", "on_error")
        parameters = {name: getattr(featurizer, name) for name in names}
        handle = featurizer.handle
        return parameters | {
            "model": handle.fingerprint,
            # "auto" is another precision on another kind of device.
            "dtype": [handle.dtype, torch_device(handle.device).type],
            "images": images.key,
            "token": token,
            "layer": layer,
        }

    def _save(self, request, states):
        key = address(request)
        if self.folder is None:
            self._memory[key] = states
        else:
            states.save(self.folder / key)

    def _load(self, request):
        key = address(request)
        if self.folder is None:
            return self._memory.get(key)
        try:
            return TokenRepresentations.load(self.folder / key)
        except ValueError:  # absent, or damaged: extracted again in any case
            return None


def _remove(folder):
    """Remove the records of a finished pass."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def most_frequent_prefix(states):
    """The caption before the token that most samples share; "" without samples."""
    values, counts = np.unique(np.asarray(states.prefixes, dtype=str), return_counts=True)
    prefix = str(values[np.argmax(counts)]) if len(values) else ""
    return prefix if prefix != "all" else "'all'"  # "all" is what tables call all samples
