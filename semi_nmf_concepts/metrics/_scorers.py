"""Metrics of concepts as scorers of scikit-learn: `scoring=` of GridSearchCV and cross_validate."""

import hashlib
import os
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline

from ._codes import dead_fraction, reconstruction_score, sparsity
from ._dci import dci
from ._factors import factor_recovery_score
from ._overlap import overlap_score
from ._ranking import check_top

# Images whose embeddings are remembered: some 200 MB with 512 features.
_REMEMBERED = 100_000

# Greater is better for all of them, as scikit-learn expects; "neg_" marks those that are negated.
_METRICS = {
    "reconstruction": lambda scored: reconstruction_score(
        scored.states, scored.reconstruction, scored.mean
    ),
    "hoyer": lambda scored: sparsity(scored.activations, "hoyer"),
    "neg_l0": lambda scored: -sparsity(scored.activations, "l0"),
    "neg_dead_fraction": lambda scored: -dead_fraction(scored.activations),
    "recovery": lambda scored: scored.recovery(),
    "disentanglement": lambda scored: scored.dci.disentanglement,
    "completeness": lambda scored: scored.dci.completeness,
    "clip_score": lambda scored: scored.clip_score(),
    "bert_score": lambda scored: scored.bert_score(),
    "neg_overlap": lambda scored: -overlap_score(scored.words),
}


class ConceptScorer(BaseEstimator):
    """Score fitted concepts in a grid search or a cross-validation.

    Pass it as ``scoring=``: with one metric it returns a number, with a list of them a dict, for
    which a search needs ``refit=`` one of their names (or False). What several metrics need
    (states, activations, words, forests) is computed once per call.

    Parameters
    ----------
    metrics : str or list of str, default="clip_score"
        Greater is better for all; what is better when smaller is negated and named so.

        From the activations, of any fitted estimator with ``components_``: "reconstruction"
        (:func:`reconstruction_score`, against the training mean ``mean_`` where there is one),
        "hoyer" and "neg_l0" (:func:`sparsity`), "neg_dead_fraction" (:func:`dead_fraction`).

        From the activations and known factors, passed as y, a DataFrame: "recovery"
        (:func:`factor_recovery_score`), "disentanglement" and "completeness" (:func:`dci`).

        From the words of the concepts: "neg_overlap" (:func:`overlap_score`). From the words and
        the images: "clip_score" (mean of :func:`clip_score`). From the words and the reference
        captions: "bert_score" (mean of :func:`bert_score` over the samples that have references).
    model : str, path or ModelHandle, default=None
        The model whose unembedding gives the words; by default that of the featurizer at the start
        of the pipeline. Needed for "neg_overlap" of a decomposer alone.
    n_words, n_candidates, subtract_mean, final_norm, word_filter
        As for :func:`~semi_nmf_concepts.grounding.ground_text`, with its defaults.
    top : int, default=1
        Number of most active concepts of a sample that "clip_score" and "bert_score" average over
        (1 as in the table of the paper).
    clip_model : str, path or ClipEncoder, default="openai/clip-vit-base-patch32"
        See :func:`load_clip`.
    bert_model : str, path or BertEncoder, default="roberta-large"
        See :func:`load_bert`, whose result takes the other options, such as rescaling.
    device : str, default="auto"
        Where the two encoders run, if they are given by name.
    cache : path-like, default=None
        Folder for CLIP embeddings of images, as for :func:`load_clip`. Without one each distinct
        image is embedded once per process; with one, once over all processes (``n_jobs``).
    columns, min_positives, either_sign, test_size
        As for :func:`factor_recovery_score`, with its defaults. Atoms are chosen on one part of
        the scored fold and measured on the other: a value needs `min_positives` samples in either.
    random_state : int, RandomState or None, default=0
        Splits the scored fold, and seeds the forests of :func:`dci`.

    Raises
    ------
    ValueError
        If a metric is unknown (when the scorer is made), or lacks what it needs (when it is
        called): see Notes.

    Notes
    -----
    An estimator is a decomposer, whose X are states; or a Pipeline that ends with one. Metrics of
    images and captions need a Pipeline that starts with an
    :class:`~semi_nmf_concepts.lmm.LMMTokenFeaturizer`; X are images then, and "bert_score" needs
    a DataFrame with a column of captions. Steps between the two, other than "passthrough", leave
    the components in a space of their own, in which the unembedding has no meaning: metrics of
    words refuse them.

    Give the featurizer a ``cache``: each distinct image then goes through the model once, over all
    candidates and folds. Lists of paths and DataFrames are split without being read; of another
    lazy sequence, such as the images of ``load_scenes``, scikit-learn makes a list for each fold,
    with all of its images in memory.

    A metric that fails raises its error, and scikit-learn does with it what ``error_score`` says.
    It cannot put dicts together with the single number of a fold that failed, though (a TypeError
    in 1.9): use ``error_score="raise"`` with a list of metrics, or, where failures are expected,
    ``scoring={name: ConceptScorer(name), ...}``, which computes everything anew for each metric.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import GridSearchCV
    >>> from semi_nmf_concepts.decomposition import PCAConcepts
    >>> scorer = ConceptScorer(["reconstruction", "neg_l0"])
    >>> Z = np.random.default_rng(0).standard_normal((40, 6))
    >>> grid = {"n_components": [2, 6]}
    >>> search = GridSearchCV(PCAConcepts(), grid, scoring=scorer, refit="reconstruction").fit(Z)
    >>> search.best_params_
    {'n_components': 6}
    >>> search.cv_results_["mean_test_neg_l0"]
    array([-2., -6.])
    """

    def __init__(
        self,
        metrics="clip_score",
        *,
        model=None,
        n_words=10,
        n_candidates=50,
        subtract_mean=False,
        final_norm=False,
        word_filter="english",
        top=1,
        clip_model="openai/clip-vit-base-patch32",
        bert_model="roberta-large",
        device="auto",
        cache=None,
        columns=None,
        min_positives=15,
        either_sign=False,
        test_size=0.3,
        random_state=0,
    ):
        # A misspelt name must not show up after hours of a search, hence a check here, too.
        _names(metrics)
        self.metrics = metrics
        self.model = model
        self.n_words = n_words
        self.n_candidates = n_candidates
        self.subtract_mean = subtract_mean
        self.final_norm = final_norm
        self.word_filter = word_filter
        self.top = top
        self.clip_model = clip_model
        self.bert_model = bert_model
        self.device = device
        self.cache = cache
        self.columns = columns
        self.min_positives = min_positives
        self.either_sign = either_sign
        self.test_size = test_size
        self.random_state = random_state

    def __call__(self, estimator, X, y=None):
        """Score a fitted estimator.

        Parameters
        ----------
        estimator : fitted decomposer, or Pipeline that ends with one
        X : array of states, or images (sequence or DataFrame)
        y : DataFrame of known factors, default=None

        Returns
        -------
        score : float, or dict of str to float
            A dict if `metrics` is a list.
        """
        scored = _Scored(self, estimator, X, y)
        # Adding 0.0 makes 0.0 of the negative zero that a negated 0 is.
        values = {name: float(_METRICS[name](scored)) + 0.0 for name in _names(self.metrics)}
        return values[self.metrics] if isinstance(self.metrics, str) else values


