"""Accuracy of a session on labelled images."""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spiketicket.model.names import INPUT, LOGITS
from spiketicket.runtime.inputs import model_input
from spiketicket.runtime.session import Session


@dataclass(frozen=True)
class Evaluation:
    accuracy: float
    confusion: NDArray[np.int64]  # [true class, predicted class], image counts
    images_per_second: float
    timesteps: float  # mean over the images


def exit_early(
    session: Session, x: NDArray[np.float32], timesteps: int | None, margin: float
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Run every image alone until its best mean logit leads the second by `margin`.

    `x` is what `session.run` takes. Returns the mean logits `[N, classes]` and the timesteps `[N]` of each image.
    Raises InputError for the arguments that `session.run` refuses.
    """
    runs = [list(session.run_timesteps({INPUT: one}, timesteps, margin)) for one in _one_by_one(session, x)]
    return np.concatenate([run[-1] for run in runs]), np.array([len(run) for run in runs], dtype=np.int64)


def _one_by_one(session: Session, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    axis = int(session.timed_input)
    if x.ndim <= axis or x.shape[axis] == 0:
        return [x]  # the session refuses it and says why
    return np.split(x, x.shape[axis], axis)


def evaluate(
    session: Session,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    batch: int = 32,
    timesteps: int | None = None,
    margin: float | None = None,
) -> Evaluation:
    """Classify normalised `images` `[N, C, H, W]` in batches, and count the right answers by `labels` `[N]`.

    A model with a timed input gets every image at all of its timesteps. With a `margin`, every image runs alone and
    exits early (`Session.run_timesteps`); `batch` has no effect then.
    """
    start = time.perf_counter()
    if margin is None:
        starts = range(0, len(images), batch)
        batches = (model_input(session, images[i : i + batch], timesteps) for i in starts)
        logits = np.concatenate([session.run({INPUT: x}, timesteps)[LOGITS] for x in batches])
        taken = float(session.timesteps if timesteps is None else timesteps)
    else:
        logits, steps = exit_early(session, model_input(session, images, timesteps), timesteps, margin)
        taken = float(steps.mean())
    seconds = time.perf_counter() - start
    predicted = logits.argmax(axis=1)
    classes = max(logits.shape[1], int(labels.max()) + 1)
    confusion = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    return Evaluation(float((predicted == labels).mean()), confusion, len(images) / seconds, taken)
