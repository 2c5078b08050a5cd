"""evaluate: the published tables and figures for a model, in one call."""

import time
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd

from semi_nmf_concepts.grounding import thumbnail
from semi_nmf_concepts.lmm import LMMTokenFeaturizer, layer_index, load_model

from ._judges import make_judges
from ._methods import NOISE, SEMI_NMF, make_methods, with_components
from ._records import (
    Finished,
    concept_points,
    factor_rows,
    judged,
    paired_tests,
    recovery_records,
    token_records,
    with_means,
)
from ._result import Evaluation
from ._runs import Bench, Run
from ._states import PARTS, Extraction, images_of
from ._store import Store


def evaluate(
    featurizer,
    train,
    test,
    *,
    tokens,
    methods=None,
    setting=None,
    n_components=20,
    layers=(),
    alphas=(),
    seeds=(0,),
    clip="openai/clip-vit-base-patch32",
    bert="roberta-large",
    grounding=None,
    chosen_on=(),
    factor_columns=None,
    min_positives=15,
    out=None,
    random_state=0,
    verbose=0,
):
    """Evaluate the concepts of a model as the paper does: tables, figures, paired tests.

    1. The states of every token and layer are extracted once, for training and test images, and
       once more for noise images with the same captions dictated (the Noise-Imgs baseline).
    2. Every method is fitted on the training states; its concepts get words and images.
    3. The words are scored on the *test* images that the concepts are active on (CLIPScore,
       BERTScore), and against the images that activate each concept most (MAS scores), beside
       random words, words of noise images and the reference captions.
    4. Layers, numbers of concepts, sparsities and seeds are varied around the reference setting.

    Parameters
    ----------
    featurizer : LMMTokenFeaturizer, or what `load_model` takes
        Its ``layer`` is the reference layer; its ``token`` is not looked at.
    train, test : Bunch or DataFrame, or dict of token to such
        What ``load_scenes``, ``load_image_folder`` or ``load_karpathy`` return: images, reference
        captions and, where known, factors. The same object for several tokens goes through the
        model once.
    tokens : list of str
        Words of interest.
    methods : list of str, or dict of str to estimator, default=None
        Some of "semi-nmf", "kmeans", "pca", "simple"; None takes all. Or estimators of your own by
        name (``components_`` once fitted, ``n_components`` is set): the curves are of the one
        called "Semi-NMF", or else of the first.
    setting : dict, default=None
        Parameters of Semi-NMF. None: the recommended setting; ``{}``: the published objective.
    n_components : int or list of int, default=20
        Number of concepts (20 as in the paper). Of a list the first is the reference, and all make
        the curve over K.
    layers : list of (int or str), default=()
        Layers of the layer curve, besides the reference layer.
    alphas : list of float, default=()
        Weights of the L1 term for its curve, relative to the median norm of the states
        (``alpha_scale="relative"``), so that the same list suits all models.
    seeds : list of int, default=(0,)
        Random states; the first is the reference, all measure the stability of the dictionary.
    clip : str, path, ClipEncoder or None, default="openai/clip-vit-base-patch32"
        See :func:`~semi_nmf_concepts.metrics.load_clip`; None leaves CLIPScores out.
    bert : str, path, BertEncoder or None, default="roberta-large"
        See :func:`~semi_nmf_concepts.metrics.load_bert`; None leaves BERTScores out, and so do data
        without reference captions.
    grounding : dict, default=None
        Options of :func:`~semi_nmf_concepts.grounding.ground_text`, the same for all methods.
    chosen_on : list of str, default=()
        Tokens on which settings were chosen. They are shown, but averages and tests that pool
        tokens leave them out.
    factor_columns, min_positives
        As for :func:`~semi_nmf_concepts.metrics.factor_recovery`.
    out : path-like, default=None
        Folder for the tables, figures and the page, and for finished steps: the same call again
        takes seconds, and one that was killed goes on where it was. None writes nothing.
    random_state : int, default=0
        Seed of the noise images.
    verbose : int, default=0
        1 shows progress bars on standard error.

    Returns
    -------
    Evaluation

    Raises
    ------
    ValueError, TypeError
        A parameter or the data are not usable; checked before the model runs where possible.
        A token that no kept *training* sample has is an error; one without test samples has NaN in
        its tables (n = 0).
    ImportError
        An extra is missing: ``clip`` (open_clip), ``bert`` or ``plots`` (figures, with `out`).

    Notes
    -----
    The bundled CLIP is a small model trained on the bundled scenes: scores of different CLIP models
    must not be compared. The same holds of BERTScores with another encoder, layer or rescaling.

    The test that pools tokens is a one-sided Wilcoxon signed-rank test over test images of the
    difference between the words of Semi-NMF and those of a baseline.

    References
    ----------
    Parekh et al., "A Concept-Based Explainability Framework for Large Multimodal Models", NeurIPS
    2024 (arXiv 2406.08074), section 4.

    Examples
    --------
    >>> from semi_nmf_concepts import LMMTokenFeaturizer, evaluate
    >>> from semi_nmf_concepts.datasets import load_scenes
    >>> train = load_scenes("train", token="dog", n=30)
    >>> test = load_scenes("test", token="dog", n=8)
    >>> result = evaluate(LMMTokenFeaturizer(stop="token"), train, test, tokens=["dog"],
    ...                   methods=["semi-nmf", "simple"], n_components=4, clip=None, bert=None)
    >>> result.table("table2").index.tolist()
    ['Semi-NMF', 'Simple']
    """
    began = time.perf_counter()
    job = _Job(
        featurizer,
        tokens=tokens,
        methods=methods,
        setting=setting,
        n_components=n_components,
        layers=layers,
        alphas=alphas,
        seeds=seeds,
        chosen_on=chosen_on,
        random_state=random_state,
    )
    parts = job.parts_of_tokens(train, test)
    folder = None if out is None else Path(out) / "steps"
    judges = make_judges(
        clip,
        bert if _all_have_references(parts) else None,
        None if folder is None else folder / "clip",
        job.featurizer.device,
    )
    bench = Bench(
        handle=job.featurizer.handle,
        judges=judges,
        grounding=dict(grounding or {}),
        factors={"columns": factor_columns, "min_positives": min_positives},
        random_state=random_state,
    )
    if out is not None:
        _require_plots()
    job.featurizer.verbose = verbose
    extraction = Extraction(
        job.featurizer, job.layers, None if folder is None else folder / "states", random_state
    )
    data = extraction(parts)
    _check_kept(data, job)
    pieces = _run_all(job, bench, data, Store(None if folder is None else folder / "runs"), verbose)
    result = _assemble(job, bench, data, pieces, bert, began)
    if out is not None:
        result.save(out)
    return result


