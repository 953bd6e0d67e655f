"""Measured seconds and what may be said of them: quantiles, bootstrap intervals, differences."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate and where the true value lies with CONFIDENCE."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> "Interval":
        """The same in another unit; `factor` > 0."""
        return Interval(factor * self.value, factor * self.low, factor * self.high)

    def to_dict(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Timing:
    """Seconds of all runs of one contestant, by round: in each round every contestant had its turn once, so that
    rounds of two contestants of one measurement are pairs."""

    rounds: tuple[tuple[float, ...], ...]

    @property
    def seconds(self) -> Sequence[float]:
        return [second for turn in self.rounds for second in turn]

    @property
    def n(self) -> int:
        return sum(map(len, self.rounds))

    def quantile(self, share: float) -> float:
        return float(np.quantile(self.seconds, share))
