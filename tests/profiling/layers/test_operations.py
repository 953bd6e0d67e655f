"""NeuroBench's metrics, held against networks counted by hand and against a loop over every multiplication."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spiketicket.csr import Csr
from spiketicket.errors import InputError
from spiketicket.graph import Add, AvgPool, Conv, Flatten, Graph, Lif, Linear, MaxPool, Repeat, window
from spiketicket.profiling.layers.operations import workload
from spiketicket.runtime import Session
from spiketicket.runtime.engines.reference import apply
from tests.support.graphs import (
    events,
    everything,
    feed,
    gates_and_joins,
    one_conv,
    poolings_and_views,
    residual_blocks,
    write,
)


def csr(rows):
    return Csr.from_dense(np.array(rows, np.float32))


def zeros(count):
    return np.zeros(count, np.float32)


def count(graph, folder, x, timesteps=None, engine="reference"):
    with Session(write(graph, folder), engine=engine, threads=1) as session:
        return workload(session, np.array(x, np.float32), timesteps)


def test_two_linear_layers_by_hand(tmp_path):
    """2 inputs -> 3 neurons without leak, threshold 1, soft reset -> 2 outputs; T = 3."""
    nodes = (
        Linear("in", ("x",), "c", csr([[1.0, 0.0], [0.5, 0.0], [0.0, 0.25]]), zeros(3)),
        Repeat("repeat", ("c",), "r"),
        Lif("lif", ("r",), "s", float("inf"), 1.0, None, False),
        Linear("out", ("s",), "y", csr([[1.0, 2.0, 3.0], [0.0, 4.0, 0.0]]), zeros(2)),
    )
    work = count(Graph("x", (2,), nodes, "y", 3), tmp_path, [[1.0, 0.0], [1.0, 1.0]])
    # Currents of the images: (1, 0.5, 0) and (1, 0.5, 0.25). Spikes by timestep, neuron 0: 1 1 1; neuron 1, potential
    # 0.5 1 0.5: 0 1 0; neuron 2: 0, or 0.25 0.5 0.75: never. The same of both images.
    first, second = work.layers
    # `in` is static and reads 1.0 and 0.0: accumulates, by NeuroBench's rule. Image 0: input 0 meets the
    # nonzero weights of rows 0 and 1: 2. Image 1: those, and input 1 meets row 2: 3. Mean 2.5, at the first timestep.
    assert first.acs == (2.5, 0, 0) and first.macs == (0, 0, 0) and first.dense == (6, 0, 0)
    assert first.input_rate == 3 / 4 and not first.timed
    # `out`: a spike of neuron 0 meets 1 weight, of neuron 1 two: 1, 1 + 2, 1.
    assert second.acs == (1, 3, 1) and second.macs == (0, 0, 0) and second.dense == (6, 6, 6)
    assert second.input_rate == 4 / 9
    assert work.synaptic_operations == {"Effective_MACs": 0, "Effective_ACs": 7.5, "Dense": 24}
    # 12 weights, of which (3 in `in`, 2 in `out`) 5 are zero; 4 of 9 neuron-timesteps fire; 5 biases.
    assert work.connection_sparsity == pytest.approx(5 / 12) and work.activation_sparsity == pytest.approx(5 / 9)
    assert work.footprint == 4 * (12 + 5)
    (neurons,) = work.activity
    assert neurons.rates == pytest.approx((1 / 3, 2 / 3, 1 / 3))
    assert neurons.silent == pytest.approx((2 / 3, 1 / 3, 1 / 3))  # not fired so far: neurons 1 and 2, then 2


def test_one_convolution_by_hand(tmp_path):
    """A 3x3 image, a 2x2 kernel with two weights, padded at the top and left: T = 1."""
    nodes = (
        Repeat("repeat", ("x",), "r"),
        Lif("lif", ("r",), "s", 1.0),
        Conv("conv", ("s",), "c", csr([[[[1.0, 0.0], [0.0, 1.0]]]]), zeros(1), pads=(1, 1, 0, 0)),
        Flatten("flat", ("c",), "y"),
    )
    image = [[[[1, 0, 1], [0, 1, 0], [0, 0, 1]]]]
    work = count(Graph("x", (1, 3, 3), nodes, "y", 1), tmp_path, image)
    # 3x3 outputs. Output (i, j) reads input (i - 1, j - 1) by the upper left weight, (i, j) by the lower right one. The
    # lower right weight meets all 9 positions: 4 spikes. The upper left one meets rows and columns 0 and 1: 2 spikes.
    assert work.layers[0].acs == (6,)
    # Taps inside the image: along an axis 2 by the first and 3 by the second, so 5 * 5 of 2 * 3 * 2 * 3 = 36.
    assert work.layers[0].dense == (25,)


def test_what_is_no_spike_is_multiplied(tmp_path):
    """The mean of spikes, their sum, and an image are numbers; spikes behind a MaxPool are spikes."""
    nodes = (
        Conv("image", ("x",), "c", csr([[[[2.0]]]]), zeros(1)),
        Repeat("repeat", ("c",), "r"),
        Lif("lif", ("r",), "s", 1.0),
        MaxPool("max", ("s",), "m", (2, 2), (2, 2)),
        Flatten("flat max", ("m",), "fm"),
        Linear("of max", ("fm",), "lm", csr([[1.0], [0.0]]), zeros(2)),
        AvgPool("mean", ("s",), "a", (2, 2), (2, 2)),
        Flatten("flat mean", ("a",), "fa"),
        Linear("of mean", ("fa",), "la", csr([[1.0], [1.0]]), zeros(2)),
        Add("sum", ("s", "s"), "d"),
        Flatten("flat sum", ("d",), "fd"),
        Linear("of sum", ("fd",), "ld", csr([[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 1.0]]), zeros(2)),
        Add("one", ("lm", "la"), "o"),
        Add("two", ("o", "ld"), "y"),
    )
    work = count(Graph("x", (1, 2, 2), nodes, "y", 2), tmp_path, [[[[0.7, 0.0], [0.1, 0.2]]]])
    # Currents 1.4, 0, 0.2, 0.4; tau 1 and threshold 1: pixel 0 fires at both timesteps, no other.
    counted = {layer.name: (layer.acs, layer.macs) for layer in work.layers}
    assert counted["image"] == ((0, 0), (3, 0))  # three pixels that are not zero
    assert counted["of max"] == ((1, 1), (0, 0))  # one spike, one weight
    assert counted["of mean"] == ((0, 0), (2, 2))  # 0.25 meets two weights
    assert counted["of sum"] == ((0, 0), (2, 2))  # 2 meets two weights; zeros meet the others


def test_a_stored_zero_is_no_connection(tmp_path):
    stored = Csr(np.array([0.0, 1.0], np.float32), np.array([0, 1], np.uint16), np.array([0, 2], np.int32), (1, 2))
    nodes = (Repeat("r", ("x",), "s"), Linear("fc", ("s",), "y", stored, zeros(1)))
    work = count(Graph("x", (2,), nodes, "y", 2), tmp_path, [[1.0, 1.0]])
    assert work.layers[0].effective == (1, 1) and work.connection_sparsity == 0.5


def by_loops(graph, x, timesteps):
    """Effective and dense operations of every layer by timestep, each multiplication looked at."""
    values = {graph.input: x.astype(np.float64)}
    for node in graph.nodes:
        values[node.output] = apply(graph, node, [values[name] for name in node.inputs], timesteps)
    counted = {}
    for node in graph.weighted():
        value, weight = values[node.inputs[0]], node.weight.to_dense()
        runs = value if graph.values[node.inputs[0]].timed else value[None]
        loop = conv_loop if isinstance(node, Conv) else linear_loop
        sums = np.array([[loop(node, weight, image) for image in run] for run in runs]).mean(axis=1)
        counted[node.name] = np.pad(sums, [(0, timesteps - len(sums)), (0, 0)])
    return counted


def linear_loop(node, weight, x):
    return sum(np.count_nonzero(row * x) for row in weight), weight.size


def conv_loop(node, weight, x):
    (sy, sx), (top, left, bottom, right), (dy, dx) = node.strides, node.pads, node.dilations
    outputs, channels, kh, kw = weight.shape
    height, width = x.shape[1:]
    effective = dense = 0
    for i in range(window(height, kh, sy, top, bottom, dy)):
        for j in range(window(width, kw, sx, left, right, dx)):
            for ky in range(kh):
                for kx in range(kw):
                    y, z = i * sy - top + ky * dy, j * sx - left + kx * dx
                    if 0 <= y < height and 0 <= z < width:
                        for out in range(outputs):
                            first = out // (outputs // node.group) * channels
                            effective += np.count_nonzero(weight[out, :, ky, kx] * x[first : first + channels, y, z])
                            dense += channels
    return effective, dense


def agrees(graph, folder, rng, timesteps, images=2):
    with Session(write(graph, folder), engine="reference") as session:
        x = np.ascontiguousarray(feed(rng, session, images, timesteps))
        work = workload(session, x, timesteps)
    expected = by_loops(graph, x, timesteps)
    assert [layer.name for layer in work.layers] == list(expected)
    for layer in work.layers:
        assert np.allclose(np.transpose([layer.effective, layer.dense]), expected[layer.name], rtol=1e-12), layer.name
    return work


@pytest.mark.parametrize("make", [poolings_and_views, events, gates_and_joins])
def test_every_kind_of_node_agrees_with_the_loop(tmp_path, make):
    rng = np.random.default_rng(0)
    graph = make(rng, timesteps=2)
    work = agrees(graph, tmp_path, rng, 2, images=1)
    for layer, node in zip(work.layers, graph.weighted(), strict=True):
        assert layer.binary or not graph.values[node.inputs[0]].spikes


def test_residuals_agree_with_the_loop(tmp_path):
    rng = np.random.default_rng(1)
    agrees(residual_blocks(rng, timesteps=2, size=(4, 3)), tmp_path, rng, 2, images=1)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padded=st.tuples(*[st.booleans()] * 4),
    group=st.sampled_from([1, 2, 3]),
)
def test_convolutions_agree_with_the_loop(tmp_path_factory, seed, kernel, strides, dilations, padded, group):
    rng = np.random.default_rng(seed)
    geometry = {"strides": strides, "pads": tuple(map(int, padded)), "dilations": dilations, "group": group}
    graph = one_conv(rng, 6, 6, (6, 7), kernel, 0.4, 2, **geometry)
    agrees(graph, tmp_path_factory.mktemp("conv"), rng, 2)


@pytest.mark.parametrize("make", [residual_blocks, events])
def test_a_mean_does_not_depend_on_how_images_are_split(tmp_path, make):
    """More planes than are counted at a time: the mean of two parts is that of the whole."""
    rng = np.random.default_rng(2)
    graph = make(rng, timesteps=20)
    x = feed(rng, graph, 6, 20)
    axis = int(graph.timed_input)
    with Session(write(graph, tmp_path), threads=1, plan="fixed") as session:
        whole, *halves = (workload(session, part) for part in (x, x.take([0, 1], axis), x.take([2, 3, 4, 5], axis)))
    assert whole.images == 6
    for name in ("effective", "dense"):
        total, a, b = ([getattr(layer, name) for layer in work.layers] for work in (whole, *halves))
        assert np.allclose(total, np.average([a, b], axis=0, weights=[2, 4]))
    for layer, a, b in zip(whole.activity, *(work.activity for work in halves), strict=True):
        assert np.allclose(layer.rates, np.average([a.rates, b.rates], axis=0, weights=[2, 4]))
        assert np.allclose(layer.silent, np.average([a.silent, b.silent], axis=0, weights=[2, 4]))


@pytest.mark.parametrize("shape", [(0, 3, 16, 16), (3, 16, 16), (1, 3, 16, 15)])
def test_wrong_images_are_refused(tmp_path, shape):
    with Session(write(everything(np.random.default_rng(0)), tmp_path)) as session:
        with pytest.raises(InputError, match="input must be"):
            workload(session, np.zeros(shape, np.float32))
        with pytest.raises(InputError, match="timesteps"):
            workload(session, np.zeros((1, 3, 16, 16), np.float32), 0)
