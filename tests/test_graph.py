"""A graph checks itself when it is built."""

import numpy as np
import pytest

from spiketicket.csr import Csr
from spiketicket.errors import ModelError
from spiketicket.graph import Add, Conv, Flatten, Graph, Lif, Linear, MaxPool, Repeat


def weight(*shape):
    return Csr.from_dense(np.ones(shape, np.float32))


def bias(size):
    return np.zeros(size, np.float32)


def build(*nodes, output="y", shape=(2, 4, 4), timesteps=1):
    return Graph("x", shape, nodes, output, timesteps)


REPEAT, LIF = Repeat("r", ("x",), "a"), Lif("lif", ("a",), "s", 2.0)
FLAT = Flatten("f", ("s",), "v")
READOUT = Linear("fc", ("v",), "y", weight(3, 32), bias(3))


def test_shapes_and_kinds_of_values():
    graph = build(REPEAT, LIF, FLAT, READOUT)
    values = graph.values
    assert values["a"].timed and not values["x"].timed
    assert values["s"].spikes and values["v"].spikes and not values["y"].spikes
    assert values["v"].shape == (32,) and graph.classes == 3
    assert graph.macs(READOUT) == 96


BAD_GRAPHS = [
    ((LIF,), "layer lif: input 'a' is not computed by an earlier layer"),
    ((Lif("lif", ("x",), "s", 2.0),), "layer lif: a neuron needs a timed input"),
    ((REPEAT, Lif("r", ("a",), "s", 2.0)), "two layers are named 'r'"),
    ((REPEAT, Lif("lif", ("a",), "a", 2.0)), "value 'a' is computed twice"),
    ((REPEAT, Repeat("r2", ("a",), "b")), "its input is repeated over time already"),
    ((REPEAT, Lif("lif", ("a",), "s", 0.9)), "tau must be at least 1, got 0.9"),
    ((REPEAT, Lif("lif", ("a",), "s", 2.0, 1.0, 1.0)), "v_reset must lie below v_threshold"),
    ((REPEAT, LIF, Add("add", ("s",), "b")), "layer add: expected 2 inputs, got 1"),
    ((REPEAT, LIF, Add("add", ("s", "x"), "b")), "layer add: cannot add"),
    (
        (REPEAT, LIF, FLAT, Linear("fc", ("v",), "y", weight(3, 31), bias(3))),
        "does not fit an input of shape",
    ),
    (
        (REPEAT, LIF, FLAT, Linear("fc", ("v",), "y", weight(3, 32), bias(4))),
        "bias must be float32 of 3 entries",
    ),
    ((REPEAT, LIF, FLAT, MaxPool("m", ("v",), "y", (2, 2), (2, 2))), "layer m: expects images"),
    (
        (REPEAT, LIF, MaxPool("m", ("s",), "b", (2, 2), (2, 2), (2, 0, 0, 0))),
        "pads must be smaller than the kernel",
    ),
    ((Conv("c", ("x",), "b", weight(3, 2, 5, 5), bias(3)),), "impossible shape"),
    ((Conv("c", ("x",), "b", weight(3, 1, 3, 3), bias(3)),), "does not fit 2 input channels"),
    ((Conv("c", ("x",), "b", weight(3, 1, 3, 3), bias(3), group=2),), "3 outputs do not split into 2 groups"),
    ((REPEAT, LIF, FLAT), "output 'y' is not computed by any layer"),
]


@pytest.mark.parametrize(("nodes", "message"), BAD_GRAPHS)
def test_refusals(nodes, message):
    with pytest.raises(ModelError, match=message):
        build(*nodes)


def test_output_must_be_timed_logits():
    with pytest.raises(ModelError, match="must be timed logits"):
        build(REPEAT, LIF, output="s")
    with pytest.raises(ModelError, match="must be timed logits"):
        build(Flatten("f", ("x",), "y"))


def test_timesteps():
    with pytest.raises(ModelError, match="timesteps must be at least 1, got 0"):
        build(REPEAT, LIF, FLAT, READOUT, timesteps=0)


@pytest.mark.parametrize(
    ("pads", "dilations", "message"),
    [
        ((4, 0, 0, 0), (1, 1), "layer c: pads .* exceed the kernel"),
        ((10_000,) * 4, (5_000, 5_000), "make the input 64 times larger"),
    ],
)
def test_absurd_pads(pads, dilations, message):
    with pytest.raises(ModelError, match=message):
        build(Conv("c", ("x",), "b", weight(3, 2, 3, 3), bias(3), pads=pads, dilations=dilations))


def test_the_input_is_no_output():
    with pytest.raises(ModelError, match="output 'x' is not computed by any layer"):
        Graph("x", (4,), (), "x", 1, timed_input=True)
