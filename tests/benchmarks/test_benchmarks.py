"""The benchmarks measure for minutes, so that tests only load them, and run one in small."""

import importlib
import json
from contextlib import nullcontext
from pathlib import Path

import pytest
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "benchmarks").rglob("[!_]*.py"))
# deepsparse_worker runs in another Python, which has DeepSparse.
NAMES = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in FILES if file.stem != "deepsparse_worker"]


@pytest.mark.parametrize("name", NAMES)
def test_it_loads(name):
    pytest.importorskip("matplotlib")
    assert importlib.import_module(name).__doc__


@pytest.mark.slow
def test_the_profile_of_a_network(tmp_path, monkeypatch):
    from benchmarks import profiles

    monkeypatch.setattr(profiles, "model_of_ticket", nullcontext)
    digits = ROOT / "tests" / "assets" / "digits.onnx"
    arguments = ["inference", "--ticket", str(digits), "--images", "20", "--duration", "0.01", "--out", str(tmp_path)]
    done = CliRunner().invoke(profiles.app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    profile = json.loads((tmp_path / "profile-inference.json").read_text())
    assert {row["engine"] for row in profile["models"][0]["latency"]} >= {"native", "onnxruntime"}
    assert "<svg" in (tmp_path / "profile-inference-latency.svg").read_text()
    assert "</html>" in (tmp_path / "profile-inference.html").read_text()