class _Scored:
    """One fitted estimator on one part of the data: what metrics share, each made at first use."""

    def __init__(self, options, estimator, X, y):
        self.options, self.estimator, self.X, self.y = options, estimator, X, y
        self.featurizer, self.between, self.decomposer = _steps(estimator)

    @cached_property
    def states(self):
        """What the decomposer gets."""
        if isinstance(self.estimator, Pipeline) and len(self.estimator) > 1:
            return np.asarray(self.estimator[:-1].transform(self.X))
        return np.asarray(self.X)

    @cached_property
    def activations(self):
        return np.asarray(self.decomposer.transform(self.states))

    @property
    def reconstruction(self):
        if not hasattr(self.decomposer, "inverse_transform"):
            raise TypeError(
                "reconstruction needs an estimator with inverse_transform; "
                f"{type(self.decomposer).__name__} has none."
            )
        return self.decomposer.inverse_transform(self.activations)

    @property
    def mean(self):
        return getattr(self.decomposer, "mean_", None)

    # Known factors

    def recovery(self):
        options = self.options
        return factor_recovery_score(
            self.activations, self._factors(), either_sign=options.either_sign, **self._split()
        )

    @cached_property
    def dci(self):
        return dci(self.activations, self._factors(), **self._split())

    def _split(self):
        names = ("columns", "min_positives", "test_size", "random_state")
        return {name: getattr(self.options, name) for name in names}

    def _factors(self):
        if not hasattr(self.y, "columns"):
            raise ValueError(
                "y must be a DataFrame of known factors, one row per sample, for the metrics "
                f"recovery, disentanglement and completeness; got {type(self.y).__name__}."
            )
        return self.y

    # Words

    @cached_property
    def words(self):
        """Words of every concept."""
        if self.between:
            raise ValueError(
                f"step(s) {self.between} of the pipeline change the space of the states, so that "
                "components_ are no directions of the model, which words need (clip_score, "
                "bert_score, neg_overlap): leave them out or set them to 'passthrough'."
            )
        model, origin = self.options.model, None
        if self.featurizer is not None:
            # A plain fit leaves no trace of which layer the states are of.
            origin = {"layer": self.featurizer.layer}
            fitted = getattr(self.featurizer, "handle_", None)
            handle = self.featurizer.handle if fitted is None else fitted
            model = handle if model is None else model
        if model is None:
            raise ValueError(
                "words (clip_score, bert_score, neg_overlap) come from the unembedding of a model: "
                "pass model= to ConceptScorer, or score a Pipeline that starts with "
                "LMMTokenFeaturizer."
            )
        origin = getattr(self.decomposer, "provenance_", None) or origin
        return _ground(self.decomposer, model, self.options, origin)

    def clip_score(self):
        from ._clip import clip_score

        options, top = self.options, self._top()
        words, images = self.words, self._samples[0]  # the cheap errors come first
        encoder, known = _clip_memory(options.clip_model, options.device, options.cache)
        rows = _embeddings(images, encoder, known)
        return clip_score(rows, self.activations, words, model=encoder, top=(top,))[top].mean()

    def bert_score(self):
        from ._bert import bert_score

        options, top = self.options, self._top()
        words, references = self.words, self._samples[1]
        rows = [i for i, texts in enumerate(references or ()) if any(map(str.strip, texts))]
        if not rows:
            raise ValueError(
                "bert_score needs reference captions: pass X as a DataFrame with the columns "
                f"{self.featurizer.image_column!r} and {self.featurizer.caption_column!r} (a "
                "string or a list of strings for each image)."
            )
        scores = bert_score(
            [references[i] for i in rows],
            self.activations[rows],
            words,
            model=options.bert_model,
            device=options.device,
            top=(top,),
        )
        return scores[top].mean()

    def _top(self):
        tops = check_top(self.options.top)
        if len(tops) > 1:
            raise ValueError(f"top must be one integer for a score, got {self.options.top!r}.")
        return tops[0]

    @cached_property
    def _samples(self):
        """Images, and their reference captions or None."""
        from semi_nmf_concepts.lmm import split_samples

        if self.featurizer is None:
            raise ValueError(
                "clip_score and bert_score need a Pipeline that starts at images, with an "
                f"LMMTokenFeaturizer as its first step; got {type(self.estimator).__name__}."
            )
        return split_samples(
            self.X,
            None,
            image_column=self.featurizer.image_column,
            caption_column=self.featurizer.caption_column,
        )


