"""From images to a concept report: extract, factorise, ground in words and images, score."""

import copy
import sys
import warnings
from numbers import Integral
from types import SimpleNamespace

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state

from semi_nmf_concepts._messages import callers_level
from semi_nmf_concepts.lmm import NoSampleKeptError, split_samples
from semi_nmf_concepts.metrics import overlap_score, reconstruction_score

from ._images import check_count, ground_images
from ._known_factors import check_columns, factor_settings, score_factors
from ._records import Concept, Samples
from ._report import ConceptReport, thumbnail
from ._saving import to_jsonable
from ._words import check_filter, check_mean_of, check_origin, ground_text


def explain_concepts(
    featurizer,
    decomposer,
    images,
    captions=None,
    *,
    test_images=None,
    test_captions=None,
    factors=None,
    test_factors=None,
    factor_columns=None,
    factor_words=None,
    min_positives=15,
    n_images=5,
    n_words=10,
    n_candidates=50,
    final_norm=False,
    subtract_mean=False,
    word_filter="english",
    n_local=24,
    random_state=0,
    verbose=0,
):
    """Explain a word of an image captioner by multimodal concepts.

    1. ``featurizer.extract`` writes a caption for every image, selects the samples whose caption
       has the token of interest, and returns the states that predict it.
    2. The decomposer factorises the states of the training images.
    3. Each concept is shown by words (:func:`ground_text`) and images (:func:`ground_images`).
    4. The test images go through the same extraction and are explained by the concepts found.
    5. Where factors of the images are known, each factor value gets the concept that detects it.

    Parameters
    ----------
    featurizer : LMMTokenFeaturizer
        With ``token`` set.
    decomposer : estimator
        Anything with the parameter ``n_components`` and, once fitted, ``components_`` and
        ``transform``. One that is not fitted is cloned and the clone is fitted on the states of the
        training images, so that the object given stays as it is; the clone gets the attribute
        ``provenance_`` and is ``ConceptReport.decomposer``. One that is fitted is used as is, as
        long as its ``provenance_`` does not name another model; without that attribute its origin
        is unknown, and ``settings["decomposer_origin"]`` says so.
    images : sequence of images, or DataFrame
        Training images; what the featurizer takes. Only the images that the report shows are read
        a second time, for their thumbnails.
    captions : sequence of (str or list of str), default=None
        Reference captions; when given, the token must occur in a reference, too.
    test_images, test_captions : default=None
        Images to explain, and their reference captions. Without them, local explanations are of
        training samples.
    factors, test_factors : DataFrame with one row per image, default=None
        Known factors of the training and the test images, aligned by position.
    factor_columns : list of str, default=None
        Columns to score; by default those that look like factors and have no missing values for
        the kept samples, see :func:`semi_nmf_concepts.metrics.factor_recovery`.
    factor_words : dict, default=None
        factor -> value -> words that name it. By default those of the bundled scenes.
    min_positives : int, default=15
        Smallest number of samples with (and without) a factor value, in either part.
    n_images : int, default=5
        Most activating images per concept.
    n_words, n_candidates, final_norm, subtract_mean, word_filter
        Options of :func:`ground_text`.
    n_local : int or None, default=24
        Number of local samples that the report keeps, spread evenly over the kept test samples
        (24 fill a page); None keeps all.
    random_state : int, RandomState or None, default=0
        Seed of the bootstrap intervals and, without test images, of the split for the factors.
    verbose : int, default=0
        1 prints a line per step to standard error.

    Returns
    -------
    ConceptReport

    Raises
    ------
    ValueError
        If lengths differ, fewer samples are kept than concepts are asked for, the components do not
        fit the model, or an option is out of range. What does not depend on the captions is checked
        before the model runs.
    TypeError
        If the decomposer has no ``components_`` after fitting.

    Notes
    -----
    Factor values get their concept by AUROC on the kept training samples, and the AUROC on the kept
    test samples is reported. Without test images 30% of the kept training samples are held out for
    it: their factors are not used in the choice, but their states were used in the factorisation.
    """
    grounding = {
        "n_words": n_words,
        "n_candidates": n_candidates,
        "final_norm": final_norm,
        "subtract_mean": subtract_mean,
        "word_filter": word_filter,
    }
    asked = {
        "n_images": n_images,
        "n_local": n_local,
        "factor_columns": factor_columns,
        "min_positives": min_positives,
        "random_state": random_state,
    }
    say = _to_stderr if verbose else _silent
    data = _Part(featurizer, images, captions, factors, "")
    test = _test_part(featurizer, test_images, test_captions, factors, test_factors)
    # The model may run for hours: what can be checked without it is checked before.
    _check_options(asked, grounding)
    check_columns(factor_columns, data.factors, test)
    _check_decomposer(decomposer, featurizer, grounding)

    data.extract(say)
    estimator, origin = _fitted(decomposer, data, say)
    data.activate(estimator)
    if test is not None:
        test.extract(say)
        test.activate(estimator)

    say("grounding concepts in words and images")
    words = ground_text(estimator, _handle(featurizer), provenance=data.provenance, **grounding)
    settings = _settings(estimator, data, test, words, grounding) | asked
    settings["decomposer_origin"] = origin
    test = test if test is not None and len(test.samples) else None
    scored = score_factors(
        data, test, words, factor_columns, factor_words, min_positives, random_state
    )
    concepts = _concepts(data, words, n_images, scored["table"])
    local = data if test is None else test
    shown = _spread(len(local.samples), n_local)
    return ConceptReport(
        concepts=concepts,
        samples=data.samples,
        activations=data.activations,
        components=np.array(estimator.components_, dtype=np.float32),
        dictionary=np.array(
            getattr(estimator, "dictionary_", estimator.components_), dtype=np.float32
        ),
        local_kind="train" if test is None else "test",
        local_samples=local.samples.take(shown),
        local_activations=local.activations[shown],
        test_samples=None if test is None else test.samples,
        test_activations=None if test is None else test.activations,
        provenance=to_jsonable(dict(data.provenance)),
        settings=to_jsonable(settings | factor_settings(scored)),
        factor_table=scored["table"],
        left_out=scored["left_out"],
        thumbnails=_thumbnails(concepts, data, local, shown),
        decomposer=estimator,
    )


