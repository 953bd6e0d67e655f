"""NIR -> sparse graph: each node against its equations, and everything that has to be refused."""

import sys
from itertools import pairwise
from math import inf

import numpy as np
import pytest

nir = pytest.importorskip("nir")

from spiketicket.errors import InputError, MissingExtraError, ModelError  # noqa: E402
from spiketicket.export.nir.reader import read_nir  # noqa: E402
from spiketicket.graph import Add, AvgPool, Conv, Li, Lif, Linear, Unsqueeze  # noqa: E402
from spiketicket.runtime import Session  # noqa: E402
from spiketicket.runtime.engines.registry import ENGINE_NAMES  # noqa: E402
from tests.support.graphs import write  # noqa: E402
from tests.support.nir_simulation import logits, run, simulate  # noqa: E402

T, N = 20, 3


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def chain(shape, *nodes, outputs=None):
    """A NIR graph of `nodes` in a row, behind an Input of `shape`: node0, node1, ..."""
    names = ["input", *(f"node{i}" for i in range(len(nodes))), "output"]
    every = [nir.Input(np.array(shape)), *nodes, nir.Output(np.array([0] if outputs is None else outputs))]
    return nir.NIRGraph(dict(zip(names, every, strict=True)), list(pairwise(names)), type_check=False)


def flattened(shape, *nodes, outputs):
    return chain(shape, *nodes, nir.Flatten(None, 0, -1), outputs=[outputs])


def assert_agrees(graph, x, tolerance=1e-5, **options):
    """The sparse graph of `graph` computes what NIR's equations say, and does not just stay silent."""
    read = read_nir(graph, T, **options)
    expected = simulate(graph, x, options.get("dt", 1e-4))["output"]
    got = logits(read, x)
    assert read.timed_input and read.timesteps == T and read.input_shape == x.shape[2:]
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())
    return read


def full(size, value):
    return np.full(size, value, dtype=np.float32)


def affine(rng, rows, columns, gain=3.0):
    weight = gain * rng.standard_normal((rows, columns)) / np.sqrt(columns)
    return nir.Affine(weight.astype(np.float32), (0.3 * rng.standard_normal(rows)).astype(np.float32))


