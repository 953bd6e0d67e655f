"""The largest T that fits into a budget, and the best of several models."""

import pytest

from spiketicket.errors import InputError
from spiketicket.profiling.decisions.budget import Budget, best, fits
from tests.support.profiles import latency, model, profile


@pytest.mark.parametrize(
    ("text", "ms", "quantile"),
    [("2ms", 2, "p95"), ("500us", 0.5, "p95"), ("0.01s", 10, "p95"), (" 2 ms@p99", 2, "p99"), (".5ms@p50", 0.5, "p50")],
)
def test_budgets_are_read(text, ms, quantile):
    assert Budget.parse(text) == Budget(pytest.approx(ms), quantile)


@pytest.mark.parametrize("text", ["2", "2 minutes", "ms", "-2ms", "0ms", "2ms@p42", ""])
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(InputError, match="expected a time such as 2ms"):
        Budget.parse(text)


def test_largest_t_of_every_engine():
    """p95 is 1.2 times the median here: 2.4 ms hold medians up to 2."""
    rows = [latency("native", t, p50=float(t)) for t in (1, 2, 3)] + [latency("torch", t, p50=5.0 * t) for t in (1, 2)]
    found = fits(profile(model("a.onnx", rows, [(1, 0.5), (2, 0.6), (3, 0.7)])), Budget(2.4))
    assert [(fit.engine, fit.timesteps, fit.accuracy) for fit in found] == [("native", 2, 0.6), ("torch", None, None)]
    assert [fit.ms for fit in found] == [pytest.approx(2.4), pytest.approx(6.0)]
    assert fits(profile(model("a.onnx", rows)), Budget(2.4, "p99"))[0].timesteps == 1


def test_best_is_the_most_accurate_and_of_equals_the_fastest():
    small = model("small.onnx", [latency(timesteps=t, p50=0.5 * t) for t in (1, 2)], [(1, 0.4), (2, 0.5)])
    large = model("large.onnx", [latency(timesteps=t, p50=1.5 * t) for t in (1, 2)], [(1, 0.6), (2, 0.7)])
    assert best(fits(profile(small, large), Budget(2.0))).model == "large.onnx"
    assert best(fits(profile(small, large), Budget(1.5))).model == "small.onnx"
    assert best(fits(profile(small, large), Budget(0.1))) is None
    equal = model("equal.onnx", [latency(timesteps=2, p50=0.9)], [(2, 0.5)])
    assert best(fits(profile(small, equal), Budget(1.5))).model == "equal.onnx"
    longer = model("longer.onnx", [latency(timesteps=3, p50=1.1)], [(3, 0.5)])
    assert best(fits(profile(longer, equal), Budget(1.5))).model == "equal.onnx"  # T is no merit of its own


def test_best_without_accuracy_has_the_largest_t_and_of_equals_is_the_fastest():
    rows = [latency("torch", 2, p50=1.0), latency("native", 2, p50=0.5), latency("onnxruntime", 1, p50=0.1)]
    assert best(fits(profile(model("a.onnx", rows)), Budget(2.0))).engine == "native"
