"""The estimator: validation and bookkeeping around the solver."""

import warnings
from copy import copy
from math import isnan
from numbers import Integral, Real

import numpy as np
from array_api_compat import is_dask_array
from sklearn.base import _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from .._messages import callers_level
from ..streaming import is_row_source, open_rows
from ._alpha_search import TOLERANCE as N_ACTIVE_TOLERANCE
from ._arrays import BACKENDS, as_float64, kind_of, move, to_numpy, working
from ._base import Decomposer, check_codes, check_codes_shape
from ._checkpoint import Checkpoint
from ._data import ArrayData, RowData, as_kept
from ._encode import encode, improve_codes, raise_not_finite, unconverged_message, zero_codes
from ._init import INITS
from ._machine import Machine
from ._objective import project_atoms, squared_error_from_statistics
from ._online import mini_batches, online_step, sums_to_continue
from ._preprocessing import AffineMap, forked, rank_up_to
from ._progress import progress_bar
from ._row_work import Score
from ._solvers import join_codings, share_kept
from ._sources import (
    Codes,
    Reconstruction,
    blocks_of,
    check_container,
    check_n_features,
    check_options,
    coded_rows,
    is_by_rows,
    opened,
)

#: Atoms count as sorted where no total activation exceeds the one before by more than this share
#: of the largest; passes that bring them in order.
_SORTED = 1e-6
_MAX_SORTS = 3
#: The squared error follows from sums, unless it is so small a share of them that their rounding
#: would show.
_SMALL_ERROR = {"float32": 0.01, "float64": 1e-6}