def _check_options(asked, grounding):
    """Check the numbers among the options, and the word filter."""
    for name in ("n_words", "n_candidates"):
        check_count(name, grounding[name])
    for name in ("n_images", "min_positives"):
        check_count(name, asked[name])
    if asked["n_local"] is not None:
        check_count("n_local", asked["n_local"], minimum=0)
    check_random_state(asked["random_state"])
    check_filter(grounding["word_filter"])


def _check_decomposer(decomposer, featurizer, grounding):
    """Refuse a decomposer that cannot be grounded as asked for with the featurizer's model."""
    handle, final_norm = _handle(featurizer), grounding["final_norm"]
    check_origin(getattr(decomposer, "provenance_", None), handle, final_norm)
    check_origin({"layer": getattr(featurizer, "layer", None)}, handle, final_norm)
    if hasattr(decomposer, "components_"):
        n_components = len(decomposer.components_)
    else:
        n_components = getattr(decomposer, "n_components", None)
        if hasattr(decomposer, "_parameter_constraints"):  # scikit-learn's way to declare them
            decomposer._validate_params()
    if grounding["subtract_mean"] and isinstance(n_components, Integral):
        check_mean_of(n_components)


def _test_part(featurizer, images, captions, factors, test_factors):
    """Return the test part, or None without test images."""
    if images is None:
        if captions is not None or test_factors is not None:
            raise ValueError("test_captions and test_factors need test_images.")
        return None
    if (factors is None) != (test_factors is None):
        raise ValueError("Give both factors and test_factors, or neither.")
    return _Part(featurizer, images, captions, test_factors, "test_")


