"""LMMTokenFeaturizer: images in, the states that choose a word out."""

import hashlib
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from ._handle import ModelHandle, load_model
from ._images import ImageReadError, read_bytes, split_samples, to_rgb
from ._representations import NoSampleKeptError, TokenRepresentations
from ._words import content_words, word_forms

# Images of one batch together, in pixels: a few huge photographs would otherwise fill the memory.
_MAX_BATCH_PIXELS = 64_000_000


class LMMTokenFeaturizer(TransformerMixin, BaseEstimator):
    """Images to the internal states in which a vision-language model chooses a word.

    The model writes a caption for every image, greedily. Where the token of interest first occurs
    in it, say at caption token p, the feature vector is the residual-stream state at the position
    before: the state whose logits chose the word. In sequence positions, with a prompt of P tokens
    (image tokens included), this is position P - 1 + p.

    Nothing is learnt: `fit` only checks parameters. The model is read when it is first used, is
    shared by all estimators of the process, and is never copied or pickled with an estimator.

    Parameters
    ----------
    model : str, path or ModelHandle, default="bundled"
        The small captioner of this package, a folder, a hub id, or what
        :func:`~semi_nmf_concepts.lmm.load_model` returned.
    token : str, default=None
        The word of interest, such as "dog". Required for the positions "generated" and "forced",
        and refused for the others, which do not depend on a word.
    forms : {"plural", "exact"} or list of str, default="plural"
        Which words count as the token: also its plural (captions of several dogs are about dogs),
        it alone, or also the listed words. Case does not matter; only whole words count.
    layer : int or str, default=-1
        i: output of decoder block i, that is the residual stream after it (-1: the last block,
        *before* the final norm). "final_norm": output of the norm after the last block. Otherwise
        the exact name of a module of the language model.
    prompt : str, default=None
        What the model is asked, put into the processor's chat template; a text that contains the
        processor's image token is the whole prompt. None: the model's own default (nothing for the
        bundled model, a request for one short sentence otherwise).
    position : {"generated", "forced", "last", "mean"} or int, default="generated"
        "generated": as above. "forced": the same in a reference caption, which is dictated to the
        model (the first reference with the token, else the first; for a sample without reference
        only the end of the prompt is left). "last": last position of the prompt, which predicts the
        first word. An int: that position of the prompt, image tokens included, negative from its
        end. "mean": mean over the positions of the prompt. The last three write no captions.
    on_missing : {"peak", "nan", "error"}, default="peak"
        What `transform` returns for a caption without the token: the state at the caption position
        where the first piece of the token was most probable (the end of the caption counts as a
        position), a row of NaN, or an error. `extract` leaves such samples out.
    stop : {"caption", "token"}, default="caption"
        "token" ends a caption as soon as the token stands in it for certain (one token later): same
        states, faster, but captions are cut off.
    max_new_tokens : int, default=40
        Longest caption, in tokens: about twice a usual one-sentence caption.
    batch_size : int, default=32
        Images run together. It changes speed and memory, not results (beyond rounding).
    device, dtype : str, default="auto"
        See :func:`~semi_nmf_concepts.lmm.load_model`.
    image_column, caption_column : str, default="image", "caption"
        Columns of X when it is a DataFrame. A DataFrame of a single column is taken whatever its
        name.
    cache : path-like, default=None
        Folder for results: every distinct image runs once for a given model and request, also over
        cross-validation folds, parameter grids and processes.
    on_error : {"raise", "skip"}, default="raise"
        For images that cannot be read: an error that names them, or a row of NaN from `transform`
        and left out by `extract`.
    trust_remote_code : bool, default=False
        Whether Python code from the model's repository may run.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    handle_ : ModelHandle
        The model; set by `fit`.

    Notes
    -----
    X is a sequence of images (paths, PIL images, arrays (height, width) or (height, width, 1|3|4)
    as uint8 or float in [0, 1]), or a DataFrame with a column of images and, where known, one of
    reference captions (a string or a list of strings each). Images become RGB: EXIF orientation is
    applied and transparency laid over white.

    References
    ----------
    Parekh et al., "A Concept-Based Explainability Framework for Large Multimodal Models", NeurIPS
    2024 (arXiv 2406.08074), section 3.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.decomposition import NMF
    >>> from semi_nmf_concepts.lmm import LMMTokenFeaturizer
    >>> make_pipeline(LMMTokenFeaturizer(token="dog", layer=2), NMF(20))[0]
    LMMTokenFeaturizer(layer=2, token='dog')
    """

    _parameter_constraints = {
        "model": [str, HasMethods("__fspath__"), ModelHandle],
        "token": [str, None],
        "forms": [StrOptions({"plural", "exact"}), list, tuple],
        "layer": [Integral, str],
        "prompt": [str, None],
        "position": [StrOptions({"generated", "forced", "last", "mean"}), Integral],
        "on_missing": [StrOptions({"peak", "nan", "error"})],
        "stop": [StrOptions({"caption", "token"})],
        "max_new_tokens": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "device": "no_validation",  # load_model and torch know better
        "dtype": "no_validation",
        "image_column": [str],
        "caption_column": [str],
        "cache": [str, HasMethods("__fspath__"), None],
        "on_error": [StrOptions({"raise", "skip"})],
        "trust_remote_code": ["boolean"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        model="bundled",
        *,
        token=None,
        forms="plural",
        layer=-1,
        prompt=None,
        position="generated",
        on_missing="peak",
        stop="caption",
        max_new_tokens=40,
        batch_size=32,
        device="auto",
        dtype="auto",
        image_column="image",
        caption_column="caption",
        cache=None,
        on_error="raise",
        trust_remote_code=False,
        verbose=0,
    ):
        self.model = model
        self.token = token
        self.forms = forms
        self.layer = layer
        self.prompt = prompt
        self.position = position
        self.on_missing = on_missing
        self.stop = stop
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype
        self.image_column = image_column
        self.caption_column = caption_column
        self.cache = cache
        self.on_error = on_error
        self.trust_remote_code = trust_remote_code
        self.verbose = verbose

    @property
    def handle(self):
        """ModelHandle: the model that the parameters name."""
        return load_model(
            self.model,
            device=self.device,
            dtype=self.dtype,
            trust_remote_code=self.trust_remote_code,
        )

    def fit(self, X=None, y=None):
        """Check the parameters; neither the images nor the model are touched.

        Parameters
        ----------
        X, y : ignored

        Returns
        -------
        self
        """
        self._validate_params()
        _check_tokens([self.token], self.position, self.forms)
        self.handle_ = self.handle
        return self

    def transform(self, X):
        """One feature vector per image.

        Parameters
        ----------
        X : sequence of images or DataFrame of n samples
            Position "forced" needs the DataFrame, with a column of captions.

        Returns
        -------
        Z : ndarray of shape (n, width), float32
            Or a DataFrame, see `set_output`.

        Raises
        ------
        ValueError
            For an unreadable image (on_error="raise"), a caption without the token
            (on_missing="error"), no images, or a wrong parameter.
        """
        self._validate_params()
        run = self._prepare(X, None, [self.token], [self.layer])
        key = run.request.keys[0]
        Z, missing = {}, []
        for index, records in self._records(run):
            if records is None:
                continue
            record = records[key]
            if not record.found:
                missing.append(index)
                if self.on_missing == "nan":
                    continue
            Z[index] = record.state
        if missing and self.on_missing == "error":
            raise ValueError(
                f"token={self.token!r} is not in the captions of {len(missing)} of "
                f"{len(run.images)} images (positions {_some(sorted(missing))}); "
                "on_missing='peak' or 'nan' allows this."
            )
        width = len(next(iter(Z.values()))) if Z else self._width(run.layer)
        out = np.full((len(run.images), width), np.nan, dtype=np.float32)
        for index, state in Z.items():
            out[index] = state
        return out

    def extract(self, X, captions=None, *, token=None, layer=None):
        """Representations of the samples that are about the token, with captions and provenance.

        A sample is kept if the token occurs in its generated caption and, when reference captions
        are known, in at least one of them (position "forced": in a reference; positions of the
        prompt: all samples are kept).

        Parameters
        ----------
        X : sequence of images or DataFrame
        captions : sequence of (str | list of str), default=None
            Reference captions of every image; by default the DataFrame's column, if it has one. A
            sample with no reference of its own (None) is left out when others have some.
        token : str or list of str, default=None
            Instead of the parameter; several tokens share one pass over the images.
        layer : int, str or list of these, default=None
            Instead of the parameter; several layers share one pass over the images.

        Returns
        -------
        TokenRepresentations, or a dict of them
            A list of tokens gives a dict keyed by token, a list of layers one keyed by layer (as
            given), both lists one keyed by (token, layer).

        Raises
        ------
        NoSampleKeptError
            A ValueError: no sample is kept; the message says which words do occur.
        """
        self._validate_params()
        tokens, many_tokens = _listed(self.token if token is None else token, "token")
        layers, many_layers = _listed(self.layer if layer is None else layer, "layer")
        run = self._prepare(X, captions, tokens, layers)
        parts = {key: _Part(*key) for key in run.request.keys}
        for index, records in self._records(run):
            for key, part in parts.items():
                part.add(index, records and records[key], run)
        empty = [part for part in parts.values() if not part.kept]
        if empty:
            raise NoSampleKeptError(_nothing_kept(empty, run), empty[0].sorted_dropped())
        results = {
            key: part.finish(run, self._provenance(run, *key)) for key, part in parts.items()
        }
        if many_tokens and many_layers:
            return results
        if many_tokens:
            return {token: result for (token, _), result in results.items()}
        if many_layers:
            return {layer: result for (_, layer), result in results.items()}
        return next(iter(results.values()))

    def get_feature_names_out(self, input_features=None):
        """Names of the columns: "layer3_0", "layer3_1", ... ("final_norm_0", "<module>_0").

        Parameters
        ----------
        input_features : ignored
        """
        layer = self.layer
        if isinstance(layer, Integral):
            from ._architecture import layer_index

            layer = f"layer{layer_index(layer, self.handle.n_layers)}"
        names = [f"{layer}_{j}" for j in range(self._width(self.layer))]
        return np.asarray(names, dtype=object)

    def __sklearn_is_fitted__(self):
        return True  # there is nothing to fit

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.no_validation = True
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []
        return tags

    # How a run goes

    def _prepare(self, X, captions, tokens, layers):
        """Check and collect everything that a pass over the images needs."""
        _check_tokens(tokens, self.position, self.forms)
        images, references = split_samples(
            X, captions, image_column=self.image_column, caption_column=self.caption_column
        )
        from ._records import Request
        from ._states import StateCollector

        handle = self.handle
        request = Request(
            layers=tuple(layers),
            tokens=tuple(token for token in tokens if token is not None),
            forms=self.forms if isinstance(self.forms, str) else tuple(self.forms),
            position=self.position,
            prompt=handle.default_prompt if self.prompt is None else self.prompt,
            stop=self.stop,
            max_new_tokens=int(self.max_new_tokens),
        )
        if self.position == "forced":
            _check_references(references)
            if len(tokens) > 1:
                raise ValueError("position='forced' takes one token at a time, got a list of them.")
        collector = StateCollector(handle.loaded, request)
        run = _Run(handle, request, collector, images, references, layers[0])
        if self.cache is not None:
            run.cache = _open_cache(self.cache, run)
        return run

    def _records(self, run):
        """Pairs of index and records (None for an unreadable image), in no particular order."""
        batch = _Batch(run)
        for index in _progress(range(len(run.images)), self.verbose):
            try:
                ready = batch.add(index)
            except ImageReadError:
                if self.on_error == "raise":
                    raise
                ready = [(index, None)]
            yield from ready
            if len(batch.items) >= self.batch_size or batch.n_pixels > _MAX_BATCH_PIXELS:
                yield from batch.flush()
        yield from batch.flush()

    def _width(self, layer):
        """Number of features of `layer`."""
        handle = self.handle
        if isinstance(layer, Integral) or layer == "final_norm":
            return handle.width
        from ._states import module_width

        return module_width(handle.loaded, layer)

    def _provenance(self, run, token, layer):
        import torch
        import transformers

        from .. import __version__

        request = run.request
        return {
            "package_version": __version__,
            "model": run.handle.model,
            "revision": run.handle.revision,
            "fingerprint": run.handle.fingerprint,
            "module": run.collector.modules[layer],
            "layer": run.layer_label(layer),
            "token": token,
            "forms": None if token is None else list(word_forms(token, request.forms)),
            "prompt": run.collector.prompt,
            "position": request.position,
            "stop": request.stop,
            "max_new_tokens": request.max_new_tokens,
            "dtype": str(run.collector.loaded.dtype).removeprefix("torch."),
            "versions": {
                "python": platform.python_version(),
                "numpy": np.__version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
        }


@dataclass
class _Run:
    """One pass over the images."""

    handle: ModelHandle
    request: object
    collector: object
    images: object
    references: list | None
    layer: object
    cache: object = None

    def layer_label(self, layer):
        """`layer` with negative indices resolved."""
        if isinstance(layer, Integral):
            return int(layer) % self.handle.n_layers
        return layer

    def dictated(self, index):
        """The caption to dictate for a sample, or None if nothing is dictated."""
        if self.request.position != "forced":
            return None
        references = self.references[index]
        matcher = self.collector.matchers[self.request.tokens[0]]
        with_token = [text for text in references if matcher.find(text)]
        return (with_token or references or [""])[0]


class _Batch:
    """Images that wait for the model, and the way to it around the cache."""

    def __init__(self, run):
        self.run = run
        self.items = {}  # key of the image -> (image, dictated caption, positions in X)
        self.n_pixels = 0

    def add(self, index):
        """Take up one sample; returns its records at once if they are in the cache."""
        run = self.run
        item, text, content, image, key = run.images[index], run.dictated(index), None, None, index
        if run.cache is not None:
            # A file is recognised by its bytes, so that a cached one is never decoded.
            if isinstance(item, str) or hasattr(item, "__fspath__"):
                content = read_bytes(item, index)
                key = ("file", hashlib.sha256(content).hexdigest(), text)
            else:
                image = to_rgb(item, index)
                key = ("pixels", _pixel_hash(image), text)
            if key in self.items:
                self.items[key][2].append(index)
                return []
            found = self._from_cache(key)
            if found:
                return [(index, found)]
        image = to_rgb(item, index, content) if image is None else image
        self.items[key] = (image, text, [index])
        self.n_pixels += image.width * image.height
        return []

    def flush(self):
        """Run what waits; pairs of index and records."""
        if not self.items:
            return []
        images, texts, indices = zip(*self.items.values(), strict=True)
        forced = None if texts[0] is None else list(texts)
        records = self.run.collector(list(images), forced)
        if self.run.cache is not None:
            for key, one in zip(self.items, records, strict=True):
                self._to_cache(key, one)
        self.items, self.n_pixels = {}, 0
        return [(i, one) for many, one in zip(indices, records, strict=True) for i in many]

    def _from_cache(self, key):
        found = {}
        for token, layer in self.run.request.keys:
            record = self.run.cache.get(key, token, self.run.collector.modules[layer])
            if record is None:
                return None
            found[token, layer] = record
        return found

    def _to_cache(self, key, records):
        for (token, layer), record in records.items():
            self.run.cache.put(key, token, self.run.collector.modules[layer], record)


class _Part:
    """Selection for one token and layer while the records come in."""

    def __init__(self, token, layer):
        self.token, self.layer = token, layer
        self.kept, self.captions, self.found = {}, {}, []
        self.dropped = {"unreadable": [], "not_generated": [], "not_in_reference": []}

    def add(self, index, record, run):
        if record is None:
            self.dropped["unreadable"].append(index)
            return
        self.captions[index] = record.caption
        if record.found:
            self.found.append(index)
        if not record.found:
            forced = run.request.position == "forced"
            self.dropped["not_in_reference" if forced else "not_generated"].append(index)
        elif not self._in_reference(index, run):
            self.dropped["not_in_reference"].append(index)
        else:
            self.kept[index] = record

    def _in_reference(self, index, run):
        if run.references is None or self.token is None:
            return True
        return run.collector.matchers[self.token].in_any(run.references[index])

    def sorted_dropped(self):
        return {reason: sorted(which) for reason, which in self.dropped.items()}

    def finish(self, run, provenance):
        n = len(run.images)
        indices = sorted(self.kept)
        rows = [self.kept[i] for i in indices]
        return TokenRepresentations(
            Z=np.stack([row.state for row in rows]),
            indices=np.asarray(indices, dtype=np.int64),
            captions=[row.caption or "" for row in rows],
            all_captions=[self.captions.get(i) for i in range(n)],
            positions=np.asarray([row.position for row in rows], dtype=np.int64),
            token_probability=np.asarray([row.probability for row in rows], dtype=np.float32),
            missing=~np.isin(np.arange(n), self.found),
            prefixes=[row.prefix for row in rows],
            token=self.token,
            layer=provenance["layer"],
            module=provenance["module"],
            provenance=provenance,
            dropped=self.sorted_dropped(),
        )


def _listed(value, name):
    """(list of values, whether a list was given)."""
    if isinstance(value, (str, Integral)) or value is None:
        return [value], False
    if not isinstance(value, Iterable):
        raise TypeError(f"{name} must be one value or a list of them, got {value!r}.")
    values = list(dict.fromkeys(value))
    if not values:
        raise ValueError(f"{name} must not be an empty list.")
    return values, True


def _check_tokens(tokens, position, forms):
    """The rules that tie token, position and forms together."""
    needs_token = position in ("generated", "forced")
    for token in tokens:
        if needs_token and token is None:
            raise ValueError(
                f"token is required for position={position!r}: the word of interest, such as 'dog'."
            )
        if not needs_token and token is not None:
            raise ValueError(
                f"token={token!r} has no meaning for position={position!r}, which does not depend "
                "on a word; leave it out or use position='generated'."
            )
        if token is not None:
            word_forms(token, forms)
    if len(tokens) > 1 and not isinstance(forms, str):
        raise ValueError(
            "a list of forms belongs to one token; with several use 'plural' or 'exact'."
        )


def _check_references(references):
    if references is None:
        raise ValueError(
            "position='forced' needs reference captions: a DataFrame with a caption column, or "
            "captions= in extract."
        )


def _open_cache(folder, run):
    from ._cache import RecordCache

    request = run.request
    common = {
        "fingerprint": run.handle.fingerprint,
        "dtype": str(run.collector.loaded.dtype),
        "prompt": run.collector.prompt,
        "position": request.position,
        "forms": request.forms,
    }
    if request.position == "generated":
        common["max_new_tokens"] = request.max_new_tokens
        # Several tokens end a caption later than one.
        common["stop"] = request.stop if request.stop == "caption" else sorted(request.tokens)
    return RecordCache(folder, common)


def _pixel_hash(image):
    digest = hashlib.sha256(f"{image.size}".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def _nothing_kept(parts, run):
    """Why no sample is left, and what to choose instead."""
    n, part = len(run.images), parts[0]
    names = ", ".join(dict.fromkeys(repr(p.token) for p in parts))
    counts = {reason: len(which) for reason, which in part.dropped.items()}
    if counts["unreadable"] == n:
        return f"none of the {n} images could be read."
    forced = run.request.position == "forced"
    where = "reference" if forced else "generated"
    if counts["not_in_reference"] and not forced:
        return (
            f"token {names} occurs in {counts['not_in_reference']} of {n} generated captions, but "
            "in no reference caption of these samples."
        )
    words = content_words(part.captions.values())
    listed = ", ".join(f"{word} ({count})" for word, count in words)
    return (
        f"token {names} occurs in none of the {n - counts['unreadable']} {where} captions. Most "
        f"frequent words there (number of captions): {listed or 'none'}."
    )


def _some(values, n=5):
    """The first few of a list, for messages."""
    return ", ".join(map(str, values[:n])) + (", ..." if len(values) > n else "")


def _progress(items, verbose):
    if not verbose:
        return items
    from tqdm.auto import tqdm

    return tqdm(items, desc="images", unit="image")
