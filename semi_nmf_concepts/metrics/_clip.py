"""CLIP scores: how well the words of concepts fit images.

Notation: image embeddings (n, d) and text embeddings (m, d) of one CLIP model; words of K concepts.
"""

import numpy as np

from ._clip_handle import DEFAULT_MODEL, image_sequence, is_embeddings, load_clip
from ._ranking import check_indices, check_matching, check_top, mas_scores, top_scores, word_lists

#: What a concept's words are put into; ``{words}`` stands for them, joined by ", ".
CLIP_TEMPLATE = "A photo is described by the words {words}."
_WEIGHT = 2.5  # stretches the cosines that CLIP gives to real pairs, some 0 to 0.4, to 0 to 1


def clip_similarity(image_embeddings, text_embeddings):
    """Compute the CLIPScore of every image with every text.

    ``2.5 * max(cos(image, text), 0)``.

    Parameters
    ----------
    image_embeddings : array-like of shape (n, d)
        Finite; rows need not have unit length. A row of zeros scores 0.
    text_embeddings : array-like of shape (m, d)
        Likewise, of the same model.

    Returns
    -------
    scores : ndarray of float64, shape (n, m)
        Between 0 and 2.5; matching pairs of the published models score some 0.6 to 0.8.

    References
    ----------
    Hessel et al., "CLIPScore: A Reference-free Evaluation Metric for Image Captioning", 2021.

    Examples
    --------
    >>> clip_similarity([[1.0, 0.0]], [[0.6, 0.8], [0.0, 2.0], [-1.0, 0.0]])
    array([[1.5, 0. , 0. ]])
    """
    images = _unit_rows(image_embeddings, "image_embeddings")
    texts = _unit_rows(text_embeddings, "text_embeddings")
    if images.shape[1] != texts.shape[1]:
        raise ValueError(
            "image and text embeddings must be of one model: got "
            f"{images.shape[1]} features of images and {texts.shape[1]} of texts."
        )
    return _WEIGHT * np.maximum(images @ texts.T, 0.0)


def concept_texts(words, template=CLIP_TEMPLATE):
    """Write out the words of each concept as the text that CLIP sees.

    Parameters
    ----------
    words : list of K lists of str
        Objects with an attribute ``words`` (``Concept``, ``WordGrounding``) are accepted.
    template : str, default="A photo is described by the words {words}."
        The wording of the published scores. ``{words}`` stands for the words, joined by ", ".

    Returns
    -------
    texts : list of K str
        "" for a concept without words.

    Examples
    --------
    >>> concept_texts([["dog", "snow"], []])
    ['A photo is described by the words dog, snow.', '']
    """
    if not isinstance(template, str) or "{words}" not in template:
        raise ValueError(f"template must be a string that contains '{{words}}', got {template!r}.")
    return [
        template.replace("{words}", ", ".join(concept)) if concept else ""
        for concept in word_lists(words)
    ]


def clip_concept_scores(
    images,
    words,
    *,
    model=DEFAULT_MODEL,
    template=CLIP_TEMPLATE,
    batch_size=64,
    device="auto",
    cache=None,
):
    """Compute the CLIPScore of every image with the words of every concept.

    Parameters
    ----------
    images : sequence of n images, or float ndarray of shape (n, d)
        Images as for :meth:`ClipEncoder.encode_images`, or what it returned for them.
    words : list of K lists of str
        As for :func:`concept_texts`.
    model : str, path or ClipEncoder, default="openai/clip-vit-base-patch32"
        As for :func:`load_clip`. A handle remembers the texts that it has encoded.
    template : str, default="A photo is described by the words {words}."
        As for :func:`concept_texts`.
    batch_size : int, default=64
        Images per run of the model.
    device : str or torch.device, default="auto"
    cache : path, default=None
        Folder where embeddings are kept.

    Returns
    -------
    scores : ndarray of float64, shape (n, K)
        Between 0 and 2.5; the column of a concept without words is 0.

    Raises
    ------
    ValueError, TypeError, OSError, ImportError
        If an argument or image is wrong, or the model cannot be had; see :func:`load_clip`.

    Examples
    --------
    >>> clip_concept_scores(scenes.images, report.words, model="bundled")  # doctest: +SKIP
    """
    images, texts = image_sequence(images), concept_texts(words, template)
    encoder = load_clip(model, device=device, cache=cache)
    named = [k for k, text in enumerate(texts) if text]
    scores = np.zeros((len(images), len(texts)))
    if len(images) and named:
        text_rows = encoder.encode_texts([texts[k] for k in named])
        image_rows = _embeddings(images, encoder, batch_size)
        scores[:, named] = clip_similarity(image_rows, text_rows)
    return scores


