"""A report before it takes a form: sections of one table each, their pictures, and a sentence that says what is seen.

Measurements make documents, writers read them; neither knows the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Cell = str | int | float | bool | None  # None: there is no such figure


@dataclass(frozen=True)
class Column:
    """`form`: how numbers are written, a format specification such as `.3f`, `,d` or `.1%`; of texts, empty."""

    name: str
    unit: str = ""
    form: str = ""
    means: str = ""  # in a few words, for who does not know the name

    @property
    def heading(self) -> str:
        return f"{self.name}, {self.unit}" if self.unit else self.name

    def write(self, cell: Cell) -> str:
        """A cell as a person reads it; `-` where there is no figure."""
        if cell is None:
            return "-"
        if isinstance(cell, bool):
            return "yes" if cell else "no"
        return cell if isinstance(cell, str) else format(cell, self.form)


def is_number(cell: Cell) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool)


@dataclass(frozen=True)
class Table:
    """Rows of as many cells as there are columns, unrounded: writers round."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {len(row)} cells in a table of {len(self.columns)} columns: {row}")

    def numeric(self) -> tuple[bool, ...]:
        """Of each column, whether it holds figures: numbers, or none at all."""
        kinds = zip(*self.rows, strict=True) if self.rows else ((),) * len(self.columns)
        return tuple(all(is_number(cell) or cell is None for cell in column) for column in kinds)

    def without(self, name: str) -> "Table":
        """The table without the column of that name."""
        kept = [place for place, column in enumerate(self.columns) if column.name != name]
        return Table(
            tuple(self.columns[place] for place in kept),
            tuple(tuple(row[place] for place in kept) for row in self.rows),
        )

    def written(self) -> list[list[str]]:
        return [[column.write(cell) for column, cell in zip(self.columns, row, strict=True)] for row in self.rows]


@dataclass(frozen=True)
class Axis:
    label: str
    unit: str = ""
    log: bool = False
    form: str = "g"  # of the ticks

    @property
    def heading(self) -> str:
        return f"{self.label}, {self.unit}" if self.unit else self.label


@dataclass(frozen=True)
class Point:
    """`low`, `high`: an interval of y. `label`: what the point is, where its place does not tell."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    label: str = ""


@dataclass(frozen=True)
class Series:
    name: str
    points: tuple[Point, ...]
    joined: bool = True  # by a line; otherwise marks alone


@dataclass(frozen=True)
class Lines:
    """Series over two axes: lines, or scattered marks."""

    x: Axis
    y: Axis
    series: tuple[Series, ...]
    alt: str  # for who does not see it


@dataclass(frozen=True)
class Bars:
    """A horizontal bar per label, of stacked parts: `parts[name][i]` is the length of that part in bar i."""

    axis: Axis
    labels: tuple[str, ...]
    parts: Mapping[str, tuple[float, ...]]
    alt: str


Picture = Lines | Bars


@dataclass(frozen=True)
class Section:
    """`key`: short, lower case, of letters and hyphens: the anchor on a page and the name of a file.

    `says`: a sentence or two, what the figures show, with the most telling of them. `notes`: what a reader must know
    to read them right: what is an estimate or a projection, and of what; what was not measured, and why.
    """

    key: str
    title: str
    says: str
    table: Table | None = None
    pictures: tuple[Picture, ...] = ()
    notes: tuple[str, ...] = ()


Kind = Literal["inference", "search", "tickets", "comparison", "benchmark"]


@dataclass(frozen=True)
class Report:
    """`warnings`: what makes the figures doubtful, a noisy machine above all. `facts`: titled lists of what was
    measured on what. `data`: the whole measurement in plain containers, for JSON."""

    kind: Kind
    title: str
    lead: str
    sections: tuple[Section, ...]
    data: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    facts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
