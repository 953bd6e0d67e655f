"""Events as scalars: with a writer that remembers, and with TensorBoard's own."""

import sys
from types import SimpleNamespace

import pytest

from spiketicket.errors import MissingExtraError
from spiketicket.train.history.tensorboard import TensorBoard
from tests.support.run_folders import IMP, epochs, ticket


@pytest.fixture
def written(monkeypatch):
    """What was written: (tag, value, step), and how the writers were opened and closed."""
    log = SimpleNamespace(scalars=[], opened=[], closed=0)

    class Writer:
        def __init__(self, folder, purge_step=None):
            log.opened.append((folder, purge_step))

        def add_scalar(self, tag, value, step):
            log.scalars.append((tag, value, step))

        def close(self):
            log.closed += 1

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    return log


def test_an_epoch_and_a_ticket(written, tmp_path):
    board = TensorBoard(tmp_path)
    board.log(epochs(0, "search", 1, 5, 12.5, first=7, loss=1.25, validation_accuracy=0.5)[0])
    board.log({"event": "early_bird", "round": 0, "epoch": 7, "hamming": [0.1]})
    board.log(ticket(0, "final", 0.25, 0.75, 40.0, validation_accuracy=None))
    board.close()
    assert written.scalars == [
        ("search/loss", 1.25, 0),
        ("search/accuracy/train", 0.5, 0),
        ("search/accuracy/validation", 0.5, 0),
        ("search/learning rate", 0.3, 0),
        ("search/seconds per epoch", 12.5, 0),
        ("search/timesteps", 5, 0),
        ("final/ticket/accuracy/test", 0.75, 0),
        ("final/ticket/sparsity", 0.25, 0),
        ("final/ticket/search seconds", 40.0, 0),
    ]
    assert written.closed == 1


def test_steps_count_epochs_over_all_rounds(written, tmp_path):
    board = TensorBoard(tmp_path)
    for event in IMP:
        board.log(event)
    assert [step for tag, _, step in written.scalars if tag == "search/loss"] == list(range(10))
    tickets = [(step, value) for tag, value, step in written.scalars if tag == "search/ticket/sparsity"]
    assert tickets == [(3, 0.0), (6, 0.25), (9, 0.437)]
    steps = [step for *_, step in written.scalars]
    assert steps == sorted(steps)


def test_missing_package(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"--tensorboard needs tensorboard: pip install .*tensorboard\]"):
        TensorBoard(tmp_path)


def test_a_resumed_search_writes_no_point_twice_and_loses_none(tmp_path):
    """Killed after an epoch that the log then drops: TensorBoard ends with the log's points, each once."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs the package tensorboard"
    )
    first = TensorBoard(tmp_path)
    for event in [*IMP[:4], *epochs(0, "search", 1, 5, 10.0, first=3, loss=99.0)]:
        first.log(event)
    first.close()
    second = TensorBoard(tmp_path, past=IMP[:4])  # the log kept three epochs
    for event in IMP[4:]:
        second.log(event)
    second.close()
    read = accumulator.EventAccumulator(str(tmp_path))
    read.Reload()
    points = [(scalar.step, scalar.value) for scalar in read.Scalars("search/loss")]
    assert points == [(step, pytest.approx(event["loss"])) for step, event in enumerate(_epochs(IMP))]
    assert [scalar.step for scalar in read.Scalars("search/ticket/accuracy/test")] == [3, 6, 9]


def _epochs(events):
    return [event for event in events if event["event"] == "epoch"]
