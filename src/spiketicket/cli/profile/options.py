"""The options of `snn-profile model`."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from spiketicket.cli.console import number_ranges
from spiketicket.cli.options import option
from spiketicket.errors import InputError
from spiketicket.profiling.decisions.budget import Budget
from spiketicket.profiling.inference.engines import PROFILED
from spiketicket.profiling.inference.settings import ProfileSettings
from spiketicket.profiling.measure.machine import usable_cores


@dataclass(frozen=True)
class Measurement:
    """What is measured, and for how long."""

    PANEL: ClassVar[str] = "What to measure"

    engines: str = option(f"Engines, separated by commas: {', '.join(PROFILED)}.", default="native,onnxruntime")
    timesteps: str = option("Numbers of timesteps, as in 1,3,5 or 1-5.", default="1-5")
    batch: str = option("Images per run, as in 1,32.", default="1")
    threads: str | None = option("CPU threads, as in 1,2.", show_default="all cores")
    streams: int | None = option("Also measure throughput, with this many threads that run batches at the same time.")
    duration: float = option(
        "Seconds of measurement per engine, T, batch and threads.", default=ProfileSettings.duration
    )
    iterations: int | None = option("Number of timed runs of each, instead of --duration.")
    warmup: int | None = option("Number of untimed runs of each at the start.", show_default="until times are steady")
    percentile: str = option("Percentiles of latency.", default=",".join(f"{p:g}" for p in ProfileSettings.percentiles))
    pin: str | None = option("CPU cores to run on, as in 0,1 or 0-3.", show_default=False)
    margin: str | None = option("Margins of early exit, as in 0.5,1,2.", show_default="three that suit the model")
    seed: int = option("Seed of the order in which engines take turns.", default=ProfileSettings.seed)

    @property
    def cores(self) -> list[int]:
        """Return the cores to run on; empty: all. Raises InputError."""
        return list(number_ranges("pin", self.pin)) if self.pin is not None else []

    def settings(self) -> ProfileSettings:
        """Return the settings of the profile. Raises InputError if they cannot be read or measured."""
        return ProfileSettings(
            engines=tuple(name.strip() for name in self.engines.split(",") if name.strip()),
            timesteps=number_ranges("timesteps", self.timesteps),
            batches=number_ranges("batch", self.batch),
            threads=(usable_cores(),) if self.threads is None else number_ranges("threads", self.threads),
            streams=self.streams,
            duration=self.duration,
            iterations=self.iterations,
            warmup=self.warmup,
            percentiles=_numbers("percentile", self.percentile),
            margins=_numbers("margin", self.margin) if self.margin else (),
            seed=self.seed,
        )


@dataclass(frozen=True)
class Images:
    """The source of images."""

    PANEL: ClassVar[str] = "Images"

    dataset: str | None = option("Data set of the images that are run.", show_default="the model's, else noise")
    data: Path | None = option("Folder of the data sets' files (docs/data.md).", show_default="data")
    images: int | None = option("Number of test images for accuracy.", show_default="all")

    def __post_init__(self) -> None:
        if self.images is not None and self.images < 1:
            raise InputError(f"images: expected 1 or more, got {self.images}")


@dataclass(frozen=True)
class Decisions:
    """Decisions by the figures."""

    PANEL: ClassVar[str] = "Decisions"

    budget: str | None = option(
        "Show the largest T that takes no longer than this, as in 2ms or 2ms@p99 (p95 by default)."
    )
    check: Path | None = option("Check the figures against the limits in a TOML file; exit with 1 if one is broken.")
    compare: tuple[Path, Path] | None = option("Measure nothing: compare two profiles written by -x, before and after.")

    @property
    def allowed(self) -> Budget | None:
        """Return the budget, or None if none is set. Raises InputError if it cannot be read."""
        return Budget.parse(self.budget) if self.budget else None


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{name}: expected numbers separated by commas, got {text!r}") from error
