"""BERTScore between the words of concepts and the captions of images."""

import dataclasses

import numpy as np
from sklearn.utils import check_random_state

from ._bert_encoder import load_bert, reference_lists
from ._ranking import (
    check_indices,
    check_matching,
    check_top,
    mas_scores,
    top_concepts,
    top_scores,
    word_lists,
)


def bert_baseline(
    references,
    *,
    model="roberta-large",
    num_layers=None,
    device="auto",
    n_pairs=1000,
    random_state=0,
):
    """BERTScore of captions that belong to different images: where the scale begins.

    bert-score's own baselines are the mean over pairs of unrelated sentences too, but of general
    English and for a list of models; this one is measured on the captions at hand, for any model.

    Parameters
    ----------
    references : list of (str or list of str)
        Captions of every image, at least two images with some.
    model, num_layers, device
        As of :func:`load_bert`. How a BertEncoder rescales plays no part.
    n_pairs : int, default=1000
        Pairs to draw; with so many, draws differ by a few thousandths.
    random_state : int, RandomState instance or None, default=0
        Which images and which of their captions are drawn.

    Returns
    -------
    baseline : float
        Mean F1, to pass as ``rescale=``.

    Raises
    ------
    ValueError, TypeError
        If `n_pairs` is less than 1 or `references` holds captions of fewer than 2 images.
    ValueError, TypeError, OSError, ImportError
        As :func:`load_bert` and :meth:`BertEncoder.f1`.

    Examples
    --------
    >>> from semi_nmf_concepts.metrics import bert_baseline
    >>> baseline = bert_baseline([["a dog", "a puppy"], ["two buses"]], model="bundled", n_pairs=10)
    >>> 0 < baseline < 1
    True
    """
    if isinstance(n_pairs, bool) or not isinstance(n_pairs, int | np.integer) or n_pairs < 1:
        raise ValueError(f"n_pairs must be an integer of at least 1, got {n_pairs!r}.")
    encoder = load_bert(model, num_layers=num_layers, device=device)
    lists = [texts for texts in reference_lists(references) if texts]
    if len(lists) < 2:
        raise ValueError(f"references must hold captions of at least 2 images, got {len(lists)}.")
    rng = check_random_state(random_state)
    first = rng.randint(len(lists), size=n_pairs)
    other = (first + rng.randint(1, len(lists), size=n_pairs)) % len(lists)
    candidates, captions = (
        [lists[i][rng.randint(len(lists[i]))] for i in side] for side in (first, other)
    )
    return float(dataclasses.replace(encoder, rescale=False).f1(candidates, captions).mean())


def bert_concept_scores(
    references,
    words,
    *,
    where=None,
    model="roberta-large",
    num_layers=None,
    rescale=False,
    device="auto",
):
    """BERTScore of the words of every concept with the captions of every sample.

    Parameters
    ----------
    references : list of (str or list of str), length n
        Captions of every sample; the one that fits best counts.
    words : list of (list of str), length K
        Words of each concept; objects with an attribute ``words`` are accepted. What is scored is
        the words joined by ", ".
    where : array-like of bool, shape (n, K), default=None
        Which scores are needed. None: all.
    model, num_layers, rescale, device
        As of :func:`load_bert`.

    Returns
    -------
    scores : ndarray of float64, shape (n, K)
        NaN where not `where`, and for samples without captions; otherwise 0 for concepts without
        words, rescaled or not.

    Raises
    ------
    ValueError, TypeError
        If `where` has another shape, or `references` or `words` holds something else than text.
    ValueError, TypeError, OSError, ImportError
        As :func:`load_bert` and :meth:`BertEncoder.f1`.

    Examples
    --------
    >>> from semi_nmf_concepts.metrics import bert_concept_scores
    >>> words = [["dog", "puppy"], ["bus"], []]
    >>> scores = bert_concept_scores([["a puppy", "one dog"]], words, model="bundled")
    >>> bool(scores[0, 0] > scores[0, 1]), scores[0, 2]
    (True, np.float64(0.0))
    """
    encoder = load_bert(model, num_layers=num_layers, rescale=rescale, device=device)
    references = reference_lists(references)
    texts = [", ".join(concept) for concept in word_lists(words)]
    shape = (len(references), len(texts))
    where = np.ones(shape, dtype=bool) if where is None else np.asarray(where)
    if where.shape != shape or where.dtype != bool:
        raise ValueError(
            f"where must be booleans of shape {shape} (samples, concepts), got {where.dtype} of "
            f"shape {where.shape}."
        )
    rows, concepts = np.nonzero(where)
    scores = np.full(shape, np.nan)
    scores[rows, concepts] = encoder.f1([texts[k] for k in concepts], [references[i] for i in rows])
    return scores


