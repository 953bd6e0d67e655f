"""Measure what bounds a layer on this machine: how fast the engine's kernels can add, and how fast memory can be read.

Both are measured within the same minute as the figures that they are compared with:

- additions: the native engine's own dense kernels, whichever is fastest, on a small layer without zeros whose weights
fit into the first cache and in which every neuron fires at every timestep. So every addition is a synaptic operation,
and no kernel of this engine does more of them.

- bytes: copies of an array of the size that a run of the model touches, so that what stays in a cache from run to run
is compared with that cache.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spiketicket.csr import Csr
from spiketicket.graph import Conv, Flatten, Graph, Lif, Linear, Repeat
from spiketicket.runtime.engine import Model, Options

REPEATS = 40
PROBES = {"events": 16, "masks": 64, "tables": 64}  # kernel -> input channels of the layer
SMALLEST, LARGEST = 2**18, 2**28  # bytes of the array that is copied
OUTPUTS, SIZE, TIMESTEPS = 64, 8, 5


Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Roof:
    """Additions and bytes per second with `threads` threads. `working_set` is the number of bytes of the array that was
    copied.
    """

    additions: float
    bytes: float
    threads: int
    working_set: int

    def share(self, operations: float, nbytes: float, seconds: float) -> float:
        """Return the share of the machine's peak that `operations` in `seconds` with `nbytes` of traffic reach: the
        longer of the shortest times for the additions and for the bytes, over the time taken.
        """
        return max(operations / self.additions, nbytes / self.bytes) / seconds

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def measure_roof(threads: int, working_set: int) -> Roof:
    """Measure the peak in about a tenth of a second. `working_set` is the number of bytes that a run touches."""
    size = min(max(working_set, SMALLEST), LARGEST)
    additions = max(additions_per_second(kernel, threads) for kernel in PROBES)
    return Roof(additions, bytes_per_second(size, threads), threads, size)


def additions_per_second(kernel: str, threads: int) -> float:
    """Return how many additions per second a kernel of the native engine does on a layer without zeros."""
    from spiketicket.runtime.engines.native.engine import NativeEngine

    channels = PROBES[kernel]
    engine = NativeEngine(Model(Path("probe"), b"", probe(channels)), Options(threads, kernel, "float32"))
    try:
        x = np.ones((1, channels, SIZE, SIZE), np.float32)
        seconds = np.median([engine.time_layers(x, TIMESTEPS)["conv"] for _ in range(REPEATS)])
    finally:
        engine.close()
    inside = (3 * SIZE - 2) ** 2  # taps of a 3x3 kernel that lie in the image, at all positions
    return OUTPUTS * channels * inside * TIMESTEPS / float(seconds)


def probe(channels: int) -> Graph:
    """Return a first layer whose neurons fire at every timestep (with a soft reset, so that it is not known to be
    periodic), and a dense one.
    """
    identity = np.zeros((channels, channels, 1, 1), np.float32)
    identity[range(channels), range(channels)] = 2
    weight = np.random.default_rng(0).standard_normal((OUTPUTS, channels, 3, 3)).astype(np.float32)
    zeros = np.zeros(max(OUTPUTS, channels), np.float32)
    nodes = (
        Conv("first", ("x",), "x1", Csr.from_dense(identity), zeros[:channels]),
        Repeat("repeat", ("x1",), "x2"),
        Lif("spikes", ("x2",), "s0", 1.0, v_reset=None),
        Conv("conv", ("s0",), "c", Csr.from_dense(weight), zeros[:OUTPUTS], pads=(1, 1, 1, 1)),
        Lif("lif", ("c",), "s1", 4 / 3),
        Flatten("flat", ("s1",), "f"),
        Linear("out", ("f",), "y", Csr.from_dense(np.zeros((2, OUTPUTS * SIZE * SIZE), np.float32)), zeros[:2]),
    )
    return Graph("x", (channels, SIZE, SIZE), nodes, "y", TIMESTEPS)


def bytes_per_second(size: int, threads: int) -> float:
    """Return the bytes read and written per second by copies of `size` bytes in all, of which each thread copies its
    part.
    """
    half = size // threads // 2
    parts = [(np.ones(half, np.uint8), np.empty(half, np.uint8)) for _ in range(threads)]

    def copies(part: tuple[Bytes, Bytes]) -> None:
        for _ in range(rounds):
            np.copyto(part[1], part[0])

    rounds = max(1, LARGEST // 8 // size)  # so that one measurement takes milliseconds
    best = np.inf
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(10):
            start = time.perf_counter()
            list(pool.map(copies, parts))
            best = min(best, time.perf_counter() - start)
    return rounds * 2 * half * threads / best
