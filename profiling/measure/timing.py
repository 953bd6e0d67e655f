"""Measured seconds and what may be said of them: quantiles, bootstrap intervals, differences.

Runs of one turn follow each other within milliseconds and are alike; what is drawn anew is the round. So intervals
resample rounds, each of which counts by the median of its turn, and two candidates are compared within each round,
where a drift of the machine meets both. Their order within a round is random: of equal candidates, the difference is
as often positive as negative, whatever the machine does, and its interval holds 0 in 95% of measurements.

The bootstrap of a median needs no random numbers. Of N sorted values, a resample's median is at most the j-th where at
least half of N draws fall on the first j: a binomial tail, with j / N for the chance of a draw. At some small N (8, 11,
14, ...) the interval that follows holds the true median in only 93% of cases; there its ends are moved out by one
value, to where a binomial tail with chance 1/2 (of a value to lie below the true median) gives 95% for any
distribution.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrc

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate, and the range in which the true value lies with CONFIDENCE."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> "Interval":
        """Return the interval in another unit; `factor` must be positive."""
        return self.mapped(lambda value: factor * value)

    def mapped(self, function: Callable[[float], float]) -> "Interval":
        """Return the interval of a rising function of the value."""
        return Interval(function(self.value), function(self.low), function(self.high))

    def to_dict(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Timing:
    """The seconds of all runs of one candidate, by round. In each round every candidate had its turn once, so that
    rounds of two candidates of one measurement are pairs. There is at least one round, of at least one run.

    Fewer than six rounds cannot give 95%: their interval reaches from the lowest to the highest median of a turn.
    """

    rounds: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if not self.rounds or not all(self.rounds):
            raise ValueError(f"expected one round or more of one run or more, got {self.rounds}")

    @property
    def seconds(self) -> Sequence[float]:
        return [second for turn in self.rounds for second in turn]

    @property
    def n(self) -> int:
        return sum(map(len, self.rounds))

    @property
    def min(self) -> float:
        return min(map(min, self.rounds))

    @cached_property
    def medians(self) -> NDArray[np.float64]:
        """Return the median of each round's turn, in order."""
        return np.array([median(turn) for turn in self.rounds])

    def quantile(self, share: float) -> float:
        """Return a quantile of all runs, in which every round weighs the same: a turn lasts as long whether its runs
        are fast or slow, so that it holds fewer of the slow ones.
        """
        return float(np.interp(share, self._shares, np.sort(self.seconds)))

    @cached_property
    def _shares(self) -> NDArray[np.float64]:
        """Return which quantile each run is, in rising order."""
        weights = np.concatenate([np.full(len(turn), 1 / len(turn)) for turn in self.rounds])[np.argsort(self.seconds)]
        below = np.cumsum(weights) - weights
        shares: NDArray[np.float64] = below / (below[-1] or 1.0)
        return shares

    def median(self) -> Interval:
        """Return the median of the rounds, each of which counts by the median of its turn."""
        return _median_of(self.medians)

    @property
    def spread(self) -> float:
        """Return the interquartile range of all runs over their median."""
        return (self.quantile(0.75) - self.quantile(0.25)) / self.quantile(0.5)

    def to_dict(self, factor: float = 1.0) -> dict[str, float]:
        """Return the figures in seconds times `factor`; `p50`, `low` and `high` are those of `median()`, `spread` has
        no unit.
        """
        middle = self.median()
        p90, p95, p99 = map(self.quantile, (0.9, 0.95, 0.99))
        scaled = {
            "min": self.min,
            "p50": middle.value,
            "p90": p90,
            "p95": p95,
            "p99": p99,
            "low": middle.low,
            "high": middle.high,
        }
        return {"n": self.n} | {key: factor * value for key, value in scaled.items()} | {"spread": self.spread}


def difference(a: Timing, b: Timing) -> Interval:
    """Return by how many seconds `a` takes longer than `b`: the median over rounds. Both must be of one measurement."""
    _check_pairs(a, b)
    return _median_of(a.medians - b.medians)


def ratio(a: Timing, b: Timing) -> Interval:
    """Return how many times as long `a` takes as `b`: the median over rounds, of logarithms, so that `ratio(b, a)` is
    its inverse. Both must be of one measurement, and no run may have taken zero seconds.
    """
    _check_pairs(a, b)
    return _median_of(np.log(a.medians / b.medians)).mapped(math.exp)


def relative_range(values: Sequence[float] | NDArray[np.float64]) -> float:
    """Return the interquartile range over the median, which must be positive."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return float((high - low) / middle)


def _check_pairs(a: Timing, b: Timing) -> None:
    if len(a.rounds) != len(b.rounds):
        raise ValueError(f"timings of one measurement have the same rounds, got {len(a.rounds)} and {len(b.rounds)}")


def _median_of(values: NDArray[np.float64]) -> Interval:
    ordered = np.sort(values)
    rank = interval_rank(len(ordered))
    return Interval(float(np.median(ordered)), float(ordered[rank - 1]), float(ordered[-rank]))


def interval_rank(n: int) -> int:
    """Return j such that the median's interval reaches from the j-th lowest to the j-th highest of n values."""
    tail = (1 - CONFIDENCE) / 2
    ranks = np.arange(1, n + 1)
    bootstrap = int(np.argmax(bdtrc((n - 1) // 2, n, ranks / n) > tail)) + 1
    guaranteed = int(np.sum(bdtr(ranks - 1, n, 0.5) <= tail))
    return max(1, min(bootstrap, guaranteed))