class _Part:
    """The images of one part (training or test), and what becomes of them step by step."""

    def __init__(self, featurizer, images, captions, factors, prefix):
        self.featurizer, self.prefix = featurizer, prefix
        try:
            self.images, self.references = split_samples(
                images,
                captions,
                image_column=getattr(featurizer, "image_column", "image"),
                caption_column=getattr(featurizer, "caption_column", "caption"),
            )
        except (TypeError, ValueError) as error:
            if not prefix:
                raise
            raise type(error)(f"{prefix}images, {prefix}captions: {error}") from error
        if factors is not None and len(factors) != len(self.images):
            raise ValueError(
                f"{prefix}factors must have one row per image: got {len(factors)} rows for "
                f"{len(self.images)} images."
            )
        self.factors = factors

    def extract(self, say):
        """Run the model; keep the states and all that is known of the samples they come from."""
        name = self.prefix.replace("_", " ") or "training "
        say(f"captions and states of {len(self.images)} {name}images")
        states = self._states()
        self.dropped = {why: len(rows) for why, rows in states.dropped.items() if len(rows)}
        self.Z, self.provenance = np.asarray(states.Z), states.provenance
        indices = np.asarray(states.indices, dtype=np.int64)
        references = self.references or [[]] * len(self.images)
        self.samples = Samples(
            indices=indices,
            captions=list(states.captions),
            references=[list(references[i]) for i in indices],
            prefixes=list(states.prefixes),
            factors=None if self.factors is None else _records(self.factors, indices),
        )
        say(f"kept {len(indices)} of {len(self.images)}")

    def _states(self):
        """Extract; test images of which none is kept give no rows instead of an error."""
        try:
            return self.featurizer.extract(self.images, self.references)
        except NoSampleKeptError as error:
            if not self.prefix:
                raise
            nothing = {"captions": [], "prefixes": [], "indices": [], "provenance": {}}
            return SimpleNamespace(Z=np.empty((0, 0)), dropped=error.dropped, **nothing)
        except ValueError as error:
            if not self.prefix:
                raise
            raise ValueError(f"{self.prefix}images: {error}") from error

    def activate(self, estimator):
        """Compute the activations of the kept samples; without any (test images only), warn."""
        if not len(self.samples):
            warnings.warn(
                f"None of the {len(self.images)} test images was kept (dropped: {self.dropped}): "
                "local explanations are of training samples instead.",
                stacklevel=callers_level(),
            )
            return
        self.activations = np.asarray(estimator.transform(self.Z), dtype=np.float32)

    def kept_factors(self):
        """Factors of the kept samples, as a DataFrame."""
        return self.factors.iloc[self.samples.indices]


def _to_stderr(message):
    """Print progress where it does not mix with results."""
    print(message, file=sys.stderr)


def _silent(message):
    """Say nothing."""


def _records(factors, indices):
    """Turn rows of a factor table into dictionaries that survive a round trip through JSON."""
    return [to_jsonable(row) for row in factors.iloc[indices].to_dict("records")]


def _handle(featurizer):
    """Return the model handle of a featurizer, fitted or not."""
    fitted = getattr(featurizer, "handle_", None)
    return featurizer.handle if fitted is None else fitted


def _fitted(decomposer, data, say):
    """Return a fitted decomposer and where it was fitted: a copy of the one given if it is fitted
    (so that a later fit does not change the report), otherwise a fitted clone."""
    Z = data.Z
    if hasattr(decomposer, "components_"):
        decomposer = copy.copy(decomposer)
        origin = _origin_of(decomposer)
    else:
        _check_enough(data, getattr(decomposer, "n_components", None))
        say(f"factorising {len(Z)} states of width {Z.shape[1]}")
        decomposer = clone(decomposer).fit(Z)
        decomposer.provenance_ = to_jsonable(dict(data.provenance))
        origin = "fitted on the kept training images"
    if not hasattr(decomposer, "components_"):
        raise TypeError(
            f"decomposer must have components_ once fitted; {type(decomposer).__name__} has none."
        )
    width = np.shape(decomposer.components_)[1]
    if width != Z.shape[1]:
        raise ValueError(
            f"decomposer was fitted on {width} features, but the states have {Z.shape[1]}."
        )
    return decomposer, origin


