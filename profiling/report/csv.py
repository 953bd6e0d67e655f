"""A report's figures as comma-separated values."""

from csv import writer
from io import StringIO

from spiketicket.profiling.report.document import Report


def csv(report: Report) -> str:
    """Return one line per cell of every section's table: `section,row,column,value,unit`, with rows counted from 1.

    In this form, sections of different columns share one file, and a pivot over section, row and column gives the
    tables back. Values are not rounded, and have no sign for percent or thousands. A missing figure is empty.
    """
    text = StringIO()
    lines = writer(text, lineterminator="\n")
    lines.writerow(("section", "row", "column", "value", "unit"))
    for section in report.sections:
        if section.table is None:
            continue
        for number, row in enumerate(section.table.rows, 1):
            for column, cell in zip(section.table.columns, row, strict=True):
                value = column.write(cell) if isinstance(cell, bool) else cell
                lines.writerow((section.key, number, column.name, value, column.unit))
    return text.getvalue()
