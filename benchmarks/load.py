"""What else the machine did during a measurement."""

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
QUIET = 0.1  # cores


class OtherLoad:
    """Cores that others took while the block ran: other processes, and other guests of a virtual machine's host.

    The measuring process's own threads do not count (a DeepSparse worker's do); `cores` is None where Linux does not
    tell.
    """

    cores: float | None = None

    def __enter__(self) -> "OtherLoad":
        self.before = _reading()
        return self

    def __exit__(self, *_: object) -> None:
        after = _reading()
        if self.before and after:
            elapsed, busy, own = (new - old for new, old in zip(after, self.before, strict=True))
            self.cores = max(0.0, (busy - own) / max(elapsed, 1e-9))


def _reading() -> tuple[float, float, float] | None:
    """Seconds: of the clock, of all cores busy, of this process and its children that have ended."""
    try:
        fields = STAT.read_text().split("\n", 1)[0].split()[1:9]
        ticks = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None
    user, nice, system, _idle, _waiting, irq, softirq, steal = (int(field) / ticks for field in fields)
    own = os.times()
    return (
        time.perf_counter(),
        user + nice + system + irq + softirq + steal,
        own.user + own.system + own.children_user + own.children_system,
    )
