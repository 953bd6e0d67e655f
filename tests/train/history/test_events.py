"""The log's records: what a search writes is what a history reads."""

import json

import pytest

from spiketicket.train.history.events import (
    EarlyBirdRecord,
    EarlyTimeRecord,
    EpochRecord,
    NewPlanRecord,
    PhaseRecord,
    PlanRecord,
    StageRecord,
    StopRecord,
    TicketRecord,
    parse_event,
    to_entry,
)

STAGES = (StageRecord(0, "search", 3, 5, "1x1,5x2", 32, 0.0), StageRecord(1, "final", 2, 5, sparsity=0.5))
RECORDS = [
    PlanRecord(stages=STAGES),
    EpochRecord(round=0, kind="search", epoch=1, timesteps=5, lr=0.3, loss=1.5, train_accuracy=0.5, seconds=2.0),
    PhaseRecord(round=0, kind="search", epoch=1, timesteps=5, image_size=16, validation_accuracy=0.5),
    EarlyTimeRecord(
        round=0,
        epoch=2,
        raw=(1.0, 0.0),
        normalised=(None, 0.0),
        threshold=0.6,
        chosen=2,
        curves={"forward": (1.0, 0.0)},
    ),
    EarlyBirdRecord(round=0, epoch=4, hamming=0.1, overlap=0.9, stop=True),
    TicketRecord(round=1, kind="final", sparsity=0.5, test_accuracy=0.9, search_seconds=3.0, fingerprint="ab"),
    StopRecord(round=0, kind="search", reason="out of time", epoch=1),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_is_read_as_it_was_written(record):
    assert parse_event(json.loads(json.dumps(to_entry(record)))) == record


def test_a_plan_that_has_changed_is_read_as_a_plan():
    entry = to_entry(NewPlanRecord(round=0, kind="search", stages=STAGES))
    assert list(entry) == ["event", "round", "kind", "stages"]
    assert parse_event(json.loads(json.dumps(entry))) == PlanRecord(stages=STAGES)


def test_other_events_are_ignored():
    assert parse_event({"event": "of a later release"}) is None
