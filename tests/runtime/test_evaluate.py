"""Accuracy of the committed ticket: whole runs, early exit, rounded weights."""

from pathlib import Path

import numpy as np
import pytest

from spiketicket.errors import InputError
from spiketicket.runtime import Session
from spiketicket.runtime.evaluate import evaluate, exit_early
from tests.support.graphs import events, images, write

ASSETS = Path(__file__).parents[1] / "assets"


@pytest.fixture(scope="module")
def digits():
    with np.load(ASSETS / "digits.npz") as stored:
        return stored["images"], stored["labels"]


def test_whole_runs(digits):
    with Session(ASSETS / "digits.onnx") as session:
        whole = evaluate(session, *digits, batch=7)
    assert whole.accuracy > 0.95 and whole.timesteps == 5 and whole.confusion.sum() == len(digits[0])


def test_early_exit_saves_timesteps_and_little_accuracy(digits):
    with Session(ASSETS / "digits.onnx") as session:
        results = [evaluate(session, *digits, margin=margin) for margin in (0.0, 2.0, 1e9)]
    assert results[0].timesteps == 1 < results[1].timesteps < results[2].timesteps == 5
    assert results[0].accuracy <= results[1].accuracy and results[1].accuracy > 0.9


def test_int16_keeps_the_classes(digits):
    images, _ = digits
    with Session(ASSETS / "digits.onnx", plan="events-int16", values="int16") as session:
        rounded = session.run({"input": images})["logits"]
        assert any("int16" in layer.kernel for layer in session.layers())
    with Session(ASSETS / "digits.onnx") as session:
        exact = session.run({"input": images})["logits"]
    assert (rounded.argmax(axis=1) == exact.argmax(axis=1)).mean() > 0.95
    assert not np.array_equal(rounded, exact)


@pytest.mark.parametrize("timesteps", [None, 6])
@pytest.mark.parametrize("margin", [None, 0.3])
def test_a_timed_input_sees_an_image_at_every_timestep(tmp_path, timesteps, margin):
    rng = np.random.default_rng(0)
    with Session(write(events(rng), tmp_path)) as session:
        x = images(rng, 9, session.input_shape)
        logits = session.run({"input": np.repeat(x[None], timesteps or 4, axis=0)})["logits"]
        found = evaluate(session, x, logits.argmax(axis=1), batch=4, timesteps=timesteps, margin=margin)
    if margin is None:
        assert found.accuracy == 1.0 and found.timesteps == (timesteps or 4)
    else:
        assert 1 <= found.timesteps < (timesteps or 4)


@pytest.mark.parametrize("timesteps", [0, -1, 5000, 2.0])
def test_impossible_timesteps_of_a_timed_input(tmp_path, timesteps):
    with (
        Session(write(events(np.random.default_rng(0)), tmp_path)) as session,
        pytest.raises(InputError, match="timesteps must be a whole number from 1 to 4096"),
    ):
        evaluate(session, np.zeros((1, 2, 11, 10), np.float32), np.zeros(1, np.int64), timesteps=timesteps)


@pytest.mark.parametrize("shape", [(), (3,), (3, 0, 2, 11, 10), (3, 2, 11, 10)])
def test_early_exit_of_what_is_no_input(tmp_path, shape):
    with (
        Session(write(events(np.random.default_rng(0)), tmp_path)) as session,
        pytest.raises(InputError, match=r"input must be float32 \[T, N, 2, 11, 10\]"),
    ):
        exit_early(session, np.zeros(shape, np.float32), None, 0.5)
