"""From images to a concept report: extract, factorise, ground in words and images, score."""

import sys
import warnings
from types import SimpleNamespace

import numpy as np
from sklearn.base import clone

from semi_nmf_concepts.lmm import NoSampleKeptError
from semi_nmf_concepts.metrics import factor_recovery, overlap_score
from semi_nmf_concepts.metrics._factors import split
from semi_nmf_concepts.metrics._word_hits import naming_words

from ._images import check_count, ground_images
from ._records import Concept, Samples
from ._report import ConceptReport, thumbnail
from ._saving import to_jsonable
from ._words import check_filter, ground_text

# Part of the training samples that factors are measured on when there are no test images.
_TEST_SHARE = 0.3
# AUROC above which a factor value counts as detected.
DETECTED = 0.75


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
        training images, so that the object given stays as it is; one that is fitted is used as is.
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
        Columns to score, see :func:`semi_nmf_concepts.metrics.factor_recovery`.
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
        fit the model, or an option is out of range.
    TypeError
        If the decomposer has no ``components_`` after fitting.

    Notes
    -----
    Factor values get their concept by AUROC on the kept training samples, and the AUROC on the kept
    test samples is reported. Without test images 30% of the kept training samples are held out for
    it: their factors are not used in the choice, but their states were used in the factorisation.
    """
    # What the grounding checks is checked here first: the model may run for hours before it.
    for name, value in {
        "n_images": n_images,
        "n_words": n_words,
        "n_candidates": n_candidates,
    }.items():
        check_count(name, value)
    check_filter(word_filter)
    if n_local is not None:
        check_count("n_local", n_local, minimum=0)
    say = _to_stderr if verbose else _silent
    data = _Part(featurizer, images, captions, factors, "")
    test = _test_part(featurizer, test_images, test_captions, factors, test_factors)

    data.extract(say)
    estimator = _fitted(decomposer, data.Z, say)
    data.activate(estimator)
    if test is not None:
        test.extract(say)
        test.activate(estimator)

    say("grounding concepts in words and images")
    grounding = {
        "n_words": n_words,
        "n_candidates": n_candidates,
        "final_norm": final_norm,
        "subtract_mean": subtract_mean,
        "word_filter": word_filter,
    }
    origin = getattr(estimator, "provenance_", data.provenance)
    words = ground_text(estimator, _handle(featurizer), provenance=origin, **grounding)
    settings = _settings(estimator, data, test, words, grounding)
    test = test if test is not None and len(test.samples) else None
    scored = _score_factors(
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
        settings=to_jsonable(settings | _factor_settings(scored)),
        factor_table=scored["table"],
        left_out=scored["left_out"],
        thumbnails=_thumbnails(concepts, data, local, shown),
    )


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
        from semi_nmf_concepts.lmm._images import split_samples

        self.featurizer, self.prefix = featurizer, prefix
        if captions is not None and len(captions) != len(images):
            raise ValueError(
                f"{prefix}captions must have one entry per image: got {len(captions)} entries for "
                f"{len(images)} images."
            )
        if factors is not None and len(factors) != len(images):
            raise ValueError(
                f"{prefix}factors must have one row per image: got {len(factors)} rows for "
                f"{len(images)} images."
            )
        self.images, self.references = split_samples(
            images,
            captions,
            image_column=getattr(featurizer, "image_column", "image"),
            caption_column=getattr(featurizer, "caption_column", "caption"),
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
                stacklevel=3,
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


def _fitted(decomposer, Z, say):
    """Return a fitted decomposer: the one given if it is fitted, otherwise a fitted clone."""
    if not hasattr(decomposer, "components_"):
        n_components = getattr(decomposer, "n_components", None)
        if isinstance(n_components, int) and len(Z) < n_components:
            raise ValueError(
                f"Only {len(Z)} sample(s) were kept for {n_components} concepts: use at least "
                f"{n_components} images that show the token of interest, or a smaller n_components."
            )
        say(f"factorising {len(Z)} states of width {Z.shape[1]}")
        decomposer = clone(decomposer).fit(Z)
    if not hasattr(decomposer, "components_"):
        raise TypeError(
            f"decomposer must have components_ once fitted; {type(decomposer).__name__} has none."
        )
    width = np.shape(decomposer.components_)[1]
    if width != Z.shape[1]:
        raise ValueError(
            f"decomposer was fitted on {width} features, but the states have {Z.shape[1]}."
        )
    return decomposer


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


def _score_factors(data, test, words, columns, factor_words, min_positives, random_state):
    """Find the concept of each factor value; nothing where the factors are not known."""
    if data.factors is None:
        return {"table": None, "left_out": [], "macro": None, "protocol": None}
    if factor_words is None:
        from semi_nmf_concepts.datasets import FACTOR_WORDS as factor_words

    chosen, measured, protocol = _factor_parts(data, test, random_state)
    recovery = factor_recovery(
        *chosen,
        *measured,
        columns=columns,
        min_positives=min_positives,
        random_state=random_state,
    )
    table = []
    for row in recovery.table.to_dict("records"):
        names = naming_words(factor_words, row["factor"], row["value"])
        concept_words = words[row["component"]].words
        named_by = [word for word in concept_words if word in names]
        table.append(
            {
                "factor": row["factor"],
                "value": row["value"],
                "concept": row["component"],
                "auroc": row["auroc"],
                "low": row["low"],
                "high": row["high"],
                "n_positive": row["n_positive_test"],
                "words": concept_words,
                "named_by": named_by,
                "word_hit": bool(named_by) if names else None,
            }
        )
    macro = recovery.macro if table else None
    return {"table": table, "left_out": recovery.left_out, "macro": macro, "protocol": protocol}


def _factor_parts(data, test, random_state):
    """Choose the samples that atoms are chosen on and those that they are measured on."""
    if test is not None:
        chosen = data.activations, data.kept_factors()
        measured = test.activations, test.kept_factors()
        return chosen, measured, "chosen on training samples, measured on test samples"
    factors = data.kept_factors()
    first, second = split(len(factors), _TEST_SHARE, random_state)
    chosen = data.activations[first], factors.iloc[first]
    measured = data.activations[second], factors.iloc[second]
    protocol = "chosen on 70% of the training samples, measured on the other 30%"
    return chosen, measured, protocol


def _reconstruction_score(estimator, part, mean):
    """Compute 1 - squared error / squared distance from the training mean; None if impossible."""
    if not hasattr(estimator, "inverse_transform") or len(part.Z) == 0:
        return None
    error = part.Z - estimator.inverse_transform(part.activations)
    spread = np.sum((part.Z - mean) ** 2, dtype=np.float64)
    return float(1 - np.sum(error**2, dtype=np.float64) / spread) if spread > 0 else None


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


def _factor_settings(scored):
    """Summarise the factor table; a value counts as detected above an AUROC of 0.75."""
    hits = [row["word_hit"] for row in scored["table"] or () if row["auroc"] > DETECTED]
    hits = [hit for hit in hits if hit is not None]
    return {
        "factor_macro": scored["macro"],
        "factor_protocol": scored["protocol"],
        "word_hit_share": sum(hits) / len(hits) if hits else None,
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
