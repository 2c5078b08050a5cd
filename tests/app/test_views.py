"""What the app shows, without the app."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from semi_nmf_concepts.app import _views as views
from semi_nmf_concepts.app._chat import WHOLE, ask_model, read_image
from semi_nmf_concepts.app._export import without_folders, write_files
from semi_nmf_concepts.attention import AnswerWord, causal_graph, trace_answer
from semi_nmf_concepts.datasets import bundled_model_path
from semi_nmf_concepts.lmm import PatchGrid

EVIL = '<img src=x onerror="alert(1)">'


@pytest.fixture
def grid():
    """The whole image in 2 x 2 patches, its left upper quarter once more in 2 x 2, a row's end."""
    quarters = [(x, y, x + 0.5, y + 0.5) for y in (0, 0.5) for x in (0, 0.5)]
    finer = [tuple(side / 2 for side in box) for box in quarters]
    boxes = np.array([*quarters, *finer, (np.nan,) * 4])
    return PatchGrid(positions=np.arange(9), boxes=boxes, blocks=[], encoder=None, size=(64, 64))


def test_a_click_finds_the_smallest_patch(grid):
    assert views.patch_at(grid, 0.9, 0.1) == 1
    assert views.patch_at(grid, 0.1, 0.1) == 4
    assert views.patch_at(grid, 0.4, 0.3) == 7
    assert views.patch_at(grid, 1.0, 1.0) is None


def test_chosen_patches_are_outlined(grid):
    grey = Image.new("RGB", (64, 64), "grey")
    none = np.asarray(views.patch_picture(grey, grid, []), dtype=int)
    one = np.asarray(views.patch_picture(grey, grid, [3, 8]), dtype=int)
    assert max(none.shape) == views.LONGEST
    changed = np.argwhere(np.abs(one - none).sum(axis=2) > 0)
    assert changed.min() == views.LONGEST // 2 and changed.max() == views.LONGEST - 1


def test_crop_in_percent_and_from_corners():
    image = Image.new("RGB", (200, 100))
    assert views.cropped(image, 0, 0, 100, 100) is image
    assert views.cropped(image, 25, 50, 75, 100).size == (100, 50)
    assert views.crop_of_corners((149, 20), (50, 99), (200, 100)) == (25, 20, 75, 100)
    assert views.crop_of_corners((199, 99), (199, 99), (200, 100)) == (99, 99, 100, 100)
    for wrong in ((50, 0, 50, 100), (0, 80, 100, 20), (-1, 0, 100, 100), (0, 0, 100, 101)):
        with pytest.raises(ValueError, match="left must be below right"):
            views.cropped(image, *wrong)


def test_words_become_text_and_are_told_apart():
    words = [AnswerWord(" dog", 0, 1), AnswerWord(" dog", 1, 2), AnswerWord("\n", 2, 3)]
    assert views.word_choices(words) == [("dog", 0), ("dog", 1), (repr("\n"), 2)]
    chips = views.word_chips([EVIL, "dog"], [-2.0, 1.0], label='"' + EVIL)
    assert "<img" not in chips and "&lt;img" in chips
    assert 'data-sign="minus"' in chips and "--strength: 0.500" in chips
    assert "<img" not in views.lines(EVIL)
    assert views.word_chips(["a"], [np.nan], "").count("--strength: 0.000") == 1


def test_maps_are_drawn_where_attention_is(trace):
    found = trace.image_attention("dog", layer=2, head="mean")
    picture = np.asarray(views.map_picture(found, opacity=1.0, scale="linear"), dtype=float)
    assert picture.shape[:2] == views.shown_size(trace.images[0])[::-1]
    _, _, (left, top, right, bottom) = found.top(1)[0]
    side = views.LONGEST
    inside = picture[
        round(top * side) + 2 : round(bottom * side) - 2,
        round(left * side) + 2 : round(right * side) - 2,
    ]
    assert inside.mean() > picture.mean() + 50
    original = views.map_picture(found, opacity=0.0)
    assert np.array_equal(original, trace.images[0].resize(original.size))


