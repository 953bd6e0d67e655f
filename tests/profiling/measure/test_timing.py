"""Quantiles, intervals and comparisons of measured seconds."""

import numpy as np
import pytest
from scipy.stats import binom

from spiketicket.profiling.measure.timing import Interval, Timing, difference, interval_rank, ratio


def timing(*values):
    """One run per round."""
    return Timing(tuple((float(value),) for value in values))


def test_figures_of_all_runs():
    t = Timing(((3.0, 1.0, 2.0), (5.0, 4.0, 6.0)))
    assert (t.n, t.min, t.seconds) == (6, 1.0, [3.0, 1.0, 2.0, 5.0, 4.0, 6.0])
    assert [t.quantile(q) for q in (0, 0.2, 0.5, 1)] == pytest.approx([1.0, 2.0, 3.5, 6.0])
    assert t.spread == pytest.approx((4.75 - 2.25) / 3.5)
    assert list(t.medians) == [2.0, 5.0]


def test_slow_turns_weigh_as_much_as_fast_ones():
    """One turn of ten is ten times slower, and holds a tenth of the runs: a tenth of the time it is that slow."""
    timing = Timing((*[(1.0,) * 20] * 9, (10.0, 10.0)))
    assert timing.quantile(0.85) == 1.0 and timing.quantile(0.96) == 10.0
    alike = Timing(tuple((float(i), float(i + 1)) for i in range(0, 20, 2)))
    assert alike.quantile(0.33) == pytest.approx(np.quantile(range(20), 0.33))
    assert Timing(((2.0,),)).quantile(0.9) == 2.0


def test_figures_in_another_unit():
    t = timing(*range(1, 102))
    figures = t.to_dict(1e3)
    assert list(figures) == ["n", "min", "p50", "p90", "p95", "p99", "low", "high", "spread"]
    assert [figures[key] for key in ("n", "min", "p50", "p90", "p95", "p99")] == [101, 1e3, 51e3, 91e3, 96e3, 100e3]
    median = t.median().scaled(1e3)
    assert (figures["p50"], figures["low"], figures["high"]) == (median.value, median.low, median.high)
    assert figures["spread"] == t.spread
    assert median.to_dict() == {"value": 51e3, "low": median.low, "high": median.high}


def test_every_round_counts_once():
    """A slow spell holds few runs, a fast one many."""
    assert Timing(((1.0,) * 100, (9.0,), (9.0,))).median().value == 9.0


def test_intervals_are_the_bootstraps():
    """Against resamples that are drawn."""
    rng = np.random.default_rng(0)
    for n in (10, 51, 200):
        values = rng.lognormal(size=n)
        drawn = np.quantile(np.median(rng.choice(values, (20_000, n)), axis=1), [0.025, 0.975])
        interval, ordered = timing(*values).median(), np.sort(values)
        assert interval.value == np.median(values)
        for end, other in zip((interval.low, interval.high), drawn, strict=True):
            assert abs(np.searchsorted(ordered, end) - np.searchsorted(ordered, other)) <= 1


def test_intervals_hold_the_median_in_95_percent_whatever_the_distribution():
    """The chance that at least `rank` of n values lie on either side of the true median."""
    held = {n: 1 - 2 * binom.cdf(interval_rank(n) - 1, n, 0.5) for n in range(6, 1000)}
    assert min(held.values()) >= 0.95
    assert max(held[n] for n in held if n >= 10) < 0.99


def test_few_rounds_give_all_that_was_seen():
    assert timing(2.0).median() == Interval(2.0, 2.0, 2.0)
    assert timing(3.0, 1.0, 2.0).median() == Interval(2.0, 1.0, 3.0)


def test_one_disturbed_round_of_ten_does_not_count():
    quiet, disturbed = timing(*range(10, 20)).median(), timing(*range(10, 19), 1000).median()
    assert quiet == disturbed


def test_ten_thousand_rounds():
    interval = timing(*range(1, 10_000)).median()
    assert interval.value == 5000 and interval.high - interval.low == pytest.approx(4 * 50, rel=0.05)


def test_comparisons_are_within_rounds():
    """The machine slows down fourfold; what is a tenth longer stays a tenth longer."""
    speed = np.linspace(1, 4, 20)
    a, b = timing(*(1.1 * speed)), timing(*speed)
    slower = ratio(a, b)
    assert (slower.value, slower.low, slower.high) == pytest.approx((1.1, 1.1, 1.1))
    assert ratio(b, a).value == pytest.approx(1 / slower.value)
    assert difference(timing(*(speed + 0.5)), b).to_dict() == pytest.approx({"value": 0.5, "low": 0.5, "high": 0.5})
    assert a.median().low < b.median().high


def test_refusals():
    for rounds in ((), ((),), ((1.0,), ())):
        with pytest.raises(ValueError, match="one round or more of one run or more"):
            Timing(rounds)
    for compare in (difference, ratio):
        with pytest.raises(ValueError, match="have the same rounds, got 2 and 1"):
            compare(timing(1, 2), timing(1))
