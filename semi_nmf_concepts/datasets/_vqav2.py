"""Images, questions and answers of VQA v2."""

from collections import Counter
from dataclasses import dataclass

from sklearn.utils import Bunch

from .._messages import some
from ._reading import (
    NAMED,
    existing_file,
    existing_folder,
    find_images,
    read_json,
    refuse_repeated,
    understanding,
)


@dataclass(frozen=True)
class _Question:
    """One question of the file, about one image."""

    number: int
    image: int
    text: str


def load_vqav2(questions, images, annotations=None, *, subtype=None):
    """List the questions of VQA v2 with their images and, where known, their answers.

    Only names are read here: the images themselves are opened when a model needs them. An image
    with several questions comes once for each.

    Parameters
    ----------
    questions : str or path-like
        ``v2_OpenEnded_mscoco_train2014_questions.json`` or another file of that layout:
        ``{"data_subtype": "train2014", "questions": [{"question_id", "image_id", "question"},
        ...]}``.
    images : str or path-like
        Folder of COCO's images. That of image 9 in train2014 is looked for as
        ``images/train2014/COCO_train2014_000000000009.jpg``, then without the sub-folder.
    annotations : str or path-like, default=None
        ``v2_mscoco_train2014_annotations.json`` or another file of that layout: ``{"annotations":
        [{"question_id", "image_id", "answers": [{"answer"}, ...]}, ...]}``. It must answer all the
        questions, and may answer more.
    subtype : str, default=None
        What the names of the images have between ``COCO_`` and the number; by default the
        ``data_subtype`` of the questions, with ``test2015`` for ``test-dev2015``.

    Returns
    -------
    Bunch
        One entry per question, in the order of the file, in each of: ``images`` (list of
        `pathlib.Path`), ``prompts`` (list of str, the questions), ``question_ids`` (list of int),
        and ``captions`` (None without `annotations`), a list of lists of str: the distinct answers
        of the ten people who were asked, the most frequent first; blank ones are left out.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        Where a file, the folder or some of the images are not there.
    ValueError
        Where a file has another layout or a question twice, or the questions and the annotations
        do not belong together.

    References
    ----------
    Goyal et al., "Making the V in VQA Matter: Elevating the Role of Image Understanding in Visual
    Question Answering", CVPR 2017 (arXiv 1612.00837).

    Examples
    --------
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> from semi_nmf_concepts.datasets import load_vqav2
    >>> question = {"question_id": 9000, "image_id": 9, "question": "What animal is this?"}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Path(folder, "COCO_val2014_000000000009.jpg").touch()
    ...     file = Path(folder, "questions.json")
    ...     _ = file.write_text(json.dumps({"data_subtype": "val2014", "questions": [question]}))
    ...     data = load_vqav2(file, folder)
    >>> [path.name for path in data.images], data.prompts, data.captions
    (['COCO_val2014_000000000009.jpg'], ['What animal is this?'], None)
    """
    file, folder = existing_file(questions, "questions"), existing_folder(images, "images")
    with understanding(file, "questions"):
        content = read_json(file)
        asked = [_question(entry) for entry in _listed(content, "questions")]
        refuse_repeated((question.number for question in asked), "question_id occurs")
        below = _subtype(content) if subtype is None else subtype
    captions = None if annotations is None else _captions(annotations, asked)
    places = [(below, f"COCO_{below}_{question.image:012d}.jpg") for question in asked]
    return Bunch(
        images=find_images(folder, places, file.name),
        prompts=[question.text for question in asked],
        question_ids=[question.number for question in asked],
        captions=captions,
    )


def _listed(content, name):
    """The list of objects that a file of VQA has under a name."""
    entries = content.get(name) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise TypeError(f'expected an object with a list "{name}" of objects')
    if not entries:
        raise ValueError(f'its list "{name}" is empty')
    return entries


def _question(entry):
    question = _Question(entry["question_id"], entry["image_id"], entry["question"])
    whole = (question.number, question.image)
    if not all(type(number) is int for number in whole):
        raise TypeError(f"question_id and image_id must be whole numbers, got {whole}")
    if not isinstance(question.text, str) or not question.text.strip():
        raise ValueError(f"question {question.number} must be a text that is not blank")
    return question


def _subtype(content):
    if content.get("data_type", "mscoco") != "mscoco":
        raise ValueError(f"data_type must be 'mscoco' (photographs), got {content['data_type']!r}")
    if not isinstance(content.get("data_subtype"), str):
        raise ValueError('it has no text "data_subtype" such as "train2014"; give subtype=')
    return content["data_subtype"].replace("-dev", "")


def _captions(annotations, asked):
    """The distinct answers to every question."""
    file = existing_file(annotations, "annotations")
    with understanding(file, "annotations"):
        entries = _listed(read_json(file), "annotations")
        refuse_repeated((entry["question_id"] for entry in entries), "question_id occurs")
        answers = {entry["question_id"]: _distinct(entry) for entry in entries}
        images = {entry["question_id"]: entry["image_id"] for entry in entries}
        open_ones = [question.number for question in asked if question.number not in answers]
        if open_ones:
            raise ValueError(
                f"no annotation of {len(open_ones)} of the {len(asked)} questions "
                f"({some(open_ones, NAMED)}); the two files must be of one split"
            )
        for question in asked:
            if images[question.number] != question.image:
                raise ValueError(
                    f"question {question.number} is about image {images[question.number]} here, "
                    f"but about image {question.image} in the questions"
                )
    return [answers[question.number] for question in asked]


def _distinct(annotation):
    """The texts of the answers, each once, the most frequent first."""
    answers = annotation["answers"]
    if not isinstance(answers, list) or not all(
        isinstance(answer, dict) and isinstance(answer.get("answer"), str) for answer in answers
    ):
        raise TypeError(
            f"answers to question {annotation['question_id']} must be a list of objects with a "
            f'text "answer", got {answers!r}'
        )
    counts = Counter(answer["answer"].strip() for answer in answers)
    return [text for text, _ in counts.most_common() if text]
