"""The native engine, in C++ (docs/engine.md). The extension is imported when it is used: it may not be built."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from spiketicket.errors import InputError
from spiketicket.runtime.engine import (
    Engine,
    Floats,
    KernelChoice,
    Model,
    Options,
    Spikes,
    Trace,
    count_images,
    names_by_lif_output,
)
from spiketicket.runtime.engines.native.planner import KERNELS


def build_info() -> dict[str, str]:
    """Return the compiler, the sanitizers, the instruction set in use and all that could be (`isas`)."""
    from spiketicket.runtime.engines.native.lowering import _native

    return dict(_native.build_info())


class NativeEngine(Engine):
    name = "native"
    kernels = KERNELS
    values = ("float32", "int16")
    times_layers = True

    @classmethod
    def load(cls) -> None:
        """Import the C++ extension. Raises ImportError if this installation has none."""
        build_info()

    def __init__(self, model: Model, options: Options) -> None:
        from spiketicket.runtime.engines.native.lowering import Lowered

        self.graph = model.graph
        try:
            self.lowered = Lowered(model, options)
        except ValueError as error:
            raise InputError(str(error)) from error

    def run(self, x: Floats, timesteps: int) -> Floats:
        return self._run(x, timesteps, [])

    def trace(self, x: Floats, timesteps: int) -> Trace:
        arrays = {}
        recordings = []
        for value, name in names_by_lif_output(self.graph).items():
            shape = self.graph.values[value].shape
            arrays[name] = np.empty((timesteps, count_images(self.graph, x), *shape), dtype=np.uint8)
            recordings.append((self.lowered.ids[value], arrays[name]))
        return Trace(arrays, self._run(x, timesteps, recordings))

    def steps(self, x: Floats, timesteps: int) -> Iterator[Floats]:
        # Now: the caller may change x before asking for a step.
        stepper = self.lowered.network.begin(x, count_images(self.graph, x), timesteps)
        shape = (count_images(self.graph, x), self.graph.classes)

        def step() -> Floats:
            logits = np.empty(shape, dtype=np.float32)
            stepper.step(logits)
            return logits

        return (step() for _ in range(timesteps))

    def time_layers(self, x: Floats, timesteps: int) -> dict[str, float]:
        milliseconds = np.zeros(self.lowered.network.operations)
        self._run(x, timesteps, [], milliseconds)
        seconds, begin = {}, 0
        for end, name in self.lowered.operations:  # a layer has its own operation, and those that arrange its input
            seconds[name] = float(milliseconds[begin:end].sum()) * 1e-3
            begin = end
        seconds[name] += float(milliseconds[begin:].sum()) * 1e-3
        return seconds

    def plan(self) -> dict[str, KernelChoice]:
        return self.lowered.plan

    def _run(
        self,
        x: Floats,
        timesteps: int,
        recordings: list[tuple[int, Spikes]],
        milliseconds: NDArray[np.float64] | None = None,  # one for every operation
    ) -> Floats:
        logits = np.empty((timesteps, count_images(self.graph, x), self.graph.classes), dtype=np.float32)
        self.lowered.network.run(x, count_images(self.graph, x), timesteps, logits, recordings, milliseconds)
        return logits