def conv2d(rng, out, channels, kernel=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=1):
    weight = 3 * rng.standard_normal((out, channels // groups, *kernel)) / np.sqrt(channels)
    bias = rng.standard_normal(out).astype(np.float32)
    return nir.Conv2d(None, weight.astype(np.float32), stride, padding, dilation, groups, bias)


def spikes(rng, *shape):
    return (rng.random((T, N, *shape)) < 0.4).astype(np.float64)


def uniform(rng, size, low, high):
    return rng.uniform(low, high, size).astype(np.float32)


def lif(rng, size, varied=False, leak=False, steps=8.0):
    tau = full(size, steps * 1e-4)
    if not varied:
        leaks = full(size, 0.4 if leak else 0.0)
        return nir.LIF(tau, full(size, 2.0), leaks, full(size, 0.5), full(size, 0.0))
    leaks = uniform(rng, size, -0.3, 0.3) if leak else full(size, 0)
    thresholds, resets = uniform(rng, size, 0.4, 1.0), np.zeros(size, np.float32)
    return nir.LIF(tau, uniform(rng, size, 1.0, 4.0), leaks, thresholds, resets)


def test_lif_of_one_kind_leaves_the_weights_alone(rng):
    weights = affine(rng, 6, 5)
    neurons = nir.LIF(full(6, 8e-4), full(6, 2), full(6, 0), full(6, 0.5), full(6, 0))
    graph = assert_agrees(chain([5], weights, neurons, outputs=[6]), spikes(rng, 5))
    linear, neuron = graph.nodes
    assert np.array_equal(linear.weight.to_dense(), weights.weight)
    assert neuron.v_threshold == np.nextafter(np.float32(2), np.float32(inf))


@pytest.mark.parametrize("leak", [False, True])
def test_lif_with_parameters_of_its_own_is_folded(rng, leak):
    graph = assert_agrees(chain([5], affine(rng, 6, 5), lif(rng, 6, True, leak), outputs=[6]), spikes(rng, 5))
    assert [type(node) for node in graph.nodes] == [Linear, Lif]
    assert graph.nodes[1].v_threshold == np.nextafter(np.float32(1), np.float32(2))


def test_resets_between_zero_and_threshold(rng):
    node = nir.LIF(full(6, 8e-4), full(6, 8), full(6, 0.1), uniform(rng, 6, 0.4, 1), uniform(rng, 6, -0.3, 0.2))
    graph = chain([5], affine(rng, 6, 5), node, outputs=[6])
    x = spikes(rng, 5)
    expected = simulate(graph, x, start={"node1": np.tile(node.v_reset, (N, 1))})["output"]  # as the engine does
    assert 0 < expected.mean() < 1
    assert np.array_equal(logits(read_nir(graph, T), x), expected)


def test_fires_above_the_threshold_not_at_it():
    identity = nir.Linear(np.eye(1, dtype=np.float32))
    node = nir.IF(full(1, 1e4), full(1, 2), full(1, 0))
    graph = read_nir(chain([1], identity, node, outputs=[1]), T)
    assert logits(graph, np.ones((6, 1, 1)))[:, 0, 0].tolist() == [0, 0, 1, 0, 0, 1]


@pytest.mark.parametrize("varied", [False, True])
def test_if(rng, varied):
    threshold = uniform(rng, 6, 0.5, 2) if varied else full(6, 1)
    node = nir.IF(full(6, 9000), threshold, full(6, 0))
    graph = assert_agrees(chain([5], affine(rng, 6, 5), node, outputs=[6]), spikes(rng, 5))
    assert graph.nodes[1].tau == inf


@pytest.mark.parametrize("leak", [0.0, 0.7])
@pytest.mark.parametrize("r", [1.0, 8.0, 3.0])
def test_li(rng, leak, r):
    node = nir.LI(full(6, 8e-4), full(6, r), full(6, leak))
    graph = assert_agrees(chain([5], affine(rng, 6, 5), node, outputs=[6]), spikes(rng, 5))
    assert [type(node) for node in graph.nodes] == [Linear, Li]


def test_i(rng):
    assert_agrees(chain([5], affine(rng, 6, 5), nir.I(uniform(rng, 6, 1e3, 9e3)), outputs=[6]), spikes(rng, 5))


@pytest.mark.parametrize("threshold", [0.6, 0.0, -0.3, "varied"])
def test_threshold(rng, threshold):
    values = uniform(rng, 6, -1, 1) if threshold == "varied" else full(6, threshold)
    assert_agrees(chain([5], affine(rng, 6, 5), nir.Threshold(values), outputs=[6]), spikes(rng, 5))


def cuba(rng, size, kind, leak, varied):
    one = {"tau_syn": full(size, 3e-4), "tau_mem": full(size, 8e-4)}
    pick = (lambda low, high: uniform(rng, size, low, high)) if varied else (lambda low, high: full(size, high))
    one |= {"r": pick(2, 4), "v_leak": pick(0.1, 0.2) if leak else full(size, 0), "w_in": pick(1, 2)}
    return nir.CubaLI(**one) if kind == "li" else nir.CubaLIF(**one, v_threshold=pick(0.4, 0.6))


@pytest.mark.parametrize("varied", [False, True])
@pytest.mark.parametrize("leak", [False, True])
@pytest.mark.parametrize("kind", ["lif", "li"])
def test_current_based_neurons(rng, kind, leak, varied):
    graph = assert_agrees(chain([5], affine(rng, 6, 5), cuba(rng, 6, kind, leak, varied), outputs=[6]), spikes(rng, 5))
    scaled = [Linear] if leak else []  # what is added cannot go before the synapse
    assert [type(node) for node in graph.nodes] == [Linear, Li, *scaled, Lif if kind == "lif" else Li]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": (2, 1), "padding": (0, 2), "kernel": (3, 5)},
        {"dilation": (2, 1), "padding": (2, 1)},
        {"groups": 2},
        {"padding": "same", "kernel": (4, 3)},
        {"padding": "valid"},
        {"stride": 2, "padding": 1, "dilation": 1},
    ],
    ids=str,
)
def test_conv2d(rng, options):
    node = conv2d(rng, 4, 2, **options)
    size = simulate(flattened([2, 9, 8], node, outputs=0), spikes(rng, 2, 9, 8))["output"].shape[2]
    assert_agrees(flattened([2, 9, 8], node, outputs=size), spikes(rng, 2, 9, 8))


