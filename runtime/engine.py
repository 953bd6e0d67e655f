"""What every engine implements, and the one list of engines.

`Session` checks arguments; an engine may trust them: `x` is finite float32 `[N, *input_shape]` (of a graph with
a timed input, `[timesteps, N, *input_shape]`) with N >= 1, C-contiguous, and `timesteps` lies in 1..MAX_TIMESTEPS.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spiketicket.errors import InputError
from spiketicket.graph import Graph, Lif
from spiketicket.model.reader import read_model

Floats = NDArray[np.float32]
Spikes = NDArray[np.uint8]

MAX_TIMESTEPS = 4096


@dataclass(frozen=True)
class Model:
    """A model file, read and checked."""

    path: Path
    data: bytes
    graph: Graph


@dataclass(frozen=True)
class Trace:
    """What a network did: spikes `[T, N, ...]` of every LIF layer, in order, and logits `[T, N, classes]`."""

    spikes: Mapping[str, NDArray[np.generic]]
    logits_t: NDArray[np.floating]


@dataclass(frozen=True)
class Plan:
    """How an engine runs one layer."""

    kernel: str
    why: str
    part_of: str | None = None  # the layer whose kernel computes this one too
    nbytes: int | None = None  # of the weights as the kernel stores them, where that is known


@dataclass(frozen=True)
class Options:
    """How a session runs. Engines ignore what they have no choice in."""

    threads: int
    plan: str  # how kernels are chosen (planner.py)
    values: str  # float32, or int16: weights may be rounded


def check_timesteps(steps: object) -> int:
    """A number of timesteps, if a run can have so many. Raises InputError."""
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or not 1 <= steps <= MAX_TIMESTEPS:
        raise InputError(f"timesteps must be a whole number from 1 to {MAX_TIMESTEPS}, got {steps!r}")
    return int(steps)


class Engine(ABC):
    """One way to run a model. Safe to call from several threads at once."""

    @classmethod
    def read(cls, path: Path) -> Model:
        """The file `path`, read and checked. Raises ModelError."""
        graph, data = read_model(path)
        return Model(path, data, graph)

    times_layers = False  # whether it has `time_layers`

    @abstractmethod
    def __init__(self, model: Model, options: Options) -> None: ...

    @abstractmethod
    def run(self, x: Floats, timesteps: int) -> Floats:
        """Logits of every timestep, `[T, N, classes]`."""

    @abstractmethod
    def trace(self, x: Floats, timesteps: int) -> Trace:
        """Run once, and return the spikes, zeros and ones, with the logits that `run` gives.

        Raises InputError where an engine cannot show its spikes.
        """

    @abstractmethod
    def steps(self, x: Floats, timesteps: int) -> Iterator[Floats]:
        """Logits `[N, classes]` of one timestep after the other."""

    @abstractmethod
    def plan(self) -> dict[str, Plan]:
        """How each layer runs, by name."""

    def time_layers(self, x: Floats, timesteps: int) -> dict[str, float]:
        """Run once; the seconds that each layer took, in order, by the name under which `plan` has its kernel."""
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027  # most engines hold nothing that Python would not free
        """Give back threads and memory."""


def count_images(graph: Graph, x: Floats) -> int:
    """N of an input as `Engine.run` takes it."""
    return int(x.shape[1] if graph.timed_input else x.shape[0])


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Vectors [F] and signals [C, L] as images."""
    match shape:
        case (features,):
            return features, 1, 1
        case (channels, length):
            return channels, 1, length
    return shape[0], shape[1], shape[2]


def names_by_lif_output(graph: Graph) -> dict[str, str]:
    """Output value -> layer name of every LIF."""
    return {node.output: node.name for node in graph.nodes if isinstance(node, Lif)}


_ENGINES = {
    "native": ("spiketicket.runtime.engines.native.engine", "NativeEngine"),
    "onnxruntime": ("spiketicket.runtime.engines.onnxruntime", "OnnxRuntimeEngine"),
    "reference": ("spiketicket.runtime.engines.reference", "ReferenceEngine"),
}

_ON_GPU = {"cuda": ("spiketicket.runtime.engines.cuda.engine", "CudaEngine")}

ENGINE_NAMES = tuple(_ENGINES)  # of those that run model files on any machine
MODEL_ENGINES = (*ENGINE_NAMES, *_ON_GPU)  # of those that run model files

# Engines that run files of their own.
_COMPILED = {"tensorrt": ("spiketicket.runtime.engines.tensorrt.engine", "TensorRTEngine")}
DEFAULT_ENGINE = "native"


def find_engine(name: str) -> type[Engine]:
    """The engine class of `name`, imported on demand. Raises InputError for an unknown name."""
    engines = _ENGINES | _ON_GPU | _COMPILED
    if name not in engines:
        raise InputError(f"unknown engine {name!r}: expected one of auto, {', '.join(engines)}")
    module, attribute = engines[name]
    engine: type[Engine] = getattr(import_module(module), attribute)
    return engine
