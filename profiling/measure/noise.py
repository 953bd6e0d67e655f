"""Other activity of the machine during a measurement, and whether it makes the figures doubtful."""

import os
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spiketicket.profiling.measure.machine import governor, usable_cores

STAT = Path("/proc/stat")
SHORTEST = 0.5  # seconds: Linux counts a core's time in ticks of 10 ms, and two cores may be off by one each

QUIET = 0.1  # cores: an idle Linux takes 0.01 to 0.03; what takes 0.1 meets one turn in ten, and shows in the p90
STOLEN = 0.02  # cores: a host with room to spare steals nothing at all
PREEMPTED = 50.0  # per second: 2 to 4 on a quiet machine, 100 and more where a core is shared with another process
SCATTER = 0.1  # share of the median; on a quiet machine, the medians of turns scatter by 1 to 3%
STEADY_GOVERNORS = ("performance", "")


@dataclass(frozen=True)
class Noise:
    """The noise during a measurement; a figure is None if the system does not tell it or the measurement was too short.

    `others` is the number of cores that other processes and other guests of a virtual machine's host took, and `stolen`
    the guests' part of it. `preempted` is how many times per second this process was preempted. `spread` is the
    interquartile range of the turns' medians over their median, for the candidate with the largest. `governor` is that
    of the clock frequency (empty if not readable), `load_average` that of the minute before the measurement, and
    `cores` the number that this process may use.
    """

    others: float | None
    stolen: float | None
    preempted: float | None
    spread: float
    governor: str
    load_average: float | None
    cores: int

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return a sentence for everything that makes the figures doubtful; none on a quiet machine."""
        found = []
        if self.others is not None and self.others > QUIET:
            found.append(f"The machine was not quiet: other processes took {self.others:.2g} cores.")
        if self.stolen is not None and self.stolen > STOLEN:
            found.append(f"The host of this virtual machine gave {self.stolen:.2g} of its cores to others.")
        if self.preempted is not None and self.preempted > PREEMPTED:
            found.append(f"The process was preempted {self.preempted:.0f} times per second.")
        if self.spread > SCATTER:
            found.append(f"Times scatter: the middle half of all turns spans {self.spread:.0%} of the median.")
        if self.governor not in STEADY_GOVERNORS:
            found.append(f"The frequency governor is {self.governor}, so that the clock frequency may change.")
        if self.load_average is not None and self.load_average > self.cores:
            found.append(
                f"When the measurement began, {self.load_average:.2g} threads wanted to run on {self.cores} "
                f"core{'s' if self.cores > 1 else ''} (load average)."
            )
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "warnings": list(self.warnings)}


class Watch:
    """A context manager that reads the state of the machine before and after its block. The measuring process's own
    threads, and children that have ended, do not count as others; children that still run do.
    """

    def __enter__(self) -> "Watch":
        self.load_average = _load_average()
        self.before = self.after = _read()
        return self

    def __exit__(self, *_: object) -> None:
        self.after = _read()

    def noise(self, spread: float) -> Noise:
        """Return the noise during the block, which has ended. `spread` is the measurement's."""
        others = stolen = preempted = None
        elapsed = self.after.time - self.before.time
        if elapsed >= SHORTEST:
            preempted = (self.after.preempted - self.before.preempted) / elapsed
            if self.before.cores and self.after.cores:
                busy, stolen = ((b - a) / elapsed for a, b in zip(self.before.cores, self.after.cores, strict=True))
                others = max(0.0, busy - (self.after.own - self.before.own) / elapsed)
        return Noise(others, stolen, preempted, spread, governor(), self.load_average, usable_cores())


@dataclass(frozen=True)
class _Reading:
    """Seconds, except `preempted`. `cores` has the busy and the stolen time of all cores, if Linux tells them."""

    time: float
    own: float
    preempted: int
    cores: tuple[float, float] | None


def _read() -> _Reading:
    own = os.times()
    return _Reading(
        time.perf_counter(),
        own.user + own.system + own.children_user + own.children_system,
        resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw,
        _core_seconds(),
    )


def _core_seconds() -> tuple[float, float] | None:
    try:
        fields = STAT.read_text().split("\n", 1)[0].split()[1:9]
        ticks = os.sysconf("SC_CLK_TCK")
        user, nice, system, _idle, _waiting, irq, softirq, steal = (int(field) / ticks for field in fields)
    except (OSError, ValueError):
        return None
    return user + nice + system + irq + softirq + steal, steal


def _load_average() -> float | None:
    try:
        return os.getloadavg()[0]
    except OSError:
        return None
