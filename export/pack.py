"""Ticket -> verified model file: trace, write, check, run everywhere, and only then keep the file."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import checker

from spiketicket import __version__
from spiketicket.domain import INPUT
from spiketicket.errors import InputError, MissingExtraError, SpikeTicketError, VerificationError
from spiketicket.export.onnx_writer import to_onnx
from spiketicket.export.trace import trace
from spiketicket.export.verify import MIN_TOP1_FLOAT16, Agreement, Trace, compare, join
from spiketicket.files import write_atomic
from spiketicket.graph import Graph
from spiketicket.runtime import Session
from spiketicket.train.models import lif_spikes, logits
from spiketicket.train.ticket import Ticket

VALUES = ("float32", "float16")
SAMPLES = 32
_BATCH = 4  # the float64 oracle keeps every value of a batch


@dataclass(frozen=True)
class Export:
    """A finished export: where, how large, and what was checked."""

    path: Path
    graph: Graph
    nbytes: int
    dense_nbytes: int  # the same network as plain dense ONNX
    agreements: list[Agreement]  # empty where the check was left out

    def to_dict(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "bytes": self.nbytes,
            "dense_bytes": self.dense_nbytes,
            "layers": [
                {
                    "name": node.name,
                    "kind": type(node).__name__,
                    "shape": list(node.weight.shape),
                    "density": node.weight.density,
                    "bytes": node.weight.nbytes + node.bias.nbytes,
                }
                for node in self.graph.weighted()
            ],
            "agreements": [agreement.to_dict() for agreement in self.agreements],
        }


def export_ticket(
    ticket: Ticket, path: Path, values: str = "float32", samples: NDArray[np.float32] | None = None
) -> Export:
    """Write `ticket` as the model file `path`.

    `values`: float32 or float16, the type of stored weights. `samples`: normalised images float32
    `[N, C, H, W]` on which torch, onnxruntime and the native engine must agree with the float64
    oracle before the file appears; None leaves that check out. Raises VerificationError where an
    engine does not agree, ModelError where the network cannot be exported.
    """
    if values not in VALUES:
        raise InputError(f"values: expected one of {', '.join(VALUES)}, got {values!r}")
    network = ticket.network()
    shape = (ticket.model.in_channels, ticket.model.image_size, ticket.model.image_size)
    graph = trace(network, shape, _metadata(ticket, values), values)
    data = _serialise(graph)
    agreements = [] if samples is None else _verify(ticket, network, graph, data, samples, values)
    write_atomic(path, data)
    return Export(path, graph, len(data), dense_nbytes(graph), agreements)


def dense_nbytes(graph: Graph) -> int:
    """Size of the network as plain dense ONNX."""
    return int(to_onnx(graph, dense=True).ByteSize())


def _serialise(graph: Graph) -> bytes:
    model = to_onnx(graph)
    checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _verify(
    ticket: Ticket,
    network: torch.nn.Module,
    graph: Graph,
    data: bytes,
    samples: NDArray[np.float32],
    values: str,
) -> list[Agreement]:
    """Run the file everywhere. The order tells where an error lies: tracing, then each engine."""
    with tempfile.TemporaryDirectory() as folder:
        candidate = Path(folder) / "candidate.onnx"
        write_atomic(candidate, data)
        oracle = _trace_session(candidate, "reference", samples)
        agreements = []
        if values == "float32":
            agreements.append(compare("torch", _trace_torch(network, samples), "reference", oracle))
        else:
            exact = Path(folder) / "float32.onnx"
            write_atomic(exact, _serialise(trace(network, graph.input_shape, {})))
            unrounded = _trace_session(exact, "reference", samples)
            agreements.append(compare("torch", _trace_torch(network, samples), "reference", unrounded))
            rounded = compare(f"reference ({values})", oracle, "reference (float32)", unrounded)
            if rounded.top1 < MIN_TOP1_FLOAT16:
                raise VerificationError(
                    f"weights in {values} change the class of {1 - rounded.top1:.0%} of the samples: use float32"
                )
            agreements.append(rounded)
        for engine in ("native", "onnxruntime"):
            agreements.append(compare(engine, _trace_session(candidate, engine, samples), "reference", oracle))
        for agreement in agreements:
            if agreement.against == "reference":
                agreement.require_exact()
        # What rounding to whole numbers would change, for who wants it; the file does not depend on it.
        whole = _trace_session(candidate, "native", samples, plan="events-int16", values="int16")
        agreements.append(compare("native (int16)", whole, "reference", oracle))
    return agreements


def _trace_session(
    path: Path, engine: str, samples: NDArray[np.float32], plan: str = "auto", values: str = "float32"
) -> Trace:
    try:
        session = Session(path, engine, plan=plan, values=values)
    except MissingExtraError as error:
        raise SpikeTicketError(f"cannot verify: {error}; or export with --no-check") from error
    with session:
        traces = []
        for start in range(0, len(samples), _BATCH):
            inputs = {INPUT: samples[start : start + _BATCH]}
            traces.append(Trace(session.spikes(inputs), session.run(inputs)["logits_t"]))
        return join(traces)


def _trace_torch(network: torch.nn.Module, samples: NDArray[np.float32]) -> Trace:
    traces = []
    for start in range(0, len(samples), _BATCH):
        x = torch.from_numpy(samples[start : start + _BATCH])
        spikes = {name: tensor.numpy() for name, tensor in lif_spikes(network, x).items()}
        with torch.no_grad():
            traces.append(Trace(spikes, logits(network, x).numpy()))
    return join(traces)


def _metadata(ticket: Ticket, values: str) -> dict[str, str]:
    search, norm = ticket.search, ticket.normalisation
    return {
        "fingerprint": ticket.fingerprint,
        "exporter": __version__,
        "arch": ticket.model.arch,
        "dataset": str(search["dataset"]),
        "classes": "\n".join(search["classes"]),
        "scale": repr(norm.scale),
        "mean": " ".join(map(repr, norm.mean)),
        "std": " ".join(map(repr, norm.std)),
        "method": str(search["method"]),
        "sparsity": f"{ticket.sparsity:.6f}",
        "sparsity_prunable": f"{ticket.sparsity_prunable:.6f}",
        **({} if search["test_accuracy"] is None else {"test_accuracy": f"{search['test_accuracy']:.6f}"}),
        "values": values,
    }
