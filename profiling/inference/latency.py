"""Measure the latency of a model by engine, timesteps, batch and threads, and its throughput.

All candidates of one batch and number of threads take turns.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spiketicket.model.names import INPUT
from spiketicket.profiling.inference.engines import CANNOT, Unavailable, open_engine
from spiketicket.profiling.inference.samples import Samples
from spiketicket.profiling.inference.settings import ProfileSettings
from spiketicket.profiling.measure.clock import Measurement, measure
from spiketicket.profiling.measure.noise import Noise
from spiketicket.profiling.measure.timing import Interval, Timing, difference, ratio
from spiketicket.runtime import Session
from spiketicket.runtime.inputs import model_input

Floats = NDArray[np.float32]

MS = 1e3


@dataclass(frozen=True)
class Latency:
    """The latency of one engine at one T, batch and number of threads. Seconds are those of a run, that is, of all
    images of the batch.
    """

    engine: str
    timesteps: int
    batch: int
    threads: int
    timing: Timing
    marginal: Interval | None  # median seconds more than with the next fewer timesteps, per timestep; None for those
    speed: Interval  # times as fast as the first engine at this T

    def images_per_second(self) -> float:
        return self.batch / self.timing.median().value

    def to_dict(self, percentiles: Sequence[float]) -> dict[str, Any]:
        return {
            "engine": self.engine,
            "timesteps": self.timesteps,
            "batch": self.batch,
            "threads": self.threads,
            "ms": self.timing.to_dict(MS),
            "percentiles_ms": {f"{p:g}": MS * self.timing.quantile(p / 100) for p in percentiles},
            "images_per_second": self.images_per_second(),
            "marginal_ms": None if self.marginal is None else self.marginal.scaled(MS).to_dict(),
            "speed": self.speed.to_dict(),
        }


@dataclass(frozen=True)
class Streamed:
    """The native engine computing one timestep after the other: seconds to the first logits (`margin` None), or until
    the best mean logit leads by `margin`, as a mean over the timed images.
    """

    margin: float | None
    batch: int
    threads: int
    timing: Timing

    def to_dict(self) -> dict[str, Any]:
        return {"margin": self.margin, "batch": self.batch, "threads": self.threads, "ms": self.timing.to_dict(MS)}


@dataclass
class Latencies:
    rows: list[Latency] = field(default_factory=list)
    first: list[Streamed] = field(default_factory=list)
    exits: list[Streamed] = field(default_factory=list)
    noises: dict[str, Noise] = field(default_factory=dict)  # by batch and threads
    missing: dict[str, str] = field(default_factory=dict)  # engine -> why


Key = tuple[str, object]


def measure_latency(path: Path, samples: Samples, settings: ProfileSettings, margins: Sequence[float]) -> Latencies:
    """Time `path` on every engine at every T, batch and number of threads; early exits at batch 1.

    Every run takes the next of the timed batches. Engines that are missing are listed in the result. Raises Unavailable
    if all of them are missing.
    """
    found = Latencies()
    for batch, threads in product(settings.batches, settings.threads):
        with ExitStack() as stack:
            runs, streams = _candidates(path, samples, settings, batch, threads, margins, stack, found.missing)
            measured = measure(
                runs | streams,
                duration=settings.duration,
                iterations=settings.iterations,
                warmup=settings.warmup,
                seed=settings.seed,
            )
        found.noises[f"latency at batch {batch}, threads {threads}"] = measured.noise
        found.rows += _rows(measured, runs, settings.timesteps, batch, threads)
        for kind, margin in streams:
            timing = measured.timings[kind, margin]
            if kind == "first":
                found.first.append(Streamed(None, batch, threads, timing))
            else:
                per_image = Timing(tuple(tuple(s / len(samples.batches(1)) for s in turn) for turn in timing.rounds))
                found.exits.append(Streamed(float(str(margin)), batch, threads, per_image))
    return found


def _candidates(
    path: Path,
    samples: Samples,
    settings: ProfileSettings,
    batch: int,
    threads: int,
    margins: Sequence[float],
    stack: ExitStack,
    missing: dict[str, str],
) -> tuple[dict[Key, Callable[[], object]], dict[Key, Callable[[], object]]]:
    runs: dict[Key, Callable[[], object]] = {}
    streams: dict[Key, Callable[[], object]] = {}
    with Session(path, engine="reference") as session:
        inputs = {
            t: [np.array(model_input(session, images, t)) for images in samples.batches(batch)]
            for t in settings.timesteps
        }
        alone = [np.array(model_input(session, images, settings.timesteps[-1])) for images in samples.batches(1)]
    for name in settings.engines:
        try:
            run = open_engine(name, path, threads, stack)
            for t in settings.timesteps:
                run(inputs[t][0], t)  # an engine that cannot run the model fails here
        except CANNOT as error:
            missing[name] = str(error)
            continue
        for t in settings.timesteps:
            runs[name, t] = _next(run, inputs[t], t)
        if name == "native":
            session = stack.enter_context(Session(path, engine=name, threads=threads))
            most = settings.timesteps[-1]
            streams["first", None] = _first(session, inputs[most], most)
            for margin in margins if batch == 1 else ():
                streams["exit", margin] = _until(session, alone, most, margin)
    if not runs:
        raise Unavailable("no engine can run the model: " + "; ".join(f"{k}: {v}" for k, v in missing.items()))
    return runs, streams


def _next(run: Callable[[Floats, int], Floats], batches: list[Floats], timesteps: int) -> Callable[[], object]:
    order = cycle(batches)
    return lambda: run(next(order), timesteps)


def _first(session: Session, batches: list[Floats], timesteps: int) -> Callable[[], object]:
    order = cycle(batches)
    return lambda: next(session.run_timesteps({INPUT: next(order)}, timesteps))


def _until(session: Session, images: list[Floats], timesteps: int, margin: float) -> Callable[[], object]:
    """Return a run of all timed images, one by one, because how long an image takes depends on when it leaves."""

    def run() -> None:
        for image in images:
            for _ in session.run_timesteps({INPUT: image}, timesteps, margin):
                pass

    return run


def _rows(
    measured: "Measurement[Key]", runs: Mapping[Key, object], timesteps: Sequence[int], batch: int, threads: int
) -> list[Latency]:
    rows = []
    engines = list(dict.fromkeys(engine for engine, _ in runs))
    for engine in engines:
        before: int | None = None
        for t in timesteps:
            timing = measured.timings[engine, t]
            marginal = None
            if before is not None:
                marginal = difference(timing, measured.timings[engine, before]).scaled(1 / (t - before))
            speed = ratio(measured.timings[engines[0], t], timing)
            rows.append(Latency(engine, t, batch, threads, timing, marginal, speed))
            before = t
    return rows
