"""evaluate: the published tables and figures for a model, in one call."""

import contextlib
import shutil
import tempfile
import time
from pathlib import Path

from ._assemble import assemble
from ._job import Job
from ._judges import make_judges
from ._runs import Bench
from ._states import PARTS, UNFINISHED
from ._work import extract_all, run_all


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
    n_jobs=None,
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
    setting : dict or callable, default=None
        Parameters of Semi-NMF, or a function that gives them for a number of components. None: the
        recommended setting (:func:`~semi_nmf_concepts.decomposition.recommended_setting`); ``{}``:
        the published objective.
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
        takes seconds, and one that was killed goes on where it was. Steps are found by the content
        of all that they depend on, except the code of estimators of your own: after a change of
        that, take another folder. None writes nothing.
    random_state : int, default=0
        Seed of the noise images.
    n_jobs : int, default=None
        Processes that share the tokens between them, each with the models in its memory; None is
        one. More than one pays on a CPU with several cores, not on one GPU.
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
    difference between the words of Semi-NMF and those of a baseline or another method.

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
    >>> result.table("table2")["method"].tolist()
    ['Simple', 'Semi-NMF']
    """
    began = time.perf_counter()
    n_jobs = 1 if n_jobs is None else n_jobs
    job = Job(
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
    has_references = all(one[p].references is not None for one in parts.values() for p in PARTS)
    device = job.featurizer.device
    if out is not None:
        _require_plots()
    with _steps(out, n_jobs) as folder:
        judges = make_judges(clip, bert if has_references else None, folder, device)
        bench = Bench(
            handle=job.featurizer.handle,
            judges=judges,
            grounding=dict(grounding or {}),
            factors={"columns": factor_columns, "min_positives": min_positives},
            random_state=random_state,
        )
        estimators = [run.estimator for run in job.runs()]
        bench.check(estimators, parts.values(), job.featurizer.handle.width)
        data = extract_all(job, parts, folder, n_jobs, verbose)
        pieces = run_all(job, bench, data, folder, n_jobs, verbose)
        result = assemble(job, bench, data, pieces)
    result.settings["seconds"] = round(time.perf_counter() - began, 1)
    if bert is not None and not has_references:
        result.settings["notes"].append("BERTScore is left out: there are no reference captions.")
    if out is not None:
        result.save(out)
    return result


@contextlib.contextmanager
def _steps(out, n_jobs):
    """The folder for finished steps: in `out`, or, for processes to share, for the time being."""
    if out is not None:
        folder = Path(out) / "steps"
        with _only_one(folder):
            yield folder
            shutil.rmtree(folder / "states" / UNFINISHED, ignore_errors=True)
    elif n_jobs == 1:
        yield None
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


@contextlib.contextmanager
def _only_one(folder):
    """Keep other evaluations out of the folder; the lock goes with the process that holds it."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise ValueError(
            f"another evaluation is at work in out={str(folder.parent)!r}: wait for it, or choose "
            "another folder."
        ) from error


def _require_plots():
    """Fail before the model runs where the figures could not be drawn after it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "evaluate(out=...) draws figures with matplotlib; install it with: "
            'pip install "semi_nmf_concepts[plots]"'
        ) from error