@pytest.mark.parametrize(("stride", "padding", "dilation", "groups"), [(1, 0, 1, 1), (2, 2, 2, 2), (1, "same", 1, 1)])
def test_conv1d(rng, stride, padding, dilation, groups):
    weight = rng.standard_normal((4, 2 // groups, 3)).astype(np.float32)
    node = nir.Conv1d(None, weight, stride, padding, dilation, groups, full(4, 0.1))
    size = simulate(flattened([2, 11], node, outputs=0), spikes(rng, 2, 11))["output"].shape[2]
    graph = assert_agrees(flattened([2, 11], node, outputs=size), spikes(rng, 2, 11))
    assert [type(node) for node in graph.nodes][:2] == [Unsqueeze, Conv]


def test_neurons_on_signals_of_one_dimension(rng):
    weight = rng.standard_normal((4, 2, 3)).astype(np.float32)
    node = nir.Conv1d(11, weight, 1, 1, 1, 1, full(4, 0.1))
    r = np.broadcast_to(uniform(rng, (4, 1), 1, 4), (4, 11))
    neurons = nir.LIF(full((4, 11), 8e-4), r, full((4, 11), 0), full((4, 11), 0.3), full((4, 11), 0))
    assert_agrees(flattened([2, 11], node, neurons, outputs=44), spikes(rng, 2, 11))


@pytest.mark.parametrize("kind", [nir.AvgPool2d, nir.SumPool2d])
@pytest.mark.parametrize("padding", [(0, 0), (1, 0)])
def test_pooling(rng, kind, padding):
    node = kind(np.array([2, 3]), np.array([2, 2]), np.array(padding))
    size = simulate(flattened([2, 7, 8], node, outputs=0), spikes(rng, 2, 7, 8))["output"].shape[2]
    graph = assert_agrees(flattened([2, 7, 8], node, outputs=size), spikes(rng, 2, 7, 8))
    assert type(graph.nodes[0]) is (AvgPool if kind is nir.AvgPool2d and padding == (0, 0) else Conv)


def test_pooling_with_plain_numbers(rng):
    graph = read_nir(flattened([2, 6, 6], nir.AvgPool2d(2, 2, 0), outputs=18), T)
    assert graph.nodes[0].kernel == (2, 2)


def test_neurons_of_images(rng):
    """Per channel folded into the convolution; behind a pooling in a convolution of their own."""
    shape = (4, 6, 6)
    r = np.broadcast_to(uniform(rng, (4, 1, 1), 1, 4), shape)
    one = nir.LIF(full(shape, 8e-4), r, full(shape, 0.05), full(shape, 0.3), full(shape, 0))
    pool = nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))
    scale = np.broadcast_to(uniform(rng, (4, 1, 1), 2, 9), (4, 3, 3))
    two = nir.LIF(full((4, 3, 3), 2e-4), scale, full((4, 3, 3), 0), full((4, 3, 3), 0.3), full((4, 3, 3), 0))
    graph = assert_agrees(flattened([2, 6, 6], conv2d(rng, 4, 2), one, pool, two, outputs=36), spikes(rng, 2, 6, 6))
    assert [type(node).__name__ for node in graph.nodes] == ["Conv", "Lif", "AvgPool", "Conv", "Lif", "Flatten"]
    assert graph.nodes[3].group == 4


def test_scale(rng):
    """Folded where it may be, with the neuron behind it; a layer of its own where others read the same."""
    scale = nir.Scale(uniform(rng, 6, 0.5, 2))
    graph = assert_agrees(chain([5], affine(rng, 6, 5), scale, lif(rng, 6, True), outputs=[6]), spikes(rng, 5))
    assert [type(node) for node in graph.nodes] == [Linear, Lif]
    graph = assert_agrees(chain([5], nir.Scale(uniform(rng, 5, 0.5, 2)), outputs=[5]), spikes(rng, 5))
    assert graph.nodes[0].weight.nnz == 5


