"""When to save, and when to stop: by process 0's clock, for all processes."""

import time

from spiketicket.errors import OutOfTimeError
from spiketicket.train.loop.distributed import Group


class TimeLimit:
    """The minutes that a search may take, and the minutes between its checkpoints."""

    def __init__(self, max_minutes: float | None, save_minutes: float, group: Group) -> None:
        self.max_minutes, self.save_minutes, self.group = max_minutes, save_minutes, group
        self.start = self.saved = time.monotonic()

    def due(self) -> bool:
        """Tell whether a checkpoint should be written now: the last one is old, or time is up."""
        return self.group.share(lambda: self._over() or time.monotonic() - self.saved > 60 * self.save_minutes)

    def written(self) -> None:
        """Note that a checkpoint has been written. Raises OutOfTimeError if time is up."""
        self.saved = time.monotonic()
        if self.group.share(self._over):
            raise OutOfTimeError(
                f"out of time after {self.max_minutes:g} min; the same command goes on where this one stopped"
            )

    def _over(self) -> bool:
        return self.max_minutes is not None and time.monotonic() - self.start > 60 * self.max_minutes
