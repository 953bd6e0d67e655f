"""Find the module of a file format by the format's name."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from spiketicket.export.check.check import Run, Samples
from spiketicket.export.formats.settings import FORMATS, ExportFormat
from spiketicket.graph import Graph


class FormatModule(Protocol):
    """The functions that the module of a format defines."""

    def write(self, settings: ExportFormat, graph: Graph) -> bytes:
        """Return the file's bytes, which are the same for equal graphs (except for TensorRT's engines)."""

    def with_metadata(self, settings: ExportFormat, data: bytes, graph: Graph) -> bytes:
        """Return the file `data` with the metadata of `graph`, which otherwise equals the graph of the file."""

    def runs(self, settings: ExportFormat, path: Path, graph: Graph, samples: Samples) -> Iterator[tuple[str, Run]]:
        """Yield name and run of everything that runs the file `path`, which was written from `graph`.

        A name with brackets is a run in lower precision, which is recorded but not required to agree.
        """


def format_module(settings: ExportFormat) -> FormatModule:
    """Return the module of a format. Raises MissingExtraError for NIR if its package is not installed."""
    return cast(FormatModule, import_module(f"spiketicket.export.formats.{FORMATS[settings.format].module}"))
