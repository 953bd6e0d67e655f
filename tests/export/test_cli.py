"""`snn-export`."""

import json

import pytest
from typer.testing import CliRunner

from spiketicket.cli.export.command import app
from spiketicket.runtime import Session

runner = CliRunner()


def test_exports_beside_the_ticket_and_prints_json(quick_run, tmp_path):
    ticket = tmp_path / "ticket.pt"
    ticket.write_bytes((quick_run[0] / "ticket.pt").read_bytes())
    result = runner.invoke(app, ["--ticket", str(ticket), "--json"])
    assert result.exit_code == 0
    printed = json.loads(result.stdout)
    assert printed["path"] == str(tmp_path / "ticket.onnx")
    assert printed["bytes"] == (tmp_path / "ticket.onnx").stat().st_size < printed["dense_bytes"]
    assert [layer["name"] for layer in printed["layers"]] == [
        "stem.0",
        "features.1",
        "features.5",
        "features.8",
        "classifier",
    ]
    assert {a["engine"] for a in printed["agreements"]} == {"torch", "native", "onnxruntime", "native (int16)"}


def test_accuracy_on_the_whole_data_set(quick_run, digits, tmp_path):
    path, output = quick_run[0] / "ticket.pt", tmp_path / "m.onnx"
    result = runner.invoke(app, ["--ticket", str(path), "--dataset", "digits", "-o", str(output), "--json"])
    printed = json.loads(result.stdout)
    with Session(output) as session:
        classes = session.run({"input": quick_run[1][-1].normalisation(digits.test.images)})["logits"].argmax(axis=1)
    assert printed["accuracy"] == (classes == digits.test.labels).mean() > 0.3
    shown = runner.invoke(app, ["--ticket", str(path), "--dataset", "digits", "-o", str(output)]).stdout
    assert f"accuracy on all test images, native engine: {printed['accuracy']:.2%}" in shown


def test_table(quick_run, tmp_path):
    path = str(quick_run[0] / "ticket.pt")
    result = runner.invoke(app, ["--ticket", path, "-o", str(tmp_path / "m.onnx"), "--no-check"])
    assert result.exit_code == 0
    assert "features.8" in result.stdout and "smaller than dense ONNX" in result.stdout
    assert "Verified" not in result.stdout


def test_a_dense_ticket_is_larger_than_dense_onnx(quick_run, tmp_path):
    path = str(quick_run[0] / "rounds" / "00.pt")
    result = runner.invoke(app, ["--ticket", path, "-o", str(tmp_path / "m.onnx"), "--no-check"])
    printed = json.loads(
        runner.invoke(app, ["--ticket", path, "-o", str(tmp_path / "n.onnx"), "--no-check", "--json"]).stdout
    )
    ratio = printed["bytes"] / printed["dense_bytes"]
    assert ratio > 1 and f"{ratio:.1f}x the size of dense ONNX" in result.stdout.replace("\n", " ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ticket", "none.pt"], "none.pt: cannot read ticket: No such file"),
        (["--ticket", __file__], "not a ticket"),
    ],
)
def test_mistakes(tmp_path, options, message):
    output = tmp_path / "m.onnx"
    result = runner.invoke(app, [*options, "-o", str(output)])
    assert result.exit_code == 1 and message in result.stderr
    assert not output.exists()


def test_output_that_cannot_be_written(quick_run, tmp_path):
    (tmp_path / "file").write_text("")
    output = tmp_path / "file" / "m.onnx"
    result = runner.invoke(app, ["--ticket", str(quick_run[0] / "ticket.pt"), "-o", str(output), "--no-check"])
    assert result.exit_code == 1 and "file is not a folder" in result.stderr.replace("\n", " ")


@pytest.mark.parametrize("name", ["ticket.pt", "./ticket.pt"])
def test_the_ticket_is_never_overwritten(quick_run, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    ticket = tmp_path / "ticket.pt"
    ticket.write_bytes((quick_run[0] / "ticket.pt").read_bytes())
    result = runner.invoke(app, ["--ticket", str(ticket), "-o", name, "--no-check"])
    assert result.exit_code == 1 and "would overwrite the ticket" in result.stderr.replace("\n", " ")
    assert ticket.read_bytes() == (quick_run[0] / "ticket.pt").read_bytes()


def test_brackets_in_paths_are_no_markup(quick_run, tmp_path):
    output = tmp_path / "a[/b].onnx"
    result = runner.invoke(
        app, ["--ticket", str(quick_run[0] / "ticket.pt"), "-o", str(tmp_path / "a[b].onnx"), "--no-check"]
    )
    assert result.exit_code == 0 and "a[b].onnx" in result.stdout.replace("\n", "")
    result = runner.invoke(app, ["--ticket", str(output)])
    assert result.exit_code == 1 and "a[/b].onnx" in result.stderr.replace("\n", "")