class _Job:
    """What is to be run, checked."""

    def __init__(
        self, featurizer, *, tokens, methods, setting, n_components, layers, alphas, seeds,
        chosen_on, random_state,
    ):  # fmt: skip
        if not isinstance(featurizer, LMMTokenFeaturizer):
            featurizer = LMMTokenFeaturizer(load_model(featurizer))
        if featurizer.position != "generated":
            raise ValueError(
                "featurizer must have position='generated': the states that choose a word, got "
                f"{featurizer.position!r}."
            )
        from sklearn.base import clone

        self.featurizer = clone(featurizer)
        self.tokens = _list_of("tokens", tokens)
        self.chosen_on = list(chosen_on)
        self.reported = [token for token in self.tokens if token not in self.chosen_on]
        unknown = [token for token in self.chosen_on if token not in self.tokens]
        if unknown:
            raise ValueError(f"chosen_on must be among the tokens {self.tokens}, got {unknown}.")
        if not self.reported:
            raise ValueError("chosen_on leaves no token to report.")
        self.is_default = setting is None
        self.methods = make_methods(methods, setting)
        self.main = SEMI_NMF if SEMI_NMF in self.methods else next(iter(self.methods))
        numbers = [n_components] if np.isscalar(n_components) else n_components
        self.n_components = [int(n) for n in _list_of("n_components", numbers)]
        self.seeds = [int(seed) for seed in _list_of("seeds", seeds)]
        self.alphas = [float(alpha) for alpha in alphas]
        n_layers = self.featurizer.handle.n_layers
        self.layers = list(
            dict.fromkeys(
                layer if isinstance(layer, str) else layer_index(layer, n_layers)
                for layer in (featurizer.layer, *layers)
            )
        )
        self.random_state = random_state

    def parts_of_tokens(self, train, test):
        """`Images` of every token and part; tokens that are given the same data share them."""
        parts = {token: {} for token in self.tokens}
        for name, data in zip(PARTS, (train, test), strict=True):
            is_mapping = isinstance(data, dict) and "images" not in data
            groups = {}
            for token in self.tokens:
                if is_mapping and token not in data:
                    raise ValueError(f"{name} has no data for the token {token!r}.")
                own = data[token] if is_mapping else data
                groups.setdefault(id(own), (own, []))[1].append(token)
            for own, tokens in groups.values():
                images = images_of(own, name, self.featurizer, tokens)
                for token in tokens:
                    parts[token][name] = images
        return parts

    def estimator(self, method, n_components, seed, **changes):
        """The unfitted estimator of a run."""
        return with_components(
            self.methods[method],
            n_components,
            seed=seed,
            setting=changes,
            is_default=self.is_default and method == SEMI_NMF,
        )

    def runs(self):
        """The runs of one token, the reference run of the main method first."""
        K, seed, layer = self.n_components[0], self.seeds[0], self.layers[0]
        main, runs = self.main, []
        names = [main, *(name for name in self.methods if name != main)]
        for name in names:
            curves = self._curves() if name == main else ()
            runs.append(
                Run(
                    name,
                    self.estimator(name, K, seed),
                    layer,
                    seed,
                    "full",
                    tables=("reference", "stability", *curves),
                )  # fmt: skip
            )
        runs.append(
            Run(NOISE, self.estimator(main, K, seed), layer, seed, "full", "noise", ("reference",))
        )
        make = partial(Run, main)
        runs += [
            make(self.estimator(main, K, seed), other, seed, "mas", tables=("layers",))
            for other in self.layers[1:]
        ]
        runs += [
            make(self.estimator(main, k, seed), layer, seed, "mas", tables=("n_components",))
            for k in self.n_components[1:]
        ]
        for alpha in self._alphas():
            weight = {"alpha": alpha, "alpha_scale": "relative", "n_active": None}
            estimator = self.estimator(main, K, seed, **weight)
            runs.append(make(estimator, layer, seed, "mas", tables=("alpha",)))
        for name in names:
            if "random_state" in self.methods[name].get_params():
                runs += [
                    Run(name, self.estimator(name, K, s), layer, s, tables=("stability",))
                    for s in self.seeds[1:]
                ]
        return runs

    def _curves(self):
        """Curves that have more points than the reference run."""
        settings = {"layers": self.layers, "n_components": self.n_components}
        return tuple(table for table, values in settings.items() if len(values) > 1)

    def _alphas(self):
        return self.alphas if "alpha" in self.methods[self.main].get_params() else []


