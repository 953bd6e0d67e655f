"""Memory and load times of a model, each in processes of its own."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from spiketicket.errors import InputError, SpikeTicketError
from spiketicket.model.reader import read_model
from spiketicket.model.writer import to_onnx
from spiketicket.profiling.measure import memory
from spiketicket.profiling.measure.memory import PLAIN, Memory, measure_memory, process_bytes

DIGITS = Path(__file__).parents[2] / "assets" / "digits.onnx"
X = np.zeros((4, 1, 8, 8), np.float32)


@pytest.fixture
def one_process(monkeypatch):
    monkeypatch.setattr(memory, "PROCESSES", 1)


def test_medians_over_three_processes(monkeypatch):
    seen = []

    def fake(arguments):
        seen.append(arguments)
        number = (30, 10, 20)[len(seen) - 1]
        return {"resident": number, "peak": 2 * number, "load_seconds": 0.1 * number, "first_result_seconds": number}

    monkeypatch.setattr(memory, "_in_a_fresh_process", fake)
    found = measure_memory("native", DIGITS, X, threads=1, timesteps=5)
    assert found == Memory(DIGITS.stat().st_size, 20, 40, 2.0, 20) and found.to_dict()["peak"] == 40
    assert [arguments[:2] + arguments[3:] for arguments in seen] == [["native", str(DIGITS), "1", "5"]] * 3


@pytest.mark.parametrize("engine", ["native", PLAIN])
def test_a_model(one_process, engine):
    pytest.importorskip("onnxruntime")
    found = measure_memory(engine, DIGITS, X, threads=1, timesteps=5)
    assert found.file == DIGITS.stat().st_size and 0 < found.resident <= found.peak < 200e6
    assert 0 < found.load_seconds < found.first_result_seconds


def test_a_dense_file_in_plain_onnxruntime(one_process, tmp_path):
    pytest.importorskip("onnxruntime")
    dense = tmp_path / "dense.onnx"
    dense.write_bytes(to_onnx(read_model(DIGITS)[0], dense=True).SerializeToString())
    assert measure_memory(PLAIN, dense, X, threads=1, timesteps=5).file > DIGITS.stat().st_size
    with pytest.raises(SpikeTicketError, match=f"memory of {dense} in native: .*not one of spiketicket's"):
        measure_memory("native", dense, X, threads=1, timesteps=5)


def test_a_process_that_dies_is_named(monkeypatch):
    died = subprocess.CompletedProcess([], -9, "", "")
    monkeypatch.setattr(memory.subprocess, "run", lambda *_, **__: died)
    with pytest.raises(SpikeTicketError, match="digits.onnx in reference: exit code -9"):
        measure_memory("reference", DIGITS, X, threads=1, timesteps=5)


def test_refusals(monkeypatch, tmp_path):
    with pytest.raises(
        InputError, match="expected one of native, onnxruntime, reference, plain onnxruntime, got 'tpu'"
    ):
        measure_memory("tpu", DIGITS, X, threads=1, timesteps=5)
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "none")
    with pytest.raises(SpikeTicketError, match="which has no VmRSS on this system"):
        process_bytes("VmRSS")
