"""The GPU's section where there is no GPU, and what NVIDIA's tool says."""

import os
from pathlib import Path

import pytest

from spiketicket.profiling.gpu import profile_gpu
from spiketicket.profiling.nvidia_smi import ask
from spiketicket.profiling.samples import load_samples
from spiketicket.profiling.settings import Settings
from spiketicket.runtime import Session

DIGITS = Path(__file__).parents[1] / "assets" / "digits.onnx"


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