def _list_of(name, values):
    """Distinct values in order; a string or nothing is refused."""
    if isinstance(values, str):
        raise TypeError(f"{name} must be a list, got the string {values!r}.")
    values = list(dict.fromkeys(values))
    if not values:
        raise ValueError(f"{name} must not be empty.")
    return values


def _all_have_references(parts):
    """Whether every kept sample can have reference captions."""
    return all(one[part].references is not None for one in parts.values() for part in PARTS)


def _require_plots():
    """Fail before the model runs where the figures could not be drawn after it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "evaluate(out=...) draws figures with matplotlib; install it with: "
            'pip install "semi_nmf_concepts[plots]"'
        ) from error


def _check_kept(data, job):
    """Refuse tokens whose training samples do not suffice."""
    needed = max(job.n_components)
    for token, one in data.items():
        kept = len(one.rows["train"])
        if kept < needed:
            raise ValueError(
                f"token {token!r}: {kept} of {one.parts['train'].n_seen} training images are kept "
                f"(the word is in the generated and in a reference caption), but {needed} concepts "
                "need at least as many. Give more images, fewer components, or leave it out."
            )


def _run_all(job, bench, data, store, verbose):
    """All runs of all tokens; finished ones come from the store."""
    from tqdm.auto import tqdm

    runs, pieces = job.runs(), {}
    with tqdm(total=len(data) * (len(runs) + 1), disable=not verbose, unit="run") as bar:
        for token, one in data.items():
            one.states = lru_cache(maxsize=6)(one.states)
            bar.set_description(token)
            finished = []
            for run in runs:
                found = store.once(bench.request(one, run), partial(bench.measure, one, run))
                finished.append(Finished(run, *found))
                bar.update()
            pieces[token] = {"finished": finished, **_references(job, bench, one, store)}
            bar.update()
            for judge in bench.judges:
                judge.forget()
            one.states.cache_clear()
    return pieces


def _references(job, bench, data, store):
    """What a token's runs are compared with: its reference captions, detectors of other kinds."""
    layer, K, seed = job.layers[0], job.n_components[0], job.seeds[0]
    run = Run("", job.estimator(job.main, K, seed), layer, seed)
    base = bench.request(data, run)

    def judge_references():
        known = data.references("test") is not None and len(data.rows["test"])
        scores = {j.metric: j.ground_truth(data, "test").tolist() for j in bench.judges if known}
        return scores, {}

    ground_truth, _ = store.once({"ground truth": base}, judge_references)
    detectors = {}
    if bench.knows_factors(data):
        detectors, _ = store.once(
            {"detectors": base}, lambda: (bench.detectors(data, layer, K, seed), {})
        )
    return {"ground_truth": ground_truth, "detectors": detectors}


