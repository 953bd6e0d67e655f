"""A report as one HTML page that loads nothing else."""

import json
import re
from base64 import b64encode
from hashlib import sha256
from html import escape
from pathlib import Path

from spiketicket.errors import extra
from spiketicket.profiling.report.document import Report, is_number
from spiketicket.profiling.report.drawing.chart import NARROW, svg
from spiketicket.profiling.report.drawing.colours import DARK, LIGHT

EMBEDDED = 100_000  # characters of JSON at most that a page carries along
LONG_NAME, LONG_TEXT = 24, 32  # characters that stay in one line: of a row's first cell, of any other
FOLDER = Path(__file__).parent


def html(report: Report) -> str:
    """Return the page. Its style and script are part of it, and its security policy admits nothing else.

    Raises MissingExtraError without jinja2.
    """
    with extra("report", "the HTML report", "jinja2"):
        import jinja2
        import markupsafe
    style = _variables() + (FOLDER / "page.css").read_text()
    script = (FOLDER / "page.js").read_text()
    data = json.dumps(report.data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string((FOLDER / "page.html.j2").read_text())
    return template.render(
        report=report,
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        data=data if len(data) <= EMBEDDED else None,
        svg=svg,
        narrow=NARROW,
        is_number=is_number,
        breakable=lambda text: markupsafe.Markup(_breakable(text)),
        long={True: LONG_NAME, False: LONG_TEXT},
    )


def _variables() -> str:
    light, dark = (";".join(f"--{name}:{value}" for name, value in colours.items()) for colours in (LIGHT, DARK))
    return f":root{{{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{color-scheme:dark;{dark}}}}}\n"


def _breakable(text: str) -> str:
    """Return `text` as markup in which names may break after dots, slashes and underscores, and before capitals."""
    return re.sub(r"(?<=[._/])(?=\w)|(?<=[a-z])(?=[A-Z])", "<wbr>", escape(text))


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
