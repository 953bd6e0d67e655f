"""Accuracy of a session on labelled images."""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spiketicket.domain import INPUT, LOGITS
from spiketicket.runtime.session import Session


@dataclass(frozen=True)
class Evaluation:
    accuracy: float
    confusion: NDArray[np.int64]  # [true class, predicted class], image counts
    images_per_second: float


def evaluate(
    session: Session,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    batch: int = 32,
    timesteps: int | None = None,
) -> Evaluation:
    """Classify normalised `images` `[N, C, H, W]` in batches, and count; `labels` `[N]`."""
    parts = []
    start = time.perf_counter()
    for first in range(0, len(images), batch):
        parts.append(session.run({INPUT: images[first : first + batch]}, timesteps)[LOGITS])
    seconds = time.perf_counter() - start
    logits = np.concatenate(parts)
    predicted = logits.argmax(axis=1)
    classes = max(logits.shape[1], int(labels.max()) + 1)
    confusion = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    return Evaluation(float((predicted == labels).mean()), confusion, len(images) / seconds)
