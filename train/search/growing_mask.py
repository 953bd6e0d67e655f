"""The mask of a training that prunes while it trains: what it is now, how it grows, and its part of a checkpoint."""

from collections.abc import Iterator
from typing import Any

import torch

from spiketicket.train.loop.loop import TrainingState
from spiketicket.train.pruning.growth import Growth, Milestone
from spiketicket.train.pruning.masks import Masks, pack_mask, survivors, unpack_mask
from spiketicket.train.pruning.strategies import Strategy


class GrowingMask:
    """Masks that prune more and more weights, as `growth` plans it and `prune` chooses them."""

    def __init__(self, growth: Growth, masks: Masks, prune: Strategy) -> None:
        self.growth, self.masks, self._prune = growth, masks, prune
        # What the last pruning was asked to keep. It cannot be counted in the masks: N:M may leave fewer weights than
        # asked, and the schedule would then skip the milestones between.
        self.asked = growth.start
        self.seconds = 0.0  # seconds of training until the last pruning

    def is_due(self, batch: int, batches: int) -> bool:
        """Tell whether the mask grows before iteration `batch` of an epoch of `batches`."""
        return self.growth.is_due(batch, batches)

    def grow(self, network: TrainingState, epoch: float) -> Iterator[Milestone | None]:
        """Prune `network` as far as is planned by `epoch`; after each pruning, yield the milestone that it reached."""
        for keep, milestone in self.growth.steps(self.asked, epoch):
            self.masks = self._prune(network.weights(), self.masks, min(keep, survivors(self.masks)))
            network.prune(self.masks)
            self.asked = keep
            yield milestone

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, as plain containers and bit-packed tensors."""
        masks = {name: torch.from_numpy(pack_mask(mask)) for name, mask in self.masks.items()}
        return {"asked": self.asked, "seconds": self.seconds, "masks": masks}

    def restore(self, state: dict[str, Any]) -> None:
        self.asked, self.seconds = state["asked"], state["seconds"]
        self.masks = {n: unpack_mask(state["masks"][n].numpy(), mask.shape) for n, mask in self.masks.items()}