def _origin_of(decomposer):
    """Say what is known of the states that a decomposer was fitted on before."""
    known = getattr(decomposer, "provenance_", None) or {}
    if known.get("fingerprint") is None:
        return "given fitted; unknown on which states"
    return (
        f"given fitted, on states of this model (token {known.get('token')!r}, layer "
        f"{known.get('layer')!r})"
    )


def _check_enough(data, n_components):
    """Raise where fewer samples were kept than concepts are asked for; say what became of them."""
    n_kept, n_seen = len(data.Z), len(data.images)
    if not isinstance(n_components, Integral) or n_kept >= n_components:
        return
    reasons = ", ".join(f"{n} {why.replace('_', ' ')}" for why, n in data.dropped.items())
    raise ValueError(
        f"Only {n_kept} of {n_seen} images were kept for {n_components} concepts"
        f"{f' (dropped: {reasons})' if reasons else ''}: use at least {n_components} images that "
        "show the token of interest, or a smaller n_components."
    )


def _concepts(data, words, n_images, table):
    """Make one record per concept; `table` lists the detected factor values, or is None."""
    rows = ground_images(data.activations, n_images)
    keys = ("factor", "value", "auroc", "low", "high")
    concepts = []
    for k, column in enumerate(data.activations.T):
        active = column[column > 0]
        detected = [{key: row[key] for key in keys} for row in table or () if row["concept"] == k]
        concepts.append(
            Concept(
                index=k,
                words=words[k].words,
                word_scores=words[k].scores,
                image_indices=[int(data.samples.indices[row]) for row in rows[k]],
                image_activations=[float(column[row]) for row in rows[k]],
                activation=column,
                share=len(active) / len(column),
                mean_activation=float(active.mean()) if len(active) else 0.0,
                factors=sorted(detected, key=lambda entry: -entry["auroc"]),
            )
        )
    return concepts


def _reconstruction_score(estimator, part, mean):
    """Compute the share of the variation that is explained; None if impossible."""
    if not hasattr(estimator, "inverse_transform") or len(part.Z) == 0:
        return None
    return reconstruction_score(part.Z, estimator.inverse_transform(part.activations), mean)


def _settings(estimator, data, test, words, grounding):
    """Collect how the report was made and its summary figures."""
    mean = data.Z.mean(axis=0)
    seen, kept, dropped, score = 0, 0, {}, None
    if test is not None:
        seen, kept, dropped = len(test.images), len(test.samples), test.dropped
        score = _reconstruction_score(estimator, test, mean)
    word_filter = grounding["word_filter"]
    return {
        "decomposer": type(estimator).__name__,
        "params": estimator.get_params(),
        "grounding": grounding | {"word_filter": getattr(word_filter, "__name__", word_filter)},
        **{key: data.provenance.get(key) for key in ("token", "layer", "prompt", "position")},
        "n_components": len(words),
        "n_seen": len(data.images),
        "n_kept": len(data.samples),
        "dropped": data.dropped,
        "n_test_seen": seen,
        "n_test_kept": kept,
        "test_dropped": dropped,
        "reconstruction_score": _reconstruction_score(estimator, data, mean),
        "test_reconstruction_score": score,
        "alpha": getattr(estimator, "alpha_", None),
        "mean_n_active": float((data.activations > 0).sum(axis=1).mean()),
        "overlap": overlap_score(words) if len(words) > 1 else None,
    }


def _spread(n, n_shown):
    """Choose at most `n_shown` of n rows, evenly spread."""
    if n_shown is None or n_shown >= n:
        return np.arange(n)
    return np.arange(n_shown) * n // n_shown


def _thumbnails(concepts, data, local, shown):
    """Make the thumbnails of every image that the report shows; each image is read once."""
    made = {}
    train = sorted({i for concept in concepts for i in concept.image_indices})
    for i in train:
        made["train", i] = thumbnail(data.images[i], i)
    for row, i in enumerate(local.samples.indices[shown].tolist()):
        known = made.get(("train", i)) if local is data else None
        made["local", row] = known or thumbnail(local.images[i], i)
    return made
