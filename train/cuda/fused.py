"""Batch norm per timestep and the LIF behind it as one operation, on a GPU (batch_norm_lif.cuh).

Of the forward pass only currents and batch statistics are kept. It reads the currents twice and writes spikes; backward
reads currents and derivatives twice and writes derivatives. One after the other, batch norm and neurons do 13 such
passes and keep potentials.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spiketicket.errors import DeviceError, MissingExtraError
from spiketicket.runtime.cuda.device import compiled, load_cupy

MOST_TIMESTEPS = 8  # whose potentials lie in registers
TYPES = {torch.float32: "float", torch.bfloat16: "Bfloat16", torch.float16: "Float16"}
CHUNKS = 64  # of rows: as many blocks per 32 channels (and timestep) sum at once
SOURCE = Path(__file__).with_name("batch_norm_lif.cuh")


def available() -> bool:
    """Whether CuPy and a GPU are there."""
    try:
        _cupy()
    except (MissingExtraError, DeviceError):
        return False
    return True


def suits(x: Tensor) -> bool:
    """Whether the kernels know currents `[T, N, C, H, W]` of this type and length."""
    return x.dtype in TYPES and 1 <= len(x) <= MOST_TIMESTEPS and x[0, :, 0].numel() > 1


def batch_norm_lif(x: Tensor, norm: nn.BatchNorm2d, momenta: list[float], neuron: "LifNumbers") -> Tensor:
    """Spikes of neurons at rest on the normalised currents `x` `[T, N, C, H, W]`, in its type, channels-last.

    Batch statistics are of each timestep, and move the running ones of `norm` by `momenta` `[T]`. Derivatives are those
    of TimestepBatchNorm2d and LIFNode one after the other, computed in float32.
    """
    function: Any = _BatchNormLif
    spikes: Tensor = function.apply(
        x, norm.weight, norm.bias, norm.running_mean, norm.running_var, momenta, norm.eps, neuron
    )
    return spikes


class LifNumbers(tuple[Any, ...]):
    """k, c, r, threshold, alpha / 2, pi alpha / 2, soft, detached: a neuron's as kernels take them."""

    @classmethod
    def of(
        cls, k: float, c: float, r: float, threshold: float, alpha: float, *, soft: bool, detached: bool
    ) -> "LifNumbers":
        floats = (k, c, r, threshold, alpha / 2, np.pi * alpha / 2)
        return cls((*map(np.float32, floats), np.int32(soft), np.int32(detached)))


class _BatchNormLif(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor | None, running_var: Tensor | None,
        momenta: list[float], eps: float, neuron: LifNumbers,
    ) -> Tensor:  # fmt: skip
        shape = x.shape
        x = rows_of(x)
        kernels = _Kernels(x)
        steps, rows, channels = x.shape
        chunk, chunks = _chunks(rows)
        parts = x.new_empty(steps, chunks, 2, channels, dtype=torch.float32)
        statistics = x.new_empty(steps, 2, channels, dtype=torch.float32)
        shares = _on_device(tuple(momenta), x.device)
        spikes = torch.empty_like(x)
        sizes = np.int32(rows), np.int32(channels), np.int32(chunk)
        columns = -(-channels // 32)
        kernels.launch(f"moments<{kernels.type}>", (columns, chunks, steps), (32, 8), x, parts, *sizes)
        kernels.launch(
            f"statistics<{steps}>", (columns,), (32, steps), parts, statistics, running_mean, running_var, shares,
            *sizes, np.int32(chunks), np.float32(eps),
        )  # fmt: skip
        kernels.launch(
            f"forward<{steps}, {kernels.type}>", (-(-rows * channels // 256),), (256,), x, spikes, statistics, weight,
            bias, np.int64(rows * channels), np.int32(channels), *neuron,
        )  # fmt: skip
        ctx.neuron, ctx.shape = neuron, shape
        ctx.save_for_backward(x, weight, bias, statistics)
        return images_of(spikes, shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_spikes: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, statistics = ctx.saved_tensors
        by_spikes = rows_of(by_spikes.to(x.dtype))
        kernels = _Kernels(x)
        steps, rows, channels = x.shape
        chunk, chunks = _chunks(rows)
        parts = x.new_empty(steps, chunks, 2, channels, dtype=torch.float32)
        means = x.new_empty(steps, 2, channels, dtype=torch.float32)
        by_parameters = x.new_empty(2, channels, dtype=torch.float32)
        by_x = torch.empty_like(x)
        norm = statistics, weight, bias
        sizes = np.int32(rows), np.int32(channels)
        kernels.launch(
            f"backward_sums<{steps}, {kernels.type}>", (-(-channels // 32), chunks), (32, 8), x, by_spikes, parts,
            *norm, *sizes, np.int32(chunk), *ctx.neuron,
        )  # fmt: skip
        kernels.launch(
            f"totals<{steps}>",
            (-(-2 * channels // 128),),
            (128,),
            parts,
            means,
            by_parameters,
            *sizes,
            np.int32(chunks),
        )
        kernels.launch(
            f"backward<{steps}, {kernels.type}>", (-(-rows * channels // 256),), (256,), x, by_spikes, by_x,
            statistics, means, weight, bias, np.int64(rows * channels), np.int32(channels), *ctx.neuron,
        )  # fmt: skip
        by_bias, by_weight = by_parameters
        return images_of(by_x, ctx.shape), by_weight, by_bias, None, None, None, None, None


def rows_of(x: Tensor) -> Tensor:
    """`[T, N, C, H, W]` -> `[T, N * H * W, C]`, without a copy where images are channels-last."""
    return x.permute(0, 1, 3, 4, 2).contiguous().flatten(1, 3)


def images_of(rows: Tensor, shape: torch.Size) -> Tensor:
    """The same numbers as images `[T, N, C, H, W]`, channels-last."""
    steps, images, channels, height, width = shape
    return rows.view(steps, images, height, width, channels).permute(0, 1, 4, 2, 3)


def _chunks(rows: int) -> tuple[int, int]:
    """Rows of a chunk, and how many chunks there are, none of them empty."""
    chunk = -(-rows // min(rows, CHUNKS))
    return chunk, -(-rows // chunk)


class _Kernels:
    """Launches on torch's present stream, on the tensors of the type of `x`."""

    def __init__(self, x: Tensor) -> None:
        self.type = TYPES[x.dtype]
        self.cupy = _cupy()
        self.device: AbstractContextManager[Any] = nullcontext()  # on the CPU, in tests
        self.stream: AbstractContextManager[Any] = nullcontext()
        if x.is_cuda:
            self.device = self.cupy.cuda.Device(x.device.index)  # torch's present one may be another
            self.stream = self.cupy.cuda.ExternalStream(torch.cuda.current_stream(x.device).cuda_stream)

    def launch(self, name: str, grid: tuple[int, ...], block: tuple[int, ...], *arguments: Any) -> None:
        """Tensors are passed as pointers, None as a null pointer."""
        passed = tuple(
            np.uint64(0 if a is None else a.data_ptr()) if a is None or isinstance(a, Tensor) else a for a in arguments
        )
        with self.device, self.stream:
            _kernel(self.cupy, name)(grid, block, passed)


@cache
def _cupy() -> Any:
    """Looked for once, not in every pass."""
    return load_cupy("fused training")


@lru_cache(maxsize=64)
def _on_device(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    """Copied once: a copy cannot be part of a CUDA graph."""
    return torch.tensor(numbers, dtype=torch.float32, device=device)


@cache
def _kernel(cupy: Any, name: str) -> Any:
    return compiled(cupy, SOURCE.read_text(), [name])[name]
