"""The reader of VQA v2: a row for every question, with its image and answers."""

import json
import shutil
from functools import partial

import numpy as np
import pandas as pd
import pytest

from semi_nmf_concepts.datasets import load_vqav2
from semi_nmf_concepts.lmm import LMMTokenFeaturizer
from tests._data_layouts import VQAV2, write_json, write_vqav2
from tests._tiny_llava import build_tiny_llava

QUESTIONS = "v2_OpenEnded_mscoco_train2014_questions.json"
ANNOTATIONS = "v2_mscoco_train2014_annotations.json"


@pytest.fixture
def vqa(tmp_path):
    """Folder, what reads it, and the contents of the files of questions and annotations."""
    contents = write_vqav2(tmp_path)
    load = partial(load_vqav2, tmp_path / QUESTIONS, tmp_path, tmp_path / ANNOTATIONS)
    return tmp_path, load, *contents


def test_a_row_for_every_question_in_the_order_of_the_file(vqa):
    folder, load, _, _ = vqa
    data = load()
    assert data.question_ids == [number for number, *_ in VQAV2]
    assert data.prompts == [question for _, _, question, _ in VQAV2]
    assert data.images == [
        folder / "train2014" / f"COCO_train2014_{image:012d}.jpg" for _, image, _, _ in VQAV2
    ]
    assert all(path.is_file() for path in data.images)


def test_references_are_the_distinct_answers_the_most_frequent_first(vqa):
    assert vqa[1]().captions == [["net", "fence"], ["catcher", "pitcher"], ["dog", "a dog"]]


def test_questions_may_come_without_answers(vqa):
    folder, load, _, _ = vqa
    data = load_vqav2(folder / QUESTIONS, str(folder))
    assert data.captions is None
    assert {name: data[name] for name in ("images", "prompts", "question_ids")} == {
        name: value for name, value in load().items() if name != "captions"
    }


def test_the_images_may_lie_in_one_folder(vqa):
    folder, load, _, _ = vqa
    names = [path.name for path in load().images]
    shutil.move(folder / "train2014", folder / "all")
    data = load_vqav2(folder / QUESTIONS, folder / "all")
    assert data.images == [folder / "all" / name for name in names]


def test_images_of_the_development_part_are_those_of_the_test(tmp_path):
    write_vqav2(tmp_path, subtype="test-dev2015")
    (tmp_path / "test-dev2015").rename(tmp_path / "test2015")
    for path in (tmp_path / "test2015").iterdir():
        path.rename(path.with_name(path.name.replace("test-dev", "test")))
    data = load_vqav2(tmp_path / QUESTIONS.replace("train2014", "test-dev2015"), tmp_path)
    assert data.images[0] == tmp_path / "test2015" / "COCO_test2015_000000458752.jpg"


def test_the_subtype_can_be_given(vqa):
    folder, load, questions, _ = vqa
    expected = load().images
    write_json(folder / QUESTIONS, {"questions": questions["questions"]})
    with pytest.raises(ValueError, match='no text "data_subtype" such as "train2014"; give subty'):
        load()
    assert load(subtype="train2014").images == expected


def test_a_byte_order_mark_is_no_content(vqa):
    folder, load, questions, _ = vqa
    before = load()
    (folder / QUESTIONS).write_text("\ufeff" + json.dumps(questions), encoding="utf-8")
    assert load() == before


def test_questions_are_what_the_model_is_asked_about_each_image(vqa, tmp_path):
    data = vqa[1]()
    table = pd.DataFrame({"image": data.images, "caption": data.captions, "prompt": data.prompts})
    featurizer = LMMTokenFeaturizer(build_tiny_llava(tmp_path / "model"), position="last")
    states = featurizer.extract(data.images, data.captions, prompts=data.prompts).Z
    np.testing.assert_array_equal(featurizer.transform(table), states)
    for i, question in enumerate(data.prompts):
        featurizer.set_params(prompt=question)
        alone = featurizer.transform(data.images[i : i + 1])
        np.testing.assert_allclose(alone, states[i : i + 1], rtol=1e-4, atol=1e-5)
    assert not np.allclose(states[0], states[1]), "two questions about one image"


