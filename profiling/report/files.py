"""Write reports to files, in the format of the file's ending."""

import json
from collections.abc import Callable
from pathlib import Path

from spiketicket.errors import InputError
from spiketicket.files import write_atomic
from spiketicket.profiling.report.csv import csv
from spiketicket.profiling.report.document import Report
from spiketicket.profiling.report.html import html
from spiketicket.profiling.report.latex import latex
from spiketicket.profiling.report.markdown import markdown


def to_json(report: Report) -> str:
    """Return the measurement's data as JSON. Raises ValueError for a number that is not finite, which JSON cannot
    express.
    """
    return json.dumps(report.data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


FORMS: dict[str, Callable[[Report], str]] = {
    ".html": html,
    ".json": to_json,
    ".csv": csv,
    ".md": markdown,
    ".tex": latex,
}


def write(report: Report, path: Path) -> None:
    """Write the report in the form that the ending of `path` names.

    Raises InputError for an unknown ending, MissingExtraError for HTML without jinja2, SpikeTicketError where the
    file cannot be written.
    """
    check_ending(path)
    write_atomic(path, FORMS[path.suffix.lower()](report).encode())


def check_ending(path: Path) -> None:
    """Raise InputError if reports have no format with the ending of `path`."""
    if path.suffix.lower() not in FORMS:
        raise InputError(f"cannot write a report as {path.name}: expected an ending of {', '.join(FORMS)}")
