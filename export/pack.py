"""Sparse graph -> model file: slimmed, rounded, written, run everywhere, and only then kept."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnx import checker

from spiketicket.domain import OPSET
from spiketicket.export.channels import Removed, remove_channels
from spiketicket.export.check import Candidate, Original, Samples, check
from spiketicket.export.onnx_writer import to_onnx
from spiketicket.export.values import cast, check_values
from spiketicket.export.verify import DEFAULT, Agreement, Tolerance
from spiketicket.files import write_atomic
from spiketicket.graph import Graph

SAMPLES = 32  # of a data set, on which an export is checked


@dataclass(frozen=True)
class Export:
    """A finished export: where, how large, and what was checked."""

    path: Path
    graph: Graph
    removed: Mapping[str, Removed]  # channels that pruning emptied, by layer
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
                    "removed_channels": self.removed[node.name].count if node.name in self.removed else 0,
                    "density": node.weight.density,
                    "bytes": node.weight.nbytes + node.bias.nbytes,
                }
                for node in self.graph.weighted()
            ],
            "agreements": [agreement.to_dict() for agreement in self.agreements],
        }


def pack(
    graph: Graph,
    path: Path,
    *,
    values: str = "float32",
    dense: bool = False,
    step: bool = False,
    fixed_timesteps: bool = False,
    batch: int | None = None,
    opset: int = OPSET,
    samples: Samples | None = None,
    original: Original | None = None,
    tolerance: Tolerance = DEFAULT,
) -> Export:
    """Write `graph` as the model file `path`.

    `values`: the type of stored weights. `dense`: plain standard ONNX, without the domain's operators; the native
    engine does not read it. `step`: one timestep per call, potentials as inputs and outputs. `fixed_timesteps`: T is
    the graph's always; `batch`: N, where it is fixed. `opset`: of the standard operators. `samples`: what `original`,
    the float64 oracle and each engine must agree on before the file appears; None leaves that check out. Raises
    InputError for an option out of range, VerificationError where one does not agree.
    """
    check_values(values)
    slim = remove_channels(graph)
    stored = cast(slim.graph, values)
    noted = {**stored.metadata, "values": values}
    stored = replace(stored, metadata=noted, batch=batch, fixed_timesteps=fixed_timesteps)
    data = serialise(stored, dense, step, opset)
    agreements = []
    if samples is not None:
        sparse = serialise(stored, False, step, opset) if dense else None
        candidate = Candidate(graph, stored, slim.kept, data, values, sparse)
        agreements = check(candidate, samples, original, tolerance)
        report = json.dumps([agreement.brief() for agreement in agreements], separators=(",", ":"))
        data = serialise(replace(stored, metadata={**noted, "verification": report}), dense, step, opset)
    write_atomic(path, data)
    return Export(path, stored, slim.removed, len(data), dense_nbytes(graph), agreements)


def dense_nbytes(graph: Graph) -> int:
    """Size of the network as plain dense ONNX."""
    return int(to_onnx(graph, dense=True).ByteSize())


def serialise(graph: Graph, dense: bool, step: bool, opset: int) -> bytes:
    """The model file's bytes: the same for the same graph."""
    model = to_onnx(graph, dense=dense, step=step, opset=opset)
    checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data