def test_folding_rounds_once(rng):
    weights = affine(rng, 6, 5)
    scales = [uniform(rng, 6, 0.5, 2) for _ in range(3)]
    graph = read_nir(chain([5], weights, *(nir.Scale(s) for s in scales), outputs=[6]), T)
    exact = np.prod(np.float64(scales), axis=0)
    assert np.array_equal(graph.nodes[0].weight.to_dense(), (weights.weight * exact[:, None]).astype(np.float32))


def branches(rng, shared):
    """in -> fc -> a, and (shared) fc -> b; the output sums up a, b and a second path."""
    nodes = {
        "in": nir.Input(np.array([5])),
        "fc": affine(rng, 6, 5),
        "flat": nir.Flatten(None, 0, -1),
        "a": lif(rng, 6, True),
        "b": nir.Scale(uniform(rng, 6, 0.5, 2)),
        "fc2": affine(rng, 6, 5),
        "output": nir.Output(np.array([6])),
    }
    edges = [
        ("in", "fc"),
        ("fc", "flat"),
        ("flat", "a"),
        ("a", "output"),
        ("in", "fc2"),
        ("fc2", "output"),
        ("b", "output"),
    ]
    return nir.NIRGraph(nodes, [*edges, ("fc" if shared else "fc2", "b")], type_check=False)


@pytest.mark.parametrize("shared", [False, True])
def test_edges_into_a_node_are_summed_and_shared_layers_are_left_alone(rng, shared):
    graph = assert_agrees(branches(rng, shared), spikes(rng, 5))
    assert sum(isinstance(node, Add) for node in graph.nodes) == 2
    assert sum(isinstance(node, Linear) for node in graph.nodes) == 4 if shared else 3


def test_subgraphs_are_flattened(rng):
    inner = chain([5], affine(rng, 6, 5), lif(rng, 6), outputs=[6])
    outer = chain([5], inner, affine(rng, 3, 6), outputs=[3])
    flat = chain([5], *list(inner.nodes.values())[1:-1], outer.nodes["node1"], outputs=[3])
    x = spikes(rng, 5)
    graph = read_nir(outer, T)
    assert [node.name for node in graph.nodes] == ["node0.node0", "node0.node1", "node1"]
    assert np.array_equal(logits(graph, x), logits(read_nir(flat, T), x))


def test_a_residual_block(rng):
    """Currents and spikes summed up before a layer; the currents are read twice, so nothing is folded into them."""
    nodes = {
        "input": nir.Input(np.array([5])),
        "a": affine(rng, 6, 5),
        "b": lif(rng, 6, True),
        "c": affine(rng, 6, 6),
        "d": lif(rng, 6, True, True),
        "e": affine(rng, 6, 6),
        "output": nir.Output(np.array([6])),
    }
    edges = [*pairwise(nodes), ("a", "e")]
    graph = assert_agrees(nir.NIRGraph(nodes, edges), spikes(rng, 5))
    assert [node.name for node in graph.nodes] == ["a", "b.scale", "b", "c", "d", "e.sum", "e"]


def test_subgraphs_split_and_merge(rng):
    parts = {
        "stem": chain([5], affine(rng, 6, 5), lif(rng, 6), outputs=[6]),
        "left": chain([6], affine(rng, 4, 6), lif(rng, 4, True), outputs=[4]),
        "right": chain([6], affine(rng, 4, 6), outputs=[4]),
        "join": affine(rng, 3, 4),
    }
    edges = [("stem", "left"), ("stem", "right"), ("left", "join"), ("right", "join")]
    graph = read_nir(nir.NIRGraph(dict(parts), edges), T)  # nir adds the Input and Output
    x = spikes(rng, 5)
    stem, left, right = (simulate(parts["stem"], x)["output"], parts["left"], parts["right"])
    joined = simulate(left, stem)["output"] + simulate(right, stem)["output"]
    expected = joined @ parts["join"].weight.T + parts["join"].bias
    np.testing.assert_allclose(logits(graph, x), expected, rtol=1e-5, atol=1e-5)


