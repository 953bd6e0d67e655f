"""Elements of SVG pictures: escaped text, marks of seven shapes, a legend."""

from collections.abc import Sequence
from html import escape

from spiketicket.profiling.report.drawing.colours import mark_colour
from spiketicket.profiling.report.drawing.labels import text_width

TEXT_SIZE = 12
DASHES = ("", "8 4", "2 3", "10 3 2 3", "5 2", "14 5", "2 2 6 2")
SHAPES = (
    "M-4 0A4 4 0 1 1 4 0A4 4 0 1 1-4 0Z",  # circle
    "M-3.6-3.6H3.6V3.6H-3.6Z",  # square
    "M0-5L4.8 3.6H-4.8Z",  # triangle
    "M0-5.2L5.2 0L0 5.2L-5.2 0Z",  # diamond
    "M0 5L4.8-3.6H-4.8Z",  # triangle on its point
    "M-1.6-5H1.6V-1.6H5V1.6H1.6V5H-1.6V1.6H-5V-1.6H-1.6Z",  # plus
    "M-4.6-2.4L-2.4-4.6L0-2.2L2.4-4.6L4.6-2.4L2.2 0L4.6 2.4L2.4 4.6L0 2.2L-2.4 4.6L-4.6 2.4L-2.2 0Z",  # cross
)


def element(tag: str, content: str = "", **attributes: str | float) -> str:
    """Return an element; `content` is markup already. An underscore in the name of an attribute stands for a hyphen."""
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_write(value)}"' for name, value in attributes.items() if value != ""
    )
    return f"<{tag}{written}>{content}</{tag}>" if content else f"<{tag}{written}/>"


def text(x: float, y: float, content: str, anchor: str = "start", colour: str = "ink", halo: bool = False) -> str:
    """Return a text; with `halo`, an outline in the colour of the background sets it off from lines behind it."""
    rim: dict[str, str | float] = (
        {"stroke": "var(--paper)", "stroke_width": 3, "stroke_linejoin": "round", "paint_order": "stroke"}
        if halo
        else {}
    )
    side = "" if anchor == "start" else anchor
    return element("text", escape(content), x=x, y=y, text_anchor=side, fill=f"var(--{colour})", **rim)


def line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=colour, stroke_width=width)


def mark(x: float, y: float, index: int, tip: str = "") -> str:
    """Return the mark of series `index`; `tip` appears when the pointer rests on it."""
    title = element("title", escape(tip)) if tip else ""
    shape = SHAPES[index % len(SHAPES)]
    return element("path", title, d=shape, transform=f"translate({_write(x)} {_write(y)})", fill=mark_colour(index))


def legend(samples: Sequence[tuple[str, str]], sample_width: float, width: float, top: float) -> tuple[str, float]:
    """Return samples, each drawn from (0, 0) to the right, with their names, in as many lines as needed, and the y
    below them.
    """
    x, y, drawn = 0.0, top, []
    for sample, name in samples:
        item = sample_width + 6 + text_width(name)
        if x and x + item > width:
            x, y = 0.0, y + 20
        place = f"translate({_write(x)} {_write(y + 8)})"
        drawn.append(element("g", sample + text(sample_width + 6, 4, name), transform=place))
        x += item + 18
    return "".join(drawn), y + 20


def _write(value: str | float) -> str:
    return escape(value) if isinstance(value, str) else f"{round(value, 1) + 0.0:g}"  # + 0: never -0
