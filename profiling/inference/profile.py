"""Take the whole profile of one or several model files."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from spiketicket.errors import DeviceError, InputError
from spiketicket.model.names import VERIFICATION
from spiketicket.profiling.decisions.stored import FORMAT, VERSION
from spiketicket.profiling.inference.accuracy import (
    AtTimesteps,
    EarlyExit,
    by_timestep,
    early_exit,
    mean_logits,
    usual_margins,
)
from spiketicket.profiling.inference.latency import Latencies, measure_latency
from spiketicket.profiling.inference.samples import Samples, load_samples
from spiketicket.profiling.inference.settings import ProfileSettings
from spiketicket.profiling.inference.throughput import Throughput, measure_throughput
from spiketicket.profiling.layers.energy import EnergyTable
from spiketicket.profiling.layers.profile import LayerProfile, profile_layers
from spiketicket.profiling.measure.machine import machine_facts
from spiketicket.profiling.measure.memory import Memory, measure_memory
from spiketicket.profiling.measure.noise import Noise, Watch
from spiketicket.runtime import Session
from spiketicket.runtime.engines.registry import ENGINE_NAMES, MODEL_ENGINES
from spiketicket.runtime.inputs import model_input


@dataclass(frozen=True)
class Data:
    """The images of a profile. `dataset` None is the model's own, and `limit` the number of images for accuracy."""

    dataset: str | None = None
    folder: Path | None = None
    limit: int | None = None


@dataclass(frozen=True)
class ModelProfile:
    """All measurements of one file. `accuracy` and `exits` are empty without labelled images."""

    path: Path
    name: str
    metadata: dict[str, str]
    samples: Samples
    latency: Latencies
    throughput: list[Throughput]
    accuracy: list[AtTimesteps]
    exits: list[EarlyExit]
    layers: LayerProfile
    memory: dict[str, Memory]  # by engine
    noises: dict[str, Noise]  # what was measured -> noise during that

    def to_dict(self, settings: ProfileSettings) -> dict[str, Any]:
        return {
            "name": self.name,
            "path": str(self.path),
            "file_bytes": self.path.stat().st_size,
            "metadata": self.metadata,
            "input": self.samples.source,
            "latency": [row.to_dict(settings.percentiles) for row in self.latency.rows],
            "first_logits": [row.to_dict() for row in self.latency.first],
            "throughput": [row.to_dict() for row in self.throughput],
            "accuracy": [row.to_dict() for row in self.accuracy],
            "early_exit": [{**row.to_dict(), "ms": self.exit_ms().get(row.margin)} for row in self.exits],
            "layers": self.layers.to_dict(),
            "memory": [{"engine": engine, **memory.to_dict()} for engine, memory in self.memory.items()],
            "missing": self.latency.missing,
        }

    def exit_ms(self) -> dict[float | None, float]:
        """Return the median milliseconds per image of early exit by margin, with the first number of threads."""
        rows = [row for row in self.latency.exits if row.threads == self.latency.exits[0].threads]
        return {row.margin: 1e3 * row.timing.median().value for row in rows}


@dataclass(frozen=True)
class InferenceProfile:
    created: str
    settings: ProfileSettings
    machine: dict[str, str]
    models: list[ModelProfile]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return sentences about what makes figures doubtful, and which figures."""
        several = len(self.models) > 1
        return tuple(
            f"{model.name}, {what}: {warning}" if several else f"{what.capitalize()}: {warning}"
            for model in self.models
            for what, noise in model.noises.items()
            for warning in noise.warnings
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "kind": "inference",
            "created": self.created,
            "settings": self.settings.to_dict(),
            "machine": self.machine,
            "warnings": list(self.warnings),
            "noise": [noise.to_dict() for model in self.models for noise in model.noises.values()],
            "models": [model.to_dict(self.settings) for model in self.models],
        }


def profile_models(
    paths: Sequence[Path], settings: ProfileSettings, data: Data, energy: EnergyTable, say: Callable[[str], None]
) -> InferenceProfile:
    """Measure every file; `say` is called with what is being measured. Raises InputError, ModelError, DataError."""
    machine = machine_facts()
    models = []
    for path, name in zip(paths, names(paths), strict=True):

        def tell(what: str, name: str = name) -> None:
            say(f"{name}: {what} ...")

        models.append(_profile(path, name, settings, data, energy, tell))
    return InferenceProfile(datetime.now().astimezone().isoformat(timespec="seconds"), settings, machine, models)


def names(paths: Sequence[Path]) -> list[str]:
    """Return file names, with folders where they are needed to tell them apart. Raises InputError for duplicates."""
    resolved = [path.resolve() for path in paths]
    if len(set(resolved)) < len(resolved):
        raise InputError(f"models: expected each file once, got {', '.join(map(str, paths))}")
    for depth in range(1, max((len(path.parts) for path in resolved), default=1) + 1):
        short = ["/".join(path.parts[-depth:]) for path in resolved]
        if len(set(short)) == len(short):
            return short
    return [str(path) for path in paths]


def open_session(path: Path, settings: ProfileSettings) -> Session:
    """Open the model on the engine that accuracy and layers are measured on: native, or else the first one asked for
    that runs model files here."""
    candidates = [name for name in settings.engines if name in MODEL_ENGINES]
    for name in sorted(candidates, key=lambda name: name != "native"):
        with suppress(ImportError, DeviceError):
            return Session(path, engine=name, threads=settings.threads[0])
    return Session(path, engine="reference", threads=settings.threads[0])


def _profile(
    path: Path, name: str, settings: ProfileSettings, data: Data, energy: EnergyTable, say: Callable[[str], None]
) -> ModelProfile:
    with open_session(path, settings) as session:
        most = settings.timesteps[-1]
        samples = load_samples(session, data.dataset, data.folder, data.limit)
        accuracy: list[AtTimesteps] = []
        exits: list[EarlyExit] = []
        margins: Sequence[float] = settings.margins
        if samples.labels is not None:
            say(f"accuracy on {len(samples.images):,} images")
            means = mean_logits(session, samples.images, most)
            margins = margins or usual_margins(means)
            accuracy = by_timestep(means, samples.labels)
            exits = early_exit(means, samples.labels, margins)
        say("layers")
        several = np.ascontiguousarray(model_input(session, np.concatenate(samples.batches(session.batch or 1)), most))
        with Watch() as watch:
            layers = profile_layers(session, several, most, duration=settings.duration, energy=energy)
        one = np.array(model_input(session, samples.batches(1)[0], most))
        metadata = {key: value for key, value in session.metadata.items() if key != VERIFICATION}
    say(f"latency on {', '.join(settings.engines)}")
    latency = measure_latency(path, samples, settings, margins)
    throughput = []
    if settings.streams is not None:
        say(f"throughput with {settings.streams} streams")
        throughput = measure_throughput(path, samples, settings, settings.streams)
    say("memory")
    measured = [engine for engine in settings.engines if engine in ENGINE_NAMES and engine not in latency.missing]
    memory = {engine: measure_memory(engine, path, one, settings.threads[0], most) for engine in measured}
    noises = {**latency.noises, "layers": watch.noise(0.0)}
    return ModelProfile(path, name, metadata, samples, latency, throughput, accuracy, exits, layers, memory, noises)
