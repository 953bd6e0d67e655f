"""Masks: which weights survive. Counts are exact and ties deterministic; arrays are NumPy bool."""

from collections.abc import Mapping
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spiketicket.errors import InputError
from spiketicket.train.models import prunable

Mask = NDArray[np.bool_]
Masks = dict[str, Mask]


def dense_masks(model: nn.Module) -> Masks:
    """Nothing pruned."""
    return {name: np.ones(tuple(weight.shape), dtype=bool) for name, weight in prunable(model).items()}


def magnitude_masks(weights: Mapping[str, Tensor], masks: Masks, keep: int) -> Masks:
    """The `keep` weights of largest magnitude over all layers together, out of those that `masks` leaves.

    Of equal weights, the ones that stand later (by layer, then in C order) survive.
    """
    sizes = [abs(weights[name].detach().cpu().numpy()).ravel() for name in masks]
    magnitudes = np.concatenate(sizes)
    alive = _flat(masks)
    magnitudes[~alive] = -1.0
    return _split(_largest(magnitudes, _check_keep(keep, alive)), masks)


def random_masks(masks: Masks, keep: int, seed: np.random.SeedSequence) -> Masks:
    """`keep` of the weights that `masks` leaves, drawn uniformly over all layers together."""
    alive = _flat(masks)
    _check_keep(keep, alive)
    chosen = np.zeros_like(alive)
    chosen[np.random.default_rng(seed).choice(np.flatnonzero(alive), keep, replace=False)] = True
    return _split(chosen, masks)


def apply_masks(model: nn.Module, masks: Masks) -> dict[str, Tensor]:
    """Zero the pruned weights of `model`; returns the masks as tensors, for `hold_masks`."""
    tensors = {name: torch.from_numpy(mask) for name, mask in masks.items()}
    hold_masks(model, tensors)
    return tensors


def hold_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Zero the pruned weights again, after an optimiser's step."""
    with torch.no_grad():
        for name, weight in prunable(model).items():
            weight.mul_(masks[name])


def survivors(masks: Masks) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


def emptied(masks: Masks) -> list[str]:
    """Layers of which no weight survives: what comes before them no longer matters."""
    return [name for name, mask in masks.items() if not mask.any()]


def pack_mask(mask: Mask) -> NDArray[np.uint8]:
    """Eight weights a byte, first weight in the lowest bit."""
    return np.packbits(mask.ravel(), bitorder="little")


def unpack_mask(packed: NDArray[np.uint8], shape: tuple[int, ...]) -> Mask:
    """The inverse of `pack_mask`. Raises InputError unless `packed` is exactly as long as `shape` needs."""
    size = prod(shape)
    if packed.dtype != np.uint8 or packed.shape != ((size + 7) // 8,):
        raise InputError(f"expected {(size + 7) // 8} packed bytes for {list(shape)}, got {list(packed.shape)}")
    bits = np.unpackbits(packed, bitorder="little")
    if bits[size:].any():
        raise InputError("bits are set past the last weight")
    mask: Mask = bits[:size].reshape(shape).astype(bool)
    return mask


def _largest(values: NDArray[np.floating], count: int) -> Mask:
    """True at the `count` largest; of equal values the later ones."""
    if count == 0:
        return np.zeros(len(values), dtype=bool)
    threshold = np.partition(values, len(values) - count)[len(values) - count]
    chosen: Mask = values > threshold
    ties = np.flatnonzero(values == threshold)
    chosen[ties[len(ties) - (count - int(chosen.sum())) :]] = True
    return chosen


def _check_keep(keep: int, alive: Mask) -> int:
    if not 0 <= keep <= int(alive.sum()):
        raise InputError(f"cannot keep {keep} weights of {int(alive.sum())}")
    return keep


def _flat(masks: Masks) -> Mask:
    return np.concatenate([mask.ravel() for mask in masks.values()])


def _split(flat: Mask, like: Masks) -> Masks:
    ends = np.cumsum([mask.size for mask in like.values()])[:-1]
    parts = np.split(flat, ends)
    return {name: part.reshape(mask.shape) for (name, mask), part in zip(like.items(), parts, strict=True)}
