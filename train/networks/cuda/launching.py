"""Launches of our training kernels on torch's tensors, through CuPy."""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any
from warnings import warn

import numpy as np
import torch
from torch import Tensor

from spiketicket.errors import DeviceError, MissingExtraError
from spiketicket.runtime.engines.cuda.device import compiled, load_cupy

TYPES = {torch.float32: "float", torch.bfloat16: "Bfloat16", torch.float16: "Float16"}
SOURCE = Path(__file__).with_name("batch_norm_lif.cuh")


def available() -> bool:
    """Tell whether CuPy is installed and can compile for this GPU; warn if it is installed and cannot."""
    try:
        find_kernel(cupy_module(), "moments<float>")
    except MissingExtraError:
        return False
    except DeviceError as error:
        warn(f"{error}; training goes on without our kernels", stacklevel=2)
        return False
    return True


class Stream:
    """A stream of torch in the CUDA stream protocol, which only newer versions of torch support."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self.handle = stream.cuda_stream

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.handle


class Kernels:
    """Launcher of kernels on torch's present stream, for tensors of the type of `x`."""

    def __init__(self, x: Tensor) -> None:
        self.type = TYPES[x.dtype]
        self.cupy = cupy_module()
        self.device: AbstractContextManager[Any] = nullcontext()  # on the CPU, in tests
        self.stream: AbstractContextManager[Any] = nullcontext()
        if x.is_cuda:
            self.device = self.cupy.cuda.Device(x.device.index)  # torch's present one may be another
            self.stream = self.cupy.cuda.Stream.from_external(Stream(torch.cuda.current_stream(x.device)))

    def launch(self, name: str, grid: tuple[int, ...], block: tuple[int, ...], *arguments: Any) -> None:
        """Launch a kernel; tensors are passed as pointers, None as a null pointer."""
        passed = tuple(
            np.uint64(0 if a is None else a.data_ptr()) if a is None or isinstance(a, Tensor) else a for a in arguments
        )
        with self.device, self.stream:
            find_kernel(self.cupy, name)(grid, block, passed)

    def each(self, name: str, count: int, *arguments: Any) -> None:
        """Launch a kernel with a thread for each of `count` elements."""
        self.launch(name, (-(-count // 256),), (256,), *arguments)


@cache
def cupy_module() -> Any:
    """Return the module CuPy, which is looked for once, not in every pass."""
    return load_cupy("fused training")


@cache
def find_kernel(cupy: Any, name: str) -> Any:
    """Return the compiled kernel `name`."""
    return compiled(cupy, SOURCE.read_text(), [name])[name]
