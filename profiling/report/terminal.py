"""A report on the terminal."""

import textwrap
from collections.abc import Iterator, Mapping

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from spiketicket.profiling.report.document import Column, Report, Section, Table

GAP = 3  # characters between columns
TEXT = 24  # characters of a text, or a third of the console, before it is broken into lines


def show(report: Report, console: Console) -> None:
    """Print title, warnings, every section with its sentence, table and notes, and the facts.

    A table wider than the console is folded: its further columns follow below, beside its first column again. Long
    texts are broken into lines.
    """
    console.print(Text(report.title, style="bold"))
    for warning in report.warnings:
        console.print(Text(f"warning: {warning}", style="bold yellow"))
    if report.lead:
        console.print(Text(report.lead))
    for section in report.sections:
        _show_section(section, console)
    for title, facts in report.facts.items():
        console.print(Text(f"\n{title}", style="bold"))
        console.print(_grid(facts))


def _show_section(section: Section, console: Console) -> None:
    console.print(Text(f"\n{section.title}", style="bold"))
    console.print(Text(section.says))
    if section.table:
        for part in _folded(section.table, console.width):
            console.print(part)
            console.print()
        means = [f"{column.name}: {column.means}" for column in section.table.columns if column.means]
        if means:
            console.print(Text("; ".join(means), style="dim"))
    for note in section.notes:
        console.print(Text(f"note: {note}", style="dim"))


def _folded(table: Table, width: int) -> Iterator[RichTable]:
    """Return the table in as many parts as it needs to fit into `width` characters, each with the first column."""
    written, numeric = table.written(), table.numeric()
    columns = []
    for index, column in enumerate(table.columns):
        cells = [row[index] for row in written]
        widest = max(map(cell_len, cells), default=0)
        heading = _heading(column, widest)
        needed = max(map(cell_len, [*heading.splitlines(), ""]))
        if not numeric[index]:
            widest = min(widest, max(TEXT, width // 3))
        columns.append((heading, cells, max(needed, widest) + GAP))
    part, used = [0], columns[0][2]
    for index in range(1, len(columns)):
        if len(part) > 1 and used + columns[index][2] - GAP > width:
            yield _part(columns, part, numeric)
            part, used = [0], columns[0][2]
        part.append(index)
        used += columns[index][2]
    yield _part(columns, part, numeric)


def _part(columns: list[tuple[str, list[str], int]], part: list[int], numeric: tuple[bool, ...]) -> RichTable:
    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    height = max(columns[index][0].count("\n") for index in part)
    for index in part:
        heading = columns[index][0]
        drawn.add_column(
            Text("\n" * (height - heading.count("\n")) + heading),
            justify="right" if numeric[index] else "left",
            overflow="fold",
            no_wrap=numeric[index],
            width=columns[index][2] - GAP,
        )
    for cells in zip(*(columns[index][1] for index in part), strict=True):
        drawn.add_row(*map(Text, cells))
    return drawn


def _heading(column: Column, width: int) -> str:
    """Return the column's name in lines no longer than its cells, if its words allow that, and its unit."""
    longest = max([width, *map(len, column.name.split())])
    lines = textwrap.wrap(column.name, longest, break_long_words=False, break_on_hyphens=False)
    return "\n".join([*lines, column.unit] if column.unit else lines)


def _grid(facts: Mapping[str, str]) -> RichTable:
    grid = RichTable.grid(padding=(0, 2))
    for name, value in facts.items():
        grid.add_row(Text(name, style="dim"), Text(value, overflow="fold"))
    return grid
