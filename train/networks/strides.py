"""Memory layout of tensors of several timesteps, `[T, N, ...]`, for kernels that compute elementwise."""

import torch
from torch import Tensor


def like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return an uninitialised tensor of the same shape and memory format, with dense timesteps."""
    return torch.empty_strided(x.shape, (x[0].numel(), *x.stride()[1:]), dtype=dtype or x.dtype, device=x.device)


def laid_out(x: Tensor | None, other: Tensor) -> Tensor:
    """Return `x`, or zeros, in the type and memory format of `other`; a copy if it has another one."""
    if x is None:
        return torch.zeros_like(other)
    same = all(size == 1 or a == b for size, a, b in zip(other.shape, x.stride(), other.stride(), strict=True))
    return x if same and x.dtype == other.dtype else like(other).copy_(x)


def is_dense(x: Tensor) -> bool:
    """Tell whether the elements of `x` are contiguous in memory, in any order of the dimensions."""
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True
