"""Place labels of points so that they cover neither each other nor, if possible, marks and lines."""

from collections.abc import Sequence
from dataclasses import dataclass

HEIGHT = 14.0  # of a line of text
DISTANCES = (8.0, 17.0, 28.0, 42.0)
DIRECTIONS = (  # right and down per pixel of distance, and the share of the text left of that position
    (1.0, 0.0, 0.0),
    (0.0, -1.3, 0.5),
    (0.0, 1.3, 0.5),
    (0.7, -1.0, 0.0),
    (0.7, 1.0, 0.0),
    (-1.0, 0.0, 1.0),
    (-0.7, -1.0, 1.0),
    (-0.7, 1.0, 1.0),
)
COST_OF_MARK, COST_OF_LINE, COST_OF_DISTANCE, COST_OF_DIRECTION = 5.0, 1.0, 1.5, 0.2


@dataclass(frozen=True)
class Box:
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "Box") -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


@dataclass(frozen=True)
class Wanted:
    """A label to be placed at the point (x, y), in pixels."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Placed:
    """A label with its position. `far` says that it is so far from its point that a line must connect them."""

    of: Wanted
    box: Box
    far: bool


def place(wanted: Sequence[Wanted], marks: Sequence[Box], lines: Sequence[Box], bounds: Box) -> list[Placed]:
    """Return the labels that fit within `bounds` without covering the labels before them, each at its best position.

    `lines` are small boxes along the lines. A label without a position is left out, because it could not be read.
    """
    placed: list[Placed] = []
    for label in wanted:
        width = text_width(label.text)
        best: tuple[float, Placed] | None = None
        for ring, distance in enumerate(DISTANCES):
            for order, (right, down, share) in enumerate(DIRECTIONS):
                left, middle = label.x + right * distance - share * width, label.y + down * distance
                box = Box(left, middle - HEIGHT / 2, left + width, middle + HEIGHT / 2)
                if not _within(box, bounds) or any(box.meets(other.box) for other in placed):
                    continue
                cost = COST_OF_MARK * sum(map(box.meets, marks)) + COST_OF_LINE * sum(map(box.meets, lines))
                cost += COST_OF_DISTANCE * ring + COST_OF_DIRECTION * order
                if best is None or cost < best[0]:
                    best = cost, Placed(label, box, ring > 0)
        if best is not None:
            placed.append(best[1])
    return placed


def text_width(text: str, size: float = 12.0) -> float:
    """Return the approximate width of `text` in a wide sans-serif font of `size` pixels."""
    return size * sum(0.36 if c in "iljtfr.,:;'|!()[] " else 0.88 if c in "mwMW@%" else 0.64 for c in text)


def shorten(text: str, width: float) -> str:
    """Return `text`, or as much of it as fits into `width` pixels with an ellipsis in its middle."""
    if text_width(text) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        cut = text[: (kept + 1) // 2] + "…" + text[len(text) - kept // 2 :]
        if text_width(cut) <= width:
            return cut
    return text[:1] + "…"


def _within(box: Box, bounds: Box) -> bool:
    return (
        bounds.left <= box.left and box.right <= bounds.right and bounds.top <= box.top and box.bottom <= bounds.bottom
    )
