"""The tables of a benchmark on the terminal, as Markdown and as JSON, by the writers of snn-profile's reports."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from spiketicket.cli.console import out, say
from spiketicket.files import write_atomic
from spiketicket.profiling.report.document import Column, Report, Section, Table
from spiketicket.profiling.report.files import write
from spiketicket.profiling.report.terminal import show

WIDTH = 140  # columns of the tables if the output is a file or a pipe


def section(title: str, header: Sequence[str], rows: Iterable[Sequence[str]], notes: Sequence[str] = ()) -> Section:
    """Return a section with one table, whose cells are text."""
    table = Table(tuple(map(Column, header)), tuple(map(tuple, rows)))
    return Section("", title, "", table, notes=tuple(notes))


def present(
    sections: Sequence[Section], title: str = "", notes: Sequence[str] = (), warnings: Sequence[str] = ()
) -> Report:
    """Print the tables, and below them the notes on the whole benchmark; return all of it as a report."""
    conditions = [Section("conditions", "Conditions", "", notes=tuple(notes))] if notes else []
    report = Report("benchmark", title, "", (*sections, *conditions), {}, tuple(warnings))
    show(report, out if out.is_terminal else Console(width=WIDTH))
    return report


def publish(
    base: Path, data: Any, sections: Sequence[Section], title: str, notes: Sequence[str], warnings: Sequence[str] = ()
) -> None:
    """Print the tables and write them to `base`.md, and the figures behind them to `base`.json."""
    write(present(sections, title, notes, warnings), base.with_suffix(".md"))
    write_json(base.with_suffix(".json"), data)
    say(f"wrote {base.with_suffix('.json')} and {base.name}.md")


def write_json(path: Path, data: Any) -> None:
    """Write `data` as JSON, atomically."""
    write_atomic(path, (json.dumps(data, indent=1) + "\n").encode())
