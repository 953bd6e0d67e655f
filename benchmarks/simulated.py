"""A simulated clock, which only the measured functions advance, so that their true durations are known."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import exp, sin
from unittest.mock import patch

from spiketicket.profiling.measure import clock


@dataclass
class SimulatedTime:
    """Replacement of the module `time` in the profiler's clock, with the disturbances of a real machine.

    `jitter` is the standard deviation of the logarithm of a run's duration. `drift` is the amplitude of the machine's
    speed, as a share of it, in waves of 0.7 s. `outliers` is the share of runs that take 3 to 10 times as long.
    """

    seed: int
    jitter: float = 0.03
    drift: float = 0.0
    outliers: float = 0.0
    now: float = 0.0  # seconds

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.phase = self.random.uniform(0, 6.28)

    def perf_counter_ns(self) -> int:
        return round(1e9 * self.now)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def candidate(self, seconds: float) -> Callable[[], None]:
        """Return a function whose median duration is `seconds` while the machine has its mean speed."""

        def run() -> None:
            slow = exp(self.drift * sin(9 * self.now + self.phase) + self.random.gauss(0, self.jitter))
            if self.random.random() < self.outliers:
                slow *= self.random.uniform(3, 10)
            self.now += seconds * slow

        return run

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Make `measure` read this clock instead of the real one."""
        with patch.object(clock, "time", self):
            yield
