"""The schedule of a growing mask: how many weights survive after each iteration, and when tickets are taken.

Sparsity follows the cubic schedule of Zhu and Gupta, "To prune, or not to prune" (2017, arXiv 1710.01878): with f from
0 to 1 between the first and the last pruning, keep(f) = last + (first - last) (1 - f)^3. Many weights are pruned early,
while the network is redundant and recovers quickly, and few at a time towards the end.
"""

from collections.abc import Iterator
from dataclasses import dataclass

PRUNINGS_PER_EPOCH = 16


@dataclass(frozen=True)
class Milestone:
    """The ticket of `round` is taken when `keep` weights are left."""

    round: int
    keep: int


@dataclass(frozen=True)
class Growth:
    """Pruning from `start` weights to `keep`, between two epochs (counted from the training's start)."""

    start: int
    keep: int
    first_epoch: float
    last_epoch: float
    milestones: tuple[Milestone, ...] = ()  # tickets on the way, the one with most weights first

    def is_due(self, batch: int, batches: int) -> bool:
        """Tell whether the mask grows before iteration `batch` of an epoch of `batches`."""
        return batch % max(1, batches // PRUNINGS_PER_EPOCH) == 0

    def keep_at(self, epoch: float) -> int:
        """Return how many weights survive when `epoch` epochs, a fraction included, are over."""
        length = self.last_epoch - self.first_epoch
        if epoch >= self.last_epoch or length <= 0:
            return self.keep if epoch >= self.last_epoch else self.start
        left = 1 - max(0.0, epoch - self.first_epoch) / length
        return self.keep + round((self.start - self.keep) * left**3)

    def steps(self, before: int, epoch: float) -> Iterator[tuple[int, Milestone | None]]:
        """Yield the prunings due at `epoch`: how many weights to keep, and the ticket to take after that.

        `before` is what the last pruning was asked to keep; some strategies leave fewer.
        """
        target = self.keep_at(epoch)
        for milestone in self.milestones:
            if target <= milestone.keep < before:
                yield milestone.keep, milestone
                before = milestone.keep
        if target < before:
            yield target, None
