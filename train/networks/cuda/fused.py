"""Batch norm per timestep and the LIF behind it as one operation, and LIF alone, on a GPU (batch_norm_lif.cuh).

Of the forward pass only currents and batch statistics are kept. It reads the currents twice and writes spikes; backward
reads currents and derivatives twice and writes derivatives. One after the other, batch norm and neurons do 13 such
passes and keep potentials.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spiketicket.train.networks.cuda.launching import TYPES, Kernels
from spiketicket.train.networks.strides import is_dense, laid_out, like

MOST_TIMESTEPS = 8  # more would not fit into registers
CHUNKS = 64  # chunks of rows; as many blocks per 32 channels (and timestep) sum at the same time


def suits(x: Tensor, added: Tensor | None = None) -> bool:
    """Tell whether the kernels take currents `[T, N, ...]` of this type and length, and what is added to them."""
    alike = added is None or (added.shape == x.shape and added.dtype == x.dtype)
    return alike and x.dtype in TYPES and 1 <= len(x) <= MOST_TIMESTEPS


def batch_norm_lif(
    x: Tensor, norm: nn.BatchNorm2d, momenta: list[float], neuron: "LifNumbers", added: Tensor | None = None
) -> Tensor:
    """Return spikes of neurons at rest on the normalised currents `x` `[T, N, C, H, W]`, in its type, channels-last.

    Batch statistics are of each timestep, over two values at least, and move the running ones of `norm` by `momenta`
    `[T]`. `added`, like `x`, is added to what is normalised. Derivatives are those of TimestepBatchNorm2d and LIFNode
    one after the other, computed in float32.
    """
    function: Any = _BatchNormLif
    spikes: Tensor = function.apply(
        x, added, norm.weight, norm.bias, norm.running_mean, norm.running_var, momenta, norm.eps, neuron
    )
    return spikes


def lif(x: Tensor, neuron: "LifNumbers") -> Tensor:
    """Return the spikes of neurons at rest on the currents `x` `[T, N, ...]`, in its type.

    If currents are the same at every timestep and expanded, as those of Repeat, they are read once.
    """
    function: Any = _Lif
    spikes: Tensor = function.apply(x, neuron)
    return spikes


class LifNumbers(tuple[Any, ...]):
    """The constants of a neuron as kernels take them: k, c, r, threshold, alpha / 2, pi alpha / 2, soft, detached."""

    @classmethod
    def of(
        cls, k: float, c: float, r: float, threshold: float, alpha: float, *, soft: bool, detached: bool
    ) -> "LifNumbers":
        floats = (k, c, r, threshold, alpha / 2, np.pi * alpha / 2)
        return cls((*map(np.float32, floats), np.int32(soft), np.int32(detached)))


class _BatchNormLif(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        added: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momenta: list[float],
        eps: float,
        neuron: LifNumbers,
    ) -> Tensor:
        shape = x.shape
        x, added = rows_of(x), None if added is None else rows_of(added)
        kernels = Kernels(x)
        steps, rows, channels = x.shape
        chunk, chunks = _chunks(rows)
        parts = x.new_empty(steps, chunks, 2, channels, dtype=torch.float32)
        statistics = x.new_empty(steps, 2, channels, dtype=torch.float32)
        spikes = torch.empty_like(x)
        sizes = np.int32(rows), np.int32(channels), np.int32(chunk)
        shares = np.zeros(MOST_TIMESTEPS, np.float32)
        shares[:steps] = momenta
        columns = -(-channels // 32)
        kernels.launch(f"moments<{kernels.type}>", (columns, chunks, steps), (32, 8), x, parts, *sizes)
        kernels.launch(
            f"statistics<{steps}>",
            (columns,),
            (32, steps),
            parts,
            statistics,
            running_mean,
            running_var,
            *sizes,
            np.int32(chunks),
            np.float32(eps),
            *shares,
        )
        norm = statistics, weight, bias, np.int32(channels)
        elements = rows * channels
        kernels.each(
            f"forward<{steps}, {kernels.type}>", elements, x, added, spikes, *norm, np.int64(elements), *neuron
        )
        ctx.neuron, ctx.shape = neuron, shape
        ctx.save_for_backward(x, added, weight, bias, statistics)
        return images_of(spikes, shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_spikes: Tensor) -> tuple[Tensor | None, ...]:
        x, added, weight, bias, statistics = ctx.saved_tensors
        by_spikes = rows_of(by_spikes.to(x.dtype))
        kernels = Kernels(x)
        steps, rows, channels = x.shape
        chunk, chunks = _chunks(rows)
        parts = x.new_empty(steps, chunks, 2, channels, dtype=torch.float32)
        means = x.new_empty(steps, 2, channels, dtype=torch.float32)
        by_parameters = x.new_empty(2, channels, dtype=torch.float32)
        by_x, by_added = torch.empty_like(x), None if added is None else torch.empty_like(x)
        norm = statistics, weight, bias, np.int32(channels)
        kernels.launch(
            f"backward_sums<{steps}, {kernels.type}>",
            (-(-channels // 32), chunks),
            (32, 8),
            x,
            added,
            by_spikes,
            parts,
            *norm,
            np.int32(rows),
            np.int32(chunk),
            *ctx.neuron,
        )
        kernels.launch(
            f"totals<{steps}>",
            (-(-2 * channels // 128),),
            (128,),
            parts,
            means,
            by_parameters,
            np.int32(rows),
            np.int32(channels),
            np.int32(chunks),
        )
        elements = rows * channels
        kernels.each(
            f"backward<{steps}, {kernels.type}>",
            elements,
            x,
            added,
            by_spikes,
            by_x,
            by_added,
            *norm,
            means,
            np.int64(elements),
            *ctx.neuron,
        )
        by_bias, by_weight = by_parameters
        others = None if by_added is None else images_of(by_added, ctx.shape)
        return images_of(by_x, ctx.shape), others, by_weight, by_bias, None, None, None, None, None


class _Lif(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, neuron: LifNumbers) -> Tensor:
        x = x if is_dense(x[0]) else x.contiguous()
        spikes = like(x)
        kernels = Kernels(x)
        elements = x[0].numel()
        step = np.int64(x.stride(0))
        kernels.each(f"fire<{len(x)}, {kernels.type}>", elements, x, step, spikes, np.int64(elements), *neuron)
        ctx.neuron = neuron
        ctx.save_for_backward(x)
        return spikes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_spikes: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        by_x = like(x)
        by_spikes = laid_out(by_spikes, by_x)
        kernels = Kernels(x)
        elements = x[0].numel()
        kernels.each(
            f"fire_backward<{len(x)}, {kernels.type}>",
            elements,
            x,
            np.int64(x.stride(0)),
            by_spikes,
            by_x,
            np.int64(elements),
            *ctx.neuron,
        )
        return by_x, None


def rows_of(x: Tensor) -> Tensor:
    """Return `[T, N, C, H, W]` as `[T, N * H * W, C]`, without a copy if images are channels-last."""
    return x.permute(0, 1, 3, 4, 2).contiguous().flatten(1, 3)


def images_of(rows: Tensor, shape: torch.Size) -> Tensor:
    """Return rows as images `[T, N, C, H, W]`, channels-last."""
    steps, images, channels, height, width = shape
    return rows.view(steps, images, height, width, channels).permute(0, 1, 4, 2, 3)


def _chunks(rows: int) -> tuple[int, int]:
    """Return how many rows a chunk has, and how many chunks there are, none of them empty."""
    chunk = -(-rows // min(rows, CHUNKS))
    return chunk, -(-rows // chunk)