def test_two_maps_share_one_scale(trace):
    strong = trace.image_attention("dog", layer=2)
    weak = trace.image_map([part / 100 for part in strong.values])
    first, second = views.compared_pictures([strong, weak], 1.0, "linear")
    assert np.array_equal(first, views.map_picture(strong, 1.0))
    assert np.asarray(second).max() < np.asarray(first).max()
    assert views.peak(strong) == pytest.approx(100 * views.peak(weak), rel=1e-5)


def test_the_strip_is_sorted_by_mass_on_the_image(trace):
    strip = views.head_strip(trace, "dog", 1)
    heads = [head for _, _, head in strip]
    masses = trace.heads_by_layers("image", "dog").values[1]
    assert sorted(heads) == list(range(trace.n_heads))
    assert np.all(np.diff(masses[heads]) < 1e-3)  # attention is kept in half precision
    assert strip[0][1] == f"head {heads[0]}: {100 * masses[heads[0]]:.0f}%"


def test_the_first_choices_look_at_the_image(trace):
    layer, head = trace.most_visual_head()
    assert trace.heads_by_layers().values[layer, head] == trace.heads_by_layers().values.max()
    assert trace.words[views.most_visual_word(trace)].text in ("dog", "white", "grass", "umbrella")
    assert views.layer_choices(trace)[2:] == [(str(i), i) for i in range(4)]
    assert views.head_choices(trace)[-1] == ("4", 4)


def test_tables(trace):
    rows = views.token_rows(trace)
    assert len(rows) == trace.n_tokens and rows[1][0].strip() == "dog"
    assert rows[1][1] == pytest.approx(trace.probabilities[1], rel=1e-3)
    text = views.mass_text(trace, ["dog"], 2, "mean", trace.image_attention("dog", 2))
    assert f"{100 * trace.masses('dog', 2)['image']:.0f}% on the image" in text
    rows = views.comparison_rows([trace, trace])
    assert rows[0] == ["answer", trace.answer, trace.answer]
    assert all(first == second for _, first, second in rows)


def test_relevancy_and_faithfulness_in_words(trace):
    from semi_nmf_concepts.attention import deletion_insertion, relevancy

    found = relevancy(trace, "dog")
    assert f"{100 * found.shares[0, 0]:.0f}% in the image" in views.share_text(found)
    curves = deletion_insertion(trace, found.map(), word="dog", n_steps=3, n_random=2)
    rows = views.area_rows(curves)
    assert rows[0][1] == f"{curves.deletion_area:.3g}" and "±" in rows[1][2]


def test_explanation_grows_with_the_radius(trace):
    graph = causal_graph(trace, "umbrella", 2, 2)
    near, far = (views.explanation_rows(graph, radius) for radius in (1, 3))
    assert [row for row in far if row[2] == 1] == near and 0 < len(near) < len(far)
    assert len(far) == np.count_nonzero(graph.radius > 0)
    assert f"{len(far)} of {len(graph.nodes) - 1} patches" in views.explanation_text(graph, 3)


def test_an_explanation_of_nothing_says_so(trace):
    graph = causal_graph(trace, 0, 0, 0)
    assert graph.explanation() == []
    for radius in (1, 3):
        text = views.explanation_text(graph, radius)
        assert "No patch or word stays dependent on “a” in layer 0, head 0" in text
        assert "Try another head" in text
        assert views.explanation_rows(graph, radius) == []
        nothing = trace.image_map([np.zeros(len(trace.grids[0].boxes))])
        picture = views.map_picture(graph.map(radius), 0.8, "log")
        assert np.array_equal(picture, views.map_picture(nothing, 0.8, "log"))


