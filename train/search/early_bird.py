"""Early-Bird: the search may stop when the mask that a one-shot cut would give no longer changes.

After every epoch the network is cut to the target sparsity, on paper only. The masks a, b of two epochs are compared by

    hamming = |a xor b| / n          share of all n prunable positions at which they differ (You et al. 2020,
                                     arXiv 1909.11957; the paper stops below 0.02)
    overlap = |a and b| / |a|        share of the surviving weights that they have in common

With equal counts and density d, hamming = 2 d (1 - overlap): at d = 0.02, masks that share half of their weights are
0.02 apart. The overlap does not depend on the density.
"""

from collections import deque
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spiketicket.errors import InputError
from spiketicket.train.pruning.masks import Masks, pack_mask, survivors, unpack_mask

if TYPE_CHECKING:
    from torch import Tensor

WINDOW = 5
CRITERIA = {"hamming": 0.02, "overlap": 0.9}  # the thresholds; that of overlap is ours


def hamming(a: Masks, b: Masks) -> float:
    """Return the share of all positions at which two masks differ: 0 to 1.

    Raises InputError if they belong to different networks.
    """
    _same_network(a, b)
    positions = sum(mask.size for mask in a.values())
    return sum(int(np.count_nonzero(a[name] != b[name])) for name in a) / positions if positions else 0.0


def overlap(a: Masks, b: Masks) -> float:
    """Return the share of survivors that two masks have in common: 0 to 1; 1 for empty masks.

    If the masks keep different numbers of weights, it is a share of the larger one. Raises InputError if they belong to
    different networks.
    """
    _same_network(a, b)
    larger = max(survivors(a), survivors(b))
    return sum(int(np.count_nonzero(a[name] & b[name])) for name in a) / larger if larger else 1.0


@dataclass(frozen=True)
class Stability:
    """Comparison of the newest mask with the earlier ones of the window, and whether the search may stop."""

    hamming: float | None  # the largest distance; None while there is no earlier mask
    overlap: float | None  # the smallest overlap
    stop: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class EarlyBird:
    """The masks of the last `window` epochs, and whether the newest resembles all of them.

    Criterion `hamming`: the largest distance is below `threshold` (default 0.02). Criterion `overlap`: the smallest
    overlap is above it (default 0.9). Neither stops before the window is full. Raises InputError if the window is below
    2, the criterion is unknown, or the threshold is not between 0 and 1.
    """

    def __init__(self, window: int = WINDOW, criterion: str = "hamming", threshold: float | None = None) -> None:
        if window < 2:
            raise InputError(f"Early-Bird window: expected 2 masks or more, got {window}")
        if criterion not in CRITERIA:
            raise InputError(f"Early-Bird criterion: expected one of {', '.join(CRITERIA)}, got {criterion!r}")
        self.criterion = criterion
        self.threshold = CRITERIA[criterion] if threshold is None else threshold
        if not 0 < self.threshold < 1:
            raise InputError(f"Early-Bird threshold: expected a number between 0 and 1, got {self.threshold}")
        self._masks: deque[Masks] = deque(maxlen=window)

    def update(self, masks: Masks) -> Stability:
        """Add the mask of an epoch that is over; a full window drops its oldest. `masks` must not change later."""
        if self._masks:
            _same_network(self._masks[-1], masks)
        self._masks.append(masks)
        return self.stability

    @property
    def stability(self) -> Stability:
        """How stable the newest mask is; after `restore` the same as before."""
        if len(self._masks) < 2:
            return Stability(None, None, False)
        *earlier, newest = self._masks
        distance = max(hamming(newest, mask) for mask in earlier)
        common = min(overlap(newest, mask) for mask in earlier)
        stable = distance < self.threshold if self.criterion == "hamming" else common > self.threshold
        return Stability(distance, common, stable and len(self._masks) == self._masks.maxlen)

    @property
    def newest(self) -> Masks:
        """The mask of the last epoch: the ticket, if the search stops. Raises InputError before the first."""
        if not self._masks:
            raise InputError("Early-Bird has seen no mask yet")
        return self._masks[-1]

    def state(self) -> dict[str, Any]:
        """Return the window as plain containers and bit-packed uint8 tensors, for `torch.load(weights_only=True)`."""
        import torch

        shapes = {name: list(mask.shape) for name, mask in self._masks[-1].items()} if self._masks else {}
        packed = [
            {name: torch.from_numpy(pack_mask(mask)) for name, mask in masks.items()}  # first weight in the lowest bit
            for masks in self._masks
        ]
        return {"shapes": shapes, "window": packed}

    def restore(self, state: Any) -> None:
        """Go on from what `state` returned. Raises InputError if it does not fit this window."""
        try:
            shapes = {name: tuple(int(size) for size in shape) for name, shape in state["shapes"].items()}
            window = [_unpacked(packed, shapes) for packed in state["window"]]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f"damaged Early-Bird state: {error}") from error
        if self._masks.maxlen is not None and len(window) > self._masks.maxlen:
            raise InputError(f"Early-Bird state: expected at most {self._masks.maxlen} masks, got {len(window)}")
        self._masks.clear()
        self._masks.extend(window)


def _unpacked(packed: "dict[str, Tensor]", shapes: dict[str, tuple[int, ...]]) -> Masks:
    if set(packed) != set(shapes):
        raise InputError(f"expected masks of {sorted(shapes)}, got {sorted(packed)}")
    return {name: unpack_mask(packed[name].numpy(), shape) for name, shape in shapes.items()}


def _same_network(a: Masks, b: Masks) -> None:
    mine, other = ({name: mask.shape for name, mask in masks.items()} for masks in (a, b))
    if mine != other:
        name = next(name for name in {**mine, **other} if mine.get(name) != other.get(name))
        got = f"{mine.get(name)} in one, {other.get(name)} in the other"
        raise InputError(f"masks of different networks: {name} is {got}")
