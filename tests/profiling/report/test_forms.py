import csv as csv_module
import io
import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from spiketicket.errors import InputError, MissingExtraError
from spiketicket.profiling.report.csv import csv
from spiketicket.profiling.report.document import Column, Report, Section, Table, is_number
from spiketicket.profiling.report.files import FORMS, write
from spiketicket.profiling.report.latex import latex
from spiketicket.profiling.report.markdown import markdown
from spiketicket.profiling.report.terminal import show
from tests.support.sample_report import sample_report

AWKWARD = 'a_b __c__ 50% $x$ #1 & {d} ~3 ^ \\ <i> | *e* [f] `g` --h "q"'


def report_of(*rows: tuple[object, ...], columns: tuple[Column, ...] | None = None, says: str = "It is so.") -> Report:
    columns = columns or (Column("name"), Column("time", "ms", ".1f"))
    table = Table(columns, rows)  # type: ignore[arg-type]
    return Report("inference", "Title", "Lead.", (Section("part", "Part", says, table),), {"a": 1})


def tables(report: Report) -> list[Table]:
    return [section.table for section in report.sections if section.table]


def printed(report: Report, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    show(report, console)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_a_column_of_numbers_and_gaps_is_numeric_and_one_with_a_text_or_truth_in_it_is_not() -> None:
    table = Table(tuple(map(Column, "abcd")), ((1, "x", True, None), (None, 2.0, False, 0.5)))
    assert table.numeric() == (True, False, False, True)


@pytest.mark.parametrize("width", [80, 200])
def test_terminal_shows_every_cell_within_its_width(width: int) -> None:
    report = sample_report()
    lines = printed(report, width)
    assert max(map(len, lines)) <= width
    shown = "\n".join(lines)
    for table in tables(report)[:4]:
        for row in table.written():
            assert all(cell in shown for cell in row if len(cell) <= width // 3)  # longer texts are broken


def test_terminal_folds_a_wide_table_beside_its_first_column() -> None:
    narrow, wide = ("\n".join(printed(sample_report(), width)) for width in (80, 200))
    assert wide.count("features.3.conv_3") == 1
    assert narrow.count("features.3.conv_3") == 3


def test_terminal_says_warnings_before_all_sections_and_takes_no_text_for_markup() -> None:
    lines = printed(replace(report_of(("[bold]x[/bold]", 1.0)), warnings=("noisy",)), 80)
    assert lines[:3] == ["Title", "warning: noisy", "Lead."]
    assert any("[bold]x[/bold]" in line for line in lines)


def test_csv_read_again_gives_all_values_unrounded() -> None:
    report = sample_report()
    read = iter(csv_module.DictReader(io.StringIO(csv(report))))
    for section in report.sections:
        assert section.table
        for number, row in enumerate(section.table.rows, 1):
            for column, cell in zip(section.table.columns, row, strict=True):
                line = next(read)
                assert (line["section"], line["row"], line["column"], line["unit"]) == (
                    section.key,
                    str(number),
                    column.name,
                    column.unit,
                )
                assert is_number(cell) == bool(re.fullmatch(r"[-+.\de]+", line["value"]))
                if is_number(cell):
                    assert float(line["value"]) == cell
                else:
                    assert line["value"] == ("" if cell is None else column.write(cell))
    assert next(read, None) is None


def test_markdown_keeps_pipes_and_markup_as_text() -> None:
    line = next(line for line in markdown(report_of((AWKWARD, 1.25))).splitlines() if "50%" in line)
    cells = re.split(r"(?<!\\)\|", line)
    assert len(cells) == 4
    plain = re.sub(r"\\([^a-z0-9 ])", r"\1", cells[1].strip())
    assert plain == AWKWARD
    for markup in "*`<[$~&|":
        assert not re.search(rf"(?<!\\){re.escape(markup)}", cells[1])
    assert "a_b" in cells[1] and r"\_" in cells[1]


def test_markdown_has_a_line_per_row_and_numbers_to_the_right() -> None:
    report = sample_report()
    text = markdown(report)
    assert sum(line.startswith("| ") for line in text.splitlines()) == sum(len(t.rows) + 2 for t in tables(report))
    assert "| --- | ---: | ---: | ---: | ---: | ---: | ---: |" in text
    assert text.index("**Warning:**") < text.index("## ")


@pytest.mark.parametrize(
    ("says", "written"), [("- a", r"\- a"), ("1. a", r"1\. a"), ("# a", r"\# a"), ("-3 a", "-3 a")]
)
def test_markdown_takes_no_sentence_for_a_list_or_heading(says: str, written: str) -> None:
    assert f"\n{written}\n" in markdown(report_of(("a", 1.0), says=says))


def test_latex_escapes_all_special_characters() -> None:
    line = next(line for line in latex(report_of((AWKWARD, -1.25))).splitlines() if "50" in line)
    name, time = line.removesuffix(r" \\").split(" & ")
    assert time == "$-$1.2"
    bare = re.sub(r"\\text\w+\{\}|\\[_%$#&{}]|\{\[\}|\{\*\}|-\{\}-", "", name)
    assert not set(bare) & set('\\{}$&#_%^~<>|"[*`')
    assert "--" not in name


def test_latex_row_of_brackets_is_no_argument_of_the_line_break_before_it() -> None:
    rows = latex(report_of(("[1, 2]", 1.0), ("*", 2.0))).split("\\midrule\n")[1]
    assert rows.startswith("{[}1, 2] & 1.0 \\\\\n{*} & 2.0 \\\\\n")


def test_latex_rows_have_as_many_cells_as_columns() -> None:
    report = sample_report()
    text = latex(report)
    floats = re.findall(r"\\begin\{table\}(.*?)\\end\{table\}", text, re.S)
    assert len(floats) == len(tables(report))
    for written, section in zip(floats, report.sections, strict=True):
        assert section.table and rf"\label{{tab:{section.key}}}" in written and r"\textbf{Warning:}" in written
        form = re.search(r"\\begin\{tabular\}\{([lr]+)\}", written)
        assert form and form[1] == "".join("r" if numeric else "l" for numeric in section.table.numeric())
        rows = re.findall(r"^(.*) \\\\$", written.split(r"\midrule")[1], re.M)
        assert [len(re.split(r"(?<!\\)&", row)) for row in rows] == [len(form[1])] * len(section.table.rows)
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


@pytest.mark.parametrize("ending", list(FORMS))
def test_write_chooses_the_form_by_the_ending(ending: str, tmp_path: Path) -> None:
    write(sample_report(), tmp_path / f"report{ending.upper()}")
    assert (tmp_path / f"report{ending.upper()}").read_text() == FORMS[ending](sample_report())


def test_write_refuses_an_unknown_ending_and_names_the_known(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="report.pdf: expected an ending of .html, .json, .csv, .md, .tex"):
        write(sample_report(), tmp_path / "report.pdf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_json_refuses_what_is_not_finite_and_leaves_no_file(number: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(replace(sample_report(), data={"ms": number}), tmp_path / "report.json")
    assert not list(tmp_path.iterdir())


def test_json_is_the_data(tmp_path: Path) -> None:
    write(sample_report(), tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == sample_report().data


def test_html_without_jinja2_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=re.escape("pip install 'spiketicket[report]'")):
        write(sample_report(), tmp_path / "report.html")
