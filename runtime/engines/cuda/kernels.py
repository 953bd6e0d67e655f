"""The kernels of a launch: source, name and size of the grid."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_TIMESTEPS = 8  # in one launch, because a word has that many bits
FULL = 2**17  # threads that keep a GPU busy: about 1,000 for each of 132 multiprocessors
FILES = ("common.cuh", "convolve.cuh", "tensor.cuh", "pointwise.cuh")


@dataclass(frozen=True)
class Launch:
    """A launch of a kernel. `kernel` is its name in C++ with its template arguments, `nbytes` the size of the weights
    that it reads.
    """

    kernel: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: tuple[Any, ...]
    nbytes: int = 0


def source() -> str:
    """Return the CUDA C++ source of all kernels."""
    return "\n".join((Path(__file__).parent / name).read_text() for name in FILES)


def threads(count: int, kernel: str, arguments: tuple[Any, ...]) -> Launch:
    """Return a launch with one thread for each of `count`."""
    return Launch(kernel, (-(-count // 128),), (128,), arguments)


def convolve(
    template: str, nbytes: int, rows: int, patches: int, positions: int, nonzeros: int, arguments: tuple[Any, ...]
) -> Launch:
    """Return the launch of a sparse convolution, with four rows per block.

    `template` has the kernel's parameters except the last, the number of lanes that share a patch: several if the GPU
    would not be full otherwise and there is enough to share. The number does not depend on the patch size, because sums
    in another order may differ in their last bits.
    """
    lanes = 1
    while lanes < 32 and rows * positions * lanes < FULL and nonzeros > 4 * lanes * rows:
        lanes *= 2
    grid = (-(-patches * lanes // 32), -(-rows // 4))
    return Launch(f"convolve<{template}, {lanes}>", grid, (32, 4), arguments, nbytes)


def tensor(name: str, nbytes: int, rows: int, columns: int, arguments: tuple[Any, ...]) -> Launch:
    """Return a launch on the tensor cores, with blocks of 64 rows and 32 columns."""
    return Launch(name, (-(-columns // 32), -(-rows // 64)), (128,), arguments, nbytes)