def test_concepts_in_words(trace, report):
    from semi_nmf_concepts.attention import ablate_concept, concept_activation_map

    word = trace.find_words("dog")[0]
    found = concept_activation_map(trace, report, words=word, top=1)
    rows = views.concept_rows(found, word)
    assert [row[2] for row in rows] == sorted((row[2] for row in rows), reverse=True)
    assert "of the state that wrote “dog”" in views.explained_text(found, trace, word)
    assert [k for _, k in views.concept_choices(report)] == [0, 1, 2, 3]
    assert len(views.concept_gallery(report, 0)) == len(report.concepts[0].image_indices)
    same = ablate_concept(trace, report, rows[0][0], scale=1.0)
    assert "stayed the same" in views.ablation_text(same)
    for row in views.ablation_rows(same):
        assert row[1] == pytest.approx(row[2], abs=1e-3)
    controlled = ablate_concept(trace, report, rows[0][0], regenerate=False, n_controls=2)
    assert [row[3] for row in views.ablation_rows(controlled)] == pytest.approx(
        controlled.control_logits.mean(axis=0), rel=1e-2
    )


def test_the_model_is_shown_the_crop_of_a_photograph_that_lies_on_its_side(tmp_path, scenes):
    upright = scenes.images[0].crop((0, 0, 200, 120))
    exif = Image.Exif()
    exif[0x0112] = 6  # as a phone writes it: to be turned by a quarter
    path = tmp_path / "phone.png"
    upright.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    options = {"max_new_tokens": 4, "temperature": 0, "top_p": 1, "seed": 0}
    for crop, box in ((WHOLE, (0, 0, 200, 120)), ((50, 0, 100, 50), (100, 0, 200, 60))):
        preview = views.cropped(read_image(str(path)), *crop)
        assert preview.tobytes() == upright.crop(box).tobytes()
        shown = ask_model("bundled", str(path), crop, "", **options).images[0]
        assert shown.size == preview.size and shown.tobytes() == preview.tobytes()


@pytest.mark.parametrize("crop", [WHOLE, (0, 0, 50, 50)])
def test_a_broken_upload_is_named_without_its_folder(crop, tmp_path):
    path = tmp_path / "a b" / "broken.png"
    path.parent.mkdir()
    path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"broken\.png.*cannot be read") as caught:
        ask_model("bundled", str(path), crop, "", max_new_tokens=4, temperature=0, top_p=1, seed=0)
    assert str(path.parent) not in str(caught.value) and "on_error" not in str(caught.value)
    assert "on-error" not in str(caught.value)


def test_files_do_not_say_where_the_server_keeps_its_model(trace, tmp_path, monkeypatch):
    kept, files = tmp_path / "kept here", tmp_path / "files"
    files.mkdir()
    shutil.copytree(bundled_model_path(), kept / "captioner")
    path = str(kept / "captioner")
    asked = trace_answer(path, trace.images, answer="a dog")

    def refused(*args, **options):
        raise ValueError(f"model {path!r} does not allow it")

    monkeypatch.setattr("semi_nmf_concepts.attention._explain.causal_graph", refused)
    written = write_files(files, asked, ["causal graphs"])
    page, document = (Path(name).read_text() for name in written[:2])
    with np.load(written[2]) as stored:
        page += stored["document"].tobytes().decode()
    assert "kept here" not in page + document
    assert "model 'captioner' does not allow it" in document
    document = json.loads(document)["trace"]
    assert document["model"]["model"] == document["provenance"]["model"] == "captioner"
    assert asked.model.model == asked.provenance["model"] == path  # it goes on with its model
    hub = replace(asked, model=replace(asked.model, model="org/model"))
    assert without_folders(SimpleNamespace(trace=hub)).trace is hub


def test_a_huge_image_is_refused_before_it_is_read(tmp_path):
    Image.new("1", (9000, 8000)).save(tmp_path / "huge.png")
    options = {"max_new_tokens": 8, "temperature": 0, "top_p": 1, "seed": 0}
    for crop in (WHOLE, (0, 0, 50, 50)):
        with pytest.raises(ValueError, match=r"too large \(9000 x 8000 pixels\)"):
            ask_model("bundled", str(tmp_path / "huge.png"), crop, "", **options)
