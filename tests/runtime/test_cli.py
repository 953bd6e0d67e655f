"""`snn-run`."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from spiketicket.cli.run import app
from spiketicket.runtime import Session
from tests.support.graphs import events, everything, feed, images, write

runner = CliRunner()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write(everything(np.random.default_rng(0)), tmp_path_factory.mktemp("m"))


def test_array_input(model, tmp_path):
    x = images(np.random.default_rng(1), 3, (3, 16, 16))
    np.save(tmp_path / "x.npy", x)
    result = runner.invoke(app, [str(model), "--input", str(tmp_path / "x.npy"), "--json"])
    assert result.exit_code == 0
    printed = json.loads(result.stdout)
    expected = Session(model).run({"input": x})["logits"]
    assert np.allclose(printed["logits"], expected)
    assert printed["class"] == [str(i) for i in expected.argmax(axis=1)]


BAD_CALLS = [
    ([], "give either --dataset or --input"),
    (["--dataset", "digits", "--input", "x.npy"], "give either --dataset or --input"),
    (["--dataset", "mnist"], "unknown data set 'mnist': expected one of digits, cifar10"),
    (
        ["--dataset", "cifar10", "--data", "nowhere"],
        "data set cifar10 not found: expected the folder nowhere",
    ),
    (["--input", "absent.npy"], "cannot read absent.npy as a .npy array"),
    (["--input", "x.npy", "--engine", "tpu"], "unknown engine 'tpu'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_CALLS)
def test_mistakes_end_in_one_line(model, arguments, message):
    result = runner.invoke(app, [str(model), *arguments])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ") and message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("content", [b"", b"not an array", b"\x80\x04\x95pickle"])
def test_bad_array_files(model, tmp_path, content):
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    result = runner.invoke(app, [str(model), "--input", str(path)])
    assert result.exit_code == 1 and "as a .npy array" in result.stderr


def test_pickled_objects_are_refused(model, tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    result = runner.invoke(app, [str(model), "--input", str(tmp_path / "x.npy")])
    assert result.exit_code == 1 and "as a .npy array" in result.stderr


def test_class_names_are_no_markup(tmp_path):
    graph = everything(np.random.default_rng(0))
    graph.metadata["classes"] = "[/red]\n[b]\nc\nd"
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 16, 16), np.float32))
    result = runner.invoke(app, [str(write(graph, tmp_path)), "--input", str(tmp_path / "x.npy")])
    assert result.exit_code == 0 and any(name in result.stdout for name in ("[/red]", "[b]", " c ", " d "))


def test_zip_that_is_none(model, tmp_path):
    (tmp_path / "x.npy").write_bytes(b"PK\x03\x04 and no more")
    result = runner.invoke(app, [str(model), "--input", str(tmp_path / "x.npy")])
    assert result.exit_code == 1 and "as a .npy array" in result.stderr


def test_explain_needs_no_images(model):
    result = runner.invoke(app, [str(model), "--explain", "--plan", "masks"])
    assert result.exit_code == 0
    for word in ("down", "17x5x3x3", "masks (", "asked for", "part of same"):
        assert word in result.stdout
    layers = json.loads(runner.invoke(app, [str(model), "--explain", "--json"]).stdout)
    assert [layer["name"] for layer in layers][:2] == ["stem", "repeat"]
    assert "measured" in {layer["name"]: layer["why"] for layer in layers}["down"]


def test_early_exit_on_an_array_is_image_by_image(model, tmp_path):
    x = images(np.random.default_rng(1), 6, (3, 16, 16))
    np.save(tmp_path / "x.npy", x)
    arguments = [str(model), "--input", str(tmp_path / "x.npy"), "--margin", "0.3"]
    printed = json.loads(runner.invoke(app, [*arguments, "--json"]).stdout)
    with Session(model) as session:
        runs = [list(session.run_timesteps({"input": x[i : i + 1]}, margin=0.3)) for i in range(6)]
    assert printed["timesteps"] == [len(run) for run in runs] and len(set(printed["timesteps"])) > 1
    assert np.allclose(printed["logits"], [run[-1][0] for run in runs])
    assert " T " in runner.invoke(app, arguments).stdout


@pytest.mark.parametrize("margin", [[], ["--margin", "0.3"]])
def test_frames_from_an_array_file(tmp_path, margin):
    rng = np.random.default_rng(0)
    graph = events(rng)
    path, x = write(graph, tmp_path), feed(rng, graph, 3, 6)
    np.save(tmp_path / "x.npy", x)
    printed = json.loads(runner.invoke(app, [str(path), "--input", str(tmp_path / "x.npy"), "--json", *margin]).stdout)
    with Session(path) as session:
        if margin:
            runs = [list(session.run_timesteps({"input": x[:, i : i + 1]}, margin=0.3)) for i in range(3)]
            assert printed["timesteps"] == [len(run) for run in runs]
            assert np.allclose(printed["logits"], [run[-1][0] for run in runs])
        else:
            assert np.allclose(printed["logits"], session.run({"input": x})["logits"])
