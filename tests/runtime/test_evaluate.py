"""Accuracy of the committed ticket: whole runs, early exit, rounded weights."""

from pathlib import Path

import numpy as np
import pytest

from spiketicket.runtime import Session
from spiketicket.runtime.evaluate import evaluate

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