def test_a_file_is_read_as_the_graph_is(rng, tmp_path):
    inner = chain([3, 4, 4], conv2d(rng, 4, 3, kernel=(3, 1), padding=(1, 0)), outputs=[4, 4, 4])
    graph = flattened([3, 4, 4], inner, lif(rng, (4, 4, 4)), outputs=64)
    graph.nodes["node2"].input_type = {"input": np.array([4, 4, 4])}  # nir cannot write None
    inner.nodes["node0"].input_shape = (4, 4)
    nir.write(tmp_path / "model.nir", graph)
    x = spikes(rng, 3, 4, 4)
    assert np.array_equal(logits(read_nir(tmp_path / "model.nir", T), x), logits(read_nir(graph, T), x))


def test_every_engine_runs_it(rng, tmp_path):
    """Signals, an integrator between two layers of neurons, neurons without leak."""
    weight = rng.standard_normal((4, 2, 3)).astype(np.float32)
    shape = (4, 11)
    neurons = nir.IF(full(shape, 1e4), full(shape, 1), full(shape, 0))
    graph = read_nir(
        chain(
            [2, 11],
            nir.Conv1d(11, weight, 1, 1, 1, 1, full(4, 0.1)),
            neurons,
            nir.Flatten(None, 0, -1),
            affine(rng, 6, 44),
            cuba(rng, 6, "lif", True, True),
            affine(rng, 3, 6),
            cuba(rng, 3, "li", False, True),
            outputs=[3],
        ),
        T,
    )
    path, x = write(graph, tmp_path), spikes(rng, 2, 11).astype(np.float32)
    for engine in ENGINE_NAMES:
        with Session(path, engine) as session:
            np.testing.assert_allclose(session.run({"input": x})["logits_t"], logits(graph, x), rtol=1e-4, atol=1e-5)


def test_other_timesteps(rng):
    """The same tau in other steps; what snnTorch writes as float32 comes back as the number that it was."""
    graph = chain([5], affine(rng, 6, 5), lif(rng, 6), outputs=[6])
    assert assert_agrees(graph, spikes(rng, 5), dt=2e-4).nodes[1].tau == 4
    assert read_nir(graph, T, dt=np.float32(8e-4)).nodes[1].tau == 1


# --- refusals ---------------------------------------------------------------------------------------------------------


def refused(graph, *expected, **options):
    with pytest.raises(ModelError) as caught:
        read_nir(graph, T, **options)
    for text in expected:
        assert text in str(caught.value)
    return str(caught.value)


def test_everything_is_refused_at_once(rng):
    tau = full(6, 8e-4)
    bad = lif(rng, 6)
    bad.tau = uniform(rng, 6, 1e-4, 1e-3)
    short = nir.LI(full(6, 1e-5), full(6, 1), full(6, 0))
    broken = affine(rng, 6, 6)
    broken.weight[2, 3] = np.nan
    wide = affine(rng, 6, 7)
    text = refused(
        chain([6], nir.Delay(tau), bad, short, broken, nir.Delay(tau), wide, nir.Threshold(full(6, inf)), outputs=[6]),
        "node0 (Delay [6]): delays cannot be expressed: remove it, or shift the input",
        "node1 (LIF [6]): tau runs from",
        "a layer has one time constant",
        "node2 (LI [6]): tau = 9.99",
        "shorter than the timestep",
        "node3 (Affine [6, 6]): weight holds NaN or infinity",
        "node4 (Delay [6])",
        "node6 (Threshold [6]): threshold holds NaN or infinity",
    )
    assert len(text.splitlines()) == 7  # node5 is read as it declares itself, for want of an input


def test_recurrence(rng):
    graph = chain([6], affine(rng, 6, 6), lif(rng, 6), affine(rng, 6, 6), outputs=[6])
    graph.edges.append(("node2", "node1"))
    refused(graph, "node1 (LIF [6]): on a cycle", "node2 (Affine [6, 6]): on a cycle", "unroll them")
    outer = chain([6], graph, nir.Delay(full(6, 1e-3)), outputs=[6])
    refused(outer, "node0.node1 (LIF [6]): on a cycle", "node1 (Delay [6])")


