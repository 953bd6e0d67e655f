"""The module of each format, found by the format's name."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from spiketicket.export.check.check import Run, Samples
from spiketicket.export.formats.settings import FORMATS, ExportFormat
from spiketicket.graph import Graph


class FormatModule(Protocol):
    """What the module of a format defines."""

    def write(self, form: ExportFormat, graph: Graph) -> bytes:
        """Return the file's bytes: the same for the same graph (but for TensorRT's engines)."""

    def with_metadata(self, form: ExportFormat, data: bytes, graph: Graph) -> bytes:
        """Return the file `data` with the metadata of `graph`, which is otherwise what it was written from."""

    def runs(self, form: ExportFormat, path: Path, graph: Graph, samples: Samples) -> Iterator[tuple[str, Run]]:
        """Yield everything that runs the file `path`, which was written from `graph`, by name."""


def format_module(form: ExportFormat) -> FormatModule:
    """Import it. Raises MissingExtraError for NIR without its package."""
    return cast(FormatModule, import_module(f"spiketicket.export.formats.{FORMATS[form.format].module}"))
