"""`extract`: states in a folder, and the same command again."""

import json

import dask
import numpy as np
import pytest

from semi_nmf_concepts import cli
from semi_nmf_concepts.lmm import TokenRepresentations
from tests._tiny_llava import build_tiny_llava, tiny_images
from tests.cli._commands import fails


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build_tiny_llava(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for i, image in enumerate(tiny_images(12)):
        image.save(folder / f"{i:02}.png")
    return folder


@pytest.fixture
def command(model, images, tmp_path):
    def build(**changes):
        options = {
            "model": model,
            "images": images,
            "tokens": "blue",
            "max-new-tokens": 12,
            "out": tmp_path / "out",
            **changes,
        }
        pairs = [(f"--{k.replace('_', '-')}", str(v)) for k, v in options.items() if v is not None]
        return ["extract", *(part for pair in pairs for part in pair)]

    return build


def test_states_are_in_the_folder_and_not_made_twice(command, tmp_path, capsys, n_run):
    assert cli.main(command()) == 0
    said = capsys.readouterr()
    assert "token 'blue', layer 3: " in said.out and "of 12 samples kept" in said.out
    assert f"States: {tmp_path / 'out'}" in said.out
    reps = TokenRepresentations.load(tmp_path / "out")
    assert reps.token == "blue" and reps.provenance["stop"] == "token"
    assert n_run() == 12
    assert cli.main([*command(), "--quiet"]) == 0
    assert n_run() == 12


def test_tokens_and_layers(command, tmp_path, capsys):
    assert cli.main([*command(tokens="blue,red", layers="0,final_norm"), "--quiet"]) == 0
    entries = json.loads((tmp_path / "out" / "manifest.json").read_text())["results"]
    assert [(e["token"], e["layer"]) for e in entries] == [
        ("blue", 0),
        ("blue", "final_norm"),
        ("red", 0),
        ("red", "final_norm"),
    ]
    for entry in entries:
        assert TokenRepresentations.load(tmp_path / "out" / entry["folder"]).token == entry["token"]


def test_positions_of_the_prompt(command, tmp_path):
    assert cli.main([*command(tokens=None, position="last"), "--quiet"]) == 0
    assert len(TokenRepresentations.load(tmp_path / "out")) == 12


def test_a_karpathy_split(command, images, tmp_path):
    entries = [
        {"filename": f"{i:02}.png", "split": "val", "sentences": [{"raw": f"a blue thing {i}"}]}
        for i in range(4)
    ]
    file = tmp_path / "dataset.json"
    file.write_text(json.dumps({"images": entries}))
    assert cli.main([*command(karpathy=file, split="val"), "--quiet"]) == 0
    assert len(TokenRepresentations.load(tmp_path / "out").missing) == 4


def test_images_that_cannot_be_read(command, images, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for path in images.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "03.png").write_text("no image")
    assert "03.png" in fails(command(images=folder), capsys)
    assert cli.main([*command(images=folder, on_error="skip"), "--quiet"]) == 0
    said = capsys.readouterr()
    assert "1 unreadable" in said.out and "03.png" in said.out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": None}, "--tokens: words of interest are needed"),
        ({"position": "last"}, "does not depend on a word"),
        ({"position": "forced"}, "needs captions to dictate: --captions or --karpathy"),
        ({"split": "val"}, "--split belongs to --karpathy"),
        ({"captions": "a.csv", "karpathy": "b.json"}, "not allowed with"),
        ({"position": "middle"}, "invalid choice"),
    ],
)
def test_wrong_commands(changes, message, command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(command(**changes))
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_another_run_in_the_folder(command, capsys):
    assert cli.main([*command(), "--quiet"]) == 0
    assert "holds another extraction: it differs in token" in fails(command(tokens="red"), capsys)


def test_states_in_pieces(command, tmp_path, capsys, n_run):
    assert cli.main([*command(), "--no-join", "--quiet"]) == 0
    assert "of 12 samples kept" in capsys.readouterr().out
    assert len(list((tmp_path / "out" / "shards").iterdir())) == 1
    pieces = TokenRepresentations.load(tmp_path / "out")
    Z = np.asarray(pieces.Z)
    assert cli.main([*command(), "--quiet"]) == 0  # joins them
    assert n_run() == 12
    assert not (tmp_path / "out" / "shards").exists()
    np.testing.assert_array_equal(TokenRepresentations.load(tmp_path / "out").Z, Z)


def test_workers_of_a_cluster(command, tmp_path, capsys):
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster:
        asked = [*command(), "--quiet", "--dask", cluster.scheduler_address]
        assert cli.main(asked) == 0
    assert "of 12 samples kept" in capsys.readouterr().out
    assert cli.main([*command(out=tmp_path / "alone"), "--quiet"]) == 0
    of_both = [tmp_path / name / "representations.json" for name in ("out", "alone")]
    assert of_both[0].read_bytes() == of_both[1].read_bytes()


def test_no_cluster_at_the_address(command, capsys):
    with dask.config.set({"semi_nmf_concepts.wait-for-workers": "0.3s"}):
        said = fails(command(dask="tcp://127.0.0.1:9"), capsys)
    assert "no Dask scheduler can be reached at 'tcp://127.0.0.1:9'" in said
    assert "is no address of a Dask scheduler" in fails(command(dask="a//b"), capsys)


def test_words_that_never_occur(command, capsys):
    said = fails(command(tokens="zebra,walrus"), capsys)
    assert "'zebra', 'walrus' occurs in none of the 12 generated captions" in said
    assert "blue (" in said


def test_one_of_several_words_does_not_occur(command, capsys):
    assert cli.main([*command(tokens="blue,zebra"), "--quiet"]) == 0
    assert "warning: no sample is kept for token 'zebra'" in capsys.readouterr().err