def bert_score(
    references,
    activations,
    words,
    *,
    model="roberta-large",
    num_layers=None,
    rescale=False,
    top=(1, 3),
    device="auto",
):
    """BERTScore of the most active concepts of every sample with its captions.

    Parameters
    ----------
    references : list of (str or list of str), length n
        Captions of every sample; the one that fits best counts.
    activations : array-like of shape (n, K)
    words : list of (list of str), length K
        Words of each concept; objects with an attribute ``words`` are accepted.
    model, num_layers, rescale, device
        As of :func:`load_bert`.
    top : int or sequence of int, default=(1, 3)
        How many of a sample's most active concepts are averaged.

    Returns
    -------
    scores : dict of int to ndarray of float64, shape (n,)
        For each number in `top` the mean F1 per sample. 0 for a sample that activates no concept,
        and in the mean for a concept without words; otherwise NaN for a sample without captions.

    Raises
    ------
    ValueError, TypeError
        If `activations` does not fit `references` and `words`, or `top` has no integers from 1 on.
    ValueError, TypeError, OSError, ImportError
        As :func:`load_bert` and :meth:`BertEncoder.f1`.

    Examples
    --------
    >>> from semi_nmf_concepts.metrics import bert_score
    >>> captions = [["a dog", "a puppy"], ["a red bus"]]
    >>> activations, words = [[2.0, 0.0], [0.0, 1.0]], [["dog"], ["bus", "red"]]
    >>> right = bert_score(captions, activations, words, model="bundled", top=1)[1]
    >>> wrong = bert_score(captions, activations, words[::-1], model="bundled", top=1)[1]
    >>> (right > wrong).tolist()
    [True, True]
    """
    top = check_top(top)
    references, words = reference_lists(references), word_lists(words)
    activations = check_matching(activations, len(references), len(words), samples="references")
    scores = bert_concept_scores(
        references,
        words,
        where=top_concepts(activations, max(top)),
        model=model,
        num_layers=num_layers,
        rescale=rescale,
        device=device,
    )
    return top_scores(scores, activations, top)


def mas_bert_score(
    references,
    image_indices,
    words,
    *,
    model="roberta-large",
    num_layers=None,
    rescale=False,
    device="auto",
):
    """BERTScore of the words of every concept with the captions of its most activating samples.

    Parameters
    ----------
    references : list of (str or list of str)
        Captions of every sample; the one that fits best counts.
    image_indices : list of K lists of int
        Positions in `references` of the most activating samples of each concept, as of
        ``ground_images``.
    words : list of (list of str), length K
        Words of each concept; objects with an attribute ``words`` are accepted.
    model, num_layers, rescale, device
        As of :func:`load_bert`.

    Returns
    -------
    scores : ndarray of float64, shape (K,)
        Mean F1 over the samples that have captions; NaN for a concept with no such sample, and
        otherwise 0 for one without words.

    Raises
    ------
    ValueError, TypeError
        If `image_indices` does not fit `references` and `words`.
    ValueError, TypeError, OSError, ImportError
        As :func:`load_bert` and :meth:`BertEncoder.f1`.

    Examples
    --------
    >>> from semi_nmf_concepts.metrics import mas_bert_score
    >>> captions = [["a dog", "a puppy"], ["a red bus"]]
    >>> mas_bert_score(captions, [[0], [0], []], [["a dog"], [], ["bus"]], model="bundled").round(4)
    array([ 1.,  0., nan])
    """
    references, words = reference_lists(references), word_lists(words)
    lists = check_indices(image_indices, len(references), len(words), samples="references")
    lists = [[i for i in rows if references[i]] for rows in lists]
    where = np.zeros((len(references), len(words)), dtype=bool)
    for k, rows in enumerate(lists):
        where[rows, k] = True
    scores = bert_concept_scores(
        references,
        words,
        where=where,
        model=model,
        num_layers=num_layers,
        rescale=rescale,
        device=device,
    )
    return mas_scores(scores, lists)


def ground_truth_bert_score(
    references, *, model="roberta-large", num_layers=None, rescale=False, device="auto"
):
    """BERTScore of every caption of a sample with its other captions: how high a text can come.

    Parameters
    ----------
    references : list of (list of str), length n
        Captions of every sample.
    model, num_layers, rescale, device
        As of :func:`load_bert`.

    Returns
    -------
    scores : ndarray of float64, shape (n,)
        Mean over the captions of a sample of the F1 with the best of the others; a caption that
        occurs twice is another one the second time. NaN with fewer than two captions.

    Raises
    ------
    ValueError, TypeError
        If `references` holds something else than text.
    ValueError, TypeError, OSError, ImportError
        As :func:`load_bert` and :meth:`BertEncoder.f1`.

    Examples
    --------
    >>> from semi_nmf_concepts.metrics import ground_truth_bert_score
    >>> captions = [["a dog", "a dog"], ["a red bus"]]
    >>> ground_truth_bert_score(captions, model="bundled").round(4)
    array([ 1., nan])
    """
    encoder = load_bert(model, num_layers=num_layers, rescale=rescale, device=device)
    references = reference_lists(references)
    candidates = [text for texts in references for text in texts]
    others = [texts[:j] + texts[j + 1 :] for texts in references for j in range(len(texts))]
    scores = encoder.f1(candidates, others)  # NaN for a single caption, which has no others
    ends = np.cumsum([len(texts) for texts in references], dtype=int)
    return np.array(
        [
            scores[end - len(texts) : end].mean() if texts else np.nan
            for end, texts in zip(ends, references, strict=True)
        ]
    )
