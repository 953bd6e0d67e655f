"""Deep supervision: a linear classifier at every layer of neurons, whose loss reaches that layer directly.

A deep network of spikes learns slowly at first, because each layer's surrogate gradient weakens and blurs the loss that
comes from the last layer. Losses at every layer, as in Lee et al., "Deeply-Supervised Nets" (2015, arXiv 1409.5185),
do not have that way to go. The classifiers help to train and are not part of the network.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy

from spiketicket.train.networks.models import logits
from spiketicket.train.networks.neurons import LIFNode

GRID = 2  # each map of spikes is averaged to GRID x GRID values, so that images may change their size


class DeeplySupervised(nn.Module):
    """A network whose forward pass also returns the logits of a linear classifier at each of its layers of neurons.

    The classifiers begin with zeros, so that they draw no random numbers. The sizes of the layers come from a pass of
    `images` `[N, C, H, W]`, whose content does not matter.
    """

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        super().__init__()
        self.network = network
        self._spikes: list[Tensor] | None = None  # spikes of the forward pass that is running
        for module in network.modules():
            if isinstance(module, LIFNode):
                module.register_forward_hook(self._record)
        network.eval()  # so that batch norm's statistics stay as they are
        with torch.no_grad():
            out, layers = self._run(images)
        self.classifiers = nn.ModuleList(
            nn.utils.skip_init(nn.Linear, features.shape[-1], out.shape[-1]) for features in layers
        )
        for parameter in self.classifiers.parameters():
            nn.init.zeros_(parameter)
        self.classifiers.to(images.device)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the network's logits `[T, N, classes]`, and those of each classifier in the order of the layers."""
        out, layers = self._run(images)
        return out, [classify(features) for classify, features in zip(self.classifiers, layers, strict=True)]

    def _run(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        spikes: list[Tensor] = []
        self._spikes = spikes
        try:
            return logits(self.network, images), [_features(layer) for layer in spikes]
        finally:
            self._spikes = None

    def _record(self, module: nn.Module, inputs: Any, spikes: Tensor) -> None:
        if self._spikes is not None:
            self._spikes.append(spikes)


def mean_cross_entropy(out: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over timesteps of the cross-entropy of logits `[T, N, classes]` with labels `[N]`."""
    return cross_entropy(out.flatten(0, 1), labels.repeat(len(out)))


def _features(spikes: Tensor) -> Tensor:
    """Return spikes `[T, N, C, H, W]` as means over a grid, `[T, N, C * GRID * GRID]`; others as they are, flat."""
    if spikes.dim() != 5:
        return spikes.flatten(2)
    means: Tensor = adaptive_avg_pool2d(spikes.flatten(0, 1), GRID)
    return means.reshape(*spikes.shape[:2], -1)