def _names(metrics):
    """The metrics as a list of known names."""
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    unknown = [name for name in names if name not in _METRICS]
    if unknown or not names:
        raise ValueError(
            f"metrics must be one of {list(_METRICS)} or a list of them, got {metrics!r}."
        )
    return names


def _steps(estimator):
    """The featurizer or None, the names of what comes between, and the decomposer."""
    from semi_nmf_concepts.lmm import LMMTokenFeaturizer

    steps = estimator.steps if isinstance(estimator, Pipeline) else [("", estimator)]
    *before, (_, decomposer) = steps
    if not hasattr(decomposer, "components_"):
        raise TypeError(
            "estimator must be fitted and have components_, or be a fitted Pipeline whose last "
            f"step has them; got {type(estimator).__name__}."
        )
    before = [(name, step) for name, step in before if step not in (None, "passthrough")]
    featurizer = None
    if before and isinstance(before[0][1], LMMTokenFeaturizer):
        featurizer = before.pop(0)[1]
    return featurizer, [name for name, _ in before], decomposer


@lru_cache(maxsize=2)
def _clip_memory(model, device, cache):
    """A CLIP encoder, and a dict for the embeddings of images: candidates share their images."""
    from ._clip import load_clip

    return load_clip(model, device=device, cache=cache), {}


def _embeddings(images, encoder, known):
    """Embeddings (n, d) of images, which are known by their content."""
    if len(known) > _REMEMBERED:
        known.clear()
    keys = [_content_key(images[i], i) for i in range(len(images))]
    new = {key: i for i, key in enumerate(keys) if key not in known}
    if new:
        rows = encoder.encode_images([images[i] for i in new.values()])
        known.update(zip(new, rows, strict=True))
    return np.stack([known[key] for key in keys])


def _content_key(item, index):
    """Hash of the bytes of a file, or of the pixels of another image."""
    from semi_nmf_concepts.lmm import to_rgb

    if isinstance(item, (str, os.PathLike)) and Path(item).is_file():
        return hashlib.sha256(Path(item).read_bytes()).digest()
    image = to_rgb(item, index)
    return hashlib.sha256(f"{image.size} ".encode() + image.tobytes()).digest()


def _ground(decomposer, model, options, provenance):
    """Words of every concept.

    The one thing that this room needs of grounding, which comes after it, hence the late import.
    """
    from semi_nmf_concepts.grounding import ground_text

    return ground_text(
        decomposer,
        model,
        n_words=options.n_words,
        n_candidates=options.n_candidates,
        subtract_mean=options.subtract_mean,
        final_norm=options.final_norm,
        word_filter=options.word_filter,
        provenance=provenance,
    )
