"""Measure images per second with several streams: threads that run batches one after the other, at the same time."""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spiketicket.profiling.inference.engines import CANNOT, open_engine
from spiketicket.profiling.inference.samples import Samples
from spiketicket.profiling.inference.settings import ProfileSettings
from spiketicket.profiling.measure.timing import Interval, Timing
from spiketicket.runtime import Session
from spiketicket.runtime.inputs import model_input

ROUNDS = 8


@dataclass(frozen=True)
class Throughput:
    """Images per second, over all streams together."""

    engine: str
    timesteps: int
    batch: int
    streams: int
    threads: int  # threads of each stream
    images_per_second: Interval

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_throughput(path: Path, samples: Samples, settings: ProfileSettings, streams: int) -> list[Throughput]:
    """Measure every engine that is installed, at the largest T and batch, on one thread per stream; rounds are in
    random order.

    Engines whose runs cannot overlap (torch holds a lock of Python's between operators) gain little from streams.
    """
    timesteps, batch = settings.timesteps[-1], settings.batches[-1]
    rng = np.random.default_rng(settings.seed)
    with ExitStack() as stack:
        with Session(path, engine="reference") as session:
            x = np.array(model_input(session, samples.batches(batch)[0], timesteps))
        workers: dict[str, list[Callable[[], object]]] = {}
        for name in settings.engines:
            try:
                workers[name] = [_worker(name, path, x, timesteps, stack) for _ in range(streams)]
            except CANNOT:
                continue  # the table of latencies says why
        seconds: dict[str, list[tuple[float, ...]]] = {name: [] for name in workers}
        for _ in range(ROUNDS):
            for name in rng.permutation(list(workers)):
                runs, elapsed = overlap(workers[str(name)], settings.duration / ROUNDS)
                seconds[str(name)].append((elapsed / (runs * batch),))
    rows = []
    for name, rounds in seconds.items():
        per_image = Timing(tuple(rounds)).median()
        rate = Interval(1 / per_image.value, 1 / per_image.high, 1 / per_image.low)
        rows.append(Throughput(name, timesteps, batch, streams, 1, rate))
    return rows


def _worker(name: str, path: Path, x: Any, timesteps: int, stack: ExitStack) -> Callable[[], object]:
    run = open_engine(name, path, 1, stack)
    run(x, timesteps)
    return lambda: run(x, timesteps)


def overlap(workers: list[Callable[[], object]], duration: float) -> tuple[int, float]:
    """Return how many runs all workers together finished, and in how many seconds. Each runs at least once."""
    counts = [0] * len(workers)
    start = time.perf_counter()

    def work(place: int) -> None:
        while counts[place] == 0 or time.perf_counter() - start < duration:
            workers[place]()
            counts[place] += 1

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(workers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts), time.perf_counter() - start