class SemiNMFConcepts(Decomposer):
    """Sparse Semi-NMF: mixed-sign atoms, non-negative sparse codes.

    Factorises X (n_samples, n_features) into codes V and a dictionary U by minimising::

        F(U, V) = 1/2 ||X - V U||_F^2 + alpha * sum(V)    over V >= 0 and ||u_k||_2 <= 1

    with one row v_i of V per sample and one row u_k of U per component. A new sample x gets the
    codes ``argmin_{v >= 0} 1/2 ||x - v U||^2 + alpha * sum(v)``. This is the objective of
    ``sklearn.decomposition.DictionaryLearning(positive_code=True)``, so values of F compare.

    1. `center` or `whiten` may first map X to another space, in which F is then minimised.
    2. A starting dictionary comes from `init`.
    3. Online steps on mini-batches make it fit the data roughly; adding atoms and dropping those
       that cost least to do without leads out of poor local minima; batch iterations with
       extrapolation bring F down and never raise it. Unused atoms are reseeded from badly
       explained samples. Wide data are projected on their leading directions for all but the last
       iterations.
    4. `n_active`, if set, finds the alpha at which that many atoms are active on average.
    5. Atoms are sorted by total activation and the codes computed to tolerance.

    Parameters
    ----------
    n_components : int, default=20
        Number of atoms K. More than samples or than the rank of the data gives a warning.
    alpha : float, default=1.0
        Penalty on the sum of the codes. The default is that of the published method; whether it
        is large or small depends on the scale of X (see `alpha_scale` and `n_active`).
    alpha_scale : {"absolute", "relative"}, default="absolute"
        With "relative" the penalty is alpha times the median row norm of the data factorised
        (times 1 where that is 0): scaling X by c > 0 then scales V by c and leaves U unchanged.
    n_active : float, default=None
        Mean number of active atoms per training sample to reach, within 10%. Replaces alpha, which
        is searched for. A target that no alpha reaches (without a penalty not all atoms need be
        active) gives a warning.
    center : bool, default=False
        Factorise X minus its mean.
    whiten : int, default=None
        Number r of principal components (clipped to the rank of X) to project the centred data on,
        scaled to unit variance; F is minimised there. `dictionary_` then lives in these r
        dimensions and carries the norm bound; `components_` are its rows as directions of the
        input space. Implies `center`.
    init : {"grow", "random", "k-means++", "svd"} or array-like of shape (n_components, \
n_features), default="grow"
        "grow": from the direction of the mean, atoms are added for what mini-batches show is
        explained worst. "random": samples drawn at random, each scaled to norm 1. "k-means++":
        samples drawn one after the other with probability proportional to the energy not explained
        yet. "svd": right singular vectors with the sign of their larger positive part; does not
        depend on chance. "grow" is fastest and ends lowest where codes are sparse. An array holds
        directions in the input space; rows longer than 1 are shortened.
    n_init : int, default=1
        Number of starts; the lowest objective wins. The first one uses `init`, the others
        "k-means++" where `init` is "svd" (which would repeat itself). With an array or a warm
        start there is one start.
    max_iter : int, default=1000
        Bound on the batch iterations of one start after its warm-up; some tens are typical.
    tol : float, default=1e-6
        The iterations end when F decreases by at most ``tol * F`` twice in a row.
    forgetting : float, default=None
        Factor in (0, 1] by which, at every online step (in the warm-up and in `partial_fit`), the
        sums over earlier mini-batches shrink; about the last ``1 / (1 - forgetting)`` of them then
        count. None: ``t / (t + 3)`` after t steps (in `partial_fit`, after t times as many samples
        as the mini-batch has), so that later steps weigh more, as their codes are
        better, and the dictionary still comes to rest. Choose a number for a stream that changes;
        1 forgets nothing.
    backend : {"auto", "numba", "torch", "cupy"}, default="auto"
        What to compute with. "auto": arrays on a GPU stay there ("torch" for its tensors, "cupy"
        for CuPy's arrays), all others run on compiled kernels on the CPU ("numba"). "torch" and
        "cupy" take arrays in host memory, too: they move them to `device` and the results back.
    device : str, default=None
        Where "torch" or "cupy" put arrays in host memory, such as "cuda:1"; with any but "cpu",
        "auto" is "torch" for them. None: "cuda", or "cpu" where torch sees none. Arrays on a GPU
        stay where they are; naming another device is an error.
    batch_size : int, default=None
        Samples per online step. None: some hundred in the warm-up, all of X in `partial_fit`.
        Where X is read block by block: rows of a block; then None is about 64 MiB of them.
    n_jobs : int, default=None
        Threads of "numba", over blocks of samples. None is 1 (or what `joblib.parallel_config`
        says), -1 is all. Results agree up to rounding.
    warm_start : bool, default=False
        Start from the `components_` of the previous fit, if there was one.
    random_state : int, RandomState instance or None, default=None
        Draws of starts, mini-batches, samples to search on and candidates for new atoms. Give an
        int for repeatable results.
    verbose : int, default=0
        1 shows a progress bar with the objective and the KKT violation, which costs some time.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        Atoms as directions of the input space, sorted by total activation on the training data.
    dictionary_ : ndarray of shape (n_components, n_features) or (n_components, r)
        Atoms in the space of the factorisation, of norm at most 1; `components_` without `whiten`.
    n_iter_ : int
        Batch iterations of the start that won, plus online steps of `partial_fit`.
    objective_ : float
        F at `dictionary_` and the codes of the training data.
    objective_history_ : ndarray of shape (n_iter_ + 1,)
        Lowest F up to each batch iteration of the start that won, and up to the final codes.
        Non-increasing. Not after `partial_fit`.
    reconstruction_err_ : float
        ``||X - V U||_F`` in the space of the factorisation.
    kkt_violation_ : float
        Largest entry of the codes' projected gradient, each sample's divided by
        ``max_k |x_i . u_k|`` (0 where that is 0); largest over the training samples.
    alpha_ : float
        Penalty in F: alpha, scaled where `alpha_scale` says so, or found for `n_active`.
    n_active_ : float
        Mean number of active atoms per training sample.
    n_dead_ : int
        Number of atoms that no training sample activates.
    codes_gram_ : ndarray of shape (n_components, n_components)
        ``V^T V`` over the training samples: how much two atoms are active together. `partial_fit`
        goes on from it (and makes it a sum that forgets).
    n_samples_seen_ : int
        Number of training samples, over all calls of `partial_fit`.
    mean_ : ndarray of shape (n_features,)
        Mean of the training data (also where it is not subtracted).
    offset_ : ndarray of shape (n_features,)
        What is subtracted before the factorisation: `mean_`, or zeros.
    whitening_axes_, whitening_scale_ : ndarrays of shape (r, n_features) and (r,), or None
        Principal axes and the standard deviations along them.
    skipped_ : dict of str to str
        Files that ``fit(X, on_error="skip")`` left out, and what is wrong with them.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Defined only where X has feature names that are all strings.

    Notes
    -----
    Codes and fitted arrays are of the kind of X: arrays of NumPy, tensors of torch or arrays of
    CuPy on the device of X, whether or not scikit-learn's array API dispatch is on. Tensors in host
    memory share it with what is computed on; those on a GPU never pass through the host.

    References
    ----------
    Ding, Li and Jordan, "Convex and semi-nonnegative matrix factorizations", IEEE TPAMI 2010.
    Mairal, Bach, Ponce and Sapiro, "Online learning for matrix factorization and sparse coding",
    JMLR 2010. Parekh et al., "A concept-based explainability framework for large multimodal
    models", NeurIPS 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from semi_nmf_concepts import SemiNMFConcepts
    >>> rng = np.random.default_rng(0)
    >>> codes = rng.exponential(size=(200, 5)) * (rng.random((200, 5)) < 0.3)
    >>> X = codes @ rng.standard_normal((5, 30))
    >>> model = SemiNMFConcepts(5, alpha=0.01, random_state=0).fit(X)
    >>> V = model.transform(X)
    >>> V.shape, bool((V >= 0).all()), round(model.score(X), 3)
    ((200, 5), True, 1.0)
    """

    _parameter_constraints = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "alpha_scale": [StrOptions({"absolute", "relative"})],
        "n_active": [Interval(Real, 0, None, closed="neither"), None],
        "center": ["boolean"],
        "whiten": [Interval(Integral, 1, None, closed="left"), None],
        "init": [StrOptions({*INITS, "grow"}), "array-like"],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "forgetting": [Interval(Real, 0, 1, closed="right"), None],
        "backend": [StrOptions(BACKENDS)],
        "device": [str, None],
        "batch_size": [Interval(Integral, 1, None, closed="left"), None],
        "n_jobs": [Integral, None],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        n_components=20,
        *,
        alpha=1.0,
        alpha_scale="absolute",
        n_active=None,
        center=False,
        whiten=None,
        init="grow",
        n_init=1,
        max_iter=1000,
        tol=1e-6,
        forgetting=None,
        backend="auto",
        device=None,
        batch_size=None,
        n_jobs=None,
        warm_start=False,
        random_state=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.alpha = alpha
        self.alpha_scale = alpha_scale
        self.n_active = n_active
        self.center = center
        self.whiten = whiten
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.forgetting = forgetting
        self.backend = backend
        self.device = device
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, *, checkpoint=None, on_error="raise", rechunk=True):
        """Learn the dictionary.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NumPy's, or tensors of torch, CuPy arrays ... float32 and float64 are kept, float16 and
            bfloat16 become float32, other types float64. What is larger than the memory is read
            block by block, in several passes: a memory-mapped array, a Zarr array, a path or
            several, and whatever else `semi_nmf_concepts.open_rows` takes. Of a Dask array only
            sums over the rows leave the workers.
        y : ignored
        checkpoint : path-like, default=None
            File that says, after (nearly) every iteration, where the fit is; the same call goes on
            from there if it was interrupted. With it an array in memory, too, is fitted block by
            block. The file stays; remove it to start again.
        on_error : {"raise", "skip"}, default="raise"
            What to do with files that are missing, cut off or damaged: an error that names them,
            before the fit starts, or a fit without them, a warning, and their names and what is
            wrong with them in `skipped_`.
        rechunk : bool, default=True
            Whether a Dask array whose columns are in several chunks may be rechunked (with a
            warning); else it is an error.

        Returns
        -------
        self
        """
        self._fit(X, checkpoint=checkpoint, on_error=on_error, rechunk=rechunk)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_transform(self, X, y=None, *, checkpoint=None, on_error="raise", rechunk=True):
        """Learn the dictionary and return the codes of X, those of ``fit(X).transform(X)``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : ignored
        checkpoint, on_error, rechunk
            See `fit`.

        Returns
        -------
        array of shape (n_samples, n_components)
            Of the kind and precision of X.
        """
        check_options(on_error)
        if is_row_source(X):
            X = open_rows(X, on_error=on_error)  # once, for both
        codes = self._fit(X, checkpoint=checkpoint, on_error=on_error, rechunk=rechunk)
        if codes is None:
            return self._transform(X, on_error=on_error, rechunk=rechunk)
        return codes

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None):
        """Go on learning from further samples, without another look at those before.

        X is split into mini-batches of `batch_size` (None: X is one). Each is coded on the current
        dictionary, its sums ``V^T V`` and ``V^T X`` are added to those of the mini-batches before,
        which shrink (`forgetting`), and the dictionary improves for the sums. Atoms
        that are in no use take the direction of badly explained samples.

        The first call chooses, from its X, what then stays: the mean and whitening, and `alpha_`
        (from the median row norm or for `n_active`). It starts from a short fit of its X, or from
        the dictionary that `init` gives; so let the first X be one of some hundred samples or more.
        After `fit`, learning goes on from what it found. Atoms are not sorted. `objective_`,
        `n_active_` and what else describes codes is about the last mini-batch, coded on the final
        dictionary.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Of the same kind as at the first call. Of what is read block by block (see `fit`; also
            what can be read only once) every `batch_size` rows (None: 64 MiB of them) count as one
            call, however they come, and every chunk of a Dask array.
        y : ignored

        Returns
        -------
        self
        """
        if is_dask_array(X):
            with opened(self, X) as source:
                for block in source.passes.blocks():
                    self._partial_fit(block)
        elif is_by_rows(X):
            is_first = not hasattr(self, "components_")
            with blocks_of(self, X, reset=is_first) as (_, blocks):
                for _, block in blocks:
                    self._partial_fit(block)
        else:
            self._partial_fit(X)
        return self

    def _partial_fit(self, X):
        is_first = not hasattr(self, "components_")
        self._check_whiten()
        random_state = check_random_state(self.random_state) if is_first else None
        data = self._open(X, "partial_fit", random_state)
        with data.backend.session():
            self._learn(data, random_state)

    def transform(self, X, *, out=None, layout="dense", on_error="raise", rechunk=True):
        """Codes of X on the dictionary.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Of the same kind, library and device, as the data of `fit`; or, read block by block,
            whatever `semi_nmf_concepts.open_rows` takes; or a Dask array.
        out : path-like, default=None
            Where to write the codes, block by block, instead of returning them in memory:
            ``"codes.npy"`` or ``"codes.zarr"``, which is none of the files and in none of the
            folders that X is read from. It appears when all is written.
        layout : {"dense", "csr"}, default="dense"
            Of the codes in `out`; "csr" (compressed sparse rows, in Zarr) takes the place that the
            active codes need.
        on_error, rechunk
            See `fit`.

        Returns
        -------
        array of shape (n_samples, n_components)
            ``argmin_{v >= 0} 1/2 ||x - v U||^2 + alpha_ * sum(v)`` for every (mapped) row x, of the
            kind and precision of X. For a Dask array one of Dask that is computed when it is asked
            for; with `out` what `semi_nmf_concepts.open_codes` returns.
        """
        check_is_fitted(self, "components_")
        return self._transform(X, out=out, layout=layout, on_error=on_error, rechunk=rechunk)

    def _transform(self, X, *, out=None, layout="dense", on_error="raise", rechunk=True):
        check_options(on_error, layout, out)
        if is_dask_array(X):
            return self._lazy_codes(X, out, rechunk)
        if out is not None or is_by_rows(X):
            if not is_by_rows(X):
                X = to_numpy(self._validate(X, method="transform", finite=False)[0])
            V, coding, n_samples = coded_rows(self, X, out, layout, on_error)
        else:
            X, kind = self._validate(X, method="transform", finite=False)
            V, coding = self._codes_of(X)
            V, n_samples = move(V, kind), X.shape[0]
        self._warn_of_codes(coding, n_samples)
        return V

    def _lazy_codes(self, X, out, rechunk):
        from ._dask import check_dask, map_rows

        if out is not None:
            raise ValueError("out= is for data that are no Dask array; use transform(X).to_zarr().")
        check_container(self, "The codes of a Dask array wait to be computed")
        X = check_dask(X, rechunk=rechunk)
        check_n_features(self, X)
        return map_rows(X, Codes(self), self.components_.shape[0])

    def _codes_of(self, X):
        """Codes of an array wherever it is, of its kind, and the `Coding`."""
        kind = kind_of(X)
        place, backend = self._machine.at(kind)
        with backend.session():
            V, coding = self._encode(backend, move(X, place))
        if isnan(coding.violation):
            raise_not_finite(X, type(self).__name__)
        return move(V, kind), coding

    def inverse_transform(self, V):
        """Samples that the codes V stand for: ``V @ components_ + offset_``.

        Parameters
        ----------
        V : array-like of shape (n_samples, n_components)
            Of the same kind as the data of `fit`, or a Dask array.

        Returns
        -------
        array of shape (n_samples, n_features)
            For a Dask array one of Dask that is computed when it is asked for.
        """
        check_is_fitted(self, "components_")
        if is_dask_array(V):
            from ._dask import check_dask, map_rows

            check_codes_shape(self, V)
            return map_rows(check_dask(V), Reconstruction(self), self.components_.shape[1])
        V, kind = check_codes(self, V, method="inverse_transform")
        return move(self._reconstruct(V), kind)

    def _errors_over(self, X):
        if not is_by_rows(X):
            return super()._errors_over(X)
        work = Score(copy(self))
        if is_dask_array(X):
            with opened(self, X) as source:
                check_n_features(self, source.passes)
                return source.passes.reduce(work)
        with blocks_of(self, X) as (_, blocks):
            return sum(work(block, start, None) for start, block in blocks)

    # What fit and partial_fit consist of ---------------------------------------------------------

    def _fit(self, X, observer=None, *, checkpoint=None, on_error="raise", rechunk=True):
        """`fit`; returns the codes, or None where X is not in memory.

        `observer` is handed to `fit_dictionary`.
        """
        self._check_whiten()
        check_options(on_error)
        random_state = check_random_state(self.random_state)
        options = {}
        with opened(
            self, X, on_error=on_error, rechunk=rechunk, by_rows=checkpoint is not None
        ) as source:
            if source.passes is None:
                data = self._open(source.X, "fit", random_state)
            else:
                if is_by_rows(X):  # else its features have been looked at
                    check_n_features(self, source.passes, reset=True)
                data, options = self._open_rows(source.passes, checkpoint, random_state)
            with data.backend.session():
                codes = self._fit_data(data, random_state, observer, options)
        self.skipped_ = source.skipped
        return codes

    def _fit_data(self, data, random_state, observer, options):
        """Fit to opened data; returns the codes, or None where they are in no one place."""
        X = data.X if isinstance(data, ArrayData) else None
        with progress_bar(type(self).__name__, X, shown=self.verbose) as callback:
            options = {**options, "callback": callback, "observer": observer}
            fit, alpha = data.trainer(self, self._start(data), random_state, **options).run()
        return self._finish(data, fit, alpha)

    def _learn(self, data, random_state):
        """`partial_fit` on opened data; the first call has a `random_state`."""
        if random_state is not None:
            U, alpha = data.trainer(self, self._start(data), random_state).first_guess()
            A = B = None
            n_steps = n_seen = 0
        else:
            self._check_n_components()
            alpha, n_steps, n_seen = self.alpha_, self.n_iter_, self.n_samples_seen_
            kept = (self.dictionary_, self.codes_gram_, getattr(self, "_codes_data", None))
            U, A, B = (None if array is None else move(array, data.place) for array in kept)
        U = project_atoms(as_float64(U))  # a copy
        A, B = sums_to_continue(A, B, U)
        for rows in mini_batches(data.n_samples, self.batch_size):
            batch = data.part(rows)
            # What was seen so far counts as steps of this size, also after a fit.
            kept = share_kept(self.forgetting, n_seen / batch.n_samples)
            online_step(data.backend, batch.X, U, alpha, A, B, kept)
            n_steps, n_seen = n_steps + 1, n_seen + batch.n_samples
        U = as_kept(data, U)
        V, statistics, _ = batch.coded(U, alpha)
        vars(self).pop("objective_history_", None)  # that of an earlier fit
        if random_state is not None:
            self.alpha_ = alpha
            self._set_map(data)
        self._set_dictionary(data, U)
        self._set_fitted(
            data.kind, codes_gram_=A, _codes_data=B, n_iter_=n_steps, n_samples_seen_=n_seen
        )
        self._describe(batch, U, V, statistics)
        self._warn_of_codes(statistics.coding, batch.n_samples)

    def _check_whiten(self):
        if isinstance(self.whiten, bool | np.bool_):
            raise ValueError(f"whiten must be a number of components or None; got {self.whiten}.")

    def _open(self, X, method, random_state):
        """Validate X, look at it, and map it to where F is minimised.

        The map is learned from X where there is a `random_state`, and else the one learned before.
        """
        X, kind = self._validate(X, method=method, reset=random_state is not None, finite=False)
        place, backend = self._machine.at(kind)

        def find_map(X, mean):
            if random_state is None:
                return self._map.at(place)
            draws = forked(random_state)
            map_ = AffineMap.fit(
                X, mean, center=self.center, whiten=self.whiten, random_state=draws
            )
            if method == "fit":
                self._warn_of_too_many_atoms(X, map_.offset, draws)
            return map_

        return ArrayData.open(X, kind, place, backend, find_map, type(self).__name__)

    def _open_rows(self, passes, checkpoint, random_state):
        """Look at rows that are visited block by block; the data, and options of their trainer."""
        options = {}
        if checkpoint is not None:
            file = Checkpoint(checkpoint, self, passes.shape, random_state)
            options["checkpoint"] = file
        draws = forked(random_state)
        data = RowData.open(passes, self, draws)
        if checkpoint is not None:
            file.check_data(data.raw)
        self._warn_of_too_many_atoms(data.sample, data.map_.offset, draws, passes.shape)
        return data, options

    @property
    def _machine(self):
        return Machine(self.backend, self.device, self.n_jobs)

    def _start(self, data):
        """Atoms to start from, where the data are, or None where `init` is a name."""
        given = self._given_start()
        if given is None:
            return None
        return data.map_.directions_to_factorised(move(given, data.place))

    def _given_start(self):
        """Directions of the input space to start from, or None where `init` is a name."""
        if self.warm_start and hasattr(self, "components_"):
            given, name = self.components_, "components_ of the previous fit (warm_start)"
        elif not isinstance(self.init, str):
            given, name = self.init, "init"
        else:
            return None
        given = check_array(to_numpy(given), dtype=np.float64, order="C", input_name=name)
        expected = (self.n_components, self.n_features_in_)
        if given.shape != expected:
            raise ValueError(
                f"{name} must have shape (n_components, n_features) = {expected}; "
                f"got {given.shape}."
            )
        return given

    def _finish(self, data, fit, alpha):
        """Sort the atoms, compute the final codes, set the attributes; returns the codes."""
        U, V, statistics = self._sorted_and_coded(data, fit, alpha)
        # All attributes after all work: a fit that is interrupted leaves an earlier one whole.
        vars(self).pop("_codes_data", None)  # of an earlier partial_fit
        self.alpha_ = alpha
        self._set_map(data)
        self._set_dictionary(data, U)
        self._describe(data, U, V, statistics)
        history = np.minimum.accumulate([*fit.history, self.objective_])
        self._set_fitted(
            data.kind,
            objective_history_=history,
            codes_gram_=statistics.A,
            n_iter_=len(fit.history),
            n_samples_seen_=data.n_samples,
        )
        self._warn_of_result(fit, statistics.coding, data)
        return None if V is None else move(V, data.kind)

    def _sorted_and_coded(self, data, fit, alpha):
        """Dictionary with its atoms sorted by total activation, codes, and their statistics."""
        U, totals = fit.U, data.totals(fit)
        xp = kind_of(U).xp
        for _ in range(_MAX_SORTS):  # the codes of the last iteration put most atoms in order
            U = U[xp.argsort(-totals, stable=True)]
            rounded = as_kept(data, U)
            V, statistics, totals = data.coded(rounded, alpha)
            if not bool((totals[1:] - totals[:-1] > _SORTED * totals.max()).any()):
                break
        return rounded, V, statistics

    def _set_map(self, data):
        self._set_fitted(
            data.kind,
            mean_=data.mean,
            offset_=data.map_.offset,
            whitening_scale_=data.map_.scale,
            whitening_axes_=data.map_.axes,
        )

    def _set_dictionary(self, data, U):
        """Keep U in the precision of X."""
        xp, dtype = kind_of(U).xp, data.dtype
        components = xp.astype(data.map_.directions_to_input(U), dtype)
        self._set_fitted(data.kind, dictionary_=xp.astype(U, dtype), components_=components)

    def _describe(self, data, U, V, statistics):
        """Set the attributes that say how well U and the codes V describe the data."""
        xp = kind_of(U).xp
        A, B, sum_V, coding = statistics
        error = squared_error_from_statistics(data.squared_norm, A, B, U)
        terms = max(data.squared_norm, float(xp.abs(A * (U @ U.T)).sum()))
        precision = "float32" if data.dtype == xp.float32 else "float64"
        if error <= _SMALL_ERROR[precision] * terms:
            error = data.squared_error(U, V, self.alpha_)
        self.objective_ = 0.5 * error + self.alpha_ * sum_V
        self.reconstruction_err_ = error**0.5
        self.kkt_violation_ = coding.violation
        self.n_active_ = coding.n_active / data.n_samples
        self.n_dead_ = int((xp.linalg.diagonal(A) == 0.0).sum())

    # The rest ------------------------------------------------------------------------------------

    def _encode(self, backend, X):
        """Codes of X, which is where the computation runs, and the `Coding`."""
        place = kind_of(X)
        map_ = self._map.at(place)
        U = as_float64(move(self.dictionary_, place))
        if map_.is_identity:
            return encode(backend, X, U, self.alpha_)
        V = zero_codes(X, U.shape[0])
        codings = [
            improve_codes(backend, map_.to_factorised(X[rows]), U, self.alpha_, V[rows])
            for rows in map_.blocks(X)
        ]
        return V, join_codings(codings)

    def _reconstruct(self, V):
        kind = kind_of(V)
        xp = kind.xp
        components, offset = (
            xp.astype(move(working(array), kind), V.dtype, copy=False)
            for array in (self.components_, self.offset_)
        )
        return V @ components + offset

    @property
    def _map(self):
        return AffineMap(self.offset_, self.whitening_scale_, self.whitening_axes_)

    def __factorization_invariants__(self):
        return ["general", "semi_nmf"]

    def _check_n_components(self):
        n_atoms = self.components_.shape[0]
        if self.n_components != n_atoms:
            raise ValueError(
                f"n_components={self.n_components}, but partial_fit goes on from {n_atoms} "
                "components. Set it back, or call fit to start again."
            )

    def _warn_of_too_many_atoms(self, X, offset, random_state, shape=None):
        """Warn where K exceeds the rank of X - offset; `shape` is that of what X is a sample of."""
        rank = rank_up_to(X, offset, self.n_components, random_state)
        if rank < self.n_components:
            warnings.warn(
                f"n_components={self.n_components} exceeds the rank of the data, {rank} (X has "
                f"shape {tuple(shape or X.shape)}): some atoms may be redundant or unused. Use "
                "fewer components or more samples.",
                UserWarning,
                stacklevel=callers_level(),
            )

    def _warn_of_codes(self, coding, n_samples):
        if coding.n_unconverged:
            message = unconverged_message(coding.n_unconverged, n_samples)
            warnings.warn(
                f"{type(self).__name__}: {message}.", ConvergenceWarning, stacklevel=callers_level()
            )

    def _warn_of_result(self, fit, coding, data):
        problems = []
        if not fit.converged:
            problems.append(
                f"the objective was still falling after max_iter={self.max_iter} iterations; "
                "increase max_iter or tol"
            )
        if coding.n_unconverged:
            problems.append(unconverged_message(coding.n_unconverged, data.n_samples))
        if problems:
            message = f"{type(self).__name__}: {'. Also, '.join(problems)}."
            warnings.warn(message, ConvergenceWarning, stacklevel=callers_level())
        target = self.n_active
        if target is not None and abs(self.n_active_ - target) > N_ACTIVE_TOLERANCE * target:
            warnings.warn(
                f"n_active={target} cannot be reached: {self.n_active_:.3g} of "
                f"{self.n_components} atoms are active on average at alpha_={self.alpha_:.3g}, the "
                "closest found. Change n_active or n_components.",
                UserWarning,
                stacklevel=callers_level(),
            )
        elif self.n_dead_ == self.n_components and self.alpha_ > 0:
            warnings.warn(
                f"All codes are zero: alpha_={self.alpha_:.3g} is at least as large as the longest "
                f"row of the data factorised ({data.longest:.3g}). Use a smaller alpha, "
                "alpha_scale='relative' or n_active.",
                UserWarning,
                stacklevel=callers_level(),
            )
