"""Accuracy over T and early exit out of one pass: equal to running the model at each T, and to its own early exit."""

import numpy as np
import pytest

from spiketicket.model.names import INPUT, LOGITS
from spiketicket.profiling.inference.accuracy import (
    Accuracy,
    AtTimesteps,
    by_timestep,
    early_exit,
    mean_logits,
    settled,
    usual_margins,
)
from spiketicket.runtime import Session
from spiketicket.runtime.evaluate import exit_early
from spiketicket.runtime.inputs import model_input
from tests.support.graphs import events, everything, write


@pytest.fixture(params=[everything, events])
def session(request, tmp_path):
    with Session(write(request.param(np.random.default_rng(3)), tmp_path), plan="fixed") as opened:
        yield opened


def images_for(session, count=40):
    return np.random.default_rng(1).standard_normal((count, *session.input_shape), dtype=np.float32)


def test_means_are_those_of_the_model_at_each_t(session):
    images = images_for(session)
    means = mean_logits(session, images, 4)
    for t in (1, 2, 3, 4):
        alone = session.run({INPUT: np.ascontiguousarray(model_input(session, images, t))}, t)[LOGITS]
        np.testing.assert_allclose(means[t - 1], alone, rtol=1e-5, atol=1e-6)


def test_early_exit_is_the_session_s(session):
    images = images_for(session)
    means = mean_logits(session, images, 4)
    labels = np.random.default_rng(2).integers(0, means.shape[2], len(images))
    margins = [0.0, *usual_margins(means), 1e9]
    x = np.ascontiguousarray(model_input(session, images, 4))
    for found, margin in zip(early_exit(means, labels, margins), margins, strict=True):
        logits, steps = exit_early(session, x, 4, margin)
        assert found.margin == margin
        assert found.timesteps == pytest.approx(steps.mean())
        assert found.accuracy.accuracy == pytest.approx((logits.argmax(axis=1) == labels).mean())
    assert early_exit(means, labels, [0.0])[0].timesteps == 1 and early_exit(means, labels, [1e9])[0].timesteps == 4


def test_accuracy_by_timestep_by_hand():
    means = np.array([[[1, 0], [1, 0], [0, 1]], [[1, 0], [0, 1], [0, 1]]], dtype=np.float32)
    rows = by_timestep(means, np.array([0, 1, 1]))
    assert [row.timesteps for row in rows] == [1, 2]
    assert [row.accuracy.accuracy for row in rows] == [pytest.approx(2 / 3), 1.0]


@pytest.mark.parametrize(
    ("right", "timesteps"),
    [((50, 90, 91, 90), 2), ((90, 50, 91, 90), 3), ((99, 60, 61, 60), 2), ((10, 20, 40, 80), 4), ((80,), 1)],
)
def test_settled_at_the_timestep_from_which_on_accuracy_is_the_last_one_s(right, timesteps):
    rows = [AtTimesteps(t, Accuracy.of(count, 100)) for t, count in enumerate(right, 1)]
    assert settled(rows).timesteps == timesteps


def test_wilson_interval():
    """81 of 263, the example of many textbooks: 0.255 to 0.366; all right still is no certainty."""
    a = Accuracy.of(81, 263)
    assert (a.low, a.high) == (pytest.approx(0.2553, abs=5e-4), pytest.approx(0.3662, abs=5e-4))
    all_right = Accuracy.of(10, 10)
    assert all_right.accuracy == 1 and all_right.low == pytest.approx(0.7225, abs=5e-4) and all_right.high <= 1 + 1e-9
