"""Masks: which weights survive, as NumPy bool arrays by parameter name. Torch is imported only to touch a network.

`strategies.py` decides which weights a mask keeps.
"""

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spiketicket.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

Mask = NDArray[np.bool_]
Masks = dict[str, Mask]


def dense_masks(model: "nn.Module") -> Masks:
    """Return masks that prune nothing."""
    from spiketicket.train.networks.models import prunable

    return {name: np.ones(tuple(weight.shape), dtype=bool) for name, weight in prunable(model).items()}


def apply_masks(model: "nn.Module", masks: Masks) -> "dict[str, Tensor]":
    """Zero the pruned weights of `model`; return the masks as tensors on its devices, for `zero_pruned_weights`."""
    import torch

    from spiketicket.train.networks.models import prunable

    tensors = {name: torch.from_numpy(masks[name]).to(weight.device) for name, weight in prunable(model).items()}
    zero_pruned_weights(model, tensors)
    return tensors


def zero_pruned_weights(model: "nn.Module", masks: "Mapping[str, Tensor]") -> None:
    """Zero the pruned weights again, after an optimiser's step."""
    import torch

    from spiketicket.train.networks.models import prunable

    with torch.no_grad():
        for name, weight in prunable(model).items():
            weight.mul_(masks[name])


hold_masks = zero_pruned_weights  # the old name


def survivors(masks: Masks) -> int:
    """Return how many weights survive."""
    return sum(int(np.count_nonzero(mask)) for mask in masks.values())


def emptied(masks: Masks) -> list[str]:
    """Return the layers of which no weight survives: what comes before them no longer matters."""
    return [name for name, mask in masks.items() if not mask.any()]


def pack_mask(mask: Mask) -> NDArray[np.uint8]:
    """Pack a mask: eight weights per byte, the first in the lowest bit."""
    return np.packbits(mask.ravel(), bitorder="little")


def mask_bytes(masks: Masks) -> bytes:
    """Return names and bits in the order of the names, for fingerprints."""
    return b"".join(name.encode() + pack_mask(mask).tobytes() for name, mask in sorted(masks.items()))


def unpack_mask(packed: NDArray[np.uint8], shape: tuple[int, ...]) -> Mask:
    """Undo `pack_mask`. Raises InputError if `packed` is not exactly as long as `shape` needs."""
    size = prod(shape)
    if packed.dtype != np.uint8 or packed.shape != ((size + 7) // 8,):
        raise InputError(f"expected {(size + 7) // 8} packed bytes for {list(shape)}, got {list(packed.shape)}")
    bits = np.unpackbits(packed, bitorder="little")
    if bits[size:].any():
        raise InputError("bits are set past the last weight")
    mask: Mask = bits[:size].reshape(shape).astype(bool)
    return mask