def test_several_inputs_and_outputs(rng):
    graph = chain([6], affine(rng, 6, 6), outputs=[6])
    graph.nodes |= {"in2": nir.Input(np.array([6])), "out2": nir.Output(np.array([6]))}
    graph.edges += [("in2", "node0"), ("node0", "out2")]
    refused(graph, "2 nodes of kind Input: input, in2", "2 nodes of kind Output: output, out2")
    refused(nir.NIRGraph({"fc": affine(rng, 6, 6)}, [], type_check=False), "0 nodes of kind Input")


def test_loose_ends(rng):
    graph = chain([6], affine(rng, 6, 6), outputs=[6])
    graph.nodes |= {"dead": affine(rng, 6, 6), "alone": lif(rng, 6)}
    graph.edges.append(("node0", "dead"))
    refused(graph, "dead (Affine [6, 6]): leads to no output", "alone (LIF [6]): not reached by the input")
    graph.edges.append(("node0", "nobody"))
    refused(graph, "edge node0 -> nobody: there is no node 'nobody', there are input, node0, output, dead, alone")


def test_an_output_is_not_blamed_for_what_comes_before(rng):
    graph = flattened([4, 6, 6], conv2d(rng, 2, 3), outputs=[72])
    graph.nodes["output"].input_type = {"input": np.array([1, 1, 72])}
    with pytest.raises(ModelError) as refusal:
        read_nir(graph, T)
    assert "node0" in str(refusal.value) and "output" not in str(refusal.value)


def test_an_edge_that_stands_twice(rng):
    graph = chain([6], affine(rng, 6, 6), outputs=[6])
    graph.edges.append(("input", "node0"))
    refused(graph, "node0: the edge from input is there 2 times")


@pytest.mark.parametrize(
    ("shape", "nodes", "outputs", "message"),
    [
        ([5], lambda rng: [affine(rng, 6, 4)], [6], "weight [6, 4] does not fit an input of shape [5]"),
        ([5, 2, 2], lambda rng: [affine(rng, 6, 20)], [6], "a Flatten is missing before it"),
        ([5], lambda rng: [conv2d(rng, 2, 5)], [6], "expects an input of shape [C, H, W], gets [5]"),
        ([3, 4, 4], lambda rng: [conv2d(rng, 2, 5)], [6], "does not fit 3 input channels"),
        ([3, 2, 2], lambda rng: [conv2d(rng, 2, 3, (5, 5), padding=(0, 0))], [6], "its kernel does not fit"),
        ([3, 4, 4], lambda rng: [conv2d(rng, 2, 3, padding=(-1, 0))], [6], "padding must not be negative"),
        ([3, 4, 4], lambda rng: [conv2d(rng, 2, 3, stride=(0, 1))], [6], "stride and dilation must be positive"),
        ([3, 4, 4], lambda rng: [conv2d(rng, 2, 3, stride=(2, 2), padding="same")], [6], "padding 'same' with stride"),
        ([3, 4, 4], lambda rng: [nir.AvgPool2d(np.array([5, 5]), 1, 0)], [6], "its kernel does not fit"),
        ([3, 4, 4], lambda rng: [nir.SumPool2d(None, 1, 0)], [6], "kernel_size must be 1 or 2 whole numbers"),
        ([5], lambda rng: [lif(rng, 6)], [6], "of shape [6] does not fit an input of shape [5]"),
        ([3, 4, 4], lambda rng: [lif(rng, (3, 4, 4), True)], [48], "differ between the positions of a channel"),
        ([3, 4, 4], lambda rng: [nir.Flatten(None, 1, -1)], [48], "flattens dimensions 1 to -1 of [3, 4, 4]"),
        ([3, 4, 4], lambda rng: [conv2d(rng, 3, 3)], [48], "output (Output): must get one value per class"),
        ([5], lambda rng: [affine(rng, 6, 5)], [4], "declares the shape [4], gets [6]"),
        ([5], lambda rng: [], [5], "there is no layer between input and output"),
        ([2, 3, 4, 5], lambda rng: [], [5], "its shape must be [F], [C, L] or [C, H, W]"),
        ([5], lambda rng: [nir.LIF(*(full(5, v) for v in (1e-3, 1, 0, 1, 1)))], [5], "v_reset must be below"),
        ([5], lambda rng: [nir.LIF(*(full(5, v) for v in (0, 1, 0, 1, 0)))], [5], "tau must be positive"),
        ([5], lambda rng: [nir.LIF(*(full(5, v) for v in (inf, 1, 0, 1, 0)))], [5], "without leak is an IF"),
        ([5], lambda rng: [nir.Affine(np.ones((2, 6, 5)), full(6, 0))], [6], "weight must have 2 dimensions"),
        ([5], lambda rng: [nir.Affine(np.ones((6, 5)), full(4, 0))], [6], "bias has 4 entries, expected 6"),
        ([5], lambda rng: [nir.Affine(np.full((6, 5), "a"), full(6, 0))], [6], "weight is no array of numbers"),
    ],
)
def test_what_does_not_fit(rng, shape, nodes, outputs, message):
    refused(chain(shape, *nodes(rng), outputs=outputs), message)