def clip_score(
    images,
    activations,
    words,
    *,
    model=DEFAULT_MODEL,
    top=(1, 3),
    template=CLIP_TEMPLATE,
    batch_size=64,
    device="auto",
    cache=None,
):
    """Compute how well the words of the most active concepts of each image fit it, by CLIP.

    Report mean and standard deviation of the values over (test) images.

    Parameters
    ----------
    images, words, model, template, batch_size, device, cache
        As for :func:`clip_concept_scores`.
    activations : array-like of shape (n, K)
        Activations of the concepts on the images, finite. The largest positive ones count; of equal
        ones, the concept of the lower index.
    top : int or sequence of int, default=(1, 3)
        Over how many most active concepts to take the mean. The default gives the published top-1
        and top-3.

    Returns
    -------
    scores : dict of int to ndarray of float64, shape (n,)
        For each number in `top` the value of every image, between 0 and 2.5: the mean over that
        many concepts, or over those with a positive activation where there are fewer; 0 for an
        image that activates none. A concept without words counts as 0.

    Raises
    ------
    ValueError, TypeError, OSError, ImportError
        If arguments do not fit each other, an image is wrong, or the model cannot be had; see
        :func:`load_clip`.

    References
    ----------
    Hessel et al., "CLIPScore: A Reference-free Evaluation Metric for Image Captioning", 2021.

    Parekh et al., "A Concept-Based Explainability Framework for Large Multimodal Models", 2024.

    Examples
    --------
    >>> scores = clip_score(images, V, words, model="bundled")  # doctest: +SKIP
    >>> scores[1].mean(), scores[1].std()  # doctest: +SKIP
    """
    top, images, lists = check_top(top), image_sequence(images), word_lists(words)
    activations = check_matching(activations, len(images), len(lists), samples="images")
    options = {"template": template, "batch_size": batch_size, "device": device, "cache": cache}
    scores = clip_concept_scores(images, lists, model=model, **options)
    return top_scores(scores, activations, top)


def mas_clip_score(
    images,
    image_indices,
    words,
    *,
    model=DEFAULT_MODEL,
    template=CLIP_TEMPLATE,
    batch_size=64,
    device="auto",
    cache=None,
):
    """Compute how well the words of each concept fit its most activating images, by CLIP.

    Parameters
    ----------
    images, words, model, template, batch_size, device, cache
        As for :func:`clip_concept_scores`; only the images that `image_indices` names are read.
    image_indices : list of K lists of int
        Positions of the most activating images of each concept, as of ``ground_images``.

    Returns
    -------
    scores : ndarray of float64, shape (K,)
        Mean over the concept's images, between 0 and 2.5. 0 for a concept without words; NaN for
        one without images, which is never active (``np.nanmean`` leaves it out).

    Raises
    ------
    ValueError, TypeError, OSError, ImportError
        As :func:`clip_score`.

    References
    ----------
    Parekh et al., "A Concept-Based Explainability Framework for Large Multimodal Models", 2024.

    Examples
    --------
    >>> mas_clip_score(images, report.image_indices, words, model="bundled")  # doctest: +SKIP
    """
    images, lists = image_sequence(images), word_lists(words)
    indices = check_indices(image_indices, len(images), len(lists), samples="images")
    used = sorted({i for rows in indices for i in rows})
    position = {i: row for row, i in enumerate(used)}
    options = {"template": template, "batch_size": batch_size, "device": device, "cache": cache}
    scores = clip_concept_scores(_rows(images, used), lists, model=model, **options)
    return mas_scores(scores, [[position[i] for i in rows] for rows in indices])


def ground_truth_clip_score(
    images, references, *, model=DEFAULT_MODEL, batch_size=64, device="auto", cache=None
):
    """Compute how well the reference captions of each image fit it: what words could reach.

    Parameters
    ----------
    images, model, batch_size, device, cache
        As for :func:`clip_concept_scores`; images without references are not read.
    references : sequence of n (str | list of str | None)
        Captions of each image. They are embedded as they are, without a template.

    Returns
    -------
    scores : ndarray of float64, shape (n,)
        Mean over the image's references, between 0 and 2.5; NaN for an image without any.

    Raises
    ------
    ValueError, TypeError, OSError, ImportError
        As :func:`clip_score`.

    Examples
    --------
    >>> ground_truth_clip_score(scenes.images, scenes.captions, model="bundled")  # doctest: +SKIP
    """
    images, captions = image_sequence(images), _reference_lists(references, images)
    encoder = load_clip(model, device=device, cache=cache)
    scores = np.full(len(images), np.nan)
    used = [i for i, texts in enumerate(captions) if texts]
    if not used:
        return scores
    image_rows = _embeddings(_rows(images, used), encoder, batch_size)
    text_rows = encoder.encode_texts([text for i in used for text in captions[i]])
    start = 0
    for i, row in zip(used, image_rows, strict=True):
        end = start + len(captions[i])
        scores[i] = clip_similarity(row[None], text_rows[start:end]).mean()
        start = end
    return scores


def _embeddings(images, encoder, batch_size):
    return images if is_embeddings(images) else encoder.encode_images(images, batch_size)


def _rows(images, indices):
    """The images at `indices`, as lazy as `images` are."""
    return images[indices] if is_embeddings(images) else _Rows(images, indices)


class _Rows:
    def __init__(self, images, indices):
        self._images, self._indices = images, indices

    def __len__(self):
        return len(self._indices)

    def __getitem__(self, i):
        return self._images[self._indices[i]]


def _unit_rows(embeddings, name):
    """`embeddings` as float64 with rows of length 1, or of length 0 where they are zero."""
    rows = np.asarray(embeddings, dtype=np.float64)
    if rows.ndim != 2:
        raise ValueError(f"{name} must have 2 dimensions, got shape {rows.shape}.")
    if not np.isfinite(rows).all():
        raise ValueError(f"{name} contains NaN or infinity.")
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1.0)


def _reference_lists(references, images):
    """One list of captions for each image."""
    if isinstance(references, str) or len(references) != len(images):
        raise ValueError(
            "references must have one entry per image (a string or a list of strings): got "
            f"{len(references)} for {len(images)} images."
        )
    lists = []
    for i, entry in enumerate(references):
        entry = [] if entry is None else [entry] if isinstance(entry, str) else list(entry)
        if not all(isinstance(text, str) for text in entry):
            raise TypeError(f"references[{i}] must be a string or a list of strings, got {entry}.")
        lists.append(entry)
    return lists
