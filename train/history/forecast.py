"""The time that a search still needs.

An epoch at T timesteps takes as long as those at T took so far (the mean of the last 20). Where none ran at T, it takes
a + b T seconds: with epochs at several other T, a and b >= 0 of the least squares over their means; with one, a = 0.
On images of other sizes T counts in proportion to the pixels.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean

import numpy as np

from spiketicket.train.history.events import SEARCH
from spiketicket.train.history.history import History

RECENT = 20  # epochs: a search may have moved to another machine, or share this one since


@dataclass(frozen=True)
class SecondsPerEpoch:
    """Seconds per epoch at T timesteps, and where they come from: measured, fitted, or scaled (linear in T).

    `image_size` is None for images as the data set has them.
    """

    timesteps: int
    seconds: float
    source: str
    image_size: int | None = None


Pace = SecondsPerEpoch  # the old name


@dataclass(frozen=True)
class Forecast:
    """`ends` in seconds since 1970; of a search that is not running, if it went on now."""

    seconds_left: float
    ends: float
    at_most: bool  # Early-Time or Early-Bird may shorten what is planned
    paces: tuple[SecondsPerEpoch, ...]  # one for each kind of epoch that is left


def forecast(history: History, now: float) -> Forecast | None:
    """Return the time left at the time `now`; None if nothing is left or no epoch has finished yet."""
    left = [training for training in history.trainings if training.epochs_left]
    if not left or not history.epochs:
        return None
    full = history.image_size
    measured: dict[float, list[float]] = {}
    for epoch in history.epochs:
        measured.setdefault(_work(epoch.timesteps, epoch.image_size, full), []).append(epoch.seconds)
    means = {work: mean(seconds[-RECENT:]) for work, seconds in sorted(measured.items())}
    coming = [epoch for training in left for epoch in training.coming]
    paces = {epoch: _pace(*epoch, full, means) for epoch in sorted(set(coming), key=lambda e: (e[0], e[1] or math.inf))}
    seconds = sum(paces[epoch].seconds for epoch in coming)
    if history.running:  # part of the present epoch is over already
        seconds -= min(max(0.0, now - history.changed), paces[coming[0]].seconds)
    early_time = bool(history.settings.get("early_time")) and not history.early_time
    early_bird = history.settings["method"] == "eb" and any(training.stage.kind == SEARCH for training in left)
    return Forecast(seconds, now + seconds, early_time or early_bird, tuple(paces.values()))


def _work(timesteps: int, image_size: int | None, full: int | None) -> float:
    """Return timesteps in units of one on a full image."""
    return timesteps * (image_size / full) ** 2 if image_size and full else timesteps


def _pace(timesteps: int, image_size: int | None, full: int | None, measured: Mapping[float, float]) -> SecondsPerEpoch:
    work = _work(timesteps, image_size, full)
    if work in measured:
        return SecondsPerEpoch(timesteps, measured[work], "measured", image_size)
    fixed, per_timestep = fit(measured)
    return SecondsPerEpoch(
        timesteps, fixed + per_timestep * work, "fitted" if len(measured) > 1 else "scaled", image_size
    )


def fit(measured: Mapping[int, float] | Mapping[float, float]) -> tuple[float, float]:
    """Return a, b >= 0 of the a + b T nearest to the seconds measured at each T (least squares); a = 0 from one T."""
    from scipy.optimize import nnls  # here: it takes a third of a second to import

    steps = np.array(list(measured), float)
    columns = [steps] if len(steps) < 2 else [steps, np.ones_like(steps)]
    slope, *fixed = nnls(np.stack(columns, axis=1), list(measured.values()))[0]
    return float(sum(fixed)), float(slope)
