import re
from dataclasses import replace
from itertools import combinations
from xml.etree import ElementTree

import pytest

from spiketicket.profiling.report.document import Axis, Bars, Lines, Picture, Point, Series
from spiketicket.profiling.report.drawing.chart import NARROW, WIDE, svg
from spiketicket.profiling.report.drawing.labels import Box, Wanted, place, shorten, text_width
from spiketicket.profiling.report.drawing.scale import scale
from spiketicket.profiling.report.drawing.svg import DASHES, SHAPES
from tests.support.sample_report import sample_report

PICTURES = [picture for section in sample_report().sections for picture in section.pictures]
COLOUR = re.compile(r"var\(--c\d\)")


def drawn(picture: Picture, width: float = WIDE) -> ElementTree.Element:
    return ElementTree.fromstring(svg(picture, width=width))


def marks(root: ElementTree.Element) -> list[tuple[float, float]]:
    """Places of the marks of points, which have a tip."""
    return [
        tuple(map(float, re.findall(r"-?[\d.]+", path.get("transform", ""))))  # type: ignore[misc]
        for path in root.findall("path")
        if path.find("title") is not None
    ]


def lines_of(*values: tuple[float, float], x: Axis = Axis("x"), y: Axis = Axis("y")) -> Lines:  # noqa: B008
    return Lines(x, y, (Series("a", tuple(Point(*value) for value in values)),), "Something.")


def test_marks_stand_where_the_values_are_on_linear_axes() -> None:
    (x0, y0), (x1, y1), (x2, y2) = marks(drawn(lines_of((1, 10), (2, 40), (5, 20))))
    assert (x2 - x0) / (x1 - x0) == pytest.approx(4, rel=0.01)
    assert (y0 - y1) / (y0 - y2) == pytest.approx(3, rel=0.01)
    assert x0 < x1 and y1 < y0  # up is more


def test_marks_stand_where_the_logarithms_are_on_log_axes() -> None:
    log = Axis("x", log=True)
    (x0, y0), (x1, y1), (x2, y2) = marks(drawn(lines_of((1, 0.01), (10, 0.1), (1000, 1), x=log, y=log)))
    assert (x2 - x0) / (x1 - x0) == pytest.approx(3, rel=0.01)
    assert (y0 - y2) / (y0 - y1) == pytest.approx(2, rel=0.01)


def test_ticks_stand_where_their_values_are() -> None:
    root = drawn(lines_of((1, 10), (2, 40), (5, 20)))
    ticks = {
        text.text: float(text.get("y", 0)) - 4 for text in root.findall("text") if text.get("text-anchor") == "end"
    }
    heights = dict(zip((10, 40, 20), (y for _, y in marks(root)), strict=True))
    assert ticks["40"] == pytest.approx(heights[40], abs=0.2)
    assert ticks["10"] == pytest.approx(heights[10], abs=0.2)


def test_an_interval_reaches_from_low_to_high() -> None:
    points = (Point(1, 2.0, 1.0, 4.0), Point(2, 1.0), Point(3, 4.0))
    root = drawn(Lines(Axis("x"), Axis("y"), (Series("a", points),), "Something."))
    bar = next(path.get("d", "") for path in root.findall("path") if "V" in path.get("d", ""))
    low, high = map(float, re.match(r"M[\d.]+ ([\d.]+)V([\d.]+)", bar).groups())  # type: ignore[union-attr]
    (_, of_1), (_, of_4) = marks(root)[1:]
    assert (low, high) == pytest.approx((of_1, of_4), abs=0.11)


def test_bars_are_as_long_as_their_parts_and_stand_one_after_the_other() -> None:
    root = drawn(Bars(Axis("time"), ("a", "b"), {"p": (1.0, 2.0), "q": (3.0, 0.0)}, "Something."))
    rects = [[float(rect.get(k, 0)) for k in ("x", "width", "y")] for rect in root.findall("rect")]
    (x1, w1, y1), (x2, w2, y2), (x3, w3, y3) = rects  # a's p and q, b's p; no q of no length
    assert w2 == pytest.approx(3 * w1, rel=0.01) and w3 == pytest.approx(2 * w1, rel=0.01)
    assert x2 == pytest.approx(x1 + w1, abs=0.2) and x3 == x1 and y1 == y2 < y3


@pytest.mark.parametrize(
    ("low", "high", "log", "room", "ticks"),
    [
        (0.0, 9.3, False, 50, [0, 2, 4, 6, 8]),
        (0.301, 0.322, False, 100, [0.3, 0.31, 0.32]),
        (1.0, 5.0, False, 10, [1, 2, 3, 4, 5]),
        (1.0, 5000.0, True, 50, [1, 10, 100, 1000]),
        (3.0, 60.0, True, 50, [5, 10, 20, 50]),
        (3.0, 7.0, True, 60, [3, 4, 5, 6, 7]),
        (1e-6, 1e6, True, 100, [1e-6, 0.1, 1e4]),
    ],
)
def test_ticks_are_round(low: float, high: float, log: bool, room: float, ticks: list[float]) -> None:
    assert scale(Axis("x", log=log), [low, high], 0, 300, room).ticks == pytest.approx(ticks)


