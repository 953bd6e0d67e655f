"""What the commands of `snn-profile` share: the option `-x`, and where a report goes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from spiketicket.cli import out, say
from spiketicket.profiling.report.document import Report
from spiketicket.profiling.report.files import FORMS, check_ending, write
from spiketicket.profiling.report.terminal import show

Export = Annotated[
    list[Path] | None,
    typer.Option("--export", "-x", help=f"Write the report, by its ending: {', '.join(FORMS)}; repeatable."),
]


def check_endings(paths: Sequence[Path] | None) -> None:
    """Raises InputError for an ending that no report has, before anything is measured."""
    for path in paths or []:
        check_ending(path)


def hand_over(report: Report, paths: Sequence[Path] | None) -> None:
    """To the terminal, and to the files that were asked for."""
    show(report, out)
    for path in paths or []:
        write(report, path)
        say(f"wrote {path}")
