"""Candidates of the training benchmark, and the peak memory of each, measured in a process of its own.

That process is `python -m benchmarks.rivals.trainers KIND PRECISION FORMAT ARCH TIMESTEPS BATCH DEVICE THREADS`. It
prints by how many MB its memory grew at most after the network began to be built.
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.rivals.timestep_loop import LoopNetwork, folded_network
from spiketicket.data import Augmentation, Dataset, Normalisation, Split
from spiketicket.profiling.measure.clock import synchronised
from spiketicket.profiling.measure.memory import process_bytes, reset_peak
from spiketicket.train.loop.batches import Batches
from spiketicket.train.loop.distributed import Group
from spiketicket.train.loop.loop import EpochMean, TrainingState
from spiketicket.train.networks.config import ModelConfig
from spiketicket.train.networks.cuda.launching import available
from spiketicket.train.networks.layers import fuse, lay_out
from spiketicket.train.networks.models import build
from spiketicket.train.pruning.masks import dense_masks
from spiketicket.train.search.settings import SearchSettings

LOOP, FOLDED, OURS, GRAPHED = "loop", "folded", "spiketicket", "spiketicket, CUDA graph"
CONTIGUOUS, LAST, CHOSEN = "contiguous", "channels-last", "chosen"
SEED = 0
WARM_UP = 2  # iterations
FLOAT16_SCALE = 2.0**10  # factor of the loss in float16
IMAGES = 4096  # training images, which are noise: the time to make a batch does not depend on what they show
NORMALISATION = Normalisation(255.0, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
AUGMENTATION = Augmentation(crop_padding=4, flip=True, cutout=16)  # as for CIFAR


@dataclass(frozen=True)
class Candidate:
    """A way to train: the kind of network, the precision of its convolutions, and its memory format.

    The memory format is contiguous, channels-last, or `chosen`: the one that `lay_out` chooses for each layer.
    """

    kind: str
    precision: str
    format: str

    @property
    def name(self) -> str:
        return f"{self.kind} {self.precision} {self.format}"

    @property
    def autocast(self) -> torch.dtype | None:
        """The type that autocast computes convolutions in; None without autocast."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)


def candidates(precisions: list[str], device: str) -> list[Candidate]:
    """Return the loop over timesteps in float32, as its authors ran it, and all others in each precision.

    The others come in two memory formats; on a GPU, this project's training step as a CUDA graph is added.
    """
    others = [(FOLDED, CONTIGUOUS), (FOLDED, LAST), (OURS, CONTIGUOUS), (OURS, CHOSEN)]
    found = [Candidate(kind, precision, form) for precision in precisions for kind, form in others]
    if device != "cpu":  # no graph in float16: its loss scaler waits for the CPU in every iteration
        found += [Candidate(GRAPHED, precision, CHOSEN) for precision in precisions if precision != "fp16"]
    return [Candidate(LOOP, "float32", CONTIGUOUS), *found]


@dataclass(frozen=True)
class TrainingConfiguration:
    """The network, T, batch and device that candidates are timed with."""

    arch: str
    timesteps: int
    batch: int
    device: str

    @property
    def title(self) -> str:
        """The configuration in words, without T."""
        return f"{self.arch}, batch {self.batch}, {self.device}"

    def network(self, candidate: Candidate, kind: torch.dtype = torch.float32) -> nn.Module:
        """Build the network of a candidate in training mode. All candidates start from the same weights."""
        torch.manual_seed(SEED)
        network = build(ModelConfig(self.arch, 3, 32, 10, self.timesteps)).to(kind)
        if candidate.kind in (LOOP, FOLDED):
            network = LoopNetwork(network) if candidate.kind == LOOP else folded_network(network)
        if candidate.format == LAST:
            network = network.to(memory_format=torch.channels_last)
        elif candidate.format == CHOSEN:
            lay_out(network, torch.device(self.device), mixed=candidate.autocast is not None)
            if self.device != "cpu" and available():
                fuse(network)
        return network.to(self.device).train()

    def images(self) -> tuple[Tensor, Tensor]:
        """Return one batch of random images `[N, 3, 32, 32]` and labels `[N]`."""
        generator = torch.Generator().manual_seed(SEED)
        labels = torch.randint(10, (self.batch,), generator=generator)
        return torch.randn(self.batch, 3, 32, 32, generator=generator).to(self.device), labels.to(self.device)


def loss_of(network: nn.Module, images: Tensor, labels: Tensor, autocast: torch.dtype | None) -> Tensor:
    """Return the mean cross-entropy over timesteps and images."""
    functional.reset_net(network)
    with torch.autocast(images.device.type, dtype=autocast, enabled=autocast is not None):
        logits = network(images)
    return cross_entropy(logits.to(images.dtype).flatten(0, 1), labels.repeat(len(logits)))


