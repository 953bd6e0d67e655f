"""Statistics and the order of measurements; never how long anything takes."""

import itertools

import pytest

from spiketicket.profiling import clock
from spiketicket.profiling.clock import MIN_TURNS, Stats, measure


def test_quantiles():
    stats = Stats.of([float(i) for i in range(1, 102)])
    assert (stats.n, stats.min, stats.p50, stats.p90, stats.p99) == (101, 1.0, 51.0, 91.0, 100.0)
    assert stats.scaled(1000).p50 == 51_000 and stats.scaled(1000).n == 101


def test_rivals_take_turns_after_warm_up(monkeypatch):
    """With a clock that advances 11 ms a look: a turn of 20 ms has two timed runs, and one untimed before."""
    now = itertools.count(0, 0.011)
    monkeypatch.setattr(clock.time, "perf_counter", lambda: next(now))
    calls = []
    stats = measure({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, warmup=2, duration=0.0)
    assert "".join(calls) == "aabb" + "aaabbb" * MIN_TURNS
    assert {key: value.n for key, value in stats.items()} == {"a": 2 * MIN_TURNS, "b": 2 * MIN_TURNS}
    assert stats["a"].p50 == pytest.approx(0.011)


def test_what_fails_stops_the_measurement():
    with pytest.raises(ZeroDivisionError):
        measure({"a": lambda: 1 / 0}, warmup=0, duration=1.0)
