"""Convolutions of small images, tap by tap: matrix products that leave out the zeros around the image.

The kernel is K x K, K odd, the stride 1, and the image is padded with K // 2 zeros. With images as rows `[H, W, N, C]`,
the tap (i, j) multiplies a block of rows by one matrix W_ij `[C, O]` of the weight. a = i - K // 2, b = j - K // 2, and
G is the loss's derivative by out; every sum is over positions inside the image:

    out[y, x] = bias + sum_ij in[y + a, x + b] W_ij
    by in:      sum_ij G[y - a, x - b] W_ij^T
    by W_ij:    sum_yx in[y + a, x + b]^T G[y, x]
    by bias:    sum_yx G[y, x]

On the last layers of a network images have 2x2 or 4x4 pixels and many channels. Most of what an ordinary convolution
multiplies there is padding: a 3x3 kernel has 16 products per channel on a 2x2 image and 100 on a 4x4 image; with the
padding it has 36 and 144.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def convolve_by_taps(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve `x` `[N, C, H, W]` with `weight` `[O, C, K, K]` and `bias` `[O]`.

    Returns channels-last `[N, O, H, W]`; it is fastest if `x` is channels-last, too.
    """
    out: Tensor = _Taps.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return out


class _Taps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = _rows(x)
        out = rows.new_zeros(*rows.shape[:3], len(weight))
        if bias is not None:
            out += bias
        _add_products(rows, weight.permute(2, 3, 1, 0), out)
        ctx.save_for_backward(rows, weight)
        return _images(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_out: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        rows, weight = ctx.saved_tensors
        by_out = _rows(by_out)
        by_x = by_weight = by_bias = None
        if ctx.needs_input_grad[0]:
            by_rows = torch.zeros_like(rows)
            _add_products(by_out, weight.permute(2, 3, 0, 1), by_rows, turned=True)
            by_x = _images(by_rows)
        if ctx.needs_input_grad[1]:
            by_weight = _by_weight(rows, by_out, weight)
        if ctx.needs_input_grad[2]:
            by_bias = by_out.flatten(0, 2).sum(0)
        return by_x, by_weight, by_bias


def _add_products(rows: Tensor, taps: Tensor, out: Tensor, *, turned: bool = False) -> None:
    """Add the products of rows `[H, W, N, C]` and all taps `[K, K, C, O]` to out `[H, W, N, O]`.

    `turned` rotates the kernel by 180 degrees, as the derivative by the input needs it. Columns are the outer loop: a
    shift along them needs a copy to be a matrix, a shift along rows is a slice of that copy.
    """
    height, width = rows.shape[:2]
    sign = -1 if turned else 1
    for j, b in _offsets(taps.shape[1], width):
        there, here = _overlap(sign * b, width)
        shifted = rows[:, there].contiguous()
        sums = out if b == 0 else torch.zeros_like(out[:, here])
        for i, a in _offsets(len(taps), height):
            below, at = _overlap(sign * a, height)
            sums[at].flatten(0, 2).addmm_(shifted[below].flatten(0, 2), taps[i, j])
        if b != 0:
            out[:, here] += sums


def _by_weight(rows: Tensor, by_out: Tensor, weight: Tensor) -> Tensor:
    height, width = rows.shape[:2]
    result = torch.zeros_like(weight, memory_format=torch.channels_last)
    for j, b in _offsets(weight.shape[3], width):
        there, here = _overlap(b, width)
        shifted, matching = rows[:, there].contiguous(), by_out[:, here].contiguous()
        for i, a in _offsets(weight.shape[2], height):
            below, at = _overlap(a, height)
            torch.mm(matching[at].flatten(0, 2).t(), shifted[below].flatten(0, 2), out=result[:, :, i, j])
    return result


def _offsets(kernel: int, size: int) -> Iterator[tuple[int, int]]:
    """Return the taps along one side that meet an image of `size`, and how far each reaches."""
    reaches = ((tap, tap - kernel // 2) for tap in range(kernel))
    return ((tap, reach) for tap, reach in reaches if abs(reach) < size)


def _overlap(reach: int, size: int) -> tuple[slice, slice]:
    """Return where p + reach and p are, for all p with both inside."""
    return slice(max(reach, 0), size + min(reach, 0)), slice(max(-reach, 0), size + min(-reach, 0))


def _rows(images: Tensor) -> Tensor:
    return images.permute(2, 3, 0, 1).contiguous()


def _images(rows: Tensor) -> Tensor:
    return rows.permute(2, 3, 0, 1).contiguous(memory_format=torch.channels_last)