def trainer(candidate: Candidate, configuration: TrainingConfiguration) -> Callable[[], object] | None:
    """Return a function that runs one training iteration: forward, backward, SGD with momentum.

    On a GPU, the function returns when the GPU has finished. The result is None if the candidate cannot run here.
    """
    if candidate.kind == GRAPHED:
        return graphed_trainer(candidate, configuration)
    network, (images, labels) = configuration.network(candidate), configuration.images()
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    scaler = torch.amp.GradScaler(images.device.type, enabled=candidate.autocast == torch.float16)

    def iterate() -> None:
        loss = loss_of(network, images, labels, candidate.autocast)
        optimiser.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()

    return synchronised(iterate, torch.cuda.synchronize) if images.is_cuda else iterate


def graphed_trainer(candidate: Candidate, configuration: TrainingConfiguration) -> Callable[[], object] | None:
    """Return the training step of a search without pruned weights, as a CUDA graph.

    The result is None if no graph could be captured; a warning has said why.
    """
    precision = "bfloat16" if candidate.autocast is not None else "float32"
    settings = SearchSettings(
        "imp",
        configuration.arch,
        "cifar10",
        timesteps=configuration.timesteps,
        rounds=2,
        epochs=1,
        rewind_epoch=0,
        lr=1e-3,
        batch_size=configuration.batch,
        precision=precision,
    )
    torch.manual_seed(SEED)
    network = build(ModelConfig(configuration.arch, 3, 32, 10, configuration.timesteps))
    state = TrainingState(network, dense_masks(network), settings, Group(device=torch.device(configuration.device)))
    epoch_mean, (images, labels) = EpochMean.empty(torch.device(configuration.device)), configuration.images()
    step = synchronised(lambda: state.step(images, labels, epoch_mean, 1.0), torch.cuda.synchronize)
    for _ in range(WARM_UP):
        step()
    return None if state.graph is None or state.graph.replay is None else step


def batch_maker(configuration: TrainingConfiguration) -> Callable[[], object]:
    """Return a function that makes the next training batch as a search does: shuffled, augmented and normalised."""
    rng = np.random.default_rng(SEED)
    split = Split(rng.integers(0, 256, (IMAGES, 3, 32, 32), np.uint8), rng.integers(0, 10, IMAGES))
    noise = Dataset("noise", split, split.take(np.arange(IMAGES) < 2), tuple("0123456789"), NORMALISATION, AUGMENTATION)
    batches = Batches(noise, configuration.device)
    seeds = map(np.random.SeedSequence, count())
    endless = (batch for seed in seeds for batch in batches.epoch(configuration.batch, seed))

    def make() -> None:
        images, _ = next(endless)
        if images.is_cuda:
            torch.cuda.synchronize()

    return make


def gradients(candidate: Candidate, configuration: TrainingConfiguration) -> Tensor:
    """Return the gradients of the first iteration as one vector in float64.

    In float16 the loss is scaled, as in training, and the gradients are divided by the scale.
    """
    kind = torch.float64 if candidate.precision == "float64" else torch.float32
    network, (images, labels) = configuration.network(candidate, kind), configuration.images()
    scale = FLOAT16_SCALE if candidate.autocast == torch.float16 else 1.0
    (scale * loss_of(network, images.to(kind), labels, candidate.autocast)).backward()
    return torch.cat([p.grad.double().flatten().cpu() for p in network.parameters()]) / scale


def peak_megabytes(candidate: Candidate, configuration: TrainingConfiguration, threads: int) -> float:
    """Measure the peak memory in MB of weights, gradients, the optimiser's state and the buffers of an iteration."""
    arguments = [*vars(candidate).values(), *vars(configuration).values(), threads]
    command = [sys.executable, "-m", "benchmarks.rivals.trainers", *map(str, arguments)]
    root = Path(__file__).parents[2]  # where the package `benchmarks` is found
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=root).stdout)


def main() -> None:
    """Print the peak memory of the candidate on the command line, in MB."""
    kind, precision, form, arch, timesteps, batch, device, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    reset_peak()
    before = process_bytes("VmRSS")
    iterate = trainer(Candidate(kind, precision, form), TrainingConfiguration(arch, int(timesteps), int(batch), device))
    if iterate is None:
        sys.exit("no CUDA graph")
    for _ in range(WARM_UP):
        iterate()
    grown = torch.cuda.max_memory_allocated() if device.startswith("cuda") else process_bytes("VmHWM") - before
    print(grown / 1e6)


if __name__ == "__main__":
    main()
