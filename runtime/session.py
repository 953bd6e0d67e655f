"""`Session`: open a model file, run it, see how it runs."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from spiketicket.errors import InputError
from spiketicket.graph import Conv, Graph, Linear
from spiketicket.model.names import INPUT, LOGITS, LOGITS_T
from spiketicket.runtime.engine import (
    AUTO,
    Engine,
    Floats,
    Options,
    Spikes,
    Trace,
    check_timesteps,
)
from spiketicket.runtime.engines.registry import DEFAULT_ENGINE, check_choices, find_engine


@dataclass(frozen=True)
class LayerInfo:
    """One layer of a model: what it is and how the session's engine runs it."""

    name: str
    kind: str  # the node's class in spiketicket.graph: Conv, Linear, Lif, ...
    shape: tuple[int, ...]  # shape of the weight, or of the output without one
    timed: bool  # runs at every timestep (otherwise once per input)
    density: float | None  # share of nonzero weights
    nbytes: int  # bytes of weight and bias in the file
    macs: int  # multiply-accumulates with surviving weights, per run
    kernel: str
    why: str
    part_of: str | None  # the layer whose kernel computes this one too
    kernel_nbytes: int | None  # bytes of the weights as the kernel stores them, if known


class Session:
    """A loaded model.

        with Session("model.onnx") as session:
            logits = session.run({"input": images})["logits"]

    Parameters:

    - `engine` is auto (native), native, onnxruntime, reference or cuda (docs/gpu.md), or tensorrt for an engine file
      (docs/tensorrt.md).
    - `threads` is the number of CPU threads. The default is as many as this process may use.
    - `plan` says how kernels are chosen. With auto, each layer gets its fastest kernel by a measurement, which the
      native engine makes once per machine and model, and keeps. With fixed, it is chosen by estimate, so that results
      are the same on every machine to the last bit. The name of a kernel takes it for every layer that it suits:
      events, events-int16, sparse-events, masks and tables in the native engine, sparse, tensor and tensor/sparse in
      cuda.
    - `values` is float32, int16 or float16. With int16, the native engine may round the weights of a layer to integers
      of at most 1023 times a scale per output if that is faster; sums of them are exact, and 16 bits cannot overflow.
      With float16, cuda rounds weights on the tensor cores to float16 times a scale per output.

    Raises ModelError for a damaged or foreign file, and InputError for an unknown engine, plan or values, for those of
    another engine, and for a bad number of threads. A session can be called from several threads at once.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        engine: str = "auto",
        threads: int | None = None,
        plan: str = AUTO,
        values: str = "float32",
    ) -> None:
        self.engine_name = DEFAULT_ENGINE if engine == "auto" else engine
        engine_class = find_engine(self.engine_name)
        self.threads = _check_threads(threads)
        check_choices(engine_class, plan, values)
        model = engine_class.read(Path(path))
        self._graph = model.graph
        self._engine: Engine | None = engine_class(model, Options(self.threads, plan, values))

    @property
    def graph(self) -> Graph:
        """The network that the file holds."""
        return self._graph

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image: `[C, H, W]`, `[C, L]` or `[F]`."""
        return self._graph.input_shape

    @property
    def timed_input(self) -> bool:
        """Return whether a run takes a frame per timestep, `[T, N, *input_shape]`: event data."""
        return self._graph.timed_input

    @property
    def timesteps(self) -> int:
        """The number of timesteps that a run takes by default; with a timed input, that the model was made for."""
        return self._graph.timesteps

    @property
    def batch(self) -> int | None:
        """The number N of inputs that every run takes; None: any."""
        return self._graph.batch

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of the model file: fingerprint, data set, normalisation, sparsity and others, as text by key."""
        return dict(self._graph.metadata)

    def run(self, inputs: Mapping[str, NDArray[np.float32]], timesteps: int | None = None) -> dict[str, Floats]:
        """Run `{"input": float32 [N, *input_shape]}`, already normalised.

        A model with a timed input takes `[T, N, *input_shape]`, which says how many timesteps there are; `timesteps`
        is best left out then. Returns `logits` `[N, classes]`, the mean over time, and `logits_t` `[T, N, classes]`.
        Raises InputError for a wrong name, type, shape, a NaN, timesteps outside 1..4096 or other than the input's.
        """
        x, timesteps = self._check(inputs, timesteps)
        logits_t = self._open().run(x, timesteps)
        return {LOGITS: logits_t.mean(axis=0), LOGITS_T: logits_t}

    def run_timesteps(
        self, inputs: Mapping[str, NDArray[np.float32]], timesteps: int | None = None, margin: float | None = None
    ) -> Iterator[Floats]:
        """Yield, after each timestep, the mean logits `[N, classes]` so far.

        Early exit: with a `margin`, ends after the timestep at which the best mean logit of every image
        leads the second best by at least that much; or stop taking values when you have seen enough.
        The native engine computes a timestep only when asked for it (the onnxruntime and reference
        engines compute all of them at the first). Raises InputError as `run`, and for a negative margin.
        """
        x, timesteps = self._check(inputs, timesteps)
        if margin is not None and (isinstance(margin, bool | str) or not margin >= 0):
            raise InputError(f"margin must be a number from 0, got {margin!r}")
        return _running_mean(self._open().steps(x, timesteps), margin)

    def trace(self, inputs: Mapping[str, NDArray[np.float32]], timesteps: int | None = None) -> Trace:
        """Run once and return the spikes of every LIF layer together with the logits of every timestep.

        Raises InputError for what `run` refuses, and if the engine does not output its spikes.
        """
        x, timesteps = self._check(inputs, timesteps)
        return self._open().trace(x, timesteps)

    def spikes(self, inputs: Mapping[str, NDArray[np.float32]], timesteps: int | None = None) -> dict[str, Spikes]:
        """Return the spikes of every LIF layer by its name: zeros and ones, uint8 `[T, N, ...]`."""
        return {name: np.asarray(spikes, np.uint8) for name, spikes in self.trace(inputs, timesteps).spikes.items()}

    def layers(self) -> list[LayerInfo]:
        """Return every layer in order of execution, with the kernel that runs it and why."""
        plan = self._open().plan()
        infos = []
        for node in self._graph.nodes:
            value = self._graph.values[node.output]
            weighted = node if isinstance(node, Conv | Linear) else None
            infos.append(
                LayerInfo(
                    name=node.name,
                    kind=type(node).__name__,
                    shape=weighted.weight.shape if weighted else value.shape,
                    timed=value.timed,
                    density=weighted.weight.density if weighted else None,
                    nbytes=weighted.weight.nbytes + weighted.bias.nbytes if weighted else 0,
                    macs=self._graph.macs(weighted) if weighted else 0,
                    kernel=plan[node.name].kernel,
                    why=plan[node.name].why,
                    part_of=plan[node.name].part_of,
                    kernel_nbytes=plan[node.name].nbytes,
                )
            )
        return infos

    def time_layers(self, inputs: Mapping[str, NDArray[np.float32]], timesteps: int | None = None) -> dict[str, float]:
        """Run once, with a clock between the layers, and return the seconds of each, in order of execution.

        Keys are the layers of `layers()` that are computed on their own; those with a `part_of` are in the time of that
        layer, those that cost nothing are left out. Where every thread computes images of its own, they are means over
        threads. Raises InputError as `run`, and for engines that cannot time layers (`times_layers`).
        """
        x, timesteps = self._check(inputs, timesteps)
        engine = self._open()
        if not engine.times_layers:
            raise InputError(f"engine {self.engine_name} does not tell how long each layer takes: native and cuda do")
        return engine.time_layers(x, timesteps)

    @property
    def times_layers(self) -> bool:
        """Whether the engine can tell how long each layer takes."""
        return self._open().times_layers

    def close(self) -> None:
        """Give back threads and memory; the session cannot run afterwards."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> Engine:
        if self._engine is None:
            raise InputError("this session is closed")
        return self._engine

    def _check(self, inputs: Mapping[str, NDArray[np.float32]], timesteps: int | None) -> tuple[Floats, int]:
        if not isinstance(inputs, Mapping) or set(inputs) != {INPUT}:
            got = sorted(map(str, inputs)) if isinstance(inputs, Mapping) else type(inputs).__name__
            raise InputError(f'expected {{"{INPUT}": array}}, got {got}')
        x = inputs[INPUT]
        free = ("T", "N") if self.timed_input else ("N",)
        expected = f"float32 [{', '.join(map(str, (*free, *self.input_shape)))}]"
        if not isinstance(x, np.ndarray):
            raise InputError(f"{INPUT} must be a NumPy array, {expected}, got {type(x).__name__}")
        leading, shape = x.shape[: len(free)], x.shape[len(free) :]
        if x.dtype != np.float32 or shape != self.input_shape or 0 in leading:
            raise InputError(
                f"{INPUT} must be {expected} with {' >= 1, '.join(free)} >= 1, got {x.dtype} {list(x.shape)}"
            )
        if not np.isfinite(x).all():
            raise InputError(f"{INPUT} holds NaN or infinity")
        default = len(x) if self.timed_input else self.timesteps
        steps = check_timesteps(default if timesteps is None else timesteps)
        if self._graph.fixed_timesteps and steps != self.timesteps:
            raise InputError(f"this model runs {self.timesteps} timesteps, no other number, got {steps}")
        batch = x.shape[len(free) - 1]
        if self.batch is not None and batch != self.batch:
            raise InputError(f"this model takes {self.batch} inputs at a time, no other number, got {batch}")
        if self.timed_input and steps != len(x):
            raise InputError(f"timesteps is {steps}, but {INPUT} {list(x.shape)} has T = {len(x)}: leave timesteps out")
        return np.ascontiguousarray(x), steps


def _running_mean(logits: Iterator[Floats], margin: float | None) -> Iterator[Floats]:
    total = None
    for count, step in enumerate(logits, 1):
        total = step if total is None else total + step
        mean = total / np.float32(count)
        yield mean
        if margin is not None and (top_two_margin(mean) >= margin).all():
            return


def top_two_margin(logits: Floats) -> Floats:
    """Return the difference `[N]` between the two largest of the logits `[N, classes]`; infinite for one class."""
    if logits.shape[1] == 1:
        return np.full(len(logits), np.inf, dtype=np.float32)
    two = np.partition(logits, -2, axis=1)[:, -2:]
    return two[:, 1] - two[:, 0]


def _check_threads(threads: int | None) -> int:
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 1024:
        raise InputError(f"threads must be a whole number from 1 to 1024, got {threads!r}")
    return threads
