"""Measure accuracy at every number of timesteps, and with early exit, in one pass over the images."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spiketicket.model.names import INPUT, LOGITS_T
from spiketicket.profiling.measure.timing import CONFIDENCE
from spiketicket.runtime import Session
from spiketicket.runtime.inputs import model_input
from spiketicket.runtime.session import top_two_margin

BATCH = 32
EXITS = (0.2, 0.5, 0.8)  # shares of images that leave after the first timestep, where no margins are given


@dataclass(frozen=True)
class Accuracy:
    """The share of images that are classified correctly, with Wilson's 95% interval."""

    accuracy: float
    low: float
    high: float

    @classmethod
    def of(cls, right: int, images: int) -> "Accuracy":
        from scipy.stats import binomtest  # here: it takes half a second to import

        interval = binomtest(right, images).proportion_ci(CONFIDENCE, method="wilson")
        return cls(right / images, float(interval.low), float(interval.high))


@dataclass(frozen=True)
class AtTimesteps:
    timesteps: int
    accuracy: Accuracy

    def to_dict(self) -> dict[str, Any]:
        return {"timesteps": self.timesteps, **asdict(self.accuracy)}


@dataclass(frozen=True)
class EarlyExit:
    """Early exit by one `margin`: an image stops at the first timestep at which its best mean logit leads the second by
    it.
    """

    margin: float
    timesteps: float  # mean over images
    accuracy: Accuracy

    def to_dict(self) -> dict[str, Any]:
        return {"margin": self.margin, "timesteps": self.timesteps, **asdict(self.accuracy)}


def mean_logits(session: Session, images: NDArray[np.float32], timesteps: int) -> NDArray[np.float32]:
    """Return the mean logits after each timestep, `[T, N, classes]`, of images `[N, *input_shape]`.

    Those of timestep t are the model's at T = t, because no timestep depends on a later one.
    """
    parts = []
    for start in range(0, len(images), BATCH):
        x = np.ascontiguousarray(model_input(session, images[start : start + BATCH], timesteps))
        parts.append(session.run({INPUT: x}, timesteps)[LOGITS_T])
    logits = np.concatenate(parts, axis=1)
    return np.cumsum(logits, axis=0) / np.arange(1, timesteps + 1, dtype=np.float32)[:, None, None]


def by_timestep(means: NDArray[np.float32], labels: NDArray[np.int64]) -> list[AtTimesteps]:
    """Return the accuracy at T = 1, 2, ... from `mean_logits`."""
    right = (means.argmax(axis=2) == labels).sum(axis=1)
    return [AtTimesteps(t, Accuracy.of(int(count), len(labels))) for t, count in enumerate(right, 1)]


def settled(rows: Sequence[AtTimesteps]) -> AtTimesteps:
    """Return the fewest timesteps from which on every interval contains the accuracy at the largest T. `rows` must be
    in rising order.
    """
    last = found = rows[-1]
    for row in reversed(rows):
        if not row.accuracy.low <= last.accuracy.accuracy <= row.accuracy.high:
            break
        found = row
    return found


def early_exit(means: NDArray[np.float32], labels: NDArray[np.int64], margins: Sequence[float]) -> list[EarlyExit]:
    """Return accuracy and mean timesteps of early exit for each margin, from `mean_logits`: the rule of
    `Session.run_timesteps`, image by image.
    """
    leads = np.stack([top_two_margin(step) for step in means])
    found = []
    for margin in margins:
        enough = leads >= margin
        enough[-1] = True
        steps = enough.argmax(axis=0)
        classes = means[steps, np.arange(len(labels))].argmax(axis=1)
        right = int((classes == labels).sum())
        found.append(EarlyExit(margin, float(steps.mean() + 1), Accuracy.of(right, len(labels))))
    return found


def usual_margins(means: NDArray[np.float32]) -> list[float]:
    """Return margins, of three digits, with which the shares EXITS of the images leave after the first timestep."""
    quantiles = np.quantile(top_two_margin(means[0]), [1 - share for share in EXITS])
    return sorted({float(f"{margin:.3g}") for margin in quantiles})
