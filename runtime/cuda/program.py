"""A network for one T and one number of images: buffers, launches in order, and the CUDA graph of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spiketicket.graph import Add, And, AvgPool, Concat, Conv, Li, Lif, Linear, MaxPool
from spiketicket.runtime.cuda import kernels
from spiketicket.runtime.cuda.buffers import NOTHING, Buffer, Layout
from spiketicket.runtime.cuda.fusion import SPIKES, TIMED, Fused, Op, pads
from spiketicket.runtime.cuda.kernels import Launch
from spiketicket.runtime.cuda.store import Store
from spiketicket.runtime.engine import Floats
from spiketicket.runtime.rates import Rates, rates

PASS, HARD, SOFT, LEAK = range(4)  # `Cell` of common.cuh
COPY, AND, AND_NOT = range(3)  # `Gate` of pointwise.cuh
RESULT = "result"  # the logits as they are copied out


@dataclass(frozen=True)
class Work:
    """What an op launches; of a weighted layer one of several kernels. `positions`: of an image, that it gives."""

    op: Op
    launches: tuple[Launch, ...]
    choices: dict[str, Launch]
    positions: int = 0


@dataclass(frozen=True)
class Choice:
    """A kernel for a weighted layer. `nbytes`: of the weights in the form that it reads."""

    kernel: str
    why: str
    nbytes: int


class Program:
    """Made, captured and run with its stream as the present one; `choices` must be set before it is captured.

    `state`: potentials outlast a launch, for runs of more timesteps than one launch computes.
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
        graph = fused.graph
        self.staging = self._buffer(Layout(fused.shape(graph.input), (0, 0, 0, 0), fused.kinds[graph.input]))
        self.works = [self._work(op) for op in fused.ops]
        logits = fused.sources[graph.output]
        self.result = self._buffer(Layout(fused.shape(logits), (0, 0, 0, 0), TIMED))
        self.before = self._pointwise(graph.input, [self.staging], self.buffers[graph.input])
        self.behind = self._pointwise(RESULT, [self.buffers[logits]], self.result)
        self.choices: dict[str, Choice] = {}  # by the name of the layer
        self.functions: dict[str, Any] = {}
        self.graph: Any = None

    @property
    def names(self) -> set[str]:
        """Of all kernels that it may launch."""
        every = [self.before, self.behind]
        for work in self.works:
            every += [*work.launches, *work.choices.values()]
        return {launch.kernel for launch in every}

    def load(self) -> None:
        """Compile the kernels, or take them from the store."""
        self.functions = self.store.functions(self.names)

    def fill(self) -> None:
        """Noise in all values, for measurements: 15% of spikes."""
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
        """With the name of the layer that each computes, in order."""
        found = [("input", self.before)]
        for work in self.works:
            name = work.op.parts[0]
            found += [(name, launch) for launch in work.launches]
            if work.choices:
                found.append((name, work.choices[self.choices[name].kernel]))
        return [*found, ("logits", self.behind)]

    def launch(self, one: Launch) -> None:
        """On the present stream."""
        self.functions[one.kernel](one.grid, one.block, one.arguments)

    def capture(self, stream: Any) -> None:
        """All launches as one CUDA graph; they run once before, because a kernel's first launch cannot be captured."""
        for _, one in self.launches():
            self.launch(one)
        stream.synchronize()
        stream.begin_capture()
        for _, one in self.launches():
            self.launch(one)
        self.graph = stream.end_capture()

    def run(self, x: Floats, stream: Any, *, resumes: bool) -> Floats:
        """`[N, ...]`, or `[T, N, ...]` of a timed input -> logits `[T, N, classes]`."""
        self.staging.array.set(x.reshape(self.staging.array.shape))
        if self.resume is not None:
            self.resume.fill(int(resumes))
        self.graph.launch(stream)
        logits: Floats = self.result.array.get()
        return logits.reshape(*logits.shape[:2], -1)

    def timed(self, x: Floats, stream: Any) -> list[tuple[str, float]]:
        """Seconds of every launch of a run, in order; of several of one layer, one after the other."""
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
        """Copies of the potentials."""
        return {name: potentials.copy() for name, potentials in self.states.items()}

    def restore(self, saved: dict[str, Any]) -> None:
        """Potentials of `saved`, which may be another program's of the same network."""
        for name, potentials in self.states.items():
            potentials[...] = saved[name]

    def spikes(self, value: str) -> NDArray[np.uint8]:
        """Of a value of spikes, after a run: zeros and ones `[T, N, C, H, W]`."""
        buffer = self.buffers[value]
        words = buffer.layout.inside(buffer.array.get())
        return np.stack([words >> t & 1 for t in range(self.timesteps)])

    def _buffer(self, layout: Layout) -> Buffer:
        return Buffer(layout, self.cupy.zeros(layout.allocated(self.timesteps, self.images), layout.dtype))

    def _work(self, op: Op) -> Work:
        node, out = op.node, self.buffers[op.output]
        inputs = [self.buffers[name] for name in op.inputs]
        match node:
            case Conv() | Linear():
                return Work(op, (), self._weighted(op), prod(self._grid(op)))
            case Lif() | Li() | Add():
                return Work(op, (self._pointwise(op.output, inputs, out, op.neuron or node),), {})
            case Concat():
                return Work(op, tuple(self._joined(op, inputs, out)), {})
            case And():
                arguments = (*self._operands(inputs), *out.view(), *self._count(out.layout), np.int32(0))
                kind = np.int32(AND_NOT if node.negated else AND)
                return Work(op, (self._pointed("gate", out.layout, (*arguments, kind)),), {})
            case MaxPool() | AvgPool():
                return Work(op, (self._pool(node, inputs[0], out),), {})
        raise TypeError(f"no CUDA form for {type(node).__name__}")

    def _weighted(self, op: Op) -> dict[str, Launch]:
        """By the name of the kernel."""
        node, read, out = op.node, self.buffers[op.inputs[0]], self.buffers[op.output]
        assert isinstance(node, Conv | Linear)
        height, width = self._grid(op)
        down, right = 0, 0
        if isinstance(node, Conv):
            down, right = node.strides[0] * read.layout.pitch, node.strides[1]
        window = (2, 2) if op.pooled else (1, 1)
        patches = self.images * (height // window[0]) * (width // window[1])
        positions = self.images * height * width
        view = read.view()
        rows, sizes = node.weight.rows, (np.int32(height), np.int32(width), np.int32(self.images))
        other = NOTHING if op.other is None else self.buffers[op.other].view()
        tail = (*other, *out.view(), *self._cell(op.output, op.neuron, rows * height * width))
        strides = (np.int32(down), np.int32(right))
        packed = self.store.nonzeros(node, read.layout)
        kind = read.layout.kind
        head = (read.pointer(), view[6], view[7], *strides, *packed.pointers(), np.int32(rows), *sizes)
        name = f"convolve<{self.timesteps}, {kind}, {window[0]}, {window[1]}>"
        one = kernels.convolve(name, packed.nbytes, rows, patches, positions, node.weight.nnz, head, tail)
        choices = {"sparse": one}
        if kind == SPIKES and (isinstance(node, Linear) or node.group == 1):
            for sparse in (False, True):
                tiles = self.store.tiles(node, read.layout, sparse=sparse)
                head = (read.pointer(), view[6], *strides, *tiles.pointers(), np.int32(rows))
                flags = f"{self.store.parts}, {str(sparse).lower()}, {str(op.pooled).lower()}"
                choices["tensor/sparse" if sparse else "tensor"] = kernels.tensor(
                    f"tensor<{self.timesteps}, {flags}>", tiles.nbytes, rows, patches * prod(window),
                    (*head, np.int32(node.weight.columns), *sizes, *tail),
                )  # fmt: skip
        return choices

    def _grid(self, op: Op) -> tuple[int, int]:
        """Height and width of what the weights give, before any pooling."""
        shape = self.fused.graph.values[op.node.output].shape
        return (shape[1], shape[2]) if len(shape) == 3 else (1, 1)

    def _pointwise(
        self, name: str, inputs: Sequence[Buffer], out: Buffer, neuron: object = None, first: int = 0
    ) -> Launch:
        layout = inputs[0].layout
        features = prod(layout.shape)
        lif = neuron if isinstance(neuron, Lif | Li) else None
        arguments = (
            *self._operands(inputs), *out.view(), *self._count(layout), np.int32(first),
            *self._cell(name, lif, features),
        )  # fmt: skip
        return self._pointed(f"pointwise<{self.timesteps}>", layout, arguments)

    def _joined(self, op: Op, inputs: Sequence[Buffer], out: Buffer) -> list[Launch]:
        launches, first = [], 0
        for one in inputs:
            if out.layout.kind == SPIKES:
                arguments = (*self._operands([one]), *out.view(), *self._count(one.layout), np.int32(first))
                launches.append(self._pointed("gate", one.layout, (*arguments, np.int32(COPY))))
            else:
                launches.append(self._pointwise(op.output, [one], out, first=first))
            first += prod(one.layout.shape)
        return launches

    def _pool(self, node: MaxPool | AvgPool, read: Buffer, out: Buffer) -> Launch:
        above, before = node.pads[:2] if isinstance(node, MaxPool) else (0, 0)
        numbers = (
            read.layout.shape[1], *out.layout.shape, self.images, *node.kernel, *node.strides, above, before,
            isinstance(node, AvgPool),
        )  # fmt: skip
        arguments = (*read.view(), *out.view(), *(np.int32(number) for number in numbers))
        return self._pointed(f"pool<{self.timesteps}>", out.layout, arguments)

    def _pointed(self, kernel: str, layout: Layout, arguments: tuple[Any, ...]) -> Launch:
        return kernels.threads(prod(layout.shape) * self.images, kernel, arguments)

    def _operands(self, buffers: Sequence[Buffer]) -> tuple[Any, ...]:
        """Of two OPERANDs, of which the second need not be there."""
        second = buffers[1].view() if len(buffers) > 1 else NOTHING
        return (*buffers[0].view(), *second)

    def _count(self, layout: Layout) -> tuple[Any, ...]:
        return np.int32(prod(layout.shape)), np.int32(self.images)

    def _cell(self, name: str, neuron: Lif | Li | None, neurons: int) -> tuple[Any, ...]:
        """The arguments of a kernel's CELL."""
        cell, found = PASS, Rates(0, 0)
        if neuron is not None:
            found = rates(neuron)
            cell = LEAK if isinstance(neuron, Li) else SOFT if neuron.v_reset is None else HARD
        state = resume = np.uint64(0)
        if neuron is not None and self.resume is not None:
            self.states[name] = self.cupy.zeros(neurons * self.images, np.float32)
            state, resume = np.uint64(self.states[name].data.ptr), np.uint64(self.resume.data.ptr)
        return (np.int32(cell), *(np.float32(factor) for factor in found), state, resume)