def test_ticks_get_the_decimals_they_need() -> None:
    narrow = scale(Axis("accuracy", form=".0%"), [0.912, 0.918], 0, 300, 60)
    assert len({narrow.write(tick) for tick in narrow.ticks}) == len(narrow.ticks)
    assert all(float(narrow.write(tick)[:-1]) / 100 == pytest.approx(tick) for tick in narrow.ticks)


def test_a_linear_axis_begins_at_zero_only_where_little_is_lost_by_it() -> None:
    assert scale(Axis("y"), [1.0, 5.0], 300, 0, 40, zero=True).low == 0
    assert scale(Axis("y"), [0.9, 0.95], 300, 0, 40, zero=True).low > 0.89


@pytest.mark.parametrize("values", [[3.0], [0.0, 0.0], [-2.0, -2.0]])
def test_a_single_value_has_an_axis_around_it(values: list[float]) -> None:
    single = scale(Axis("x"), values, 0, 300, 60)
    assert single.low < values[0] < single.high or (values[0] == 0 == single.low)
    assert single.ticks


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (lines_of((0, 1), x=Axis("x", log=True)), "axis x is logarithmic and has a value of 0"),
        (lines_of((1, float("nan"))), "axis y: not every value is finite"),
        (lines_of(), "nothing to draw: Something."),
        (Bars(Axis("x"), (), {}, "None."), "nothing to draw: None."),
        (Bars(Axis("x"), ("a",), {"p": (-1.0,)}, "None."), "part p: lengths must be finite and not negative"),
        (Bars(Axis("x"), ("a",), {"p": (1.0, 2.0)}, "None."), "part p: 2 lengths for 1 bars"),
    ],
)
def test_what_cannot_be_drawn_is_refused(picture: Picture, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        svg(picture)


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("picture", PICTURES)
def test_all_text_and_marks_lie_within_the_picture(picture: Picture, width: float) -> None:
    root = drawn(picture, width)
    height = float(root.get("height", 0))
    for text in root.findall("text"):
        size, x, y = text_width(text.text or ""), float(text.get("x", 0)), float(text.get("y", 0))
        left = x - {"start": 0.0, "middle": size / 2, "end": size}[text.get("text-anchor", "start")]
        assert left >= -8 and left + size <= width + 8 and 8 < y < height, text.text
    assert all(0 < x < width and 0 < y < height for x, y in marks(root))


def test_labels_cover_no_label_and_are_left_out_where_there_is_no_room() -> None:
    bounds = Box(0, 0, 300, 200)
    crowd = [Wanted(150 + i % 3, 100 + i // 3, f"label {i}") for i in range(60)]
    placed = place(crowd, [], [], bounds)
    assert 10 < len(placed) < 60
    assert not any(a.box.meets(b.box) for a, b in combinations(placed, 2))
    assert all(p.box.left >= 0 and p.box.right <= 300 and p.box.top >= 0 and p.box.bottom <= 200 for p in placed)


def test_a_label_keeps_clear_of_marks_and_lines_where_it_can() -> None:
    mark, rule = Box(60, 45, 80, 55), [Box(x, 30, x + 2, 32) for x in range(40, 100, 3)]
    placed = place([Wanted(50, 50, "abc")], [mark], rule, Box(0, 0, 200, 200))
    assert not placed[0].box.meets(mark) and not any(map(placed[0].box.meets, rule))


@pytest.mark.parametrize("picture", [p for p in PICTURES if isinstance(p, Lines) and len(p.series) > 2])
def test_series_differ_in_more_than_colour(picture: Lines) -> None:
    count = len(picture.series)
    assert len(set(SHAPES[:count])) == len(set(DASHES[:count])) == count
    shown = svg(picture)
    assert all(shape in shown for shape in SHAPES[:count])
    assert all(f'stroke-dasharray="{dash}"' in shown for dash in DASHES[1:count] if picture.series[0].joined)


def test_lines_are_named_at_their_ends_where_there_is_room() -> None:
    names = [series.name for series in PICTURES[0].series]  # type: ignore[union-attr]
    wide, narrow = svg(PICTURES[0]), svg(PICTURES[0], width=NARROW)
    assert all(wide.count(f">{name}<") == 2 for name in names)  # in the legend too
    assert all(narrow.count(f">{name}<") == 1 for name in names)


@pytest.mark.parametrize("picture", PICTURES)
def test_a_standalone_picture_is_svg_by_itself_on_white(picture: Picture) -> None:
    text = svg(picture, standalone=True)
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(" not in text and 'fill="#ffffff"' in text
    assert COLOUR.search(svg(picture))


def test_markup_in_names_stays_text() -> None:
    picture = replace(PICTURES[1], alt="a < b & c", labels=tuple("<b>" for _ in PICTURES[1].labels))  # type: ignore[call-arg, union-attr]
    assert drawn(picture).findtext("desc") == "a < b & c"


def test_a_long_label_is_shortened_in_its_middle() -> None:
    assert shorten("short", 100) == "short"
    cut = shorten("stage_3.block_2.branch.conv_sparse_7", 100)
    assert text_width(cut) <= 100 and cut.startswith("stage") and cut.endswith("_7") and "…" in cut
