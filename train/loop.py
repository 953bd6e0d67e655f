"""One epoch of training, one evaluation, batch norm calibration. Everything random comes from a seed."""

from dataclasses import dataclass
from math import cos, isfinite, pi

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from spiketicket.errors import SpikeTicketError
from spiketicket.train.batches import Batches
from spiketicket.train.data import Dataset, Split
from spiketicket.train.masks import hold_masks
from spiketicket.train.models import logits

CALIBRATION_IMAGES = 512
EVALUATION_BATCH = 250


@dataclass(frozen=True)
class Optimisation:
    """SGD with momentum; the learning rate falls to 0 on a cosine, stepped per epoch."""

    lr: float = 0.3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 128

    def optimiser(self, model: nn.Module) -> torch.optim.SGD:
        return torch.optim.SGD(model.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)

    def rate(self, epoch: int, epochs: int) -> float:
        """Learning rate of `epoch` in 0..epochs - 1."""
        return self.lr * (1 + cos(pi * epoch / epochs)) / 2


def train_epoch(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    masks: dict[str, Tensor],
    batches: Batches,
    batch_size: int,
    seed: np.random.SeedSequence,
) -> tuple[float, float]:
    """Train one epoch; returns mean loss and accuracy on the training batches.

    The loss is the mean over timesteps of the cross-entropy of that timestep's logits. Raises
    SpikeTicketError when it is no longer a number.
    """
    model.train()
    total_loss, correct, seen = 0.0, 0, 0
    for images, labels in batches.epoch(batch_size, seed):
        out = logits(model, images)
        loss = cross_entropy(out.flatten(0, 1), labels.repeat(len(out)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        hold_masks(model, masks)
        total_loss += float(loss.detach()) * len(labels)
        correct += int((out.detach().mean(0).argmax(1) == labels).sum())
        seen += len(labels)
    if not isfinite(total_loss) or not all(torch.isfinite(p).all() for p in model.parameters()):
        raise SpikeTicketError("the loss is no longer a number: lower --lr; the last good epoch is kept")
    return total_loss / seen, correct / seen


@torch.no_grad()
def accuracy(model: nn.Module, dataset: Dataset, split: Split) -> float:
    """Share of images whose largest mean logit is the right class."""
    model.eval()
    correct = 0
    for start in range(0, len(split.labels), EVALUATION_BATCH):
        part = slice(start, start + EVALUATION_BATCH)
        x = torch.from_numpy(dataset.normalisation(split.images[part]))
        correct += int((logits(model, x).mean(0).argmax(1).numpy() == split.labels[part]).sum())
    return correct / len(split.labels)


@torch.no_grad()
def calibrate(model: nn.Module, batches: Batches, batch_size: int, seed: np.random.SeedSequence) -> None:
    """Set batch norm's running statistics to their mean over a few training batches.

    An untrained or freshly cut network fires at realistic rates then.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
    model.train()
    seen = 0
    for images, _ in batches.epoch(batch_size, seed):
        logits(model, images)
        seen += len(images)
        if seen >= CALIBRATION_IMAGES:
            break
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