def test_sums_of_other_shapes(rng):
    graph = branches(rng, False)
    graph.nodes["fc2"] = affine(rng, 1, 5)
    graph.nodes["b"] = nir.Scale(full(1, 2))
    refused(graph, "output (Output): sums up values of the shapes [6] and [1]")


def test_subgraph_with_two_outputs(rng):
    inner = chain([6], affine(rng, 6, 6), outputs=[6])
    inner.nodes["second"] = nir.Output(np.array([6]))
    refused(chain([6], inner, outputs=[6]), "node0 (NIRGraph): needs one Output, has ['output', 'second']")


@pytest.mark.parametrize(
    ("dialect", "leak", "reset", "message"),
    [
        ("snntorch", 0.1, 0.0, "snnTorch has neither v_leak nor v_reset"),
        ("snntorch", 0.0, 0.1, "snnTorch has neither v_leak nor v_reset"),
        ("norse", 0.1, 0.0, "Norse starts at v_leak"),
    ],
)
def test_what_a_simulator_does_not_know(dialect, leak, reset, message):
    node = nir.LIF(full(5, 8e-4), full(5, 1), full(5, leak), full(5, 1), full(5, reset))
    refused(chain([5], node, outputs=[5]), message, dialect=dialect)


def test_damaged_and_foreign_files(rng, tmp_path):
    path = tmp_path / "model.nir"
    with pytest.raises(ModelError, match="cannot read NIR file .*: No such file"):
        read_nir(path, T)
    path.write_bytes(b"no HDF5")
    with pytest.raises(ModelError, match="not a NIR file, or damaged"):
        read_nir(path, T)
    nir.write(path, chain([5], affine(rng, 6, 5), outputs=[6]))
    data = path.read_bytes()
    for cut in range(0, len(data) - 1, len(data) // 40):
        path.write_bytes(data[:cut])
        with pytest.raises(ModelError):
            read_nir(path, T)
    nir.write(path, affine(rng, 6, 5))
    with pytest.raises(ModelError, match="holds a single Affine"):
        read_nir(path, T)


def test_a_node_that_nir_does_not_know(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "model.nir"
    with h5py.File(path, "w") as file:
        file["node/type"] = "Dream"
    with pytest.raises(ModelError, match="node of unknown type 'Dream'"):
        read_nir(path, T)


def test_wrong_arguments():
    with pytest.raises(InputError, match="dialect: expected one of nir, snntorch, norse, got 'brian'"):
        read_nir("model.nir", T, dialect="brian")
    with pytest.raises(InputError, match="dt must be a positive number of seconds, got 0"):
        read_nir("model.nir", T, dt=0)


def test_without_the_package(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("spiketicket.export.nir")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nir", None)
    with pytest.raises(MissingExtraError, match=r"needs nir: pip install 'spiketicket\[nir\]'"):
        import spiketicket.export.nir.reader  # noqa: F401


def test_values_of_every_layer(rng):
    """Not only the output: hidden spikes too, through two layers."""
    graph = chain(
        [5], affine(rng, 6, 5), lif(rng, 6, True), affine(rng, 4, 6), cuba(rng, 4, "lif", True, True), outputs=[4]
    )
    x = spikes(rng, 5)
    expected, got = simulate(graph, x), run(read_nir(graph, T), x)
    for name in ("node1", "node3"):
        assert 0 < expected[name].mean() < 1
        assert np.array_equal(got[name], expected[name])
