"""Contestants in turns: A B C, B C A, ..., so that drift of the machine, and whoever came before, hit all alike."""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np

TURN = 0.02  # seconds
SETTLED = 0.1  # a run of that many seconds hardly feels what the contestant before has left behind
PAUSE = 0.03  # until the threads of the contestant before have stopped spinning: libgomp's do so for some 15 ms
MIN_TURNS = 5


@dataclass(frozen=True)
class Spread:
    """Quantiles of measured seconds."""

    n: int
    min: float
    p10: float
    p50: float
    p90: float

    @classmethod
    def of(cls, seconds: list[float]) -> "Spread":
        p10, p50, p90 = (float(q) for q in np.percentile(seconds, [10, 50, 90]))
        return cls(len(seconds), min(seconds), p10, p50, p90)

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def warm_up(runs: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Run each once, and once more by the clock: the seconds that `take_turns` may expect."""
    expected = {}
    for name, run in runs.items():
        run()
        expected[name] = _timed(run)
    return expected


def take_turns(
    runs: Mapping[str, Callable[[], object]], expected: Mapping[str, float], duration: float
) -> dict[str, Spread]:
    """Time every run in turns until each has had `duration` seconds on average, and at least five turns.

    Every run must have been run before; `expected` says about how many seconds that took. A turn lasts 20 ms or one
    run. Where runs are shorter than 0.1 s, a pause and an untimed run come first. (spiketicket.profiling.clock.measure
    always has an untimed run; here, where a run can take a second, that would double the time.)
    """
    last = dict(expected)
    samples: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    collecting = gc.isenabled()
    gc.disable()
    try:
        turns, end = 0, time.perf_counter() + duration * len(runs)
        while turns < MIN_TURNS or time.perf_counter() < end:
            for name in names[turns % len(names) :] + names[: turns % len(names)]:
                run = runs[name]
                if last[name] < SETTLED:
                    time.sleep(PAUSE)
                    run()
                seconds = [_timed(run)]
                while sum(seconds) < TURN:
                    seconds.append(_timed(run))
                last[name] = seconds[-1]
                samples[name] += seconds
            turns += 1
    finally:
        if collecting:
            gc.enable()
    return {name: Spread.of(seconds) for name, seconds in samples.items()}


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
