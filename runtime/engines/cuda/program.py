"""A network for one T and one number of images: buffers, launches in order, and the CUDA graph of them."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spiketicket.runtime.engine import Floats
from spiketicket.runtime.engines.cuda.buffers import Buffer, Layout
from spiketicket.runtime.engines.cuda.fusion import SPIKES, TIMED, Fused, pads
from spiketicket.runtime.engines.cuda.kernels import Launch
from spiketicket.runtime.engines.cuda.lowering import Lowering
from spiketicket.runtime.engines.cuda.store import Store

RESULT = "result"  # the logits as they are copied out


@dataclass(frozen=True)
class Choice:
    """The kernel of a weighted layer. `nbytes` is the size of the weights in the form that it reads."""

    kernel: str
    why: str
    nbytes: int


class Program:
    """A network for one T and one number of images. It must be made, captured and run with its stream as the present
    one, and `choices` must be set before it is captured.

    With `state`, membrane potentials are kept between launches, for runs of more timesteps than one launch computes.
    """

    def __init__(self, fused: Fused, store: Store, timesteps: int, images: int, *, state: bool) -> None:
        self.fused, self.store, self.cupy = fused, store, store.cupy
        self.timesteps, self.images = timesteps, images
        borders = pads(fused)
        self.buffers = {
            value: self._buffer(Layout(fused.shape(value), borders[value], kind)) for value, kind in fused.kinds.items()
        }
        self.resume = self.cupy.zeros(1, np.int32) if state else None
        self.states: dict[str, Any] = {}
        lowering = Lowering(fused, store, timesteps, images, self.buffers, self.resume, self.states)
        graph = fused.graph
        self.staging = self._buffer(Layout(fused.shape(graph.input), (0, 0, 0, 0), fused.kinds[graph.input]))
        self.works = [lowering.work(op) for op in fused.ops]
        logits = fused.sources[graph.output]
        self.result = self._buffer(Layout(fused.shape(logits), (0, 0, 0, 0), TIMED))
        self.before = lowering.pointwise(graph.input, [self.staging], self.buffers[graph.input])
        self.behind = lowering.pointwise(RESULT, [self.buffers[logits]], self.result)
        self.choices: dict[str, Choice] = {}  # by the name of the layer
        self.functions: dict[str, Any] = {}
        self.graph: Any = None

    @property
    def names(self) -> set[str]:
        """Return the names of all kernels that the program may launch."""
        every = [self.before, self.behind]
        for work in self.works:
            every += [*work.launches, *work.choices.values()]
        return {launch.kernel for launch in every}

    def load(self) -> None:
        """Compile the kernels, or take them from the store."""
        self.functions = self.store.functions(self.names)

    def fill(self) -> None:
        """Fill all values with noise for measurements, with 15% of spikes."""
        rng = np.random.default_rng(0)
        for buffer in self.buffers.values():
            shape = buffer.array.shape
            noise = np.zeros(shape, buffer.layout.dtype)
            inside = buffer.layout.inside(noise)
            if buffer.layout.kind == SPIKES:
                for t in range(self.timesteps):
                    inside |= (rng.random(inside.shape, np.float32) < 0.15).astype(np.uint8) << np.uint8(t)
            else:
                inside += rng.standard_normal(inside.shape, np.float32)
            buffer.array.set(noise)

    def launches(self) -> list[tuple[str, Launch]]:
        """Return all launches in order, each with the name of the layer that it computes."""
        found = [("input", self.before)]
        for work in self.works:
            name = work.op.parts[0]
            found += [(name, launch) for launch in work.launches]
            if work.choices:
                found.append((name, work.choices[self.choices[name].kernel]))
        return [*found, ("logits", self.behind)]

    def launch(self, one: Launch) -> None:
        """Launch one kernel on the present stream."""
        self.functions[one.kernel](one.grid, one.block, one.arguments)

    def capture(self, stream: Any) -> None:
        """Capture all launches as one CUDA graph. They run once before, because a kernel's first launch cannot be
        captured.
        """
        for _, one in self.launches():
            self.launch(one)
        stream.synchronize()
        stream.begin_capture()
        for _, one in self.launches():
            self.launch(one)
        self.graph = stream.end_capture()

    def run(self, x: Floats, stream: Any, *, resumes: bool) -> Floats:
        """Run the network on `[N, ...]` (`[T, N, ...]` for a timed input) and return the logits `[T, N, classes]`."""
        self.staging.array.set(x.reshape(self.staging.array.shape))
        if self.resume is not None:
            self.resume.fill(int(resumes))
        self.graph.launch(stream)
        logits: Floats = self.result.array.get()
        return logits.reshape(*logits.shape[:2], -1)

    def timed(self, x: Floats, stream: Any) -> list[tuple[str, float]]:
        """Return the seconds of every launch of a run in order, each with its layer's name; a layer may have several
        launches.
        """
        self.staging.array.set(x.reshape(self.staging.array.shape))
        launches, event = self.launches(), self.cupy.cuda.Event
        marks = [event() for _ in range(len(launches) + 1)]
        marks[0].record(stream)
        for mark, (_, one) in zip(marks[1:], launches, strict=True):
            self.launch(one)
            mark.record(stream)
        marks[-1].synchronize()
        elapsed = self.cupy.cuda.get_elapsed_time
        return [
            (name, 1e-3 * float(elapsed(a, b))) for (name, _), (a, b) in zip(launches, pairwise(marks), strict=True)
        ]

    def saved(self) -> dict[str, Any]:
        """Return copies of the membrane potentials."""
        return {name: potentials.copy() for name, potentials in self.states.items()}

    def restore(self, saved: dict[str, Any]) -> None:
        """Restore the membrane potentials `saved`, possibly by another program of the same network."""
        for name, potentials in self.states.items():
            potentials[...] = saved[name]

    def spikes(self, value: str) -> NDArray[np.uint8]:
        """Return a value of spikes after a run, as zeros and ones `[T, N, C, H, W]`."""
        buffer = self.buffers[value]
        words = buffer.layout.inside(buffer.array.get())
        return np.stack([words >> t & 1 for t in range(self.timesteps)])

    def _buffer(self, layout: Layout) -> Buffer:
        return Buffer(layout, self.cupy.zeros(layout.allocated(self.timesteps, self.images), layout.dtype))
