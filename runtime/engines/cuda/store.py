"""Weights in each form and compiled kernels, which the programs of one session share on the GPU."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from spiketicket.graph import Conv, Linear
from spiketicket.runtime.engines.cuda.buffers import Layout
from spiketicket.runtime.engines.cuda.device import compiled
from spiketicket.runtime.engines.cuda.kernels import source
from spiketicket.runtime.engines.cuda.weights import dense_tiles, depth_offsets, nonzeros, sparse_tiles


@dataclass(frozen=True)
class Arrays:
    """Arrays on the GPU, in the order of a kernel's arguments."""

    arrays: tuple[Any, ...]

    def pointers(self) -> tuple[Any, ...]:
        return tuple(np.uint64(array.data.ptr) for array in self.arrays)

    @property
    def nbytes(self) -> int:
        return sum(int(array.nbytes) for array in self.arrays)


class Store:
    """The shared weights and kernels. `parts` is the number of float16 products per weight on the tensor cores; two are
    as exact as float32 (tensor.cuh).
    """

    def __init__(self, cupy: Any, parts: int) -> None:
        self.cupy, self.parts = cupy, parts
        self.compiled: dict[str, Any] = {}
        self.forms: dict[tuple[str, str, Layout], Arrays] = {}

    def functions(self, names: Iterable[str]) -> dict[str, Any]:
        """Return kernels by name; those that are new are compiled together."""
        missing = set(names) - self.compiled.keys()
        if missing:
            self.compiled |= compiled(self.cupy, source(), missing)
        return self.compiled

    def nonzeros(self, node: Conv | Linear, read: Layout) -> Arrays:
        """Return the arrays of the kernel `convolve`: nonzeros, starts of the rows, bias."""
        return self._form("sparse", node, read, lambda: (nonzeros(node, read).view(np.int64), node.weight.indptr))

    def tiles(self, node: Conv | Linear, read: Layout, *, sparse: bool) -> Arrays:
        """Return the arrays of the kernel `tensor`: weights, starts of tiles, offsets of columns, scales, bias."""

        def packed() -> tuple[Any, ...]:
            tiles = (sparse_tiles if sparse else dense_tiles)(node, self.parts)
            weights = tiles.weights.reshape(-1)
            return weights.view(np.uint8), tiles.starts, depth_offsets(node, read), tiles.scales

        return self._form("tensor/sparse" if sparse else "tensor", node, read, packed)

    def _form(self, form: str, node: Conv | Linear, read: Layout, packed: Any) -> Arrays:
        key = form, node.name, read
        if key not in self.forms:
            arrays = (*packed(), node.bias)
            self.forms[key] = Arrays(tuple(self.cupy.asarray(np.ascontiguousarray(array)) for array in arrays))
        return self.forms[key]
