"""Exporting a ticket: verified, atomic, and refused where something does not match."""

import numpy as np
import onnx
import pytest
import torch

from spiketicket.errors import InputError, VerificationError
from spiketicket.export import module as modules
from spiketicket.export.ticket import export_ticket
from spiketicket.export.torch.trace import trace_calls
from spiketicket.graph import Conv
from spiketicket.runtime import Session
from spiketicket.train.networks.models import logits


@pytest.fixture
def ticket(quick_run):
    return quick_run[1][-1]


@pytest.fixture
def samples(ticket, digits):
    return ticket.normalisation(digits.test.images[:16])


def test_exports_and_verifies(ticket, samples, tmp_path):
    result = export_ticket(ticket, tmp_path / "t.onnx", samples=samples)
    *exact, whole = result.agreements
    assert [(a.engine, a.exact) for a in exact] == [("torch", True), ("native", True), ("onnxruntime", True)]
    assert whole.engine == "native (int16)" and 0 < whole.mismatch < 0.01 and whole.top1 > 0.8
    assert result.nbytes == (tmp_path / "t.onnx").stat().st_size < result.dense_nbytes
    with Session(result.path) as session, torch.no_grad():
        expected = logits(ticket.network(), torch.from_numpy(samples)).mean(0).numpy()
        assert np.allclose(session.run({"input": samples})["logits"], expected, atol=1e-4)
        assert session.metadata["fingerprint"] == ticket.fingerprint
        assert float(session.metadata["sparsity"]) == pytest.approx(ticket.sparsity, abs=1e-6)
        assert session.metadata["dataset"] == "digits" and session.metadata["classes"].split("\n") == list("0123456789")


def test_float16_halves_the_values_and_says_what_it_changes(ticket, samples, tmp_path):
    result = export_ticket(ticket, tmp_path / "t.onnx", samples, values="float16")
    names = [a.engine for a in result.agreements]
    assert names == ["torch", "reference (float16)", "native", "onnxruntime", "native (int16)"]
    stored = {t.name: t.data_type for t in onnx.load(tmp_path / "t.onnx").graph.initializer}
    assert stored["classifier.values"] == onnx.TensorProto.FLOAT16
    assert stored["classifier.bias"] == onnx.TensorProto.FLOAT
    assert result.nbytes < export_ticket(ticket, tmp_path / "full.onnx").nbytes


def test_same_ticket_same_bytes(ticket, tmp_path):
    for name in ("a", "b"):
        export_ticket(ticket, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_dense_size_is_that_of_a_dense_file(ticket, tmp_path):
    result = export_ticket(ticket, tmp_path / "t.onnx")
    weights = sum(4 * np.prod(node.weight.shape) for node in result.graph.weighted())
    assert weights < result.dense_nbytes < weights + 20_000


@pytest.mark.parametrize("exists", [False, True])
def test_a_mismatch_leaves_no_file_and_no_loss(ticket, samples, tmp_path, monkeypatch, exists):
    """A tracer that drops a bias: torch disagrees, and what stood there before stays."""

    def wrong(*args, **options):
        graph, calls = trace_calls(*args, **options)
        node = next(n for n in graph.nodes if isinstance(n, Conv) and n.name == "features.5")
        node.bias[3] += 0.5
        return graph, calls

    monkeypatch.setattr(modules, "trace_calls", wrong)
    path = tmp_path / "t.onnx"
    if exists:
        path.write_bytes(b"good old model")
    with pytest.raises(VerificationError, match=r"torch does not match reference: .* first in layer features\.7"):
        export_ticket(ticket, path, samples=samples)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([b"good old model"] if exists else [])


def test_unknown_value_type(ticket, tmp_path):
    with pytest.raises(InputError, match="values: expected one of float32, float16, int8, int16, got 'int3'"):
        export_ticket(ticket, tmp_path / "t.onnx", values="int3")
