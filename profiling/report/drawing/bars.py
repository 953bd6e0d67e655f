"""Draw horizontal bars of stacked parts."""

from html import escape
from math import isfinite

from spiketicket.profiling.report.document import Bars
from spiketicket.profiling.report.drawing.colours import mark_colour
from spiketicket.profiling.report.drawing.labels import shorten, text_width
from spiketicket.profiling.report.drawing.scale import Scale, label_room, scale, tip, write_number
from spiketicket.profiling.report.drawing.svg import element, legend, line, text

THICK, STEP = 16, 24  # pixels: a bar, and from one to the next
SAMPLE = 14
LABEL_SHARE = 0.38  # largest share of the width for labels


def draw_bars(picture: Bars, width: float) -> tuple[str, float]:
    """Return markup and height in pixels of the picture in `width` pixels: a legend, and one line per bar below it."""
    _check(picture)
    totals = [sum(lengths) for lengths in zip(*picture.parts.values(), strict=True)]
    written = [write_number(total, picture.axis.form) for total in totals]
    head, top = _legend(picture, width)
    left = 8 + min(LABEL_SHARE * width, max(map(text_width, picture.labels)))
    right = width - 8 - max(map(text_width, written))
    bottom = top + 6 + STEP * len(totals)
    reach = [0.0, max(totals) or 1.0]
    x = scale(picture.axis, reach, left, right, label_room(picture.axis, reach), zero=True)
    drawn = [head, _axis(x, top, bottom)]
    for row, (label, total) in enumerate(zip(picture.labels, written, strict=True)):
        y = top + 6 + STEP * row
        drawn.append(text(left - 8, y + 12, shorten(label, left - 8), "end"))
        drawn.append(_bar(picture, row, x, y))
        drawn.append(text(x(totals[row]) + 6, y + 12, total, halo=True))
    return "".join(drawn), bottom + 40


def _check(picture: Bars) -> None:
    if not picture.labels or not picture.parts:
        raise ValueError(f"nothing to draw: {picture.alt}")
    for name, lengths in picture.parts.items():
        if len(lengths) != len(picture.labels):
            raise ValueError(f"part {name}: {len(lengths)} lengths for {len(picture.labels)} bars")
        if not all(isfinite(length) and length >= 0 for length in lengths):
            raise ValueError(f"part {name}: lengths must be finite and not negative: {lengths}")


def _legend(picture: Bars, width: float) -> tuple[str, float]:
    if len(picture.parts) < 2:
        return "", 0.0
    samples = [
        (element("rect", y=-7, width=SAMPLE, height=SAMPLE, fill=mark_colour(index)), name)
        for index, name in enumerate(picture.parts)
    ]
    return legend(samples, SAMPLE, width, 0)


def _axis(x: Scale, top: float, bottom: float) -> str:
    drawn = []
    for tick in x.ticks:
        drawn.append(line(x(tick), top, x(tick), bottom, "var(--rule)"))
        drawn.append(text(x(tick), bottom + 15, x.write(tick), "middle", "faint"))
    drawn.append(line(x.start, top, x.start, bottom, "var(--faint)"))
    drawn.append(text(x.end, bottom + 33, x.axis.heading, "end", "faint"))
    return "".join(drawn)


def _bar(picture: Bars, row: int, x: Scale, y: float) -> str:
    """Return the parts of a bar. A thin gap separates them, for readers who cannot tell the colours apart."""
    drawn, start = [], 0.0
    for index, (name, lengths) in enumerate(picture.parts.items()):
        length = lengths[row]
        if length == 0:
            continue
        drawn.append(
            element(
                "rect",
                element("title", escape(f"{picture.labels[row]}, {name}: {tip(picture.axis, length)}")),
                x=x(start),
                y=y,
                width=x(start + length) - x(start),
                height=THICK,
                fill=mark_colour(index),
                stroke="var(--paper)",
            )
        )
        start += length
    return "".join(drawn)
