"""Latency of a model by engine and number of timesteps."""

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spiketicket.domain import INPUT
from spiketicket.errors import DataError, InputError, MissingExtraError
from spiketicket.profiling.clock import Stats, measure
from spiketicket.profiling.machine import machine_facts
from spiketicket.runtime import Session
from spiketicket.runtime.inputs import dataset_inputs, presented
from spiketicket.train.data import load_dataset

MS = 1e3


@dataclass(frozen=True)
class Row:
    """One engine at one T. Times in milliseconds per image."""

    engine: str
    timesteps: int
    latency: Stats
    marginal: float | None  # median minus that of the row before, per timestep added; None for the first
    ratio: float  # median of the first engine at this T / this one's: above 1 is faster


@dataclass(frozen=True)
class LatencyReport:
    model: str
    metadata: dict[str, str]
    input: str
    batch: int
    threads: int
    warmup: int
    duration: float
    rows: list[Row]
    machine: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        rows = [
            {
                "engine": row.engine,
                "timesteps": row.timesteps,
                "ms_per_image": row.latency.to_dict(),
                "marginal_ms_per_timestep": row.marginal,
                "speed_relative_to_first_engine": row.ratio,
            }
            for row in self.rows
        ]
        fields = ("model", "metadata", "input", "batch", "threads", "warmup", "duration", "machine")
        return {"format": "spiketicket.latency", "version": 1} | {f: getattr(self, f) for f in fields} | {"rows": rows}


def profile(
    path: Path,
    engines: list[str],
    timesteps: list[int],
    batch: int = 1,
    threads: int | None = None,
    warmup: int = 3,
    duration: float = 1.0,
    data: Path | None = None,
) -> LatencyReport:
    """Measure `path` on every engine at every T, all of them interleaved in one run.

    `duration`: seconds per engine and T. The input is images of the model's data set (`data` holds
    its files) or, where they are not at hand, noise; the report says which. A model with a timed input sees
    the same image at every timestep. Raises InputError.
    """
    if not engines or len(set(engines)) < len(engines):
        raise InputError(f"engines: expected one or more, each once, got {engines}")
    if not timesteps or timesteps != sorted(set(timesteps)):
        raise InputError(f"timesteps: expected rising numbers, got {timesteps}")
    if batch < 1 or warmup < 0 or not duration > 0:
        raise InputError(
            f"expected batch from 1, warmup from 0 and duration above 0, got {batch}, {warmup}, {duration}"
        )
    with ExitStack() as stack:
        sessions = {name: stack.enter_context(Session(path, engine=name, threads=threads)) for name in engines}
        first = sessions[engines[0]]
        images, source = _images(first, batch, data)
        inputs = {t: np.ascontiguousarray(presented(first, images, t)) for t in timesteps}
        runs = {
            (name, t): partial(session.run, {INPUT: x}, t)
            for name, session in sessions.items()
            for t, x in inputs.items()
        }
        stats = {key: value.scaled(MS / batch) for key, value in measure(runs, warmup, duration).items()}
        return LatencyReport(
            str(path), first.metadata, source, batch, first.threads, warmup, duration,
            _rows(stats, engines, timesteps), machine_facts(),
        )  # fmt: skip


def _rows(stats: dict[tuple[str, int], Stats], engines: list[str], timesteps: list[int]) -> list[Row]:
    rows = []
    for engine in engines:
        before: int | None = None
        for t in timesteps:
            median = stats[engine, t].p50
            marginal = None if before is None else (median - stats[engine, before].p50) / (t - before)
            rows.append(Row(engine, t, stats[engine, t], marginal, stats[engines[0], t].p50 / median))
            before = t
    return rows


def _images(session: Session, batch: int, data: Path | None) -> tuple[NDArray[np.float32], str]:
    name = session.metadata.get("dataset", "")
    try:
        images = dataset_inputs(session, load_dataset(name, data), "test")
    except (DataError, MissingExtraError):
        noise = np.random.default_rng(0).standard_normal((batch, *session.input_shape), dtype=np.float32)
        return noise, "standard normal noise: the model's data set is not at hand"
    return np.ascontiguousarray(np.resize(images, (batch, *images.shape[1:]))), f"test images of {name}"
