"""A report's tables for LaTeX."""

import re

from spiketicket.profiling.report.document import Report, Section, Table

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",
    "*": "{*}",
    "`": r"\textasciigrave{}",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{MINUS SIGN}": "$-$",
    "±": r"$\pm$",
    "≈": r"$\approx$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "→": r"$\rightarrow$",
    "·": r"$\cdot$",
    "…": r"\dots{}",
    "∞": r"$\infty$",
    "²": "$^2$",
    "³": "$^3$",
    "µ": r"$\mu$",
    "μ": r"$\mu$",
    "Δ": r"$\Delta$",
    "\N{GREEK SMALL LETTER SIGMA}": r"$\sigma$",
    "τ": r"$\tau$",
}


def latex(report: Report) -> str:
    r"""Return a `table`, with packages booktabs and graphicx, for every section with a table, to be `\input`.

    Its caption is the section's title and what it says, its label `tab:` and the section's key; column meanings, notes
    and the report's warnings are below it. A table wider than the line is scaled down to it.
    """
    head = f"% {' '.join(report.title.split())}\n% \\usepackage[T1]{{fontenc}} \\usepackage{{booktabs,graphicx}}\n"
    tables = [_float(section, section.table, report.warnings) for section in report.sections if section.table]
    return "\n".join([head, *tables])


def _float(section: Section, table: Table, warnings: tuple[str, ...]) -> str:
    means = [rf"\emph{{{_escape(column.name)}}}: {_escape(column.means)}" for column in table.columns if column.means]
    below = [rf"\textbf{{Warning:}} {_escape(warning)}" for warning in warnings]
    below += ["; ".join(means) + "."] if means else []
    below += [_escape(note) for note in section.notes]
    title = _escape(section.title)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption[{{{title}}}]{{{title}. {_escape(section.says)}}}",
        rf"\label{{tab:{section.key}}}",
        r"\sbox0{%",
        *_tabular(table),
        r"}\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi",
        *(rf"\par\smallskip{{\footnotesize {line}\par}}" for line in below),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _tabular(table: Table) -> list[str]:
    numeric = table.numeric()
    units = [f"({_escape(column.unit)})" if column.unit else "" for column in table.columns]
    rows = [
        [_figure(cell) if figures else _escape(cell) for cell, figures in zip(row, numeric, strict=True)]
        for row in table.written()
    ]
    return [
        rf"\begin{{tabular}}{{{''.join('r' if figures else 'l' for figures in numeric)}}}",
        r"\toprule",
        _row([_escape(column.name) for column in table.columns]),
        *([_row(units)] if any(units) else []),
        r"\midrule",
        *map(_row, rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]


def _row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _figure(written: str) -> str:
    """Return a number with a true minus sign."""
    return re.sub(r"^-(?=\d)", "$-$", _escape(written))


def _escape(text: str) -> str:
    """Return `text` escaped, in one line. Brackets and stars are escaped too, since a preceding line break would take
    them as its own.

    Characters that are not in SPECIAL stay: LaTeX knows those of European languages, LuaLaTeX and XeLaTeX all.
    """
    escaped = "".join(SPECIAL.get(character, character) for character in " ".join(text.split()))
    return escaped.replace("--", "-{}-").replace("''", "'{}'").replace(",,", ",{},")
