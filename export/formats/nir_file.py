"""Format `nir`: a NIR graph, which is verified by reading it back and running it on the reference engine.

This module is imported only when it is used, because it needs the package nir.
"""

from collections.abc import Iterator
from pathlib import Path

from spiketicket.export.check.check import Run, Samples, oracle_run
from spiketicket.export.formats.settings import ExportFormat
from spiketicket.export.nir.reader import read_nir
from spiketicket.export.nir.writer import nir_bytes
from spiketicket.graph import Graph


def write(settings: ExportFormat, graph: Graph) -> bytes:
    return nir_bytes(graph, settings.dt)


def with_metadata(settings: ExportFormat, data: bytes, graph: Graph) -> bytes:
    return write(settings, graph)


def runs(settings: ExportFormat, path: Path, graph: Graph, samples: Samples) -> Iterator[tuple[str, Run]]:
    """Yield the file as read back, on the float64 oracle. NIR has no static input: samples become `[T, N, ...]`."""
    read = read_nir(path, graph.timesteps, settings.dt)
    run = oracle_run(read, samples.timesteps)
    yield "read back", lambda x: run(samples.frames(x))
