"""Draw a picture of a document as SVG."""

import re
from html import escape

from spiketicket.profiling.report.document import Bars, Lines, Picture
from spiketicket.profiling.report.drawing.bars import draw_bars
from spiketicket.profiling.report.drawing.colours import LIGHT
from spiketicket.profiling.report.drawing.lines import draw_lines
from spiketicket.profiling.report.drawing.svg import TEXT_SIZE, element

WIDE, NARROW = 720, 358  # pixels: on a desk; on a phone of 390
RIM = 12  # margin around a standalone picture, in pixels


def svg(picture: Picture, standalone: bool = False, width: float = WIDE) -> str:
    """Return the picture as one `<svg>` element of `width` pixels.

    Its colours are the CSS variables of the page around it (colours.py); those of a `standalone` one are for a white
    background. Raises ValueError for figures that cannot be drawn: none at all, not finite, negative bars, zero on a
    log axis.
    """
    content, height = draw_lines(picture, width) if isinstance(picture, Lines) else draw_bars(picture, width)
    described = element("title", escape(_title(picture))) + element("desc", escape(picture.alt))
    rim = RIM if standalone else 0
    box = (-rim, -rim, width + 2 * rim, height + 2 * rim)
    paper = element("rect", x=box[0], y=box[1], width=box[2], height=box[3], fill="var(--paper)") if standalone else ""
    namespace = {"xmlns": "http://www.w3.org/2000/svg"} if standalone else {}
    drawn = element(
        "svg",
        described + paper + content,
        **namespace,
        viewBox=" ".join(f"{pixels:g}" for pixels in box),
        width=box[2],
        height=box[3],
        role="img",
        font_family="system-ui, sans-serif",
        font_size=TEXT_SIZE,
    )
    return re.sub(r"var\(--([a-z0-9-]+)\)", lambda name: LIGHT[name[1]], drawn) if standalone else drawn


def _title(picture: Picture) -> str:
    """Return the title, which says what is drawn against what."""
    if isinstance(picture, Bars):
        return f"{picture.axis.heading}: {', '.join(picture.parts)}"
    return f"{picture.y.heading}, against {picture.x.heading}"
