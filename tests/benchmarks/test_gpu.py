"""The GPU benchmark with a stand-in for the GPU: that it runs through and writes its tables; its times mean nothing."""

import json
from pathlib import Path

import pytest

from tests.support import cupy_standin

pytest.importorskip("torch", reason="the benchmark's rivals need torch")
pytest.importorskip("matplotlib", reason="benchmarks need the extra bench")

from benchmarks import gpu
from benchmarks.models.cuts import read_ticket
from benchmarks.reports.gpu import aim, crossover
from benchmarks.rivals.gpu import CANDIDATES, OURS, OURS_HALF

from spiketicket.profiling.measure.clock import measure

DIGITS = Path(__file__).parents[1] / "assets" / "digits.onnx"


@pytest.mark.emulator
def test_it_measures_what_is_there_and_says_what_is_not(tmp_path, monkeypatch, capsys):
    cupy_standin.install(monkeypatch)
    ticket = read_ticket(DIGITS, tmp_path)
    monkeypatch.setattr(gpu, "load_images", lambda data: None)
    monkeypatch.setattr(gpu, "make_ticket", lambda recipe, images, folder: ticket)
    monkeypatch.setattr(gpu, "LAYERS_OF", ticket.spec.sparsity)
    monkeypatch.setattr(gpu, "SWEPT", {"small": (8, 4)})
    monkeypatch.setattr(gpu, "DENSITIES", (1.0, 0.1))
    monkeypatch.setattr(gpu, "bandwidth", lambda cupy: 1e9)
    monkeypatch.setattr(gpu, "measure", lambda runs, duration: measure(runs, iterations=1, warmup=0))
    gpu.main(
        archs="vgg_digits",
        sparsities=str(ticket.spec.sparsity),
        batches="1,40",
        duration=0.05,
        folder=tmp_path,
        data=tmp_path,
        timesteps=5,
    )
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert [(run["batch"], run["agreement"][OURS]) for run in report["runs"]] == [
        (batch, {"top1": 1.0, "exact": 1.0}) for batch in (1, 40)
    ]
    assert set(report["runs"][0]["missing"]) == set(CANDIDATES) - {OURS, OURS_HALF}
    for one in report["layers"]:
        assert one["rows"][0]["layer"] == "input" and one["kernels_us"] > 0
        weighted = [row for row in one["rows"] if row["density"] is not None]
        assert len(weighted) == len(list(ticket.graph.weighted())) and all(row["nbytes"] > 0 for row in weighted)
    assert [(row["density"], set(row["us"])) for row in report["densities"][:2]] == [
        (density, {"sparse", "tensor", "tensor/sparse"}) for density in (1.0, 0.1)
    ]
    page = (tmp_path / "gpu.md").read_text()
    assert "best rival / cuda |" in page and "best rival / cuda/float16 |" in page and "sees no GPU" in page
    assert page.count("\n## ") == 6  # five tables, and the conditions
    assert "Microseconds of one layer by density" in capsys.readouterr().out


def test_what_is_slow_to_build_is_built_once(tmp_path, monkeypatch):
    cupy_standin.install(monkeypatch)
    ticket = read_ticket(DIGITS, tmp_path)
    found = gpu.networks(ticket, 2, 1, ["torch.compile", "tensorrt"], 0.05)
    assert ticket.spec.sparsity != gpu.LAYERS_OF and found["ms"] == {"torch.compile": {}, "tensorrt": {}}
    assert found["missing"] == dict.fromkeys(
        ("torch.compile", "tensorrt"), "Unavailable: dense, and slow to build: measured at 98.13% only"
    )


def test_aims():
    assert [aim(1, p) for p in (0, 95.69, 98.13)] == [None, None, 2.0]
    assert [aim(128, p) for p in (0, 89.91, 95.69, 98.13)] == [1.0, 1.0, 1.2, 1.2]
    assert aim(32, 98.13) is None


def test_crossover():
    def row(density, sparse, tensor):
        return {"density": density, "us": {"tensor": tensor, "sparse": sparse}}

    rows = [row(1.0, 9, 3), row(0.2, 4, 3), row(0.1, 2, 3), row(0.01, 1, 3)]
    assert crossover(rows) == 0.1
    assert crossover(rows[:2]) is None
