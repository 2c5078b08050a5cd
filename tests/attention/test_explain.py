"""All views of one answer at once."""

import json

import numpy as np
import pytest

from semi_nmf_concepts.attention import (
    AnswerExplanation,
    explain_answer,
    explain_trace,
)
from semi_nmf_concepts.attention import _explain as explain_module
from tests._tiny_llava import tiny_images
from tests.attention._report import dog_report


@pytest.fixture(scope="module")
def explanation(scenes):
    return explain_answer(images=scenes.images[0], concepts=dog_report())


def test_every_view_is_there(explanation):
    trace = explanation.trace
    words = explanation.settings["words"]
    # Without stop words.
    assert [trace.words[i].text for i in words] == ["dog", "white", "grass", "umbrella"]
    assert list(explanation.relevancy) == ["language", "vision", "both"]
    for result in explanation.relevancy.values():
        assert result.word_indices == words
        np.testing.assert_allclose(result.shares.sum(axis=1), 1, atol=1e-6)
    assert list(explanation.causal) == list(explanation.faithfulness) == words
    for index, graph in explanation.causal.items():
        assert (graph.layer, graph.head) == trace.most_visual_head(index)
    assert explanation.concepts.activations.shape == (trace.n_tokens, 8)
    assert explanation.settings["left_out"] == {}


def test_chosen_words_and_views(scenes):
    chosen = explain_answer(
        images=scenes.images[0],
        words=["white", 1],
        through="both",
        causal=False,
        faithfulness=False,
        layers=[2],
    )
    assert chosen.settings["words"] == [1, 4]
    assert list(chosen.relevancy) == ["both"] and chosen.trace.layers == [2]
    assert chosen.causal == chosen.faithfulness == {} and chosen.concepts is None
    assert repr(chosen).endswith("umbrella', relevancy>")
    with pytest.raises(ValueError, match="'zebra' is not in the answer"):
        explain_answer(images=scenes.images[0], words="zebra")
    with pytest.raises(ValueError, match="through must be among"):
        explain_answer(images=scenes.images[0], through="thick and thin")


def test_an_answer_of_stop_words_is_explained_all_the_same(scenes):
    found = explain_answer(
        images=scenes.images[0], answer="that is a", through=[], causal=False, faithfulness=False
    )
    assert found.settings["words"] == [0, 1, 2]


def test_many_words_are_cut(monkeypatch, scenes):
    monkeypatch.setattr(explain_module, "MAX_WORDS", 2)
    found = explain_answer(images=scenes.images[0], through=[], causal=False, faithfulness=False)
    assert found.settings["words"] == [1, 4]


def test_saved_and_loaded(explanation, tmp_path):
    explanation.save(tmp_path / "saved")
    loaded = AnswerExplanation.load(tmp_path / "saved")
    assert loaded.to_dict() == explanation.to_dict()
    np.testing.assert_array_equal(
        loaded.concept_report.activations, explanation.concept_report.activations
    )
    # Only here are the images and arrays looked at.
    loaded.to_html(tmp_path / "loaded.html")
    explanation.to_html(tmp_path / "own.html")
    assert (tmp_path / "loaded.html").read_bytes() == (tmp_path / "own.html").read_bytes()
    with pytest.raises(FileNotFoundError):
        AnswerExplanation.load(tmp_path / "nowhere")


def test_json_is_strict(explanation, tmp_path):
    explanation.to_json(tmp_path / "all.json")

    def refuse(name):
        raise ValueError(name)

    document = json.loads((tmp_path / "all.json").read_text(), parse_constant=refuse)
    assert document["trace"]["answer"] == explanation.trace.answer
    shape = np.shape(document["trace"]["attention"])
    assert shape == explanation.trace.attention.shape
    assert document["relevancy"]["language"]["word_indices"] == explanation.settings["words"]


def test_what_a_family_does_not_allow_is_named(build, monkeypatch):
    from semi_nmf_concepts.attention import _tracing

    find = _tracing.find_patch_grids

    def without_encoder(*args):
        grids = find(*args)
        for grid in grids:
            grid.encoder = None
        return grids

    monkeypatch.setattr(_tracing, "find_patch_grids", without_encoder)
    found = explain_answer(
        build("llava"), tiny_images(1)[0], "what is this ?", "a dog", faithfulness=False
    )
    assert list(found.relevancy) == ["language"]
    assert "no mixture" in found.settings["left_out"]["relevancy through language, vision, both"]


def test_concepts_of_another_model(build):
    with pytest.raises(ValueError, match="the report come from the model 'bundled'"):
        explain_answer(
            build("llava"),
            tiny_images(1)[0],
            "what is this ?",
            "a dog",
            concepts=dog_report(),
            through=[],
            causal=False,
        )


def test_concepts_are_looked_at_first(trace, monkeypatch):
    monkeypatch.setattr(explain_module, "relevancies", lambda *args: pytest.fail("it ran"))
    with pytest.raises(TypeError, match="concepts must be a ConceptReport"):
        explain_trace(trace, concepts={"a": 1})


def test_a_trace_is_explained_as_its_answer_is(explanation):
    again = explain_trace(explanation.trace, concepts=dog_report())
    first, second = explanation.to_dict(), again.to_dict()
    for document in (first, second):
        del document["settings"]["seconds"]
    assert first == second
