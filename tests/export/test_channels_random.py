"""Whatever the network: without its idle channels it computes the same."""

from dataclasses import replace
from math import inf, prod
from pathlib import Path

import numpy as np
from hypothesis import event, given, settings
from hypothesis import strategies as st

from spiketicket.csr import Csr
from spiketicket.export.channels import REASONS, remove_channels
from spiketicket.graph import (
    Add,
    And,
    AvgPool,
    Concat,
    Conv,
    Flatten,
    Graph,
    Li,
    Lif,
    Linear,
    MaxPool,
    Repeat,
    Unsqueeze,
    window,
)
from spiketicket.model.reader import read_model
from tests.support.slimming import check

ASSETS = Path(__file__).parents[1] / "assets"
BIASES = [-3.0, -0.4, 0.0, 0.4, 0.95, 1.1, 1.45, 4.0]  # of emptied outputs
STEPS = ["conv", "conv", "conv", "residual", "gate", "concat", "max", "mean", "li", "skip", "grouped"]


class Sketch:
    """A network under construction: its nodes, and the shape of the value at its end."""

    def __init__(self, draw, rng):
        self.draw, self.rng, self.nodes, self.shape = draw, rng, [], ()

    def add(self, kind, inputs, *arguments, **options):
        name = f"{kind.__name__.lower()}{len(self.nodes)}"
        self.nodes.append(kind(name, tuple(inputs), f"{name} out", *arguments, **options))
        return f"{name} out"

    def weight(self, shape):
        """Random, with many outputs and inputs emptied."""
        weight = self.rng.standard_normal(shape) * 2 / np.sqrt(prod(shape[1:]))
        weight[self.rng.random(shape[0]) < self.draw(st.sampled_from([0.2, 0.5, 0.8]))] = 0
        weight[:, self.rng.random(shape[1]) < self.draw(st.sampled_from([0.0, 0.3]))] = 0
        bias = np.where(weight.any(axis=tuple(range(1, len(shape)))), 0.3, self.rng.choice(BIASES, shape[0]))
        return Csr.from_dense(weight.astype(np.float32)), bias.astype(np.float32)

    def conv(self, x, out=None, same=False, group=1):
        channels, height, width = self.shape
        kernel = self.draw(st.sampled_from([1, 3])) if min(height, width) >= 3 else 1
        pad = kernel // 2 if same else self.draw(st.integers(0, kernel // 2))
        stride = 1 if same else self.draw(st.integers(1, 2))
        out = out or self.draw(st.integers(2, 6))
        weight, bias = self.weight((out, channels // group, kernel, kernel))
        sizes = [window(size, kernel, stride, pad, pad) for size in (height, width)]
        self.shape = (out, *sizes)
        return self.add(Conv, [x], weight, bias, (stride,) * 2, (pad,) * 4, (1, 1), group)

    def linear(self, x, out):
        weight, bias = self.weight((out, *self.shape))
        self.shape = (out,)
        return self.add(Linear, [x], weight, bias)

    def lif(self, x):
        reset = self.draw(st.sampled_from([None, 0.0, -0.5, 0.3]))
        tau, decay = self.draw(st.sampled_from([(4 / 3, True), (1.0, True), (2.0, False), (inf, False), (9.0, True)]))
        drop = self.draw(st.sampled_from([None, 0.8, 1.3])) if reset is None else None
        return self.add(Lif, [x], tau, self.draw(st.sampled_from([1.0, 0.6])), reset, decay, drop)

    def step(self, kind, x):
        channels, height, width = self.shape
        match kind:
            case "conv":
                return self.lif(self.conv(x))
            case "grouped":
                return self.lif(self.conv(x, out=2 * channels, group=channels))
            case "residual" | "skip":
                branch = self.conv(x, channels, same=True)
                other = x if kind == "skip" else self.conv(x, channels, same=True)
                return self.lif(self.add(Add, [branch, other]))
            case "gate":
                spikes = [self.lif(self.conv(x, channels, same=True)) for _ in range(2)]
                return self.add(And, spikes, negated=self.draw(st.booleans()))
            case "concat":
                branch = self.conv(x, same=True)
                self.shape = (self.shape[0] + channels, height, width)
                return self.add(Concat, self.draw(st.permutations([branch, x])))
            case "max":
                self.shape = (channels, *(window(size, 2, 1, 1, 0) for size in (height, width)))
                return self.add(MaxPool, [x], (2, 2), (1, 1), (1, 1, 0, 0))
            case "mean" if min(height, width) > 1:
                self.shape = (channels, height - 1, width - 1)
                return self.add(AvgPool, [x], (2, 2), (1, 1))
            case "li":
                return self.add(Li, [self.conv(x)], 2.0)
        return x


@st.composite
def networks(draw):
    sketch = Sketch(draw, np.random.default_rng(draw(st.integers(0, 2**32 - 1))))
    timed, signal = draw(st.booleans()), draw(st.booleans())
    shape = (3, draw(st.integers(3, 6))) if signal else (2, draw(st.integers(2, 4)), draw(st.integers(2, 4)))
    sketch.shape = (shape[0], 1, shape[1]) if signal else shape
    x = sketch.add(Unsqueeze, ["x"]) if signal else "x"
    x = sketch.conv(x)
    x = sketch.lif(x if timed else sketch.add(Repeat, [x]))
    for kind in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=5)):
        x = sketch.step(kind, x)
    x, sketch.shape = sketch.add(Flatten, [x]), (prod(sketch.shape),)
    if draw(st.booleans()):
        x = sketch.lif(sketch.linear(x, 6))
    x = sketch.linear(x, 3)
    if draw(st.booleans()):
        x = sketch.add(Li, [x], 3.0)
    return Graph("x", shape, tuple(sketch.nodes), x, 4, timed_input=timed)


