"""Tensors of several timesteps, `[T, N, ...]`, as elementwise kernels walk through their memory."""

import torch
from torch import Tensor


def like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Dense timesteps of the same shape and memory format."""
    return torch.empty_strided(x.shape, (x[0].numel(), *x.stride()[1:]), dtype=dtype or x.dtype, device=x.device)


def laid_out(x: Tensor | None, other: Tensor) -> Tensor:
    """`x`, or zeros, in the type and memory format of `other`; a copy where it is not so already."""
    if x is None:
        return torch.zeros_like(other)
    same = all(size == 1 or a == b for size, a, b in zip(other.shape, x.stride(), other.stride(), strict=True))
    return x if same and x.dtype == other.dtype else like(other).copy_(x)


def is_dense(x: Tensor) -> bool:
    """Whether the elements of `x` lie side by side in memory, in any order of the dimensions."""
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True
