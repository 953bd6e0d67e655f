"""A report in GitHub's Markdown."""

import re

from spiketicket.profiling.report.document import Report, Section, Table


def markdown(report: Report) -> str:
    """Return headings, sentences, pipe tables and notes. Pictures are left out: their numbers are in the tables."""
    blocks = [f"# {_escape(report.title)}"]
    blocks += [f"> **Warning:** {_escape(warning)}" for warning in report.warnings]
    blocks.append(_escape(report.lead))
    for section in report.sections:
        blocks += _section(section)
    for title, facts in report.facts.items():
        blocks.append(f"## {_escape(title)}")
        blocks.append("\n".join(f"- {_escape(name)}: {_escape(value)}" for name, value in facts.items()))
    return "\n\n".join(filter(None, blocks)) + "\n"


def _section(section: Section) -> list[str]:
    blocks = [f"## {_escape(section.title)}", _escape(section.says)]
    if section.table:
        blocks.append(_table(section.table))
        means = [f"**{_escape(c.name)}**: {_escape(c.means)}" for c in section.table.columns if c.means]
        blocks.append("; ".join(means) + "." if means else "")
    blocks.append("\n".join(f"- {_escape(note)}" for note in section.notes))
    return blocks


def _table(table: Table) -> str:
    rule = ["---:" if numeric else "---" for numeric in table.numeric()]
    rows = [[_escape(cell) for cell in row] for row in table.written()]
    lines = [[_escape(column.heading) for column in table.columns], rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escape(text: str) -> str:
    """Return `text` in one line, escaped so that nothing in it is Markdown."""
    text = re.sub(r"([\\`*\[\]<>|~$&])", r"\\\1", " ".join(text.split()))
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # within a word it is none
    return re.sub(r"^(\d+)([.)] )", r"\1\\\2", re.sub(r"^([-+#=])(?!\d)(?=.)", r"\\\1", text))
