"""The option `-x` of the commands of `snn-profile`, and the output of a report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from spiketicket.cli.console import out, say
from spiketicket.errors import InputError, SpikeTicketError
from spiketicket.profiling.report.document import Report
from spiketicket.profiling.report.files import FORMS, check_ending, write
from spiketicket.profiling.report.terminal import show

Export = Annotated[
    list[Path] | None,
    typer.Option("--export", "-x", help=f"Write the report, by its ending: {', '.join(FORMS)}; repeatable."),
]


def check_endings(paths: Sequence[Path] | None) -> None:
    """Raise InputError, before anything is measured, if no report has such an ending or a folder is missing."""
    for path in paths or []:
        check_ending(path)
        if not path.parent.is_dir():
            raise InputError(f"cannot write {path}: there is no folder {path.parent}")


def show_and_write(report: Report, paths: Sequence[Path] | None) -> None:
    """Print a report on the terminal, and write it to the files that were asked for."""
    show(report, out)
    failed = []
    for path in paths or []:
        try:
            write(report, path)
            say(f"wrote {path}")
        except SpikeTicketError as error:  # the others are written nevertheless: what was measured took its time
            failed.append(error)
    if failed:
        raise failed[0]
