"""A report, whatever its format: sections with a table, pictures, and sentences on what the figures show.

Measurements make such documents and writers read them; neither knows the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Cell = str | int | float | bool | None  # None: there is no such figure


@dataclass(frozen=True)
class Column:
    """A column. `form` says how numbers are written, as a format specification such as `.3f`, `,d` or `.1%`; it is
    empty for texts.
    """

    name: str
    unit: str = ""
    form: str = ""
    means: str = ""  # a short explanation of the name

    @property
    def heading(self) -> str:
        return f"{self.name}, {self.unit}" if self.unit else self.name

    def write(self, cell: Cell) -> str:
        """Return a cell as text, `-` if it has no figure."""
        if cell is None:
            return "-"
        if isinstance(cell, bool):
            return "yes" if cell else "no"
        return cell if isinstance(cell, str) else format(cell, self.form)


def is_number(cell: Cell) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool)


@dataclass(frozen=True)
class Table:
    """Rows with as many cells as there are columns. Numbers are not rounded; writers round them."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {len(row)} cells in a table of {len(self.columns)} columns: {row}")

    def numeric(self) -> tuple[bool, ...]:
        """Return for each column whether it holds figures, that is, numbers or nothing at all."""
        kinds = zip(*self.rows, strict=True) if self.rows else ((),) * len(self.columns)
        return tuple(all(is_number(cell) or cell is None for cell in column) for column in kinds)

    def without(self, name: str) -> "Table":
        """Return the table without the column of that name."""
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
    form: str = "g"  # format of the ticks

    @property
    def heading(self) -> str:
        return f"{self.label}, {self.unit}" if self.unit else self.label


@dataclass(frozen=True)
class Point:
    """A point. `low` and `high` are an interval of y. `label` says what the point is, if its position does not."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    label: str = ""


@dataclass(frozen=True)
class Series:
    name: str
    points: tuple[Point, ...]
    joined: bool = True  # points are joined by a line; otherwise there are marks only


@dataclass(frozen=True)
class Lines:
    """Series over two axes, as lines or scattered marks."""

    x: Axis
    y: Axis
    series: tuple[Series, ...]
    alt: str  # alternative text


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
    """A section. `key` is short, of lower-case letters and hyphens: the anchor on a page and the name of a file.

    `says` is a sentence or two on what the figures show, with the most important of them. `notes` are what a reader
    must know to understand them: what is an estimate or a projection, and what was not measured, and why.
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
    """A report. `warnings` say what makes the figures doubtful, such as a noisy machine. `facts` are titled lists of
    what was measured on what. `data` is the whole measurement in plain containers, for JSON.
    """

    kind: Kind
    title: str
    lead: str
    sections: tuple[Section, ...]
    data: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    facts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