@settings(max_examples=300, deadline=None)
@given(networks())
def test_any_network_computes_the_same(graph):
    slim = check(graph, (1, 6))
    event(f"removed for being {sorted({key for r in slim.removed.values() for key in REASONS if getattr(r, key)})}")
    again = remove_channels(slim.graph)
    assert again.graph is slim.graph, "nothing is left to remove"
    assert (slim.graph.input_shape, slim.graph.classes) == (graph.input_shape, graph.classes)
    for lost in slim.removed.values():
        assert all(list(getattr(lost, reason)) == sorted(getattr(lost, reason)) for reason in REASONS)
    for node in graph.weighted():
        slimmed = next(other for other in slim.graph.weighted() if other.name == node.name)
        lost = slim.removed[node.name].count if node.name in slim.removed else 0
        assert slimmed.weight.rows == node.weight.rows - lost >= 1


def test_nothing_to_remove_in_a_trained_ticket():
    """Every channel of the demo's ticket has weights and a reader: it comes back as it is."""
    graph, _ = read_model(ASSETS / "digits.onnx")
    slim = remove_channels(graph)
    assert slim.graph is graph and not slim.removed
    assert {name: len(indices) for name, indices in slim.kept.items()} == {
        node.name: graph.values[node.output].shape[0] for node in graph.nodes if isinstance(node, Lif)
    }


def test_a_trained_ticket_that_loses_channels():
    """The same ticket, the weakest channels of every convolution emptied."""
    graph, _ = read_model(ASSETS / "digits.onnx")

    def thin(node):
        weight = node.weight.to_dense()
        norms = np.abs(weight).reshape(len(weight), -1).sum(axis=1)
        weight[norms < np.quantile(norms, 0.4)] = 0
        return replace(node, weight=Csr.from_dense(weight))

    nodes = tuple(thin(node) if isinstance(node, Conv) else node for node in graph.nodes)
    slim = check(replace(graph, nodes=nodes))
    assert sum(removed.count for removed in slim.removed.values()) > 10
