"""Time candidates with a monotonic clock: warm-up until steady, then rounds in which they take turns in random order.

A candidate is a function without arguments that returns when its result is there. If a device goes on working after the
call (a GPU), `synchronised` makes a candidate of it.
"""

import gc
import math
import random
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Generic, TypeVar

from spiketicket.errors import InputError
from spiketicket.profiling.measure.noise import Noise, Watch
from spiketicket.profiling.measure.timing import Timing, relative_range

Key = TypeVar("Key", bound=Hashable)
Run = Callable[[], object]

MIN_ROUNDS = 10  # the interval then leaves out the lowest and the highest: one disturbed round does not widen it
TURN = 0.02  # seconds
SETTLED = 0.1  # a run of that many seconds hardly feels what the candidate before has left behind
PAUSE = 0.03  # seconds; the threads of the last candidate stop spinning first, which takes libgomp's about 15 ms
LEAD = 0.002  # seconds of untimed runs: for so long after a pause, a core is 10 to 15% slower

WINDOW = 5  # runs whose medians are compared in warm-up
FALL = 0.02  # steady: the median of the last window is at most this share below that of the window before
WARM_UP_AT_LEAST = 0.05  # seconds: a core that slept needs some milliseconds to reach its frequency
WARM_UP_AT_MOST = 3.0  # seconds per candidate
WARM_UP_RUNS = 2  # at least, however long they take, because the first run allocates


@dataclass(frozen=True)
class Measurement(Generic[Key]):
    """The timings of all candidates, whose rounds are pairs, and the noise during the measurement."""

    timings: dict[Key, Timing]
    noise: Noise


def measure(
    runs: Mapping[Key, Run],
    *,
    duration: float = 1.0,
    iterations: int | None = None,
    warmup: int | None = None,
    seed: int = 0,
    lead: bool = True,
) -> Measurement[Key]:
    """Time every candidate in rounds: each has one turn in a round, in an order that is shuffled anew.

    A turn is about 20 ms of timed runs, or one run. If runs are shorter than 0.1 s and there are other candidates, a
    pause comes first and, with `lead`, 2 ms of untimed runs (at least one). Rounds go on until each candidate has had
    `duration` seconds on average, pauses included, and for at least ten rounds; with `iterations`, until each has had
    exactly that many timed runs, spread evenly over rounds. Before that, each has `warmup` untimed runs; with None, it
    runs until it is steady, that is, until the median of the last five runs is at most 2% below that of the five
    before, for 0.05 s at least and 3 s (or two runs) at most. `seed` decides the order. Garbage collection is off
    during the measurement. Raises InputError for arguments out of range, and whatever a run raises.
    """
    if not runs or duration < 0 or (iterations is not None and iterations < 1) or (warmup is not None and warmup < 0):
        raise InputError(
            "expected one run or more, duration and warmup from 0 and iterations from 1, "
            f"got {len(runs)} runs, {duration}, {warmup} and {iterations}"
        )
    rounds: dict[Key, list[tuple[float, ...]]] = {key: [] for key in runs}
    order, shuffle = list(runs), random.Random(seed).shuffle
    with _no_collection():
        last = {key: _warm_up(run, warmup) for key, run in runs.items()}
        with Watch() as watch:
            for size in _turns(iterations, duration * len(runs), max(last.values())):
                shuffle(order)
                for key in order:
                    if len(order) > 1 and last[key] < SETTLED:
                        time.sleep(PAUSE)
                        if lead:
                            _turn(runs[key], LEAD)
                    turn = _turn(runs[key], TURN) if size is None else _runs(runs[key], size)
                    rounds[key].append(turn)
                    last[key] = turn[-1]
    timings = {key: Timing(tuple(turns)) for key, turns in rounds.items()}
    # Of medians: runs within a turn may differ because their inputs do.
    return Measurement(timings, watch.noise(max(relative_range(timing.medians) for timing in timings.values())))


def synchronised(run: Run, wait: Run) -> Run:
    """Return `run` followed by `wait` (such as torch.cuda.synchronize)."""

    def finish() -> object:
        result = run()
        wait()
        return result

    return finish


def _turns(iterations: int | None, total: float, slowest: float) -> Iterator[int | None]:
    """Yield one item per round: how many runs a turn has, or None for as many as 20 ms hold."""
    if iterations is None:
        end, done = time.perf_counter_ns() + 1e9 * total, 0
        while done < MIN_ROUNDS or time.perf_counter_ns() < end:
            yield None
            done += 1
        return
    count = min(iterations, max(MIN_ROUNDS, math.ceil(iterations * slowest / TURN)))
    for done in range(count):
        yield (done + 1) * iterations // count - done * iterations // count


def _turn(run: Run, length: float) -> tuple[float, ...]:
    """Run for `length` seconds, once at least, and return the seconds of each run."""
    seconds = [_timed(run)]
    total = seconds[0]
    while total < length:
        seconds.append(_timed(run))
        total += seconds[-1]
    return tuple(seconds)


def _runs(run: Run, count: int) -> tuple[float, ...]:
    return tuple(_timed(run) for _ in range(count))


def _warm_up(run: Run, count: int | None) -> float:
    """Run without recording times, and return the seconds of the last run (0 without any)."""
    if count is not None:
        return _runs(run, count)[-1] if count else 0.0
    recent: deque[float] = deque(maxlen=2 * WINDOW)
    runs, total = 0, 0.0
    while runs < WARM_UP_RUNS or (total < WARM_UP_AT_MOST and not (total >= WARM_UP_AT_LEAST and _steady(recent))):
        recent.append(_timed(run))
        runs, total = runs + 1, total + recent[-1]
    return recent[-1]


def _steady(recent: deque[float]) -> bool:
    values = list(recent)
    return len(values) == 2 * WINDOW and median(values[WINDOW:]) >= (1 - FALL) * median(values[:WINDOW])


def _timed(run: Run) -> float:
    start = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - start) / 1e9


@contextmanager
def _no_collection() -> Iterator[None]:
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
