"""Doing the runs of an evaluation: token by token, in one process or several, each step once."""

import contextlib
from functools import partial

from sklearn.base import clone

from ._records import Finished
from ._runs import Run
from ._states import Extraction, TokenData
from ._store import FinishedSteps, NotFinished, Store


def extract_all(job, parts_of_tokens, folder, n_jobs, verbose):
    """`TokenData` of every token; what is not there yet goes through the model.

    Parameters
    ----------
    job : Job
    parts_of_tokens : dict of str to dict of str to Images
    folder : Path or None
        Where finished steps are kept.
    n_jobs : int
    verbose : int
    """
    # In one process the featurizer shows a bar of images, in several they would mix.
    alone = n_jobs == 1
    featurizer = clone(job.featurizer).set_params(verbose=verbose if alone else 0)
    states = None if folder is None else folder / "states"
    extraction = Extraction(featurizer, job.layers, states, job.random_state)
    passes = extraction.missing(parts_of_tokens)
    with _bar(len(passes), verbose and not alone, "pass", "captions and states") as bar:
        for _ in _in_parallel(extraction.run, passes, n_jobs):
            bar.update()
    data = {token: TokenData(token, parts, extraction) for token, parts in parts_of_tokens.items()}
    _check_kept(data, job)
    return data


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


def run_all(job, bench, data, folder, n_jobs, verbose):
    """All runs of all tokens; finished ones come from the store.

    Returns
    -------
    pieces : dict of str to dict
        Of each token ``finished`` (list of Finished), ``ground_truth`` and ``detectors``.
    """
    store, n_steps = Store(None if folder is None else folder / "runs"), len(job.runs()) + 1
    with _bar(len(data) * n_steps, verbose, "run", "fits and scores") as bar:
        if n_jobs == 1:
            return {
                token: _run_token(job, bench, one, store, bar.update) for token, one in data.items()
            }
        pieces = {}
        for token, one in data.items():  # no process is started for what is only looked up
            with contextlib.suppress(NotFinished):
                pieces[token] = _run_token(job, bench, one, FinishedSteps(store), lambda: None)
                bar.update(n_steps)
        tasks = [(job, bench, one, store) for token, one in data.items() if token not in pieces]
        for token, piece in _in_parallel(_run_token_of, tasks, n_jobs):
            pieces[token] = piece
            bar.update(n_steps)
        return {token: pieces[token] for token in data}


def _run_token(job, bench, data, store, update):
    """All runs of one token."""
    finished = []
    for run in job.runs():
        found = store.once(bench.request(data, run), partial(bench.measure, data, run))
        finished.append(Finished(run, *found))
        update()
    piece = {"finished": finished, **_references(job, bench, data, store)}
    update()
    data.forget()
    for judge in bench.judges:
        judge.forget()
    return piece


def _run_token_of(job, bench, data, store):
    """The same as a task for another process; says which token it was."""
    return data.token, _run_token(job, bench, data, store, lambda: None)


def _in_parallel(function, tasks, n_jobs):
    """Results of `function` for each tuple of arguments, as they come."""
    if n_jobs == 1:
        return (function(*task) for task in tasks)
    from joblib import Parallel, delayed

    parallel = Parallel(n_jobs=n_jobs, return_as="generator_unordered")
    return parallel(delayed(function)(*task) for task in tasks)


def _bar(total, shown, unit, description):
    from tqdm.auto import tqdm

    return tqdm(total=total, disable=not shown, unit=unit, desc=description)


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
