from collections.abc import Iterator
from pathlib import Path

import pytest

from spiketicket.profiling.report.files import write
from tests.support import chromium
from tests.support.sample_report import sample_report

pytestmark = pytest.mark.skipif(chromium.EXECUTABLE is None, reason="no Chromium here: apt-get install chromium")

LATENCY, TIME = "#latency table", "#latency thead th:nth-child(3) button"  # the column p50
SEARCH, ROUND = "#search table", "#search thead th:nth-child(1) button"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write(sample_report(), path)
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Page]:
    with chromium.Page(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def column(page: chromium.Page, table: str, number: int) -> list[str]:
    return list(page.run(f"[...document.querySelectorAll('{table} tbody tr')].map(r => r.cells[{number}].textContent)"))


def click(page: chromium.Page, selector: str) -> None:
    page.run(f"document.querySelector('{selector}').scrollIntoView({{block: 'center'}})")
    where = page.run(
        f"(r => [r.x + r.width / 2, r.y + r.height / 2])(document.querySelector('{selector}').getBoundingClientRect())"
    )
    page.click(*where)


def sorted_how(page: chromium.Page, selector: str) -> str | None:
    return page.run(f"document.querySelector('{selector}').closest('th').getAttribute('aria-sort')")  # type: ignore[no-any-return]


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (390, False), (320, True)])
def test_page_says_nothing_on_the_console_and_never_scrolls_sideways(
    page: chromium.Page, file: Path, width: int, dark: bool
) -> None:
    page.open(file, width, dark)
    assert page.errors == []
    assert page.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    paper = page.run("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(17, 20, 24)" if dark else "rgb(255, 255, 255)")


def test_the_policy_keeps_out_what_is_put_into_the_page_later(page: chromium.Page, file: Path) -> None:
    page.open(file)
    page.run("document.body.append(Object.assign(document.createElement('img'), {src: 'data:image/gif;base64,AA=='}))")
    page.run("new Promise(done => setTimeout(done, 50))")
    assert any("Content Security Policy" in error for error in page.errors)


def test_a_click_on_a_heading_sorts_by_value_and_a_second_one_the_other_way(page: chromium.Page, file: Path) -> None:
    page.open(file)
    click(page, ROUND)
    assert column(page, SEARCH, 0) == ["1", "2", "10", "11"]
    assert sorted_how(page, ROUND) == "ascending"
    click(page, ROUND)
    assert column(page, SEARCH, 0) == ["11", "10", "2", "1"]
    assert sorted_how(page, ROUND) == "descending"
    times = "#search thead th:nth-child(3) button"  # with commas at the thousands
    click(page, times)
    assert column(page, SEARCH, 2) == ["1.5", "98.0", "10,021.5", "12,903.2"]
    assert sorted_how(page, ROUND) is None


def test_enter_on_a_heading_sorts(page: chromium.Page, file: Path) -> None:
    page.open(file)
    page.run(f"document.querySelector('{TIME}').focus()")
    page.press("Enter", "\r")
    figures = list(map(float, column(page, LATENCY, 2)))
    assert figures == sorted(figures) and sorted_how(page, TIME) == "ascending"
    page.press("Enter", "\r")
    assert list(map(float, column(page, LATENCY, 2))) == sorted(figures, reverse=True)


def test_cells_without_a_figure_stay_last(page: chromium.Page, file: Path) -> None:
    page.open(file)
    losses = "#search thead th:nth-child(4) button"
    click(page, losses)
    assert column(page, SEARCH, 3) == ["-0.0003", "0.0000", "0.4127", "-"]
    click(page, losses)
    assert column(page, SEARCH, 3) == ["0.4127", "0.0000", "-0.0003", "-"]


def test_tab_leads_first_to_the_skip_link_and_later_to_tables_and_headings(page: chromium.Page, file: Path) -> None:
    page.open(file)
    reached = []
    for _ in range(10):
        page.press("Tab")
        reached.append(page.run("document.activeElement.className || document.activeElement.tagName"))
    assert reached == ["skip", *["A"] * 6, "table", "BUTTON", "BUTTON"]
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.parametrize(("width", "shown"), [(1200, "wide"), (390, "narrow")])
def test_the_picture_that_fits_is_shown_at_a_readable_size(
    page: chromium.Page, file: Path, width: int, shown: str
) -> None:
    page.open(file, width)
    sizes = "[...document.querySelectorAll('svg')].map(s => [s.parentElement.className, s.getBoundingClientRect().width"
    for kind, drawn, scale in page.run(f"{sizes}, s.getBoundingClientRect().width / s.viewBox.baseVal.width])"):
        assert (drawn > 0) == (kind == shown)
        assert not drawn or scale > 0.95


def test_a_wide_table_scrolls_in_its_own_box_on_a_phone(page: chromium.Page, file: Path) -> None:
    page.open(file, 390)
    inner, box = page.run("(b => [b.scrollWidth, b.clientWidth])(document.querySelector('#layers .table'))")
    assert inner > 2 * box and box <= 390


def test_it_prints(page: chromium.Page, file: Path) -> None:
    page.open(file, dark=True)
    assert page.pdf().startswith(b"%PDF")
    assert page.run("[...document.querySelectorAll('details')].every(d => d.open)")
