"""How evenly surviving weights are spread over the output channels of a layer.

If hardware distributes the output channels of a layer over units that work in parallel, all of them wait for the unit
with most work. The *balance* of a layer is the mean work of a unit over that of the busiest: the share of time in which
units do not wait, 1 if all have as much to do. Work is the number of nonzero weights, as in Yin et al.,
"Workload-Balanced Pruning for Sparse Spiking Neural Networks" (arXiv 2302.06746), who call the share utilisation. A
unit here has one output channel, or a block of 16 neighbours (the block of `--strategy balanced`).

How often the input of a weight spikes is not considered.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spiketicket.train.pruning.masks import Mask
from spiketicket.train.pruning.strategies import BLOCK


@dataclass(frozen=True)
class LayerBalance:
    """The balance of one layer. `work` is the number of nonzero weights of each output channel, int64 `[channels]`."""

    name: str
    work: NDArray[np.int64]

    @property
    def by_channel(self) -> float | None:
        return balance(self.work)

    @property
    def blocks(self) -> NDArray[np.int64]:
        """Return the work of each block of 16 output channels."""
        return np.add.reduceat(self.work, np.arange(0, len(self.work), BLOCK))

    @property
    def by_block(self) -> float | None:
        """Return the balance by block. A shorter last block counts as a unit, with less to do."""
        return balance(self.blocks)

    def to_dict(self) -> dict[str, Any]:
        return {
            "layer": self.name,
            "channels": len(self.work),
            "nonzeros": int(self.work.sum()),
            "busiest_channel": int(self.work.max()),
            "by_channel": self.by_channel,
            "by_block": self.by_block,
            "blocks": self.blocks.tolist(),
        }


@dataclass(frozen=True)
class TicketBalance:
    layers: tuple[LayerBalance, ...]

    @property
    def by_channel(self) -> float | None:
        """Return the balance of all layers, one after another: the mean work of a channel over that of the busiest,
        each summed over the layers; None for an empty network.
        """
        slowest = sum(int(layer.work.max()) for layer in self.layers)
        return sum(float(layer.work.mean()) for layer in self.layers) / slowest if slowest else None

    @property
    def best(self) -> LayerBalance | None:
        """Return the layer with the best balance by channel; layers without weights have none."""
        return max(self._known(), key=_by_channel, default=None)

    @property
    def worst(self) -> LayerBalance | None:
        return min(self._known(), key=_by_channel, default=None)

    def _known(self) -> list[LayerBalance]:
        return [layer for layer in self.layers if layer.by_channel is not None]


def balance(work: NDArray[np.int64]) -> float | None:
    """Return the mean over the maximum, or None if there is no work."""
    return float(work.mean() / work.max()) if work.any() else None


def ticket_balance(masks: Mapping[str, Mask]) -> TicketBalance:
    """Return the balance of the prunable weights, whose first dimension is that of output channels."""
    return TicketBalance(
        tuple(
            LayerBalance(name.removesuffix(".weight"), np.count_nonzero(mask.reshape(len(mask), -1), axis=1))
            for name, mask in masks.items()
        )
    )


def _by_channel(layer: LayerBalance) -> float:
    return layer.by_channel or 0.0
