"""Making a trace: the answer, and one pass that reads the rows which predicted it."""

from dataclasses import replace
from numbers import Integral

import numpy as np

from semi_nmf_concepts.lmm import find_patch_grids, layer_index, load_model, write_answer

from ._choices import one_integer
from ._trace import AnswerTrace
from ._words import answer_words, question_words

N_ALTERNATIVES = 5


def trace_answer(
    model="bundled",
    images=None,
    prompt=None,
    answer=None,
    *,
    layers=None,
    max_new_tokens=64,
    temperature=0.0,
    top_p=1.0,
    random_state=None,
    image_names=None,
    max_pixels=None,
):
    """Let a model answer, and keep the attention that predicted each token.

    The answer is generated as usual, with the fast attention kernel. One more pass over prompt and
    answer together then reads the rows that matter: of S positions only the T that predicted the
    answer, in half precision, so that memory grows with layers x heads x T x S and never with S x S
    per layer.

    Parameters
    ----------
    model : "bundled", str, path or ModelHandle, default="bundled"
        See :func:`~semi_nmf_concepts.lmm.load_model`.
    images : image or list of images
        Paths, PIL images or arrays.
    prompt : str, default=None
        What to ask; None takes the model's default.
    answer : str or list of int, default=None
        The answer to explain, as a text or as token ids. None: the model's own.
    layers : int or list of int, default=None
        Decoder blocks whose attention is kept (negative: from the end). None: all.
    max_new_tokens : int, default=64
        Longest answer.
    temperature : float, default=0.0
        0 takes the likeliest token at every step; above, tokens are drawn.
    top_p : float, default=1.0
        Share of the probability that tokens are drawn from.
    random_state : int, default=None
        Seed of the draws.
    image_names : list of str, default=None
        None: file names, or "image 1", "image 2" ...
    max_pixels : int, default=None
        Larger images are refused; None: 64 million.

    Returns
    -------
    AnswerTrace

    Raises
    ------
    ValueError
        If there is no image, one is too large or cannot be read, the answer has no tokens, a layer
        does not exist, or the model's patch grid is not known, does not fit the number of image
        tokens, or its attention cannot be read.

    References
    ----------
    .. [1] Stan et al., "LVLM-Interpret: An Interpretability Tool for Large Vision-Language Models",
       2024. https://arxiv.org/abs/2404.03118

    Examples
    --------
    >>> from semi_nmf_concepts.attention import trace_answer
    >>> from semi_nmf_concepts.datasets import load_scenes
    >>> trace = trace_answer(images=load_scenes("test", token="dog", n=1).images[0])
    >>> trace.answer
    'a dog that is white on the grass next to an umbrella'
    >>> trace.attention.shape  # layers, heads, answer tokens, positions
    (4, 5, 12, 63)
    >>> trace.image_attention("dog", layer=2).share > 0.5
    True
    """
    handle = load_model(model)
    blocks = _blocks(layers, handle)
    options = {} if max_pixels is None else {"max_pixels": max_pixels}
    run = write_answer(
        handle,
        images,
        prompt,
        answer,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        random_state=random_state,
        image_names=image_names,
        **options,
    )
    grids = find_patch_grids(run.handle.loaded, run.inputs, run.images)
    return _assemble(run, *_read_rows(run, blocks, grids))


def _blocks(layers, handle):
    """The blocks asked for, ascending."""
    n_blocks = handle.n_layers
    chosen = range(n_blocks) if layers is None else layers
    chosen = [chosen] if isinstance(chosen, (Integral, str)) else list(chosen)
    blocks = sorted({layer_index(one_integer("layers", layer), n_blocks) for layer in chosen})
    if not blocks:
        raise ValueError("layers is an empty list.")
    return blocks


def _read_rows(run, blocks, grids):
    """(grids, dict block -> float16 (H, T, S), float32 logits (T, vocabulary)) of one pass.

    Queries get the places that they read in this pass.
    """
    from ._capture import CrossKeys, QueryTap, RowTap, check_readable, logits_with

    model = run.handle.loaded.model
    check_readable(model, run.handle.model)
    sequence = run.sequence
    rows = slice(run.n_prompt - 1, len(sequence) - 1)
    keep = dict.fromkeys(blocks, lambda weights: weights.half().cpu())
    tap = RowTap(model, rows, len(sequence), keep, CrossKeys(model, grids))
    queries = QueryTap(model, grids[0].query_layers, tap)
    logits = logits_with(run, queries)[:-1].float().cpu()
    if not tap.kept:
        raise ValueError(
            f"no attention of layers {list(blocks)} of model {run.handle.model!r} can be read: "
            "these blocks do not attend to the whole sequence with an attention function of "
            "transformers."
        )
    if grids[0].query_layers:
        grids = _read_by(grids, queries.weights())
    if grids[0].cross_layers:  # the columns of keys come behind those of the sequence
        grids = [replace(grid, positions=grid.positions + len(sequence)) for grid in grids]
    return grids, {block: tap.kept[block].numpy() for block in sorted(tap.kept)}, logits


def _read_by(grids, weights):
    """Grids of queries with the places that they read; `weights` (images, queries, states)."""
    n_images, n_queries, n_states = weights.shape
    read = []
    for image, grid in enumerate(grids):
        of_all = np.zeros((n_queries, n_images, n_states))  # states of all images are numbered
        of_all[:, image] = weights[image]
        read.append(grid.read_by(of_all.reshape(n_queries, -1)))
    return read


def _assemble(run, grids, kept, logits):
    """The record of all that is known."""
    import torch

    tokenizer = run.handle.loaded.tokenizer
    sequence, n_prompt = run.sequence, run.n_prompt
    words = answer_words(tokenizer, run.ids)
    if not words:
        pieces = [tokenizer.decode([index]) for index in run.ids]
        raise ValueError(
            f"the answer has no words: its tokens are {pieces}, which write nothing. Ask another "
            "question or pass another answer."
        )
    ids = torch.tensor(run.ids)
    probabilities = torch.softmax(logits, dim=-1)
    best = probabilities.topk(min(N_ALTERNATIVES, probabilities.shape[-1]), dim=-1)
    image_positions = set(np.flatnonzero(sequence == run.handle.loaded.image_token_id).tolist())
    return AnswerTrace(
        images=run.images,
        image_names=run.image_names,
        question=run.question,
        prompt=run.prompt,
        token_ids=sequence,
        tokens=[tokenizer.decode([index]) for index in sequence.tolist()],
        n_prompt=n_prompt,
        answer=run.text,
        words=words,
        question_words=question_words(
            tokenizer, sequence[:n_prompt].tolist(), image_positions, run.question
        ),
        grids=grids,
        layers=list(kept),
        attention=np.stack(list(kept.values())),
        logits=logits.gather(1, ids[:, None])[:, 0].numpy(),
        probabilities=probabilities.gather(1, ids[:, None])[:, 0].numpy(),
        alternatives=[
            [(tokenizer.decode([i]), p) for i, p in zip(*pair, strict=True)]
            for pair in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ],
        model=run.handle,
        provenance=run.provenance | {"layers": list(kept), "n_blocks": run.handle.n_layers},
        _run=run,
    )
