"""Format `nir`: a NIR graph, read back and run by the reference engine. Imported only where it is asked for: it needs
the package nir."""

from collections.abc import Iterator
from pathlib import Path

from spiketicket.export.check.check import Run, Samples, oracle_run
from spiketicket.export.formats.settings import ExportFormat
from spiketicket.export.nir.reader import read_nir
from spiketicket.export.nir.writer import nir_bytes
from spiketicket.graph import Graph


def write(form: ExportFormat, graph: Graph) -> bytes:
    return nir_bytes(graph, form.dt)


def with_metadata(form: ExportFormat, data: bytes, graph: Graph) -> bytes:
    return write(form, graph)


def runs(form: ExportFormat, path: Path, graph: Graph, samples: Samples) -> Iterator[tuple[str, Run]]:
    """Read back, on the oracle; everything is over time there."""
    read = read_nir(path, graph.timesteps, form.dt)
    run = oracle_run(read, samples.timesteps)
    yield "read back", lambda x: run(samples.frames(x))
