"""What is trained while an iteration is measured."""

from dataclasses import dataclass

from spiketicket.errors import InputError
from spiketicket.profiling.search.noise_images import image_format
from spiketicket.train.search.settings import PRECISIONS

PARTS = ("data", "forward", "backward", "optimiser")


@dataclass(frozen=True)
class IterationSetup:
    """A network and its training: `batch` images per iteration, of the size that `dataset` has."""

    arch: str
    timesteps: int
    batch: int
    dataset: str = "cifar10"
    width: float = 1.0
    batch_norm: str = "per-timestep"
    precision: str = "float32"

    def __post_init__(self) -> None:
        image_format(self.dataset)
        for good, name, expected, value in (
            (self.timesteps >= 1, "timesteps", "numbers from 1", self.timesteps),
            (self.batch >= 2, "batch", "2 or more (batch norm needs two)", self.batch),
            (self.precision in PRECISIONS, "precision", f"one of {', '.join(PRECISIONS)}", self.precision),
        ):
            if not good:
                raise InputError(f"{name}: expected {expected}, got {value}")
