"""Timing: monotonic clock, warm-up, rivals interleaved, quantiles with their n."""

import gc
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

Key = TypeVar("Key", bound=Hashable)

MIN_TURNS = 5
TURN = 0.02  # seconds


@dataclass(frozen=True)
class Stats:
    """Quantiles of measured seconds."""

    n: int
    min: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, seconds: list[float]) -> "Stats":
        """The statistics of at least one measurement."""
        p50, p90, p99 = (float(q) for q in np.percentile(seconds, [50, 90, 99]))
        return cls(len(seconds), min(seconds), p50, p90, p99)

    def scaled(self, factor: float) -> "Stats":
        """The same in another unit."""
        return Stats(self.n, *(factor * value for value in (self.min, self.p50, self.p90, self.p99)))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(runs: Mapping[Key, Callable[[], object]], warmup: int, duration: float) -> dict[Key, Stats]:
    """Time every run over and over in turns (A B C A B C ...), so that drift of the machine hits all alike.

    `warmup` untimed runs each, then turns until each has had `duration` seconds on average, and at
    least five. A turn is one untimed run, because the threads of the rival before may still be spinning,
    and then timed ones for 20 ms.
    """
    for run in runs.values():
        for _ in range(warmup):
            run()
    samples: dict[Key, list[float]] = {key: [] for key in runs}
    collecting = gc.isenabled()
    gc.disable()
    try:
        rounds, end = 0, time.perf_counter() + duration * len(runs)
        while rounds < MIN_TURNS or time.perf_counter() < end:
            for key, run in runs.items():
                run()
                samples[key] += _turn(run)
            rounds += 1
    finally:
        if collecting:
            gc.enable()
    return {key: Stats.of(seconds) for key, seconds in samples.items()}


def _turn(run: Callable[[], object]) -> list[float]:
    seconds: list[float] = []
    while sum(seconds) < TURN:
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds
