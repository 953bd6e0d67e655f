"""The table of docs/export.md: every source in every form, as it is now."""

import pytest

from tests.support.export_table import BEGIN, END, FORMS, PAGE, SOURCES, header, row
from tests.support.tiers import beyond_the_first


@pytest.fixture(scope="module")
def page():
    text = PAGE.read_text()
    return text[text.index(BEGIN) : text.index(END)].splitlines()


def test_the_page_has_every_source_and_form(page):
    assert header().splitlines() == [line for line in page if line.startswith(("| |", "|---"))]
    rows = [line for line in page if line.startswith("| ") and not line.startswith("| |")]
    assert len(rows) == len(SOURCES) and all(line.count("|") == len(FORMS) + 2 for line in rows)


@pytest.mark.parametrize("source", beyond_the_first(pytest.mark.simulators, SOURCES))
def test_source(source, page):
    if "by NIR" in source:
        pytest.importorskip("nirtorch")
    found = row(source)
    assert found in page, f"{found}\nis not in docs/export.md: run tests/support/export_table.py and look"
