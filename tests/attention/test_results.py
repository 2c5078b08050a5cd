"""Saving and loading of results."""

import json

import numpy as np
import pytest

from semi_nmf_concepts.attention import AnswerTrace, HeadMasses, ImageMap, WordScores


def test_round_trip_of_a_map(trace, tmp_path):
    map_ = trace.image_attention("dog")
    map_.save(tmp_path / "map.npz")
    loaded = ImageMap.load(tmp_path / "map.npz")
    np.testing.assert_array_equal(loaded.values[0], map_.values[0])
    np.testing.assert_array_equal(loaded.pixels(), map_.pixels())
    assert loaded.words == ["dog"] and loaded.share == map_.share
    assert loaded.grids[0].encoder.shape == map_.grids[0].encoder.shape


def test_numbers_that_are_not_finite(tmp_path):
    scores = WordScores(["<b>", "\u2028"], np.array([np.nan, np.inf]))
    scores.save(tmp_path / "scores.npz")
    np.testing.assert_array_equal(WordScores.load(tmp_path / "scores.npz").values, scores.values)
    assert json.loads(json.dumps(scores.to_dict(), allow_nan=False))["values"] == [None, None]


def test_other_and_damaged_files(tmp_path):
    path = tmp_path / "scores.npz"
    WordScores(["a"], np.ones(1)).save(path)
    with pytest.raises(ValueError, match="a WordScores, not a HeadMasses"):
        HeadMasses.load(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="no whole WordScores"):
        WordScores.load(path)
    with pytest.raises(FileNotFoundError):
        WordScores.load(tmp_path / "nowhere.npz")
    np.savez(path, document=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="no whole WordScores"):
        WordScores.load(path)


def test_only_known_types_come_to_life(tmp_path):
    document = {"result": {"type": "Popen", "fields": {"args": ["true"]}}}
    content = np.frombuffer(json.dumps(document).encode(), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", document=content)
    with pytest.raises(ValueError, match="no whole WordScores"):
        WordScores.load(tmp_path / "x.npz")


def test_a_file_gives_no_trust(trace, tmp_path):
    """Whoever changes a file cannot make the code of a model's folder run."""
    path = tmp_path / "trace.npz"
    trace.save(path)
    with np.load(path) as stored:
        arrays = dict(stored)
    text = arrays["document"].tobytes().decode()
    assert '"trust_remote_code": false' in text
    changed = text.replace('"trust_remote_code": false', '"trust_remote_code": true')
    arrays["document"] = np.frombuffer(changed.encode(), dtype=np.uint8)
    np.savez(path, **arrays)
    assert AnswerTrace.load(path).model.trust_remote_code is False


def test_objects_are_not_saved(tmp_path):
    with pytest.raises(TypeError, match="cannot be saved"):
        WordScores(["a"], np.array([object()])).save(tmp_path / "x.npz")
    with pytest.raises(TypeError, match="cannot be saved"):
        WordScores([object()], np.ones(1)).save(tmp_path / "x.npz")
    assert not list(tmp_path.iterdir())
