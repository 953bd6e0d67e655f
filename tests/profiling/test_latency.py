"""The latency report: every engine and T, right ratios, tables, JSON, HTML, and refusals."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from graphs import events, everything, write
from typer.testing import CliRunner

from spiketicket.errors import InputError
from spiketicket.profiling.cli import app
from spiketicket.profiling.clock import Stats
from spiketicket.profiling.latency import LatencyReport, _rows, profile
from spiketicket.profiling.latency_page import Chart, latency_table, write_html

runner = CliRunner()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write(everything(np.random.default_rng(0)), tmp_path_factory.mktemp("m"))


def stats(p50):
    return Stats(10, p50, p50, p50, p50)


def a_report():
    table = {("a", 1): 1.0, ("a", 2): 1.5, ("a", 4): 2.5, ("b", 1): 3.0, ("b", 2): 3.0, ("b", 4): 5.0}
    rows = _rows({key: stats(value) for key, value in table.items()}, ["a", "b"], [1, 2, 4])
    return LatencyReport("m<1>.onnx", {"arch": "x"}, "noise", 1, 2, 3, 1.0, rows, {"cpu": "test"})


def test_marginal_cost_and_ratio():
    rows = {(row.engine, row.timesteps): row for row in a_report().rows}
    assert [rows["a", t].marginal for t in (1, 2, 4)] == [None, 0.5, 0.5]
    assert [rows["b", t].marginal for t in (1, 2, 4)] == [None, 0.0, 1.0]
    assert [rows["b", t].ratio for t in (1, 2, 4)] == pytest.approx([1 / 3, 0.5, 0.5])
    assert {rows["a", t].ratio for t in (1, 2, 4)} == {1.0}


def test_chart_is_to_scale():
    chart = Chart(a_report())
    (_, a), (_, b) = chart.lines
    assert [x for x, _ in a] == [x for x, _ in b] and a[0][0] == chart.left and a[-1][0] == chart.right
    assert (a[1][0] - a[0][0]) * 2 == pytest.approx(a[2][0] - a[1][0], abs=0.3)
    zero = chart.y(0)
    assert (zero - b[0][1]) == pytest.approx(3 * (zero - a[0][1]), abs=0.3)
    assert all(chart.top <= y <= chart.bottom for _, line in chart.lines for _, y in line)


def test_a_timed_input_gets_as_many_frames_as_timesteps(tmp_path):
    model = write(events(np.random.default_rng(0)), tmp_path)
    report = profile(model, ["native", "onnxruntime"], [1, 3], batch=2, warmup=0, duration=0.01)
    assert [row.timesteps for row in report.rows] == [1, 3, 1, 3] and "noise" in report.input
    with pytest.raises(InputError, match="timesteps must be a whole number"):
        profile(model, ["native"], [0, 1], duration=0.01)


def test_measures_every_engine_and_t(model):
    report = profile(model, ["native", "onnxruntime"], [1, 3], batch=2, warmup=0, duration=0.01)
    assert [(row.engine, row.timesteps) for row in report.rows] == [
        ("native", 1), ("native", 3), ("onnxruntime", 1), ("onnxruntime", 3),
    ]  # fmt: skip
    assert all(row.latency.n >= 5 and 0 < row.latency.min <= row.latency.p50 <= row.latency.p99 for row in report.rows)
    assert "noise" in report.input and report.machine["instruction set"]
    assert latency_table(report).row_count == 4


def test_digits_model_is_fed_digits(quick_run, tmp_path):
    from spiketicket.export.tickets import export_ticket

    export_ticket(quick_run[1][-1], tmp_path / "m.onnx")
    report = profile(tmp_path / "m.onnx", ["native"], [5], batch=400, warmup=0, duration=0.01)
    assert report.input == "test images of digits"


def test_command_writes_json_and_html(model, tmp_path):
    files = [str(tmp_path / name) for name in ("out.json", "out.html")]
    options = ["--engines", "native,reference", "--timesteps", "1,2", "--duration", "0.01", "--warmup", "0"]
    result = runner.invoke(app, [str(model), *options, "--json", files[0], "--html", files[1]])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["format"] == "spiketicket.latency" and len(report["rows"]) == 4
    assert report["rows"][0]["ms_per_image"]["p50"] > 0 and report["rows"][0]["speed_relative_to_first_engine"] == 1.0


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.cells, self.links, self.polylines = [], [], 0
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.inside = tag == "td"
        self.polylines += tag == "polyline"
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        if self.inside:
            self.cells.append(data)


def test_html_page_holds_the_table_and_needs_no_network(tmp_path):
    write_html(a_report(), tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    page = Page(text)
    assert page.links == [] and page.polylines == 2
    assert page.cells[:6] == ["a", "1", "1.000", "1.000", "1.000", "10"]
    assert "m&lt;1&gt;.onnx" in text and "m<1>" not in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engines": []}, "engines: expected one or more"),
        ({"engines": ["native", "native"]}, "each once"),
        ({"timesteps": [3, 1]}, "rising numbers"),
        ({"timesteps": []}, "rising numbers"),
        ({"timesteps": [0]}, "whole number from 1 to 4096, got 0"),
        ({"batch": 0}, "batch from 1"),
        ({"duration": 0.0}, "duration above 0"),
        ({"engines": ["tpu"]}, "unknown engine 'tpu'"),
    ],
)
def test_refusals(model, options, message):
    with pytest.raises(InputError, match=message):
        profile(**{"path": model, "engines": ["native"], "timesteps": [1], **options})


def test_unreadable_timesteps(model):
    result = runner.invoke(app, [str(model), "--timesteps", "1,two"])
    assert result.exit_code == 1 and "whole numbers separated by commas, got '1,two'" in result.stderr
