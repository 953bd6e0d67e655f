"""Sparse graph -> NIR -> sparse graph: the same network; and what NIR cannot express."""

from math import inf

import numpy as np
import pytest

nir = pytest.importorskip("nir")

from spiketicket.errors import InputError, ModelError  # noqa: E402
from spiketicket.export.nir.reader import read_nir  # noqa: E402
from spiketicket.export.nir.writer import to_nir, write_nir  # noqa: E402
from spiketicket.graph import (  # noqa: E402
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
    Repeat,
    Unsqueeze,
)
from tests.support.graphs import everything, random_bias, random_csr  # noqa: E402
from tests.support.nir_simulation import logits, simulate  # noqa: E402

T, N = 12, 2


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def network(rng, **options):
    """All that NIR can express: a static part, groups, every kind of neuron, a residual of one value with itself."""
    nodes = (
        Conv("stem", ("x",), "x0", random_csr(rng, (4, 2, 3, 3), 1.0), random_bias(rng, 4), pads=(1, 1, 1, 1)),
        Repeat("repeat", ("x0",), "x1"),
        Lif("lif", ("x1",), "s0", 4 / 3),
        Conv("depth", ("s0",), "x2", random_csr(rng, (4, 1, 3, 3), 0.9), random_bias(rng, 4), pads=(1,) * 4, group=4),
        Add("residual", ("x2", "s0"), "x3"),
        Lif("if", ("x3",), "s1", inf, 1.5, 0.0, False),
        Add("same", ("s1", "s1"), "x4"),
        AvgPool("mean", ("x4",), "x5", (2, 2), (2, 2)),
        Lif("threshold", ("x5",), "s2", 1.0, 0.5),
        Flatten("flat", ("s2",), "f"),
        Linear("fc", ("f",), "l", random_csr(rng, (8, 36), 0.5), np.zeros(8, np.float32)),
        Lif("rest", ("l",), "s3", 2.0, 0.75, -0.25, False),
        Linear("synapse in", ("s3",), "l1", random_csr(rng, (8, 8), 0.5), random_bias(rng, 8)),
        Li("synapse", ("l1",), "i", 3.0),
        Lif("lif4", ("i",), "s4", 2.5),
        Linear("readout", ("s4",), "y0", random_csr(rng, (3, 8), 0.9), random_bias(rng, 3)),
        Li("sum", ("y0",), "y1", inf, False),
        Li("leaky", ("y1",), "y2", 5.0, False),
        Add("both", ("y0", "y2"), "y"),
    )
    return Graph("x", (2, 6, 6), nodes, "y", T, **options)


def images(rng, *shape):
    return np.repeat(rng.standard_normal((1, N, *shape)), T, axis=0).astype(np.float32)


def test_there_and_back(rng, tmp_path):
    graph, x = network(rng), images(rng, 2, 6, 6)
    write_nir(graph, tmp_path / "model.nir")
    back = read_nir(tmp_path / "model.nir", T)
    np.testing.assert_allclose(logits(back, x), logits(graph, x), rtol=1e-5, atol=1e-5)
    assert np.abs(logits(graph, x)).max() > 1


@pytest.mark.parametrize("dt", [1e-4, 1e-3, 0.7e-5])
def test_layers_come_back_as_they_were(rng, dt):
    graph = network(rng)
    back = read_nir(to_nir(graph, dt), T, dt)
    new = {node.name: node for node in back.nodes}
    for node in graph.nodes:
        if isinstance(node, Conv | Linear):
            assert np.array_equal(new[node.name].weight.to_dense(), node.weight.to_dense())
            assert np.array_equal(new[node.name].bias, node.bias)
        elif isinstance(node, Lif):
            assert new[node.name].v_threshold == np.float32(node.v_threshold)
            assert (new[node.name].v_reset, new[node.name].decay_input) == (node.v_reset, node.decay_input)
            assert new[node.name].tau == pytest.approx(node.tau, rel=2e-7)


def test_the_written_equations_are_the_graphs(rng):
    """Not by our own reader: by NIR's equations, with the leading reset of `rest` as its start."""
    graph, x = network(rng), images(rng, 2, 6, 6)
    start = {"rest": np.full((N, 8), -0.25)}
    expected = simulate(to_nir(graph), x, start=start)["output"]
    np.testing.assert_allclose(logits(graph, x), expected, rtol=1e-4, atol=1e-4)


