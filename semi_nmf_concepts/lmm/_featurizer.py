"""LMMTokenFeaturizer: images in, the states that choose a word out."""

import sys
from collections.abc import Iterable
from functools import partial
from numbers import Integral

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from .._messages import some
from ._handle import load_model
from ._images import ON_ERROR_ADVICE, ImageReadError, sample_prompts, split_samples
from ._representations import NoSampleKeptError
from ._run import Run, progress_bar, warn_of_failed
from ._selection import Part, nothing_kept, representations, tables_of
from ._words import word_forms


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
        Images run together. It changes speed and memory, not results (beyond rounding). Where the
        device's memory is too small it is halved, with a warning, and the run goes on.
    device, dtype : str, default="auto"
        See :func:`~semi_nmf_concepts.lmm.load_model`.
    image_column, caption_column : str, default="image", "caption"
        Columns of X when it is a DataFrame. A DataFrame of a single column is taken whatever its
        name.
    prompt_column : str, default="prompt"
        Column of X, where it has one, with what the model is asked about each image: questions of a
        visual question answering data set, say. It replaces `prompt`.
    cache : path-like, default=None
        Folder for results: every distinct image runs once for a given model and request, also over
        cross-validation folds, parameter grids and processes. Many small files; for large data sets
        see `out` of :meth:`extract`.
    on_error : {"raise", "skip"}, default="raise"
        For images that cannot be read: an error that names them, or a row of NaN from `transform`
        and left out by `extract`.
    n_jobs : int, default=None
        Threads that read and decode image files while the model runs. None: as many as there are
        cores, up to four, which is more than most models need.
    trust_remote_code : bool, default=False
        Whether Python code from the model's repository may run.
    verbose : int, default=0
        1 shows a progress bar with images per second and the time left; 2 also prints, at the end
        of `extract`, how many samples were kept, dropped and failed. Both go to the standard error
        stream.

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

    skops saves and restores the estimator without pickle; the types to trust are this class and
    :class:`~semi_nmf_concepts.lmm.ModelHandle`.

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
        "model": "no_validation",  # load_model knows better, as for the next two
        "token": [str, None],
        "forms": [StrOptions({"plural", "exact"}), list, tuple],
        "layer": [Integral, str],
        "prompt": [str, None],
        "position": [StrOptions({"generated", "forced", "last", "mean"}), Integral],
        "on_missing": [StrOptions({"peak", "nan", "error"})],
        "stop": [StrOptions({"caption", "token"})],
        "max_new_tokens": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "device": "no_validation",
        "dtype": "no_validation",
        "image_column": [str],
        "caption_column": [str],
        "prompt_column": [str],
        "cache": [str, HasMethods("__fspath__"), None],
        "on_error": [StrOptions({"raise", "skip"})],
        "n_jobs": [Interval(Integral, 1, None, closed="left"), None],
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
        prompt_column="prompt",
        cache=None,
        on_error="raise",
        n_jobs=None,
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
        self.prompt_column = prompt_column
        self.cache = cache
        self.on_error = on_error
        self.n_jobs = n_jobs
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
        _check_layers([self.layer])
        _check_position(self.position)
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
        Z, missing, failed = {}, [], {}
        for index, outcome in self._records_of(run):
            if isinstance(outcome, ImageReadError):
                failed[index] = outcome.summary
                continue
            record = outcome[key]
            if not record.found:
                missing.append(index)
                if self.on_missing == "nan":
                    continue
            Z[index] = record.state
        warn_of_failed(failed)
        if missing and self.on_missing == "error":
            raise ValueError(
                f"token={self.token!r} is not in the captions of {len(missing)} of "
                f"{len(run.images)} images (positions {some(sorted(missing))}); "
                "on_missing='peak' or 'nan' allows this."
            )
        width = len(next(iter(Z.values()))) if Z else self._width(self.layer)
        out = np.full((len(run.images), width), np.nan, dtype=np.float32)
        for index, state in Z.items():
            out[index] = state
        return out

    def extract(
        self,
        X,
        captions=None,
        *,
        prompts=None,
        token=None,
        layer=None,
        out=None,
        join=True,
        client=None,
        on_empty="raise",
    ):
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
        prompts : sequence of str, default=None
            What the model is asked about each image, instead of the parameter `prompt`; by default
            the DataFrame's column, if it has one.
        token : str or list of str, default=None
            Instead of the parameter; several tokens share one pass over the images.
        layer : int, str or list of these, default=None
            Instead of the parameter; several layers share one pass over the images.
        out : path-like, default=None
            Folder for the results, for runs that are too long or too large to hold in memory. They
            are written piece by piece. A run that was stopped, or killed, goes on when `extract` is
            called again with the same arguments, and gives the same bytes as one that was not; one
            that has ended returns its results at once. `TokenRepresentations.load(out)` reads them
            (with several tokens or layers: one folder each, named in ``out/manifest.json``).
        join : bool, default=True
            Whether the pieces are copied into one file for each token and layer at the end. False:
            they stay, as the only copy of the states, and `Z` of the results is a
            :class:`~semi_nmf_concepts.streaming.RowBlocks`, which is read piece by piece: for runs
            of tens of gigabytes. A finished folder can be joined later by a call with True.
        client : distributed.Client or str, default=None
            A client of a Dask cluster, or the address of its scheduler: its workers run the model,
            each on other pieces, instead of this process. They must see `out`, the image files and
            a model in a folder under the same paths. Images in memory are sent piece by piece; a
            lazy sequence must be picklable. Needs the extra ``dask``.
        on_empty : {"raise", "keep"}, default="raise"
            What to do where no sample of a token is kept: an error, or representations without
            rows, so that the other tokens of the pass are not lost.

        Returns
        -------
        TokenRepresentations, or a dict of them
            A list of tokens gives a dict keyed by token, a list of layers one keyed by layer (as
            given), both lists one keyed by (token, layer).

        Raises
        ------
        NoSampleKeptError
            A ValueError: no sample is kept; the message says which words do occur.
        ValueError
            Where `out` holds another extraction or something else, or another process is using it,
            where workers do not agree about the model; and as for :meth:`transform`.
        ConnectionError, TimeoutError
            Where no cluster is reachable through `client`, or it has no workers.
        FileNotFoundError
            Where a worker does not see `out`, or other image files than this process does.
        """
        self._validate_params()
        if on_empty not in ("raise", "keep"):
            raise ValueError(f"on_empty must be 'raise' or 'keep', got {on_empty!r}.")
        _check_folder_options(out, join, client)
        tokens, many_tokens = _listed(self.token if token is None else token, "token")
        layers, many_layers = _listed(self.layer if layer is None else layer, "layer")
        run = self._prepare(X, captions, tokens, layers, prompts)
        in_folder = partial(self._in_folder, out, join, client)
        find = self._in_memory if out is None else in_folder
        results = find(run, on_empty)
        if self.verbose >= 2:
            print(*(reps.summary() for reps in results.values()), sep="\n", file=sys.stderr)
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

    def _prepare(self, X, captions, tokens, layers, prompts=None):
        """Check and collect everything that a pass over the images needs."""
        layers = _check_layers(layers)
        position = _check_position(self.position)
        _check_tokens(tokens, position, self.forms)
        images, references = split_samples(
            X, captions, image_column=self.image_column, caption_column=self.caption_column
        )
        prompts = sample_prompts(X, prompts, prompt_column=self.prompt_column, n_images=len(images))
        from ._records import Request

        handle = self.handle
        request = Request(
            layers=tuple(layers),
            tokens=tuple(token for token in tokens if token is not None),
            forms=self.forms if isinstance(self.forms, str) else tuple(self.forms),
            position=position,
            prompt=handle.default_prompt if self.prompt is None else self.prompt,
            stop=self.stop,
            max_new_tokens=int(self.max_new_tokens),
        )
        if position == "forced":
            _check_references(references)
            if len(tokens) > 1:
                raise ValueError("position='forced' takes one token at a time, got a list of them.")
        return Run(
            handle,
            request,
            images,
            references,
            prompts,
            cache_folder=self.cache,
            batch_size=int(self.batch_size),
            n_jobs=self.n_jobs,
        )

    def _records_of(self, run):
        n = len(run.images)
        with progress_bar(n, verbose=self.verbose) as progress:
            yield from run.records([(0, n)], on_error=self.on_error, progress=progress)

    def _in_memory(self, run, on_empty):
        """Key -> TokenRepresentations."""
        part = Part(run, 0, len(run.images))
        for index, outcome in self._records_of(run):
            part.add(index, outcome)
        tables = part.tables()
        self._check_kept(run, tables, on_empty)
        results = {}
        for key in run.request.keys:
            Z = part.states(key)
            if Z is None:
                Z = np.empty((0, self._width(key[1])), np.float32)
            results[key] = representations(run, tables, key, Z)
        return results

    def _in_folder(self, out, join, client, run, on_empty):
        """The same, through shards in the folder `out`."""
        from ._dask_extraction import cluster_of
        from ._shards import ShardFolder

        with cluster_of(client) as cluster:
            if cluster is not None:
                cluster.identify(run)
            with ShardFolder(out, run) as folder:
                missing = folder.missing(self.on_error)
                results = None if missing else folder.finished(join=join)
                if results is not None:  # of a call that may have allowed more than this one
                    self._check_kept(run, tables_of(results, run.request), on_empty, self.on_error)
                    return results
                if cluster is not None:
                    cluster.describe(run)
                if missing:
                    self._fill(folder, missing, cluster)
                tables = folder.tables()
                self._check_kept(run, tables, on_empty)
                folder.finish(tables, self._width, join=join)
                return folder.results()

    def _fill(self, folder, missing, cluster):
        """Compute the shards that are missing, here or by the workers of a cluster."""
        fill = folder.fill if cluster is None else partial(cluster.fill, folder)
        n = folder.n_samples
        n_done = n - sum(stop - start for start, stop in missing)
        with progress_bar(n, n_done, verbose=self.verbose) as progress:
            fill(missing, on_error=self.on_error, progress=progress)

    @staticmethod
    def _check_kept(run, tables, on_empty, on_error="skip"):
        """Warn of unreadable images, or raise the first; an error where a token has no sample."""
        if tables.failed and on_error == "raise":
            raise ImageReadError(tables.failed[min(tables.failed)], ON_ERROR_ADVICE)
        warn_of_failed(tables.failed)
        names = dict(enumerate(run.request.asked_tokens))
        empty = {i: name for i, name in names.items() if not tables.tokens[i].indices}
        if empty and on_empty == "raise":
            first = tables.tokens[next(iter(empty))]
            raise NoSampleKeptError(
                nothing_kept(tables, empty, run.request.position), first.dropped
            )

    def _width(self, layer):
        """Number of features of `layer`."""
        handle = self.handle
        if isinstance(layer, Integral) or layer == "final_norm":
            return handle.width
        from ._states import module_width

        return module_width(handle.loaded, layer)


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


def _check_folder_options(out, join, client):
    if not isinstance(join, (bool, np.bool_)):
        raise TypeError(f"join must be True or False, got {join!r}.")
    given = [name for name, is_given in (("join=False", not join), ("client=", client)) if is_given]
    if out is None and given:
        raise ValueError(
            f"{' and '.join(given)} needs out=, the folder that the states are written into."
        )


def _check_layers(layers):
    """`layers` with built-in integers, so that NumPy's neither reach JSON nor make other keys."""
    for layer in layers:
        if isinstance(layer, bool) or not isinstance(layer, (Integral, str)):
            raise TypeError(
                "layer must be the index of a decoder block, 'final_norm' or the exact name of a "
                f"module, got {layer!r}."
            )
    return [layer if isinstance(layer, str) else int(layer) for layer in layers]


def _check_position(position):
    """`position`, as a built-in integer if it is a number."""
    if isinstance(position, bool):
        raise TypeError(
            "position must be 'generated', 'forced', 'last', 'mean' or an index in the prompt, "
            f"got {position!r}."
        )
    return int(position) if isinstance(position, Integral) else position


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
