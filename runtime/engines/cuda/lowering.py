"""Lower the ops of a network to launches of kernels, for one T and one number of images."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from spiketicket.graph import Add, And, AvgPool, Concat, Conv, Li, Lif, Linear, MaxPool
from spiketicket.runtime.engines.cuda import kernels
from spiketicket.runtime.engines.cuda.buffers import NOTHING, Buffer, Layout
from spiketicket.runtime.engines.cuda.fusion import SPIKES, Fused, Op
from spiketicket.runtime.engines.cuda.kernels import Launch
from spiketicket.runtime.engines.cuda.store import Store
from spiketicket.runtime.engines.rates import Rates, rates

PASS, HARD, SOFT, LEAK = range(4)  # `Cell` of common.cuh
COPY, AND, AND_NOT = range(3)  # `Gate` of pointwise.cuh


@dataclass(frozen=True)
class Work:
    """The launches of an op; a weighted layer has one for each kernel that suits it. `positions` is the number of
    output positions of an image.
    """

    op: Op
    launches: tuple[Launch, ...]
    choices: dict[str, Launch]
    positions: int = 0


@dataclass(frozen=True)
class Lowering:
    """The state of a lowering: `buffers` of every value, and `resume`, which holds 0 at the first launch of a run of
    several (None: a run is one launch).

    `states` collects the membrane potentials of such a run, by the value that the neurons output.
    """

    fused: Fused
    store: Store
    timesteps: int
    images: int
    buffers: dict[str, Buffer]
    resume: Any
    states: dict[str, Any]

    def work(self, op: Op) -> Work:
        """Return the launches of `op`. Raises TypeError for a node that has no kernel."""
        node, out = op.node, self.buffers[op.output]
        inputs = [self.buffers[name] for name in op.inputs]
        match node:
            case Conv() | Linear():
                return Work(op, (), self._weighted(op), prod(self._grid(op)))
            case Lif() | Li() | Add():
                return Work(op, (self.pointwise(op.output, inputs, out, op.neuron or node),), {})
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
        """Return the launches of a weighted layer by the name of the kernel."""
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
        template = f"{self.timesteps}, {kind}, {window[0]}, {window[1]}"
        one = kernels.convolve(template, packed.nbytes, rows, patches, positions, node.weight.nnz, (*head, *tail))
        choices = {"sparse": one}
        if kind == SPIKES and (isinstance(node, Linear) or node.group == 1):
            for sparse in (False, True):
                tiles = self.store.tiles(node, read.layout, sparse=sparse)
                head = (read.pointer(), view[6], *strides, *tiles.pointers(), np.int32(rows))
                flags = f"{self.store.parts}, {str(sparse).lower()}, {str(op.pooled).lower()}"
                choices["tensor/sparse" if sparse else "tensor"] = kernels.tensor(
                    f"tensor<{self.timesteps}, {flags}>",
                    tiles.nbytes,
                    rows,
                    patches * prod(window),
                    (*head, np.int32(node.weight.columns), *sizes, *tail),
                )
        return choices

    def _grid(self, op: Op) -> tuple[int, int]:
        """Return height and width of the weighted sums, before any pooling."""
        shape = self.fused.graph.values[op.node.output].shape
        return (shape[1], shape[2]) if len(shape) == 3 else (1, 1)

    def pointwise(
        self, name: str, inputs: Sequence[Buffer], out: Buffer, neuron: object = None, first: int = 0
    ) -> Launch:
        """Return the launch that adds one or two values, or applies neurons to their sum, and writes `out` from its
        feature `first` on.
        """
        layout = inputs[0].layout
        features = prod(layout.shape)
        lif = neuron if isinstance(neuron, Lif | Li) else None
        arguments = (
            *self._operands(inputs),
            *out.view(),
            *self._count(layout),
            np.int32(first),
            *self._cell(name, lif, features),
        )
        return self._pointed(f"pointwise<{self.timesteps}>", layout, arguments)

    def _joined(self, op: Op, inputs: Sequence[Buffer], out: Buffer) -> list[Launch]:
        launches, first = [], 0
        for one in inputs:
            if out.layout.kind == SPIKES:
                arguments = (*self._operands([one]), *out.view(), *self._count(one.layout), np.int32(first))
                launches.append(self._pointed("gate", one.layout, (*arguments, np.int32(COPY))))
            else:
                launches.append(self.pointwise(op.output, [one], out, first=first))
            first += prod(one.layout.shape)
        return launches

    def _pool(self, node: MaxPool | AvgPool, read: Buffer, out: Buffer) -> Launch:
        above, before = node.pads[:2] if isinstance(node, MaxPool) else (0, 0)
        numbers = (
            read.layout.shape[1],
            *out.layout.shape,
            self.images,
            *node.kernel,
            *node.strides,
            above,
            before,
            isinstance(node, AvgPool),
        )
        arguments = (*read.view(), *out.view(), *(np.int32(number) for number in numbers))
        return self._pointed(f"pool<{self.timesteps}>", out.layout, arguments)

    def _pointed(self, kernel: str, layout: Layout, arguments: tuple[Any, ...]) -> Launch:
        return kernels.threads(prod(layout.shape) * self.images, kernel, arguments)

    def _operands(self, buffers: Sequence[Buffer]) -> tuple[Any, ...]:
        """Return the arguments of two OPERANDs, of which the second may be absent."""
        second = buffers[1].view() if len(buffers) > 1 else NOTHING
        return (*buffers[0].view(), *second)

    def _count(self, layout: Layout) -> tuple[Any, ...]:
        return np.int32(prod(layout.shape)), np.int32(self.images)

    def _cell(self, name: str, neuron: Lif | Li | None, neurons: int) -> tuple[Any, ...]:
        """Return the arguments of a kernel's CELL."""
        cell, found = PASS, Rates(0, 0)
        if neuron is not None:
            found = rates(neuron)
            cell = LEAK if isinstance(neuron, Li) else SOFT if neuron.soft else HARD
        state = resume = np.uint64(0)
        if neuron is not None and self.resume is not None:
            self.states[name] = self.store.cupy.zeros(neurons * self.images, np.float32)
            state, resume = np.uint64(self.states[name].data.ptr), np.uint64(self.resume.data.ptr)
        return (np.int32(cell), *(np.float32(factor) for factor in found), state, resume)