def test_kinds(rng):
    nodes = to_nir(network(rng)).nodes
    assert {name: type(node).__name__ for name, node in nodes.items()} == {
        "input": "Input",
        "stem": "Conv2d",
        "lif": "LIF",
        "depth": "Conv2d",
        "if": "IF",
        "if.times2": "Scale",
        "mean": "AvgPool2d",
        "threshold": "Threshold",
        "flat": "Flatten",
        "fc": "Linear",
        "rest": "LIF",
        "synapse in": "Affine",
        "synapse": "LI",
        "lif4": "LIF",
        "readout": "Affine",
        "sum": "I",
        "leaky": "LI",
        "output": "Output",
    }
    assert nodes["depth"].groups == 4
    assert all(array.dtype == np.float32 for array in vars(nodes["lif"]).values() if isinstance(array, np.ndarray))


def test_nir_reads_the_file_with_its_own_checks(rng, tmp_path):
    nodes = (
        Conv("stem", ("x",), "x0", random_csr(rng, (4, 2, 3, 3), 0.5), random_bias(rng, 4), (2, 2), (1, 1, 1, 1)),
        Lif("lif", ("x0",), "s", 2.0),
        AvgPool("mean", ("s",), "m", (2, 2), (2, 2)),
        Flatten("flat", ("m",), "f"),
        Linear("fc", ("f",), "y", random_csr(rng, (3, 16), 0.5), random_bias(rng, 3)),
    )
    write_nir(Graph("x", (2, 8, 8), nodes, "y", T, timed_input=True), tmp_path / "model.nir")
    graph = nir.read(tmp_path / "model.nir")
    assert graph.metadata["producer"] == "spiketicket"
    assert graph.nodes["stem"].output_type["output"].tolist() == [4, 4, 4]


def test_a_soft_reset_that_forgets_anyway(rng):
    nodes = (
        Linear("fc", ("x",), "a", random_csr(rng, (5, 4), 1.0), random_bias(rng, 5)),
        Lif("lif", ("a",), "y", 1.0, 0.5, None),
    )
    graph, x = Graph("x", (4,), nodes, "y", T, timed_input=True), rng.standard_normal((T, N, 4))
    assert np.array_equal(logits(read_nir(to_nir(graph), T), x), logits(graph, x))


def test_names_that_are_taken(rng):
    nodes = (
        Linear("input", ("x",), "a", random_csr(rng, (5, 4), 1.0), random_bias(rng, 5)),
        Lif("output", ("a",), "y", 2.0),
    )
    graph, x = Graph("x", (4,), nodes, "y", T, timed_input=True), rng.standard_normal((T, N, 4))
    assert set(to_nir(graph).nodes) == {"input_", "input", "output", "output_"}
    assert np.array_equal(logits(read_nir(to_nir(graph), T), x), logits(graph, x))


def test_everything_impossible_is_refused_at_once(rng):
    nodes = (
        Unsqueeze("row", ("x",), "x0"),
        Conv("a/b", ("x0",), "x1", random_csr(rng, (4, 2, 1, 3), 1.0), random_bias(rng, 4), pads=(0, 1, 0, 0)),
        Lif("soft", ("x1",), "s0", 2.0, 1.0, None),
        Conv("uneven", ("s0",), "x2", random_csr(rng, (4, 4, 1, 2), 1.0), random_bias(rng, 4), pads=(0, 1, 0, 0)),
        Lif("lif", ("x2",), "s1", 2.0),
        And("and", ("s1", "s1"), "s2"),
        Concat("concat", ("s1", "s2"), "s3"),
        Flatten("flat", ("s3",), "f"),
        Linear("fc", ("f",), "y", random_csr(rng, (3, 64), 1.0), random_bias(rng, 3)),
    )
    graph = Graph("x", (2, 9), nodes, "y", T, timed_input=True)
    with pytest.raises(ModelError) as caught:
        to_nir(graph)
    lines = str(caught.value).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["row", "a/b", "soft", "uneven", "and", "concat"]
    assert lines[1].endswith("row (Unsqueeze [2, 1, 9]): NIR 1.0 has no such node: replace the layer")
    assert "would be a group in the HDF5 file" in lines[2]
    assert "it resets by subtraction, NIR's neurons to a value" in lines[3]
    assert "differ between the sides" in lines[4]


def test_max_pooling_and_soft_resets(rng):
    with pytest.raises(ModelError) as caught:
        to_nir(everything(rng))
    assert [line.split()[0] for line in str(caught.value).splitlines()[1:]] == ["max", "lif3"]


def test_wrong_arguments(rng):
    with pytest.raises(InputError, match="dt must be a positive number of seconds, got -1"):
        to_nir(network(rng), -1)
