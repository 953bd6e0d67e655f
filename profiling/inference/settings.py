"""The settings of a profile."""

from dataclasses import asdict, dataclass
from typing import Any

from spiketicket.errors import InputError
from spiketicket.profiling.inference.engines import PROFILED
from spiketicket.profiling.measure.machine import usable_cores
from spiketicket.runtime.engine import check_timesteps

PERCENTILES = (50.0, 90.0, 95.0, 99.0)


@dataclass(frozen=True)
class ProfileSettings:
    """The settings of a profile, checked. Raises InputError for impossible ones.

    `duration` is the seconds of measurement per engine, T, batch and number of threads; `iterations`, if given, is the
    number of timed runs instead. `warmup` is the number of untimed runs of each (None: until times are steady).
    `margins` are those of early exit (empty: some that suit the model).
    """

    engines: tuple[str, ...]
    timesteps: tuple[int, ...]
    batches: tuple[int, ...] = (1,)
    threads: tuple[int, ...] = (1,)
    streams: int | None = None
    duration: float = 1.0
    iterations: int | None = None
    warmup: int | None = None
    percentiles: tuple[float, ...] = PERCENTILES
    margins: tuple[float, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.engines if name not in PROFILED]
        if unknown or not self.engines or len(set(self.engines)) < len(self.engines):
            got = f"unknown {', '.join(unknown)}" if unknown else ", ".join(self.engines) or "none"
            raise InputError(f"engines: expected one or more of {', '.join(PROFILED)}, each once, got {got}")
        for t in self.timesteps:
            check_timesteps(t)
        for name in ("timesteps", "batches", "threads"):
            numbers = getattr(self, name)
            if not numbers or list(numbers) != sorted(set(numbers)) or numbers[0] < 1:
                raise InputError(f"{name}: expected rising whole numbers from 1, got {_listed(numbers)}")
        cores = usable_cores()
        for name, asked in (("threads", self.threads[-1]), ("streams", 1 if self.streams is None else self.streams)):
            if not 1 <= asked <= cores:
                raise InputError(
                    f"{name}: expected 1 to {cores}, the number of cores that this process may use, got {asked}"
                )
        if not self.duration > 0:
            raise InputError(f"duration: expected seconds above 0, got {self.duration:g}")
        if self.iterations is not None and self.iterations < 1:
            raise InputError(f"iterations: expected 1 or more, got {self.iterations}")
        if self.warmup is not None and self.warmup < 0:
            raise InputError(f"warmup: expected a number of runs from 0, got {self.warmup}")
        if not all(0 < p < 100 for p in self.percentiles):
            raise InputError(f"percentiles: expected numbers between 0 and 100, got {_listed(self.percentiles)}")
        if not all(margin >= 0 for margin in self.margins):
            raise InputError(f"margins: expected numbers from 0, got {_listed(self.margins)}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _listed(numbers: tuple[float, ...]) -> str:
    return ", ".join(f"{number:g}" for number in numbers) or "none"
