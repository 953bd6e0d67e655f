"""One training iteration of a search in parts, and its peak memory, measured in a process of its own.

`python -m spiketicket.profiling.search.iteration SETUP DEVICE THREADS` is that process, in which SETUP is an
`IterationSetup` as JSON. It prints the largest growth of memory, in bytes, since before the network was built.
"""

import gc
import json
import sys
import time
from collections.abc import Iterator
from itertools import count

import numpy as np
import torch
from torch import Tensor, nn

from spiketicket.errors import SpikeTicketError
from spiketicket.profiling.measure.memory import process_bytes, reset_peak
from spiketicket.profiling.search.noise_images import image_format, noise_dataset
from spiketicket.profiling.search.setup import PARTS, IterationSetup
from spiketicket.train.loop.batches import Batches
from spiketicket.train.loop.distributed import Group, joined_group
from spiketicket.train.loop.loop import EpochMean, TrainingState
from spiketicket.train.networks.config import ModelConfig
from spiketicket.train.networks.models import build
from spiketicket.train.pruning.masks import dense_masks
from spiketicket.train.search.settings import SearchSettings
from spiketicket.train.search.ticket import build_meta

ITERATIONS = 2  # until memory is read: the first creates the optimiser's state, the second needs all of it
SMALL = IterationSetup("vgg_digits", 1, 2, "digits")
LR = 1e-3  # so small that noise does not make the loss infinite


class MarkedTrainingState(TrainingState):
    """A TrainingState that records when each part of an iteration ends; on a GPU, it waits for the device first."""

    marks: list[float] | None = None  # seconds of perf_counter; None: nothing is recorded

    def mark(self) -> None:
        if self.marks is None:
            return
        if not self.group.cpu:
            torch.cuda.synchronize(self.group.device)
        self.marks.append(time.perf_counter())

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        out = super().forward(images)
        self.mark()
        return out

    def _shape_gradients(self) -> None:
        self.mark()
        super()._shape_gradients()


class Iteration:
    """The network of a setup, with batches that never end.

    `whole` trains on one batch and waits for the device. `in_parts` trains on one as well, and appends the seconds of
    each part to `parts`; on a GPU it does so without a CUDA graph, one part after the other.
    """

    def __init__(self, setup: IterationSetup, batches: Batches, group: Group) -> None:
        torch.manual_seed(0)
        model = build(model_config(setup))
        settings = SearchSettings(
            "imp",
            setup.arch,
            setup.dataset,
            timesteps=setup.timesteps,
            rounds=2,
            epochs=1,
            rewind_epoch=0,
            batch_size=setup.batch,
            width=setup.width,
            batch_norm=setup.batch_norm,
            precision=setup.precision,
            lr=LR,
        )
        self.state = MarkedTrainingState(model, dense_masks(model), settings, group)
        self.batches = _endless(batches, setup.batch)
        self.epoch_mean = EpochMean.empty(group.device)
        self.parts: dict[str, list[float]] = {name: [] for name in PARTS}

    def whole(self) -> None:
        images, labels = next(self.batches)
        self.state.step(images, labels, self.epoch_mean, 1.0)
        if not self.state.group.cpu:
            torch.cuda.synchronize(self.state.group.device)

    def in_parts(self) -> None:
        state = self.state
        marks = state.marks = []
        state.mark()
        images, labels = next(self.batches)
        state.mark()
        state.iterate(images, labels)
        state.mark()
        state.marks = None
        for name, start, end in zip(PARTS, marks, marks[1:], strict=False):
            self.parts[name].append(end - start)


def model_config(setup: IterationSetup) -> ModelConfig:
    shape = image_format(setup.dataset)
    return ModelConfig(
        setup.arch, shape.channels, shape.size, shape.classes, setup.timesteps, setup.width, setup.batch_norm
    )


def weights_of(setup: IterationSetup) -> tuple[int, int]:
    """Return the numbers of prunable weights and of parameters of a setup's network. Raises InputError for an unknown
    arch.
    """
    network: nn.Module = build_meta(model_config(setup))
    parameters = list(network.parameters())
    return sum(p.numel() for p in parameters if p.dim() > 1), sum(p.numel() for p in parameters)


def _endless(batches: Batches, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    return (batch for epoch in count() for batch in batches.epoch(size, np.random.SeedSequence(epoch)))


def _peak(setup: IterationSetup, group: Group) -> int:
    batches = Batches(noise_dataset(setup.dataset), group.device)
    Iteration(SMALL, Batches(noise_dataset(SMALL.dataset), group.device), group).whole()  # loads what any network needs
    gc.collect()
    reset_peak()
    if not group.cpu:
        torch.cuda.reset_peak_memory_stats(group.device)
    before = process_bytes("VmRSS") if group.cpu else torch.cuda.memory_allocated(group.device)
    iteration = Iteration(setup, batches, group)
    for _ in range(ITERATIONS):
        iteration.whole()
    peak = process_bytes("VmHWM") if group.cpu else torch.cuda.max_memory_allocated(group.device)
    return peak - before


def _main(setup: str, device: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    with joined_group(device) as group:
        sys.stdout.write(f"{_peak(IterationSetup(**json.loads(setup)), group)}\n")


if __name__ == "__main__":
    try:
        _main(*sys.argv[1:])
    except SpikeTicketError as error:
        sys.exit(str(error))
