"""All tickets of a run: the front by brute force, balance by hand, and the whole table of a small search."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from spiketicket.cli.console import make_app
from spiketicket.cli.profile.search import search, tickets
from spiketicket.errors import DataError, InputError, TicketError
from spiketicket.export.ticket import export_ticket
from spiketicket.profiling.tickets.balance import balance, ticket_balance
from spiketicket.profiling.tickets.pareto import front
from spiketicket.profiling.tickets.report import tickets_report
from spiketicket.profiling.tickets.tickets import measure_tickets
from tests.support.profiles import check_schema
from tests.support.run_folders import plan, write_run

POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12)


@given(POINTS)
def test_front_by_brute_force(points):
    def beaten(point):
        return any(o[0] <= point[0] and o[1] >= point[1] and o != point for o in points)

    found = front([cost for cost, _ in points], [value for _, value in points])
    assert found == [not beaten(point) for point in points]


def test_balance_by_hand():
    mask = np.zeros((4, 2, 3), bool)
    for channel, count in enumerate((3, 1, 0, 2)):
        mask[channel].flat[:count] = True
    (layer,) = ticket_balance({"conv.weight": mask}).layers
    assert layer.name == "conv" and layer.work.tolist() == [3, 1, 0, 2]
    assert layer.by_channel == pytest.approx(1.5 / 3)
    assert layer.by_block == 1.0  # a single block


def test_balance_of_blocks_by_hand():
    mask = np.zeros((33, 4), bool)  # blocks of 16, 16 and 1 channels
    mask[0, :2] = mask[16:20, 0] = mask[32, :3] = True
    (layer,) = ticket_balance({"a.weight": mask}).layers
    assert layer.blocks.tolist() == [2, 4, 3] and layer.by_block == pytest.approx(3 / 4)


def test_balance_of_a_ticket():
    even, odd, empty = np.ones((2, 4), bool), np.zeros((2, 4), bool), np.zeros((2, 4), bool)
    odd[0] = True
    found = ticket_balance({"even.weight": even, "odd.weight": odd, "empty.weight": empty})
    assert (found.best.name, found.worst.name) == ("even", "odd")
    assert found.by_channel == pytest.approx((4 + 2 + 0) / (4 + 4 + 0))
    nothing = ticket_balance({"empty.weight": empty})
    assert (nothing.by_channel, nothing.best, nothing.worst, balance(empty.sum(1))) == (None, None, None, None)


@pytest.fixture(scope="module")
def table(quick_run):
    return measure_tickets([quick_run[0]], threads=1, iterations=2)


def test_rows_are_the_tickets(table, quick_run, tmp_path):
    _, found = quick_run
    assert [row.round for row in table.rows] == [0, 1, 2]
    for row, ticket in zip(table.rows, found, strict=True):
        assert row.fingerprint == ticket.fingerprint
        assert (row.sparsity, row.sparsity_prunable) == (ticket.sparsity, ticket.sparsity_prunable)
        assert row.accuracy == ticket.search["test_accuracy"] and row.timesteps == 5 and row.method == "IMP"
        assert row.nbytes == export_ticket(ticket, tmp_path / "ticket.onnx").nbytes
        assert row.latency.n == 2 and row.input == "the first 32 test images of digits"
        assert sum(int(layer.work.sum()) for layer in row.balance.layers) == sum(
            np.count_nonzero(mask) for mask in ticket.masks.values()
        )
    operations = [row.operations for row in table.rows]
    assert operations[0] > operations[1] > operations[2]
    done = table.rows[0].work.synaptic_operations
    expected = 4.6 * done["Effective_MACs"] + 0.9 * done["Effective_ACs"]
    assert table.rows[0].energy(table.energy) == pytest.approx(expected)


def test_report_of_a_run(table):
    report = tickets_report(table)
    tickets_section, front_section, balance_section = report.sections
    assert len(tickets_section.table.rows) == 3
    on_front = [row[-1] for row in tickets_section.table.rows]
    cells = [(row.nbytes, row.latency.median().value, row.accuracy) for row in table.rows]
    for index, name in ((1, "latency"), (0, "bytes")):
        best = front([cell[index] for cell in cells], [cell[2] for cell in cells])
        assert [said in (name, "both") for said in on_front] == best
        picture = front_section.pictures[1 - index]
        marked = [point.label for series in picture.series for point in series.points if point.label]
        assert sorted(marked) == sorted(row.name for row, on in zip(table.rows, best, strict=True) if on)
        assert sum(len(series.points) for series in picture.series) == 3
    assert len(balance_section.table.rows) == len(table.rows[0].balance.layers)
    assert any(note.startswith("Energy is an estimate") for note in tickets_section.notes)
    data = json.loads(json.dumps(report.data, allow_nan=False))
    assert (data["format"], data["version"], data["kind"]) == ("spiketicket.profile", 1, "tickets")
    check_schema(data)
    assert [one["round"] for one in data["tickets"]] == [0, 1, 2]


def test_command(quick_run, tmp_path):
    app = make_app("both")
    app.command()(search)
    app.command()(tickets)
    path = tmp_path / "tickets.md"
    arguments = ["tickets", str(quick_run[0]), "--threads", "1", "--iterations", "1", "-x", str(path)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.stderr
    assert "All tickets" in done.stdout and path.read_text().count("quick 2") >= 1


def test_folders_that_hold_no_tickets(tmp_path, quick_run):
    with pytest.raises(InputError, match="is no run folder of snn-search"):
        measure_tickets([tmp_path])
    with pytest.raises(InputError, match="no round is finished yet"):
        measure_tickets([write_run(tmp_path / "begun", [plan((0, "search", 4, 5, 0.0))])])
    with pytest.raises(InputError, match="threads: expected 1 to"):
        measure_tickets([quick_run[0]], threads=1000)


def test_damaged_ticket_is_named(quick_run, tmp_path):
    folder = tmp_path / "copy"
    (folder / "rounds").mkdir(parents=True)
    for name in ("settings.json", "metrics.jsonl"):
        (folder / name).write_bytes((quick_run[0] / name).read_bytes())
    with pytest.raises(InputError, match="no round is finished yet"):
        measure_tickets([folder])
    (folder / "rounds" / "00.pt").write_bytes(b"none")
    with pytest.raises(TicketError, match=r"rounds/00.pt: not a ticket"):
        measure_tickets([folder])


def test_data_that_was_promised_must_be_there(tmp_path):
    """Noise stands in where no folder is named, never for one that lacks the images."""
    from spiketicket.profiling.tickets.tickets import TicketImages

    pictures = TicketImages(tmp_path)
    with pytest.raises(DataError):
        pictures.load("cifar10")
    assert TicketImages(None).folder is None


def test_equal_points_are_on_the_front_together():
    assert front([1, 1, 2], [5, 5, 5]) == [True, True, False]
    assert front([], []) == []