def _assemble(job, bench, data, pieces, bert, began):
    """The result of all tokens together."""
    records, points, factors, scores, concepts = [], [], [], {}, {}
    for token, piece in pieces.items():
        finished = piece["finished"]
        reference = [one for one in finished if "reference" in one.run.tables]
        records += token_records(token, finished, piece["ground_truth"], job.main)
        points += concept_points(token, finished)
        scores[token] = judged(reference, job.main)
        for one in reference:
            tables = (one.values["recovery"] or {}).get("tables", {})
            factors += factor_rows(token, one.run.method, tables)
        for method, tables in piece["detectors"].items():
            records += recovery_records(finished[0], token, method, tables)
            factors += factor_rows(token, method, tables)
        concepts[token] = _grid(data[token], finished[0])
    return Evaluation(
        records=with_means(records, job.reported),
        points=pd.DataFrame(points),
        factors=pd.DataFrame(factors),
        tests=paired_tests(scores, job.main, job.reported),
        concepts=concepts,
        settings=_settings(job, bench, data, bert, began),
    )


def _grid(data, one):
    """Words and thumbnails of the concepts of the reference run."""
    mas = one.values.get("mas", {})
    grid = []
    for k, words in enumerate(one.values["words"]):
        rows = data.rows["train"][one.values["images"][k]]
        images = data.parts["train"].images
        scores = {
            f"mas_{short}": mas[metric]["words"][k] if metric in mas else None
            for metric, short in (("clip_score", "clip"), ("bert_score", "bert"))
        }
        grid.append(
            {
                "concept": k,
                "words": words,
                "images": [thumbnail(images[int(row)], int(row)) for row in rows],
                "share": one.values["share"][k],
                **scores,
            }
        )
    return grid


def _settings(job, bench, data, bert, began):
    """How the evaluation was made."""
    first = data[job.tokens[0]]
    provenance = first.states("images", "train", job.layers[0]).provenance
    judges = {judge.metric: judge.encoder for judge in bench.judges}
    clip, scorer = judges.get("clip_score"), judges.get("bert_score")
    notes = []
    if bert is not None and scorer is None:
        notes.append("BERTScore is left out: there are no reference captions.")
    if job.chosen_on:
        notes.append(
            f"Settings were chosen on {', '.join(job.chosen_on)}; averages and tests are over "
            f"{', '.join(job.reported)}."
        )
    methods = {
        name: repr(job.estimator(name, job.n_components[0], job.seeds[0])) for name in job.methods
    }
    return {
        **{key: provenance.get(key) for key in ("model", "revision", "fingerprint", "prompt")},
        "layer": job.layers[0],
        "layers": sorted(job.layers, key=str),
        "tokens": job.tokens,
        "chosen_on": job.chosen_on,
        "main": job.main,
        "methods": methods,
        "n_components": job.n_components,
        "alphas": job.alphas,
        "seeds": job.seeds,
        "clip": None if clip is None else str(clip.model),
        "clip_bundled": clip is not None and str(clip.model) == "bundled",
        "bert": None
        if scorer is None
        else {
            "model": str(scorer.model),
            "num_layers": scorer.num_layers,
            "rescale": scorer.rescale,
        },
        "grounding": {k: getattr(v, "__name__", v) for k, v in bench.grounding.items()},
        "samples": {token: one.counts for token, one in data.items()},
        "versions": provenance.get("versions"),
        "package_version": provenance.get("package_version"),
        "seconds": round(time.perf_counter() - began, 1),
        "notes": notes,
    }
