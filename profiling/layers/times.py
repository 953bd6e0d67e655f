"""Measure how long each layer of a model takes at each timestep, and by how much the measurement slows the run.

The native engine computes all timesteps of a layer before it goes on to the next. So the time of timestep t of a layer
is the time that the layer takes in a run of t timesteps, less what it takes in a run of t - 1; for the first, a run of
one. The two runs follow each other in the same round.
"""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spiketicket.model.names import INPUT
from spiketicket.profiling.measure.timing import CONFIDENCE, Interval
from spiketicket.runtime import Session

MIN_ROUNDS, MAX_ROUNDS = 10, 1000

Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class LayerTimes:
    """Seconds per image, by round. `layers[name]` is `[rounds, T]`, the layer in runs of 1..T timesteps, or `[rounds,
    1]`, in runs of T timesteps, for a model that runs no other number.
    """

    timesteps: int
    layers: dict[str, Seconds]
    clocked: Seconds  # `[rounds]`: a whole run of T timesteps with a clock after each layer, as its caller sees it
    plain: Seconds  # `[rounds]`: the same run without

    @property
    def rounds(self) -> int:
        return len(self.plain)

    def whole(self, name: str) -> Interval:
        """Return the time of a layer in a run of T timesteps."""
        return median(self.layers[name][:, -1])

    def by_timestep(self, name: str) -> tuple[Interval, ...] | None:
        """Return the time of each further timestep, or None for a model that runs one number of timesteps only."""
        seconds = self.layers[name]
        if seconds.shape[1] != self.timesteps:
            return None
        return tuple(median(column) for column in np.diff(seconds, axis=1, prepend=0.0).T)

    @property
    def overhead(self) -> Interval:
        """Return the share by which the clocks make a run longer, from pairs of runs that follow each other."""
        return median(self.clocked / self.plain - 1)

    @property
    def covered(self) -> Interval:
        """Return the share of a run that its layers take. The rest is checks, and values in and out."""
        return median(sum(seconds[:, -1] for seconds in self.layers.values()) / self.plain)


def time_layers(session: Session, x: NDArray[np.float32], timesteps: int, duration: float) -> LayerTimes:
    """Time runs of one image (or of as many as the model takes at a time) after the other, round by round.

    In a round, an image is run with clocks for 1..T timesteps; then with and without clocks for T, in changing order,
    each after a run that is not timed. Rounds go on for `duration` seconds, at least 10. Raises InputError if the
    session's engine cannot time its layers, and as `Session.run`.
    """
    axis, at_once = (1 if session.timed_input else 0), session.batch or 1
    count = x.shape[axis] // at_once
    steps = [timesteps] if session.graph.fixed_timesteps else list(range(1, timesteps + 1))
    layers: dict[str, list[list[float]]] = {}
    walls: dict[str, list[float]] = {"clocked": [], "plain": []}
    collecting, rounds = gc.isenabled(), 0
    gc.disable()
    try:
        end = time.perf_counter() + duration
        while rounds < MIN_ROUNDS or (time.perf_counter() < end and rounds < MAX_ROUNDS):
            image = np.take(x, range(rounds % count * at_once, (rounds % count + 1) * at_once), axis)
            inputs = {t: {INPUT: image[:t] if session.timed_input else image} for t in steps}
            by_steps = [session.time_layers(inputs[t], t) for t in steps]
            for name in by_steps[0]:
                layers.setdefault(name, []).append([times[name] for times in by_steps])
            runs: list[tuple[str, Callable[..., Any]]] = [("clocked", session.time_layers), ("plain", session.run)]
            for name, run in runs if rounds % 2 else reversed(runs):
                run(inputs[timesteps], timesteps)
                start = time.perf_counter()
                run(inputs[timesteps], timesteps)
                walls[name].append((time.perf_counter() - start) / at_once)
            rounds += 1
    finally:
        if collecting:
            gc.enable()
    arrays = {name: np.array(seconds) / at_once for name, seconds in layers.items()}
    return LayerTimes(timesteps, arrays, np.array(walls["clocked"]), np.array(walls["plain"]))


def median(samples: Seconds) -> Interval:
    """Return the median, with the pair of order statistics between which the true one is with 95% confidence.

    That holds for any distribution. Of fewer than 6 samples, these are the smallest and the largest, with less
    confidence.
    """
    ordered, n = np.sort(samples), len(samples)
    outside, rank = 0.0, 0  # ranks that can be left out at each end
    while rank < n // 2 and (outside := outside + comb(n, rank) / 2**n) <= (1 - CONFIDENCE) / 2:
        rank += 1
    lowest = max(rank - 1, 0)
    return Interval(float(np.median(samples)), float(ordered[lowest]), float(ordered[n - 1 - lowest]))