def test_annotations_may_answer_more_questions(vqa):
    folder, load, questions, _ = vqa
    questions["questions"] = questions["questions"][1:]
    write_json(folder / QUESTIONS, questions)
    assert load().captions == [["catcher", "pitcher"], ["dog", "a dog"]]


def test_missing_images_are_counted_once(vqa):
    folder, load, _, _ = vqa
    (folder / "train2014" / "COCO_train2014_000000458752.jpg").unlink()
    message = rf"images: 1 of the 2 images of {QUESTIONS} .*COCO_train2014_000000458752.jpg\)"
    with pytest.raises(FileNotFoundError, match=message):
        load()


def without_first(annotations):
    annotations["annotations"] = annotations["annotations"][1:]


def repeat_first(annotations):
    annotations["annotations"].append(annotations["annotations"][0])


def of_another_image(annotations):
    annotations["annotations"][0]["image_id"] = 7


def without_answers(annotations):
    del annotations["annotations"][1]["answers"]


def texts_as_answers(annotations):
    annotations["annotations"][1]["answers"] = ["dog"]


def numbers_as_answers(annotations):
    annotations["annotations"][1]["answers"] = [{"answer": 3}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_first, r"no annotation of 1 of the 3 questions \(262146000\); the two files"),
        (repeat_first, "question_id occurs more than once: 262146000"),
        (of_another_image, "question 262146000 is about image 7 here, but about image 262146"),
        (without_answers, "no entry 'answers'"),
        (texts_as_answers, r'answers to question 458752001 must be .*text "answer", got \[.dog'),
        (numbers_as_answers, 'objects with a text "answer", got .*3'),
    ],
)
def test_annotations_that_do_not_fit(vqa, change, message):
    folder, load, _, annotations = vqa
    change(annotations)
    write_json(folder / ANNOTATIONS, annotations)
    with pytest.raises(ValueError, match=f"annotations: cannot understand .*: .*{message}"):
        load()


GOOD = {"question_id": 1, "image_id": 1, "question": "What is it?"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Expecting property name"),
        ([GOOD], 'an object with a list "questions"'),
        ({"annotations": [GOOD]}, 'an object with a list "questions"'),
        ({"questions": {"1": GOOD}}, 'an object with a list "questions"'),
        ({"questions": ["What is it?"]}, 'an object with a list "questions" of objects'),
        ({"questions": []}, 'its list "questions" is empty'),
        ({"questions": [{"question_id": 1, "image_id": 1}]}, "no entry 'question'"),
        ({"questions": [GOOD | {"question": " "}]}, "question 1 must be a text that is not blank"),
        ({"questions": [GOOD | {"question": None}]}, "question 1 must be a text"),
        ({"questions": [GOOD | {"image_id": "1"}]}, r"must be whole numbers, got \(1, '1'\)"),
        ({"questions": [GOOD, GOOD]}, "question_id occurs more than once: 1"),
        ({"questions": [GOOD], "data_type": "abstract_v002"}, "data_type must be 'mscoco'"),
        ({"questions": [GOOD], "data_subtype": 2014}, 'no text "data_subtype"'),
    ],
)
def test_questions_of_another_layout(tmp_path, content, message):
    file = write_json(tmp_path / "questions.json", content)
    with pytest.raises(ValueError, match=f"questions: cannot understand .*{message}"):
        load_vqav2(file, tmp_path)


def test_things_that_are_not_there(vqa):
    folder, _, _, _ = vqa
    with pytest.raises(FileNotFoundError, match="questions: no such file"):
        load_vqav2(folder / "nowhere.json", folder)
    with pytest.raises(FileNotFoundError, match="annotations: no such file"):
        load_vqav2(folder / QUESTIONS, folder, folder / "nowhere.json")
    with pytest.raises(NotADirectoryError, match="images: .* is a file"):
        load_vqav2(folder / QUESTIONS, folder / ANNOTATIONS)
