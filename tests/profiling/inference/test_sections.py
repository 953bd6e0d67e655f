"""What the sentences above a profile's tables say."""

from types import SimpleNamespace

import pytest

from spiketicket.profiling.inference.accuracy import Accuracy, AtTimesteps, EarlyExit
from spiketicket.profiling.inference.latency import Latency
from spiketicket.profiling.inference.sections import accuracy_section, latency_section
from spiketicket.profiling.measure.timing import Interval, Timing


@pytest.mark.parametrize(
    ("right", "said"),
    [
        ((500, 600, 890, 900), "from T = 3 on (89.00%) that is within the interval"),
        ((900, 600, 890, 900), "from T = 3 on (89.00%) that is within the interval"),  # it does not stay at T = 1
        ((143, 97), None),  # the interval of T = 1 lies above
        ((500, 900), None),
    ],
)
def test_from_which_t_on_accuracy_is_that_of_the_last(right, said):
    rows = [AtTimesteps(t, Accuracy.of(count, 1000)) for t, count in enumerate(right, 1)]
    latency = SimpleNamespace(rows=[], exits=[])
    samples = SimpleNamespace(source="1,000 images")
    model = SimpleNamespace(name="a.onnx", samples=samples, accuracy=rows, exits=[], latency=latency)
    says = accuracy_section([model]).says
    assert says.startswith(f"a.onnx (1,000 images): {right[-1] / 1000:.2%} at T = {len(right)}")
    assert said in says if said else "lies within" not in says


def timed(engine, *seconds, timesteps=1):
    return Latency(engine, timesteps, 1, 1, Timing(tuple((s,) for s in seconds)), None, Interval(1, 1, 1))


def test_which_engine_is_faster_is_said_where_it_can_be_told():
    """By pairs of rounds: both drift by more than they differ."""
    a = [1.0, 1.1, 1.3, 1.5, 1.2, 1.0, 1.4]
    model = SimpleNamespace(name="a.onnx", latency=SimpleNamespace(rows=[], missing={}))
    model.latency.rows = [timed("native", *a), timed("openvino", *(1.02 * s for s in a))]
    assert "openvino, the next, takes 1.02 times as long" in latency_section([model], ()).says
    model.latency.rows[1] = timed("openvino", *(s * (1.05 if i % 2 else 0.97) for i, s in enumerate(a)))
    says = latency_section([model], ()).says
    assert "openvino is ahead" in says and "cannot be distinguished from native (ratio 0.95 to 1.03)" in says
    assert "fastest" not in says and "times as long" not in says


@pytest.mark.parametrize(
    ("right", "ms", "said"),
    [
        (90, 3.0, "Early exit does not pay here"),  # T = 2 is as accurate and takes 2 ms
        (90, 1.5, "Early exit with a margin of 0.5 is better than any fixed T of this accuracy"),
        (95, 3.0, "Early exit with a margin of 0.5 is better"),
    ],
)
def test_whether_early_exit_pays(right, ms, said):
    rows = [timed("native", 1e-3, timesteps=1), timed("native", 2e-3, timesteps=2)]
    accuracy = [AtTimesteps(t, Accuracy.of(count, 100)) for t, count in ((1, 50), (2, 90))]
    exits = [EarlyExit(0.5, 1.4, Accuracy.of(right, 100))]
    model = SimpleNamespace(
        name="a.onnx",
        samples=SimpleNamespace(source="100 images"),
        accuracy=accuracy,
        exits=exits,
        latency=SimpleNamespace(rows=rows, exits=["some"]),
        exit_ms=lambda: {0.5: ms},
    )
    assert said in accuracy_section([model]).says
