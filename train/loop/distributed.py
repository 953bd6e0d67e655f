"""A search in several processes: started by torchrun, each of them trains on its share of every batch.

    torchrun --nproc-per-node 2 --no-python snn-search imp ...

Process 0 owns the run folder. What it reads or decides there is sent to the others, so that all of them take the same
branches; batch norm's statistics and gradients are those of the whole batch (train/networks/norms.py,
DistributedDataParallel).
"""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from spiketicket.errors import InputError, SpikeTicketError

R = TypeVar("R")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Group:
    """The processes of a search, seen from one of them."""

    rank: int = 0
    world: int = 1
    device: torch.device = CPU

    @property
    def is_main(self) -> bool:
        """Whether this process owns the run folder."""
        return self.rank == 0

    def share(self, compute: Callable[[], R]) -> R:
        """Return what `compute` returns in process 0; a SpikeTicketError there is raised in all processes."""
        if self.world == 1:
            return compute()
        box: list[Any] = [None]
        if self.is_main:
            box = [_attempt(compute)]
        distributed.broadcast_object_list(box, src=0, device=CPU if self.cpu else self.device)
        value, refusal = box[0]
        if refusal is not None:
            raise refusal
        result: R = value
        return result

    def wrapped(self, model: nn.Module) -> nn.Module:
        """Return `model` with gradients summed over all processes after every backward pass."""
        if self.world == 1:
            return model
        # Buffers need no broadcast: every process computes the same statistics. (Newer versions of torch have another
        # name for this argument.)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all processes, in place."""
        if self.world > 1:
            distributed.all_reduce(values)
        return values

    def agree(self, what: str, fingerprint: str) -> None:
        """Raise SpikeTicketError if the processes have different values of `fingerprint`."""
        if self.world == 1:
            return
        seen: list[Any] = [None] * self.world
        distributed.all_gather_object(seen, fingerprint)
        if len(set(seen)) > 1:
            raise SpikeTicketError(f"the processes disagree about the {what}: do all see the same data and versions?")

    @property
    def cpu(self) -> bool:
        return self.device.type == "cpu"


def _attempt(compute: Callable[[], R]) -> tuple[R | None, SpikeTicketError | None]:
    try:
        return compute(), None
    except SpikeTicketError as error:
        return None, error


@contextmanager
def joined_group(device: str, deterministic: bool = False) -> Iterator[Group]:
    """Join the group that torchrun's environment describes, or a group of this process alone, on a `device`.

    `device` is auto, cpu or cuda. `deterministic` asks for the same bits in every run on CUDA as well. Raises
    InputError if there is no such device.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
    world, rank, local = (int(os.environ.get(name, default)) for name, default in _ENVIRONMENT)
    place = _device(device, local)
    if world == 1:
        yield Group(device=place)
        return
    distributed.init_process_group("gloo" if place.type == "cpu" else "nccl")
    try:
        yield Group(rank, world, place)
    finally:
        distributed.destroy_process_group()


_ENVIRONMENT = (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0"))


def _device(name: str, local: int) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"device: expected auto, cpu or cuda, got {name}")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return CPU
    if not torch.cuda.is_available():
        raise InputError("device: this machine or this build of torch has no CUDA: use cpu")
    if local >= torch.cuda.device_count():
        raise InputError(
            f"device: process {local} of this machine has no GPU of its own: it has {torch.cuda.device_count()}"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)
