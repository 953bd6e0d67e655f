"""How candidates are timed, by a clock that they move themselves; never how long anything takes."""

import gc
from itertools import groupby

import pytest
from benchmarks.simulated import SimulatedTime

from spiketicket.errors import InputError
from spiketicket.profiling.measure.clock import MIN_ROUNDS, PAUSE, WARM_UP_AT_MOST, measure, synchronised
from spiketicket.profiling.measure.timing import difference, ratio


class Steps:
    """Time in which every run takes what `seconds` says next, the last of them again and again; notes who ran when."""

    def __init__(self):
        self.now, self.log, self.pauses = 0.0, [], 0

    def perf_counter_ns(self):
        return round(1e9 * self.now)

    def sleep(self, seconds):
        assert seconds == PAUSE
        self.now += seconds
        self.pauses += 1

    def run(self, name, *seconds):
        left = list(seconds)

        def take():
            self.log.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return take


@pytest.fixture
def steps(monkeypatch):
    steps = Steps()
    monkeypatch.setattr("spiketicket.profiling.measure.clock.time", steps)
    return steps


def test_turns_after_warm_up_in_rounds_of_random_order(steps):
    """A turn of 20 ms: two timed runs of 11 ms, and one untimed before."""
    runs = {name: steps.run(name, 0.011) for name in "abc"}
    found = measure(runs, warmup=2, duration=0.0)
    assert steps.log[:6] == list("aabbcc") and steps.pauses == 3 * MIN_ROUNDS
    turns = [steps.log[6:][i : i + 3] for i in range(0, 9 * MIN_ROUNDS, 3)]
    assert all(len(set(turn)) == 1 for turn in turns) and len(steps.log) == 6 + 9 * MIN_ROUNDS
    orders = ["".join(turn[0] for turn in turns[i : i + 3]) for i in range(0, len(turns), 3)]
    assert {"".join(sorted(order)) for order in orders} == {"abc"} and len(set(orders)) > 3
    for timing in found.timings.values():
        assert list(map(len, timing.rounds)) == [2] * MIN_ROUNDS and timing.seconds == pytest.approx([0.011] * timing.n)


def test_a_turn_begins_with_untimed_runs(steps):
    """For 2 ms: four of 0.5 ms, one of 50 ms."""
    runs = {"a": steps.run("a", 0.0005), "b": steps.run("b", 0.05)}
    found = measure(runs, warmup=0, duration=0.0)
    assert steps.log.count("a") == found.timings["a"].n + 4 * MIN_ROUNDS
    assert steps.log.count("b") == found.timings["b"].n + MIN_ROUNDS


def orders(steps, seed):
    steps.log.clear()
    measure({name: steps.run(name, 0.02) for name in "abcd"}, warmup=0, duration=0.0, seed=seed)
    return "".join(name for name, _ in groupby(steps.log))


def test_the_order_is_the_seeds(steps):
    assert orders(steps, 1) == orders(steps, 1) != orders(steps, 2)


def test_rounds_go_on_for_the_duration(steps):
    found = measure({"a": steps.run("a", 0.2), "b": steps.run("b", 0.3)}, warmup=1, duration=5.0)
    assert len(found.timings["a"].rounds) == len(found.timings["b"].rounds) == 20  # 2 * 5 s / 0.5 s
    assert steps.pauses == 0 and len(steps.log) == 2 + 40  # long runs need no pause and no untimed run


def test_a_lone_contestant_follows_nobody(steps):
    found = measure({"a": steps.run("a", 0.005)}, warmup=0, duration=0.0)
    assert steps.pauses == 0 and len(steps.log) == found.timings["a"].n == 4 * MIN_ROUNDS


@pytest.mark.parametrize(
    ("iterations", "seconds", "rounds"), [(3, 0.2, 3), (47, 0.0001, MIN_ROUNDS), (100, 0.01, 50), (100, 0.2, 100)]
)
def test_exactly_so_many_iterations_spread_over_rounds(steps, iterations, seconds, rounds):
    found = measure({"a": steps.run("a", seconds), "b": steps.run("b", seconds / 2)}, iterations=iterations, warmup=1)
    for timing in found.timings.values():
        sizes = list(map(len, timing.rounds))
        assert (timing.n, len(sizes)) == (iterations, rounds) and max(sizes) - min(sizes) <= 1


def warm_up(steps, *seconds):
    """How many runs it has."""
    measure({"a": steps.run("a", *seconds)}, iterations=1)
    return len(steps.log) - 1


def test_warm_up_ends_when_runs_get_no_faster(steps):
    falling = [0.02 * 0.9**i for i in range(10)]
    # The last five are level with the five before when the median of those, three of them, is.
    assert warm_up(steps, *falling, 0.006) == len(falling) + 3 + 5


def test_warm_up_has_a_floor(steps):
    assert warm_up(steps, 0.02) == 10  # two windows
    steps.log.clear()
    assert warm_up(steps, 0.001) == 50  # 0.05 s


def test_warm_up_has_a_ceiling(steps):
    assert warm_up(steps, *(0.1 * 0.99**i for i in range(500))) < 100
    assert steps.now > WARM_UP_AT_MOST
    steps.log.clear()
    assert warm_up(steps, 60.0) == 2


COVERAGE = {
    "quiet": {},
    "drift": {"drift": 0.2},
    "outliers": {"outliers": 0.05},
    "drift and outliers": {"drift": 0.2, "outliers": 0.05},
}


@pytest.mark.parametrize("disturbance", COVERAGE.values(), ids=COVERAGE)
def test_intervals_hold_the_truth_in_95_percent_of_measurements(disturbance):
    """Of two that are equal, and of one that is a tenth slower, on a simulated machine."""
    repeats, equal, slower = 400, 0, 0
    for seed in range(repeats):
        time = SimulatedTime(seed, **disturbance)
        runs = {"a": time.candidate(0.004), "b": time.candidate(0.004), "c": time.candidate(0.0044)}
        with time.installed():
            timings = measure(runs, iterations=60, warmup=0, seed=seed).timings
        equal += holds(difference(timings["a"], timings["b"]), 0.0)
        slower += holds(ratio(timings["c"], timings["a"]), 1.1)
    assert 0.92 <= equal / repeats <= 0.99 and 0.92 <= slower / repeats <= 0.99


def test_medians_hold_the_truth_in_95_percent_of_measurements():
    repeats, held = 400, 0
    for seed in range(repeats):
        time = SimulatedTime(seed, jitter=0.05)
        with time.installed():
            timing = measure({"a": time.candidate(0.004)}, iterations=60, warmup=0).timings["a"]
        held += holds(timing.median(), 0.004)
    assert 0.92 <= held / repeats <= 0.99


def holds(interval, truth):
    return interval.low <= truth <= interval.high


def test_a_result_is_waited_for():
    log = []
    assert synchronised(lambda: log.append("run") or 7, lambda: log.append("wait"))() == 7
    assert log == ["run", "wait"]


def test_garbage_is_collected_again_afterwards():
    seen = []
    measure({"a": lambda: seen.append(gc.isenabled())}, iterations=1, warmup=1)
    assert seen == [False, False] and gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        measure({"a": lambda: 1 / 0})
    assert gc.isenabled()


@pytest.mark.parametrize("wrong", [{"runs": {}}, {"duration": -1.0}, {"iterations": 0}, {"warmup": -1}])
def test_refusals(wrong):
    with pytest.raises(InputError, match="expected one run or more, duration and warmup from 0 and iterations from 1"):
        measure(**{"runs": {"a": int}, **wrong})
