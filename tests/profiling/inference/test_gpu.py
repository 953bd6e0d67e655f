"""The GPU's section where there is no GPU, and what NVIDIA's tool says."""

import os
from itertools import product
from pathlib import Path

import pytest

from spiketicket.profiling.inference import gpu
from spiketicket.profiling.inference.gpu import profile_gpu
from spiketicket.profiling.inference.samples import load_samples
from spiketicket.profiling.inference.settings import Settings
from spiketicket.profiling.measure.nvidia_smi import ask
from spiketicket.runtime import Session

DIGITS = Path(__file__).parents[2] / "assets" / "digits.onnx"


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """A tool of that name which prints a text."""

    def install(text, code=0):
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\nprintf '{text}'\nexit {code}\n")
        tool.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return install


def test_fields_of_every_gpu(nvidia_smi):
    nvidia_smi("Z9, 570.1\\nZ8, 570.1\\n")
    assert ask(("name", "driver_version")) == [
        {"name": "Z9", "driver_version": "570.1"},
        {"name": "Z8", "driver_version": "570.1"},
    ]
    nvidia_smi("Z9\\n")
    assert ask(("name", "driver_version")) == []
    nvidia_smi("Z9, 570.1\\n", code=9)
    assert ask(("name", "driver_version")) == []


def test_no_tool(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ask(("name",)) is None


def test_rows_of_every_precision_t_and_batch(monkeypatch, nvidia_smi):
    """With a CPU in the GPU's place: what is run, and in which arithmetic; not how long."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from spiketicket.profiling.inference.torch_network import TorchNetwork

    asked, arithmetic = [], []

    def event_ms(_, run):
        arithmetic.append(torch.backends.cudnn.allow_tf32)
        run()
        return [1.0, 2.0, 3.0]

    def to(moved, device, dtype):
        asked.append((device, dtype))
        return moved

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(TorchNetwork, "to", to)
    monkeypatch.setattr(TorchNetwork, "forward", lambda *_: None)
    monkeypatch.setattr(gpu, "_event_ms", event_ms)
    monkeypatch.setattr(gpu, "_captured", lambda _, run: run)
    nvidia_smi("Z9, 570.1, 1 MHz, 2 MHz, 3 W, 4 W, 5 MiB\\n")
    with Session(DIGITS) as session:
        samples = load_samples(session, None, None, 4)
    before = torch.backends.cudnn.allow_tf32
    found = profile_gpu(DIGITS, samples, Settings(("native",), (1, 3), (1, 2)))
    places = [(row.precision, row.batch, row.timesteps, row.graph) for row in found.rows]
    assert places == list(product(("float32", "float16"), (1, 2), (1, 3), (False, True)))
    assert {(row.p50, row.p95, row.n) for row in found.rows} == {(2.0, 2.9, 3)} and found.missing == ""
    assert set(asked) == {("cuda", torch.float32), ("cuda", torch.float16)}
    assert not any(arithmetic) and torch.backends.cudnn.allow_tf32 == before  # float32 is not TensorFloat-32


def test_what_cuda_refuses_does_not_end_the_profile(monkeypatch, nvidia_smi):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from spiketicket.profiling.inference.torch_network import TorchNetwork

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(TorchNetwork, "to", full)
    nvidia_smi("Z9, 570.1, 1 MHz, 2 MHz, 3 W, 4 W, 5 MiB\\n")
    with Session(DIGITS) as session:
        samples = load_samples(session, None, None, 4)
    found = profile_gpu(DIGITS, samples, Settings(("native",), (1,)))
    assert found.rows == [] and found.missing == "torch cannot run the model on the GPU: CUDA out of memory."


def test_the_section_says_why_nothing_was_measured(monkeypatch, tmp_path, nvidia_smi):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    settings = Settings(("native",), (1,))
    with Session(DIGITS) as session:
        samples = load_samples(session, None, None, 4)
    nvidia_smi("Z9, 570.1, 1 MHz, 2 MHz, 3 W, 4 W, 5 MiB\\n")
    found = profile_gpu(DIGITS, samples, settings)
    assert found.rows == [] and "does not see the GPU" in found.missing and found.facts["power.draw"] == "3 W"
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert profile_gpu(DIGITS, samples, settings).missing == "no NVIDIA GPU was found here: nothing was measured on one"
