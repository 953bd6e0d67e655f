"""The interface of all engines, which spiketicket.runtime.engines.registry lists.

`Session` checks arguments; an engine may trust them: `x` is finite float32 `[N, *input_shape]` (of a graph with
a timed input, `[timesteps, N, *input_shape]`) with N >= 1, C-contiguous, and `timesteps` is in 1..MAX_TIMESTEPS.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from spiketicket.errors import InputError, extra
from spiketicket.graph import Graph, Lif
from spiketicket.model.reader import read_model

Floats = NDArray[np.float32]
Spikes = NDArray[np.uint8]

MAX_TIMESTEPS = 4096

AUTO, FIXED = "auto", "fixed"  # plans of every engine; others name a kernel of one engine
BY_ESTIMATE = "the least work by estimate"


@dataclass(frozen=True)
class Model:
    """A model file, read and checked."""

    path: Path
    data: bytes
    graph: Graph


@dataclass(frozen=True)
class Trace:
    """Result of one run: spikes `[T, N, ...]` of every LIF layer, in order, and logits `[T, N, classes]`."""

    spikes: Mapping[str, NDArray[np.generic]]
    logits_t: NDArray[np.floating]


@dataclass(frozen=True)
class KernelChoice:
    """How an engine runs one layer."""

    kernel: str
    why: str
    part_of: str | None = None  # the layer whose kernel computes this one too
    nbytes: int | None = None  # size of the weights as the kernel stores them, if known


@dataclass(frozen=True)
class Options:
    """How a session runs. An engine ignores the options that offer it no choice."""

    threads: int
    plan: str  # how kernels are chosen: AUTO, FIXED or one of the engine's `kernels`
    values: str  # one of the engine's `values`


def check_timesteps(steps: object) -> int:
    """Return `steps` if a run can have so many timesteps. Raises InputError otherwise."""
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or not 1 <= steps <= MAX_TIMESTEPS:
        raise InputError(f"timesteps must be a whole number from 1 to {MAX_TIMESTEPS}, got {steps!r}")
    return int(steps)


class Engine(ABC):
    """One way to run a model. Safe to call from several threads at once."""

    name: ClassVar[str]
    kernels: ClassVar[tuple[str, ...]] = ()  # their names are plans, besides AUTO and FIXED
    values: ClassVar[tuple[str, ...]] = ("float32",)  # types to which it can round weights
    reads_models: ClassVar[bool] = True  # otherwise it runs files of its own
    needs_gpu: ClassVar[bool] = False
    package: ClassVar[tuple[str, str] | None] = None  # an optional package that it needs, and its extra
    times_layers: ClassVar[bool] = False  # whether it has `time_layers`

    @classmethod
    def load(cls) -> Any:
        """Import and return the optional package that the engine needs, if any. Raises MissingExtraError."""
        if cls.package is None:
            return None
        package, name = cls.package
        with extra(package, name, f"engine {cls.name}"):
            return import_module(package)

    @classmethod
    def read(cls, path: Path) -> Model:
        """Read and check the file `path`. Raises ModelError."""
        graph, data = read_model(path)
        return Model(path, data, graph)

    @abstractmethod
    def __init__(self, model: Model, options: Options) -> None: ...

    @abstractmethod
    def run(self, x: Floats, timesteps: int) -> Floats:
        """Return the logits of every timestep, `[T, N, classes]`."""

    @abstractmethod
    def trace(self, x: Floats, timesteps: int) -> Trace:
        """Run once, and return the spikes, zeros and ones, with the logits that `run` gives.

        Raises InputError if an engine cannot show its spikes.
        """

    @abstractmethod
    def steps(self, x: Floats, timesteps: int) -> Iterator[Floats]:
        """Yield the logits `[N, classes]` of one timestep after the other."""

    @abstractmethod
    def plan(self) -> dict[str, KernelChoice]:
        """Return how each layer runs, by its name."""

    def time_layers(self, x: Floats, timesteps: int) -> dict[str, float]:
        """Run once, and return the seconds of each layer, in order, by the name under which `plan` has its kernel."""
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027  # most engines hold nothing that Python would not free
        """Give back threads and memory."""


def count_images(graph: Graph, x: Floats) -> int:
    """Return N of an input as `Engine.run` takes it."""
    return int(x.shape[1] if graph.timed_input else x.shape[0])


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the shape `[C, H, W]` of vectors `[F]`, signals `[C, L]` or images."""
    match shape:
        case (features,):
            return features, 1, 1
        case (channels, length):
            return channels, 1, length
    return shape[0], shape[1], shape[2]


def names_by_lif_output(graph: Graph) -> dict[str, str]:
    """Return the name of every LIF layer by its output value."""
    return {node.output: node.name for node in graph.nodes if isinstance(node, Lif)}
