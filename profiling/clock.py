"""Timing: monotonic clock, warm-up, rivals interleaved, quantiles with their n."""

import gc
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

Key = TypeVar("Key", bound=Hashable)

MIN_RUNS = 5


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


def measure(
    runs: Mapping[Key, Callable[[], object]],
    warmup: int,
    duration: float,
    tick: Callable[[], None] = lambda: None,
) -> dict[Key, Stats]:
    """Time every run over and over in turn (A B C A B C ...), so that drift of the machine hits all alike.

    `warmup` untimed rounds, then timed ones until each run has had `duration` seconds on average, and
    at least five rounds. `tick` is called after each timed round.
    """
    for _ in range(warmup):
        for run in runs.values():
            run()
    samples: dict[Key, list[float]] = {key: [] for key in runs}
    collecting = gc.isenabled()
    gc.disable()
    try:
        end = time.perf_counter() + duration * len(runs)
        rounds = 0
        while rounds < MIN_RUNS or time.perf_counter() < end:
            for key, run in runs.items():
                start = time.perf_counter()
                run()
                samples[key].append(time.perf_counter() - start)
            rounds += 1
            tick()
    finally:
        if collecting:
            gc.enable()
    return {key: Stats.of(seconds) for key, seconds in samples.items()}
