"""One iteration of training, and what it needs: learning rate, optimiser, evaluation, calibration of batch norm."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import cos, pi
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spiketicket.data import Split
from spiketicket.train.loop.batches import Batches
from spiketicket.train.loop.deep_supervision import DeeplySupervised, mean_cross_entropy
from spiketicket.train.loop.distributed import Group
from spiketicket.train.networks.cuda.graphed import Graphed
from spiketicket.train.networks.cuda.launching import available
from spiketicket.train.networks.layers import fuse, lay_out
from spiketicket.train.networks.models import logits, prunable
from spiketicket.train.networks.neurons import LIFNode
from spiketicket.train.pruning.masks import Masks, apply_masks, zero_pruned_weights
from spiketicket.train.search.recipes import RECIPES
from spiketicket.train.search.settings import SearchSettings

CALIBRATION_IMAGES = 512
EVALUATION_BATCH = 250
MOMENTUM = 0.9
STEPS = (1 / 2, 3 / 4)  # shares of a training after which the step schedule divides the learning rate by 10
RISE = 1 / 4  # share of a training in which the one-cycle schedule reaches the largest learning rate

Weights = dict[str, Tensor]  # all tensors of a network by name, batch norm's statistics included

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def learning_rate(settings: SearchSettings, epoch: float, epochs: int) -> float:
    """Return the learning rate when `epoch` epochs of a training whose schedule takes `epochs` are over.

    The schedules of the paper change it once per epoch; one-cycle (Smith and Topin 2017, arXiv 1708.07120) changes it
    with every iteration: linearly up, then along a cosine down to 0.
    """
    done = epoch / epochs
    if settings.schedule == "one-cycle":
        return settings.lr * (done / RISE if done < RISE else (1 + cos(pi * (done - RISE) / (1 - RISE))) / 2)
    if settings.schedule == "cosine":
        return settings.lr * (1 + cos(pi * done)) / 2
    return settings.lr * 0.1 ** sum(done >= step for step in STEPS)


@dataclass
class EpochMean:
    """Mean loss and accuracy of an epoch, kept as sums over the batches of this process."""

    loss: Tensor
    correct: Tensor
    seen: int = 0

    @classmethod
    def empty(cls, device: torch.device) -> "EpochMean":
        return cls(
            torch.zeros((), dtype=torch.float64, device=device), torch.zeros((), dtype=torch.int64, device=device)
        )

    def state(self, group: Group) -> list[float]:
        """Return loss, right answers and images, each summed over all processes."""
        seen = torch.tensor(self.seen, dtype=torch.float64, device=self.loss.device)
        return [float(x) for x in group.sum(torch.stack([self.loss, self.correct.double(), seen])).tolist()]

    def restore(self, state: list[float]) -> None:
        self.loss += state[0]
        self.correct += int(state[1])
        self.seen += int(state[2])

    def compute(self, group: Group) -> tuple[float, float]:
        """Return mean loss and accuracy over the batches of all processes."""
        loss, correct, seen = self.state(group)
        return loss / seen, correct / seen


class TrainingState:
    """A network in training, with all that an iteration changes: weights, momentum, scaler, random numbers.

    Pruned weights are zero again after every step. Matrices are multiplied in `settings.precision`; weights, membrane
    potentials and batch norm's statistics stay float32. `image_shape` (C, H, W) is needed for deep supervision only.
    """

    def __init__(
        self,
        model: nn.Module,
        masks: Masks,
        settings: SearchSettings,
        group: Group,
        image_shape: tuple[int, int, int] | None = None,
    ) -> None:
        self.settings, self.group = settings, group
        self.recipe = RECIPES[settings.recipe]
        self.dtype = _DTYPES[settings.precision]
        self.model = model.to(group.device)
        lay_out(self.model, group.device, mixed=self.dtype != torch.float32)
        fused = not group.cpu and available()
        if fused:
            fuse(self.model)
        self.masks = apply_masks(self.model, masks)
        self.softness = 0.0
        self.supervised: DeeplySupervised | None = None
        if settings.deep_supervision:
            assert image_shape is not None
            self.supervised = DeeplySupervised(self.model, torch.zeros(2, *image_shape, device=group.device))
        self.wrapped = group.wrapped(self.model if self.supervised is None else self.supervised)
        # In float16 the scaler asks the CPU.
        capturable = fused and group.world == 1 and self.dtype != torch.float16
        self.graph = Graphed(group.device) if capturable else None
        # On the GPU, where a CUDA graph reads it.
        self.rate = torch.tensor(settings.lr, device=group.device) if capturable else None
        rate = settings.lr if self.rate is None else self.rate
        self.optimiser = self._optimiser(rate)
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=self.dtype == torch.float16)

    def _optimiser(self, rate: float | Tensor) -> torch.optim.Optimizer:
        parameters = (self.supervised or self.model).parameters()
        # Fused SGD leaves momentum unset where the scaler of float16 skips the first step.
        fused = self.dtype != torch.float16
        if self.settings.optimizer == "adam":
            return torch.optim.AdamW(
                parameters,
                lr=rate,
                weight_decay=self.settings.weight_decay,
                fused=fused,
                capturable=self.rate is not None,
            )
        decay = self.settings.weight_decay
        dampened = self.recipe.decay_is_dampening
        return torch.optim.SGD(
            parameters,
            lr=rate,
            momentum=MOMENTUM,
            weight_decay=0.0 if dampened else decay,
            dampening=decay if dampened else 0.0,
            fused=fused,
        )

    def step(self, images: Tensor, labels: Tensor, epoch_mean: EpochMean, share: float) -> None:
        """Train on one batch; on a GPU, if possible, as a CUDA graph.

        `share` is this process's share of the batch's images, times the number of processes (gradients are averaged).
        """
        if self.graph is None or self.softness:  # the softness changes with every iteration
            loss, correct = self.iterate(images, labels, share)
        else:
            loss, correct = self.graph(self.iterate, images, labels)  # there is one process, whose share is 1
        epoch_mean.loss += loss * len(labels)
        epoch_mean.correct += correct
        epoch_mean.seen += len(labels)

    def iterate(self, images: Tensor, labels: Tensor, share: float = 1.0) -> tuple[Tensor, Tensor]:
        """Train on one batch without a CUDA graph; return the loss and the number of right answers.

        The loss is the mean over timesteps of the cross-entropy of that timestep's logits. Deep supervision adds the
        weighted losses of its classifiers, which the loss that is returned does not count.
        """
        self.wrapped.train()
        out, of_layers = self.forward(images)
        steps = self.settings.timesteps if self.recipe.loss_over_full_t else len(out)
        loss = mean_cross_entropy(out, labels) * (len(out) / steps)
        whole = loss
        for layer in of_layers:
            whole = whole + self.settings.deep_supervision * mean_cross_entropy(layer, labels)
        self.optimiser.zero_grad()
        self.scaler.scale(whole * share).backward()
        self.scaler.unscale_(self.optimiser)
        self._shape_gradients()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        zero_pruned_weights(self.model, self.masks)
        return loss.detach(), (out.detach().mean(0).argmax(1) == labels).sum()

    def prune(self, masks: Masks) -> None:
        """Zero the weights that `masks` prunes, and keep them at zero from now on."""
        for name, mask in masks.items():
            self.masks[name].copy_(torch.from_numpy(mask))  # in place: a captured iteration reads them there
        zero_pruned_weights(self.model, self.masks)

    def soften(self, softness: float) -> None:
        """Set how far the neurons are from spiking: 0 is spikes, 1 the surrogate's primitive (neurons.py)."""
        if softness == self.softness:
            return
        self.softness = softness
        for module in self.model.modules():
            if isinstance(module, LIFNode):
                module.softness = softness

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits of images, `[T, N, classes]` in float32."""
        return self.forward(images)[0]

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the logits of images and, with deep supervision, those of its classifiers, all in float32."""
        with torch.autocast(self.group.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            if self.supervised is None:
                return logits(self.wrapped, images).float(), []
            out, of_layers = self.wrapped(images)
        return out.float(), [layer.float() for layer in of_layers]

    def _shape_gradients(self) -> None:
        if self.recipe.frozen_below:
            for weight in prunable(self.model).values():
                assert weight.grad is not None
                weight.grad.masked_fill_(weight.detach().abs() < self.recipe.frozen_below, 0.0)
        if self.settings.clip is not None:
            for name, weight in prunable(self.model).items():
                assert weight.grad is not None
                weight.grad.mul_(self.masks[name])  # pruned weights must not count
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)

    def set_learning_rate(self, rate: float) -> None:
        if self.rate is not None:
            self.rate.fill_(rate)
        for group in self.optimiser.param_groups:
            group["lr"] = rate if self.rate is None else self.rate

    def finite(self) -> bool:
        """Tell whether all weights and statistics are finite."""
        tensors = (tensor for tensor in self.model.state_dict().values() if tensor.is_floating_point())
        return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)

    def weights(self) -> Weights:
        return weights_of(self.model)

    def state(self) -> dict[str, Any]:
        """Return all that `load` needs to go on from here."""
        optimiser = self.optimiser.state_dict()
        for group in optimiser["param_groups"]:
            group["lr"] = float(group["lr"])
        return {
            "network": self.weights(),
            "optimiser": optimiser,
            "scaler": self.scaler.state_dict(),
            "classifiers": None if self.supervised is None else self.supervised.classifiers.state_dict(),
            "random": torch.get_rng_state(),
            "cuda": [] if self.group.cpu else [torch.cuda.get_rng_state(self.group.device)],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["network"])
        if self.supervised is not None:
            self.supervised.classifiers.load_state_dict(state["classifiers"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.set_learning_rate(self.optimiser.param_groups[0]["lr"])
        self.scaler.load_state_dict(state["scaler"])
        if self.graph is not None:
            self.graph.forget()  # momentum is elsewhere now
        torch.set_rng_state(state["random"])
        for cuda in state["cuda"]:
            torch.cuda.set_rng_state(cuda, self.group.device)


def weights_of(model: nn.Module) -> Weights:
    """Return a copy of every tensor of a network, on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


Tally, Trainee = EpochMean, TrainingState  # the old names


@torch.no_grad()
def accuracy(model: nn.Module, batches: Batches, split: Split, group: Group) -> float:
    """Return the share of images whose largest mean logit is the right class."""
    model.eval()
    counts = torch.zeros(2, dtype=torch.int64, device=group.device)
    for images, labels in batches.evaluation(split, EVALUATION_BATCH, group.rank, group.world):
        counts[0] += (logits(model, images).mean(0).argmax(1) == labels).sum()
        counts[1] += len(labels)
    correct, seen = group.sum(counts).tolist()
    return float(correct / seen)


@torch.no_grad()
def sample_logits(state: TrainingState, batches: Batches, sample: Split, *, training: bool) -> Tensor:
    """Return the logits of a sample, `[T, N, classes]`.

    In `training` mode they are computed as one batch, which moves the running statistics of batch norm.
    """
    state.model.train(training)
    size = len(sample.labels) if training else EVALUATION_BATCH
    return torch.cat([state.logits(images) for images, _ in batches.evaluation(sample, size)], dim=1)


@torch.no_grad()
def calibrate(
    model: nn.Module, batches: Batches, batch_size: int, seed: np.random.SeedSequence, images: int = CALIBRATION_IMAGES
) -> None:
    """Set the running statistics of batch norm to their mean over training batches of at least `images` images in all.

    A network that was just pruned, or that runs another number of timesteps than before, then fires at the rates that
    it would have in training.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
    model.train()
    seen = 0
    for batch, _ in batches.epoch(batch_size, seed):
        logits(model, batch)
        seen += len(batch)
        if seen >= images:
            break
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
