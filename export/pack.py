"""Write a sparse graph as a file: remove channels, round the weights, verify, and only then keep the file."""

import json
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from spiketicket.errors import MissingExtraError, SpikeTicketError
from spiketicket.export.channels import Removed, remove_channels
from spiketicket.export.check.agreement import Agreement
from spiketicket.export.check.check import Check, Original, check_graphs
from spiketicket.export.formats.registry import format_module
from spiketicket.export.formats.settings import ExportFormat
from spiketicket.files import write_atomic
from spiketicket.graph import Graph
from spiketicket.model.names import VERIFICATION
from spiketicket.model.values import cast
from spiketicket.model.writer import to_onnx

SAMPLES = 32  # number of images of a data set that an export is verified on


@dataclass(frozen=True, repr=False)
class Export:
    """A finished export: the path and sizes of its file, and the results of the verification."""

    path: Path
    graph: Graph
    removed: Mapping[str, Removed]  # channels that pruning emptied, by layer
    nbytes: int
    dense_nbytes: int  # the same network as plain dense ONNX
    agreements: list[Agreement]  # empty if the check was skipped
    silent: list[str]  # neuron layers that never fired on the samples, so that what follows was not verified
    accuracy: float | None = None  # of the file on the whole data set, if it was evaluated

    def __repr__(self) -> str:
        checks = ", ".join(agreement.engine for agreement in self.agreements) or "nothing"
        return f"Export({str(self.path)!r}, {self.nbytes:,} bytes, checked: {checks})"

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
            "silent": self.silent,
            "accuracy": self.accuracy,
            "agreements": [agreement.to_dict() for agreement in self.agreements],
        }


def pack(
    graph: Graph, path: Path, settings: ExportFormat, check: Check | None = None, original: Original | None = None
) -> Export:
    """Write `graph` as the file `path` in the given format.

    `check` has the samples on which `original`, the float64 oracle and all engines must agree before the file is
    written; None skips the verification. Raises VerificationError, which names the first layer that differs, and
    SpikeTicketError if a package that the verification needs is missing.
    """
    slim = remove_channels(graph)
    metadata = {"fingerprint": _fingerprint(graph), "versions": versions(), **graph.metadata, "values": settings.values}
    stored = replace(
        cast(slim.graph, settings.values),
        metadata=metadata,
        batch=settings.batch,
        fixed_timesteps=settings.fixed_timesteps,
    )
    module = format_module(settings)
    data = module.write(settings, stored)
    if check is not None:
        trace = check_graphs(check, graph, stored, slim.kept, settings.values, original)
        with tempfile.TemporaryDirectory() as folder:
            candidate = Path(folder) / "candidate.onnx"
            write_atomic(candidate, data)
            try:
                check.runs(module.runs(settings, candidate, stored, check.samples), trace, settings.batch)
            except MissingExtraError as error:
                raise SpikeTicketError(f"cannot verify: {error}; or export with --no-check") from error
        report = json.dumps([agreement.brief() for agreement in check.agreements], separators=(",", ":"))
        data = module.with_metadata(settings, data, replace(stored, metadata={**metadata, VERIFICATION: report}))
    write_atomic(path, data)
    checked = ([], []) if check is None else (check.agreements, check.silent)
    return Export(path, stored, slim.removed, len(data), dense_nbytes(graph), *checked)


def versions(*more: str) -> str:
    """Return the installed versions of the packages `more` and of those that every export depends on, as text."""
    found = []
    for name in (*more, "numpy", "onnx", "onnxruntime"):
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join(found)


def _fingerprint(graph: Graph) -> str:
    """Return the SHA-256 of all names, weights and biases. (A ticket's own fingerprint takes precedence.)"""
    digest = sha256()
    for node in graph.weighted():
        weight = node.weight
        digest.update(f"{node.name} {weight.shape}".encode())
        for array in (weight.values, weight.indices, weight.indptr, node.bias):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def dense_nbytes(graph: Graph) -> int:
    """Return the size in bytes of the network as plain dense ONNX."""
    return int(to_onnx(graph, dense=True).ByteSize())
