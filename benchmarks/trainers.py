"""Contestants of the training benchmark, and the peak memory of one, measured in a process of its own.

`trainers.py NAME ARCH TIMESTEPS BATCH THREADS DEVICE` is that process; it prints the peak in MB above the state before
the network was built.
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from footprint import memory
from spikingjelly.activation_based import functional
from timestep_loop import LoopNetwork, folded_network
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from spiketicket.train.config import ModelConfig
from spiketicket.train.models import build

LOOP, FOLDED, OURS = "loop", "folded", "spiketicket"
SEED = 0
WARM_UP = 2  # iterations


@dataclass(frozen=True)
class Contestant:
    """A way to train: the kind of network, the precision of its convolutions, and its memory format."""

    kind: str
    precision: str
    channels_last: bool

    @property
    def name(self) -> str:
        return " ".join([self.kind, self.precision, *(["channels-last"] if self.channels_last else [])])

    @property
    def autocast(self) -> torch.dtype | None:
        return torch.bfloat16 if self.precision == "bf16" else None


def contestants(precisions: list[str]) -> list[Contestant]:
    """The loop in float32 as its authors ran it; the others in each precision and both memory formats."""
    others = [(kind, last) for kind in (FOLDED, OURS) for last in (False, True)]
    return [
        Contestant(LOOP, "float32", False),
        *(Contestant(kind, precision, last) for precision in precisions for kind, last in others),
    ]


@dataclass(frozen=True)
class Setup:
    arch: str
    timesteps: int
    batch: int
    device: str

    def network(self, contestant: Contestant, kind: torch.dtype = torch.float32) -> nn.Module:
        """Every contestant starts from the same weights."""
        torch.manual_seed(SEED)
        network = build(ModelConfig(self.arch, 3, 32, 10, self.timesteps)).to(kind)
        if contestant.kind != OURS:
            network = LoopNetwork(network) if contestant.kind == LOOP else folded_network(network)
        if contestant.channels_last:
            network = network.to(memory_format=torch.channels_last)
        return network.to(self.device).train()

    def images(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(SEED)
        labels = torch.randint(10, (self.batch,), generator=generator)
        return torch.randn(self.batch, 3, 32, 32, generator=generator).to(self.device), labels.to(self.device)


def loss_of(network: nn.Module, images: Tensor, labels: Tensor, autocast: torch.dtype | None) -> Tensor:
    """Mean over timesteps and images of the cross-entropy."""
    functional.reset_net(network)
    with torch.autocast(images.device.type, dtype=autocast, enabled=autocast is not None):
        logits = network(images)
    return cross_entropy(logits.to(images.dtype).flatten(0, 1), labels.repeat(len(logits)))


def trainer(contestant: Contestant, setup: Setup) -> Callable[[], None]:
    """One iteration: forward, backward, SGD with momentum; on a GPU until it has finished."""
    network, (images, labels) = setup.network(contestant), setup.images()
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)

    def iterate() -> None:
        loss = loss_of(network, images, labels, contestant.autocast)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if images.is_cuda:
            torch.cuda.synchronize()

    return iterate


def disagreement(contestant: Contestant, setup: Setup) -> float:
    """|g - g'| / |g'| of all gradients as one vector; g' is that of the loop in float32, or float64 for float64."""
    images, labels = setup.images()
    kind = torch.float64 if contestant.precision == "float64" else torch.float32
    vectors = []
    for one in (contestant, Contestant(LOOP, "float32", False)):
        network = setup.network(one, kind)
        loss_of(network, images.to(kind), labels, one.autocast).backward()
        vectors.append(torch.cat([p.grad.double().flatten().cpu() for p in network.parameters()]))
    return float((vectors[0] - vectors[1]).norm() / vectors[1].norm())


def peak_megabytes(contestant: Contestant, setup: Setup, threads: int) -> float:
    """Of weights, gradients, the optimiser's state and whatever an iteration needs."""
    last = "last" if contestant.channels_last else "first"
    arguments = [contestant.kind, contestant.precision, last, setup.arch, setup.timesteps, setup.batch, setup.device]
    command = [sys.executable, __file__, *map(str, arguments), str(threads)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    kind, precision, last, arch, timesteps, batch, device, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    before = memory("VmRSS")
    iterate = trainer(Contestant(kind, precision, last == "last"), Setup(arch, int(timesteps), int(batch), device))
    for _ in range(WARM_UP):
        iterate()
    print(torch.cuda.max_memory_allocated() / 1e6 if device.startswith("cuda") else memory("VmHWM") - before)


if __name__ == "__main__":
    main()
