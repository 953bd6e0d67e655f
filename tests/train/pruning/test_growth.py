"""How many weights a growing mask leaves, epoch by epoch."""

import pytest

from spiketicket.train.pruning.growth import Growth, Milestone


def test_the_cubic_schedule():
    """At f = 1/2 an eighth of what is to be pruned is still there: 1,000 - 100 weights between epochs 2 and 6."""
    growth = Growth(1000, 100, 2, 6)
    assert [growth.keep_at(epoch) for epoch in (0, 2, 3, 4, 5, 6, 9)] == [
        1000,
        1000,
        100 + round(900 * 27 / 64),
        100 + round(900 / 8),
        100 + round(900 / 64),
        100,
        100,
    ]


def test_all_at_once():
    growth = Growth(1000, 100, 2, 2)
    assert [growth.keep_at(epoch) for epoch in (0, 1.99, 2, 3)] == [1000, 1000, 100, 100]


def test_prunings_within_an_epoch():
    growth = Growth(10, 1, 0, 1)
    assert [batch for batch in range(64) if growth.is_due(batch, 64)] == list(range(0, 64, 4))
    assert all(growth.is_due(batch, 5) for batch in range(5)), "a short epoch prunes before every batch"


def test_milestones_are_met_exactly_once_and_in_order():
    milestones = (Milestone(1, 700), Milestone(2, 300), Milestone(3, 290))
    growth = Growth(1000, 100, 0, 4, milestones)
    asked, taken = 1000, []
    for step in range(65):
        for keep, milestone in growth.steps(asked, step / 16):
            assert keep < asked
            asked = keep
            if milestone:
                assert keep == milestone.keep
                taken.append(milestone.round)
    assert taken == [1, 2, 3] and asked == 100


def test_a_milestone_that_the_schedule_lands_on():
    growth = Growth(1000, 100, 0, 1, (Milestone(1, 100 + round(900 / 8)),))
    assert list(growth.steps(1000, 0.5)) == [(growth.keep_at(0.5), growth.milestones[0])]
    assert list(growth.steps(growth.keep_at(0.5), 0.5)) == []


@pytest.mark.parametrize("epoch", [0.0, 0.3])
def test_nothing_to_prune_yet(epoch):
    assert list(Growth(1000, 100, 0.5, 1).steps(1000, epoch)) == []
