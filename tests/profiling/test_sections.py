"""What the sentences above a profile's tables say."""

from types import SimpleNamespace

import pytest

from spiketicket.profiling.accuracy import Accuracy, AtTimesteps
from spiketicket.profiling.counters import Counters
from spiketicket.profiling.inference_report import _counters_section
from spiketicket.profiling.sections import accuracy_section


@pytest.mark.parametrize(
    ("right", "said"),
    [
        ((500, 600, 890, 900), "from T = 3 on (89.00%) that lies within the interval"),
        ((900, 600, 890, 900), "from T = 3 on (89.00%) that lies within the interval"),  # it does not stay at T = 1
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


def test_counters_are_those_of_the_engine_that_ran():
    counters = Counters(cycles=100.0, instructions=250.0, cache_references=None, cache_misses=3.0)
    model = SimpleNamespace(counters=counters, layers=SimpleNamespace(engine="reference"))
    section = _counters_section(model)
    assert section.says == "2.50 instructions per cycle, reference, batch 1."
    assert section.table.rows[-1] == ("cache misses", 3.0)
