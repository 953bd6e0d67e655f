import json
import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from xml.etree import ElementTree

import numpy as np
import pytest

from spiketicket.profiling.report.drawing.colours import DARK, LIGHT, MARKS
from spiketicket.profiling.report.html import html
from tests.support.sample_report import sample_report

TEXTS = [("ink", "paper"), ("faint", "paper"), ("link", "paper"), ("ink", "shade"), ("alarm", "alarm-paper")]
SIGHTS = {  # Machado et al. 2009, of the greatest severity, on linear RGB
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
LMS = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
OKLAB = [
    [0.2104542553, 0.793617785, -0.0040720468],
    [1.9779984951, -2.428592205, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.808675766],
]


def linear(colour: str) -> np.ndarray:
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """WCAG 2's ratio."""
    dark, bright = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (bright + 0.05) / (dark + 0.05)


@pytest.fixture(scope="module")
def page() -> str:
    return html(sample_report())


@pytest.fixture(scope="module")
def tree(page: str) -> ElementTree.Element:
    """The page as XML: what HTML leaves open is closed, what it takes as raw text is taken out."""
    text = re.sub(r"<!doctype html>|<(style|script)[^>]*>.*?</\1>", "", page, flags=re.S)
    text = re.sub(r"<((?:meta|wbr)\b[^>]*)>", r"<\1/>", text)
    return ElementTree.fromstring(re.sub(r" hidden>", ' hidden="">', text))


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_contrasts(colours: dict[str, str]) -> None:
    for ink, paper in TEXTS:
        assert contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper)
    for index in range(MARKS):
        assert contrast(colours[f"c{index}"], colours["paper"]) >= 3, index
    assert LIGHT.keys() == DARK.keys()


@pytest.mark.parametrize("sight", list(SIGHTS))
@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_of_marks_can_be_told_apart_by_all_kinds_of_sight(colours: dict[str, str], sight: str) -> None:
    seen = np.clip([np.array(SIGHTS[sight]) @ linear(colours[f"c{index}"]) for index in range(MARKS)], 0, 1)
    lab = np.cbrt(seen @ np.array(LMS).T) @ np.array(OKLAB).T
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + np.eye(MARKS)
    assert apart.min() > 0.12


def test_page_names_nothing_outside_itself(page: str, tree: ElementTree.Element) -> None:
    assert not re.search(r"""(?:src|href|url|action)\s*[=(]\s*["']?(?!#)[\w/]+:?//""", page)
    links = [element.get("href") for element in tree.iter() if element.get("href")]
    ids = {element.get("id") for element in tree.iter()}
    assert links and all(link and link.startswith("#") and link[1:] in ids for link in links)
    assert not [element for element in tree.iter() if element.tag in ("img", "link", "iframe", "object")]


def test_policy_lets_in_the_page_s_own_style_and_script_alone(page: str) -> None:
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy and "default-src 'none'" in policy[1].replace("&#39;", "'")
    for kind in ("style", "script"):
        own = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.S)
        assert len(own) == 1
        assert f"{kind}-src 'sha256-{b64encode(sha256(own[0].encode()).digest()).decode()}'" in (
            policy[1].replace("&#39;", "'").replace("&#43;", "+").replace("&#x2b;", "+")
        )
    assert not re.search(r"<[^>]+ (style|on\w+)=", page)


def test_page_has_every_cell_and_its_value(tree: ElementTree.Element) -> None:
    written = tree.findall(".//table")
    sections = sample_report().sections
    assert len(written) == len(sections)
    for table, section in zip(written, sections, strict=True):
        assert section.table
        assert "".join(table.find("caption").itertext())  # type: ignore[union-attr]
        assert len(table.findall("thead//th[@scope='col']")) == len(section.table.columns)
        rows = table.findall("tbody/tr")
        assert [["".join(cell.itertext()) for cell in row] for row in rows] == section.table.written()
        for row, cells in zip(rows, section.table.rows, strict=True):
            for shown, cell, numeric in zip(row, cells, section.table.numeric(), strict=True):
                value = shown.get("data-value")
                assert value == (None if not numeric else "" if cell is None else repr(cell))


def test_page_is_accessible_in_structure(tree: ElementTree.Element) -> None:
    ids = [element.get("id") for element in tree.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    labels = [element.get("aria-labelledby") for element in tree.iter() if element.get("aria-labelledby")]
    assert labels and set(labels) <= set(ids)
    pictures = tree.findall(".//svg")
    assert len(pictures) == 8  # four pictures, wide and narrow
    for picture in pictures:
        assert picture.get("role") == "img"
        assert picture.findtext("title") and picture.findtext("desc")
    assert all(figure.findtext("figcaption") for figure in tree.findall(".//figure"))
    assert all(box.get("tabindex") == "0" for box in tree.findall(".//div[@role='region']"))
    assert tree.find(".//*[@role='note']") is not None and tree.find(".//nav") is not None
    assert [element.tag for element in tree.iter() if re.fullmatch("h[1-6]", element.tag)][:2] == ["h1", "h2"]


def test_contents_are_listed_for_more_than_three_sections_only(page: str) -> None:
    assert "<nav" in page
    assert "<nav" not in html(replace(sample_report(), sections=sample_report().sections[:3]))


def test_data_lie_in_the_page_where_they_are_small(page: str) -> None:
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert data and json.loads(data[1]) == sample_report().data
    large = html(replace(sample_report(), data={"rows": list(range(50_000))}))
    assert "application/json" not in large.split("<script>")[0]


def test_page_stays_small(page: str) -> None:
    assert len(page.encode()) < 150_000
