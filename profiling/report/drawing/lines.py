"""Draw lines and scattered marks over two axes."""

from collections.abc import Iterator
from itertools import pairwise
from math import ceil, hypot

from spiketicket.profiling.report.document import Lines, Point, Series
from spiketicket.profiling.report.drawing.colours import mark_colour
from spiketicket.profiling.report.drawing.labels import Box, Placed, Wanted, place, text_width
from spiketicket.profiling.report.drawing.scale import Scale, label_room, scale, tip
from spiketicket.profiling.report.drawing.svg import DASHES, element, legend, line, mark, text

HEIGHT = 300  # height of the plot in pixels
SAMPLE = 30
MARK = 5  # half the side of one
ROOM_FOR_NAMES = 0.24  # largest share of the width, right of the plot


def draw_lines(picture: Lines, width: float) -> tuple[str, float]:
    """Return markup and height in pixels of the picture in `width` pixels: a legend, and the plot below it."""
    points = [point for series in picture.series for point in series.points]
    if not points:
        raise ValueError(f"nothing to draw: {picture.alt}")
    head, top = _legend(picture, width)
    top += 30  # room for the heading of y
    bottom = top + HEIGHT
    reach = [v for p in points for v in (p.y, p.low, p.high) if v is not None]
    y = scale(picture.y, reach, bottom, top, room=38, zero=True)
    left = 10 + max(text_width(y.write(tick)) for tick in y.ticks)
    across = [point.x for point in points]
    right = width - _names_width(picture, width)
    x = scale(picture.x, across, left, right, label_room(picture.x, across))
    plot = [head, _axes(x, y)]
    plot += [_series(series, index, x, y, picture) for index, series in enumerate(picture.series)]
    plot += [_label(placed) for placed in _labels(picture, x, y, width)]
    return "".join(plot), bottom + 42


def _legend(picture: Lines, width: float) -> tuple[str, float]:
    if len(picture.series) < 2:
        return "", 0.0
    samples = []
    for index, series in enumerate(picture.series):
        rule = _dashed(f"M0 0H{SAMPLE}", index) if series.joined else ""
        samples.append((rule + mark(SAMPLE / 2, 0, index), series.name))
    return legend(samples, SAMPLE, width, 0)


def _names_width(picture: Lines, width: float) -> float:
    """Return the pixels right of the plot for names at the ends of lines, 0 if there is no room for them."""
    names = [text_width(series.name) + 12 for series in picture.series if _named_at_end(picture, series)]
    longest = max(names, default=0.0)
    return longest if MARK + 6 < longest <= ROOM_FOR_NAMES * width else MARK + 6


def _named_at_end(picture: Lines, series: Series) -> bool:
    return len(picture.series) > 1 and series.joined and bool(series.points) and not series.points[-1].label


def _axes(x: Scale, y: Scale) -> str:
    drawn = [text(0, y.end - 14, y.axis.heading, colour="faint")]
    for tick in y.ticks:
        drawn.append(line(x.start, y(tick), x.end, y(tick), "var(--rule)"))
        drawn.append(text(x.start - 7, y(tick) + 4, y.write(tick), "end", "faint"))
    for tick in x.ticks:
        drawn.append(line(x(tick), y.start, x(tick), y.start + 5, "var(--faint)"))
        drawn.append(text(x(tick), y.start + 18, x.write(tick), "middle", "faint"))
    drawn.append(line(x.start, y.start, x.end, y.start, "var(--faint)"))
    drawn.append(text(x.end, y.start + 36, x.axis.heading, "end", "faint"))
    return "".join(drawn)


def _series(series: Series, index: int, x: Scale, y: Scale, picture: Lines) -> str:
    drawn = []
    if series.joined and len(series.points) > 1:
        drawn.append(_dashed("M" + "L".join(f"{x(p.x):.1f} {y(p.y):.1f}" for p in series.points), index))
    for point in series.points:
        drawn.append(_interval(point, index, x, y))
    for point in series.points:
        drawn.append(mark(x(point.x), y(point.y), index, _tip(series, point, picture)))
    return "".join(drawn)


def _dashed(path: str, index: int) -> str:
    dash = DASHES[index % len(DASHES)]
    return element("path", d=path, fill="none", stroke=mark_colour(index), stroke_width=2, stroke_dasharray=dash)


def _interval(point: Point, index: int, x: Scale, y: Scale) -> str:
    if point.low is None or point.high is None:
        return ""
    middle, low, high = x(point.x), y(point.low), y(point.high)
    path = f"M{middle:.1f} {low:.1f}V{high:.1f}M{middle - 4:.1f} {low:.1f}h8M{middle - 4:.1f} {high:.1f}h8"
    return element("path", d=path, fill="none", stroke=mark_colour(index), stroke_width=1.5)


def _tip(series: Series, point: Point, picture: Lines) -> str:
    name = ", ".join(filter(None, (series.name, point.label)))
    return f"{name}: {tip(picture.x, point.x)}, {tip(picture.y, point.y)}"


def _labels(picture: Lines, x: Scale, y: Scale, width: float) -> list[Placed]:
    ends = width - x.end > MARK + 6
    wanted, marks, lines = [], [], []
    for series in picture.series:
        at = [(x(point.x), y(point.y)) for point in series.points]
        marks += [Box(px - MARK, py - MARK, px + MARK, py + MARK) for px, py in at]
        if series.joined:
            lines += [box for a, b in pairwise(at) for box in _along(a, b)]
        lines += [box for p in series.points for box in _bar_boxes(p, x, y)]
        wanted += [Wanted(*spot, p.label) for spot, p in zip(at, series.points, strict=True) if p.label]
        if ends and _named_at_end(picture, series):
            wanted.insert(0, Wanted(*at[-1], series.name))
    return place(wanted, marks, lines, Box(x.start, y.end - 8, width, y.start - 1))


def _bar_boxes(point: Point, x: Scale, y: Scale) -> Iterator[Box]:
    if point.low is not None and point.high is not None:
        yield from _along((x(point.x), y(point.low)), (x(point.x), y(point.high)))


def _along(start: tuple[float, float], end: tuple[float, float]) -> Iterator[Box]:
    """Yield small boxes along a line, which labels should not cover."""
    steps = ceil(hypot(end[0] - start[0], end[1] - start[1]) / 5) or 1
    for step in range(steps + 1):
        x, y = (a + (b - a) * step / steps for a, b in zip(start, end, strict=True))
        yield Box(x - 1, y - 1, x + 1, y + 1)


def _label(placed: Placed) -> str:
    box, point = placed.box, placed.of
    leader = ""
    if placed.far:
        x = min(max(point.x, box.left), box.right)
        y = min(max(point.y, box.top + 3), box.bottom - 3)
        leader = line(point.x, point.y, x, y, "var(--faint)", 0.7)
    return leader + text(box.left, box.bottom - 3, point.text, halo=True)
