"""The model file is standard ONNX: checked in full, one file, readable without this project."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import checker

from spiketicket.graph import Graph, Lif
from spiketicket.model.writer import to_onnx
from spiketicket.runtime.engines.reference import fire
from tests.support.graphs import events, everything, feed, gated_output, gates_and_joins, images, signals

GRAPH = everything(np.random.default_rng(0))


def run(model, feeds, outputs=None):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(outputs, feeds)


@pytest.mark.parametrize("dense", [False, True])
def test_passes_the_full_check(dense):
    model = to_onnx(GRAPH, dense=dense)
    checker.check_model(model, full_check=True)
    domains = {node.domain for node in model.graph.node}
    assert domains == ({""} if dense else {"", "ai.spiketicket"})
    assert bool(model.functions) != dense


@pytest.mark.parametrize("timesteps", [None, 1, 4])
def test_sparse_and_dense_files_run_alike_in_plain_onnxruntime(timesteps):
    x = images(np.random.default_rng(1), 2, (3, 16, 16))
    feeds = {"input": x} | ({} if timesteps is None else {"timesteps": np.array(timesteps)})
    sparse, dense = (run(to_onnx(GRAPH, dense=d), feeds) for d in (False, True))
    assert sparse[0].shape == (2, 4) and sparse[1].shape == (timesteps or 5, 2, 4)
    assert np.array_equal(sparse[0], dense[0]) and np.array_equal(sparse[1], dense[1])
    assert np.allclose(sparse[0], sparse[1].mean(axis=0), atol=1e-6)


def test_decoding_is_folded_when_onnxruntime_loads_the_file(tmp_path):
    """No engine has to decode weights at run time: after loading there are plain convolutions."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(to_onnx(GRAPH).SerializeToString(), options)
    kinds = {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
    assert "Conv" in kinds
    assert not kinds & {"ScatterElements", "CumSum", "SparseConv", "SparseLinear"}


def test_metadata():
    model = to_onnx(GRAPH)
    assert {p.key: p.value for p in model.metadata_props} == {"spiketicket.dataset": "none"}
    assert model.producer_name == "spiketicket"


def test_values_may_have_the_names_of_the_files_own():
    renamed = {"s0": "logits", "x3": "input", "x4": "timesteps", "y": "logits_t", "x7": "output"}
    nodes = tuple(
        replace(n, inputs=tuple(renamed.get(i, i) for i in n.inputs), output=renamed.get(n.output, n.output))
        for n in GRAPH.nodes
    )
    graph = Graph("x", GRAPH.input_shape, nodes, "logits_t", 5)
    x = images(np.random.default_rng(1), 1, (3, 16, 16))
    checker.check_model(to_onnx(graph), full_check=True)
    assert np.array_equal(run(to_onnx(graph), {"input": x})[1], run(to_onnx(GRAPH), {"input": x})[1])


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("make", [gates_and_joins, gated_output, signals, events])
def test_gates_joins_and_timed_inputs_are_standard_onnx(make, dense):
    rng = np.random.default_rng(2)
    graph = make(rng)
    model = to_onnx(graph, dense=dense)
    checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == ({""} if dense else {"", "ai.spiketicket"})
    feeds = {"input": feed(rng, graph, 2, 3)} | ({} if graph.timed_input else {"timesteps": np.array(3)})
    got, sparse = (run(m, feeds)[1] for m in (model, to_onnx(graph)))
    assert got.shape == (3, 2, graph.classes) and np.array_equal(got, sparse)


def test_a_timed_input_keeps_its_timesteps_in_the_metadata():
    model = to_onnx(events(np.random.default_rng(0), timesteps=9))
    assert [value.name for value in model.graph.input] == ["input"]
    assert [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][:3] == [
        "T",
        "N",
        2,
    ]
    assert {p.key: p.value for p in model.metadata_props} == {"spiketicket.timesteps": "9"}


def test_same_graph_same_bytes():
    assert to_onnx(GRAPH).SerializeToString(deterministic=True) == to_onnx(GRAPH).SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    "node",
    [
        Lif("lif", ("x",), "s", 4 / 3),
        Lif("lif", ("x",), "s", 2.0, 0.7, -0.5, True),
        Lif("lif", ("x",), "s", 3.0, 1.2, 0.3, False),
        Lif("lif", ("x",), "s", 2.0, 1.0, None, True),
        Lif("lif", ("x",), "s", 1.5, 0.8, None, False),
        Lif("lif", ("x",), "s", float("inf"), 1.5, 0.25, False),
        Lif("lif", ("x",), "s", float("inf"), 1.5, None, False),
        Lif("lif", ("x",), "s", 2.0, 1.0, None, False, 1.25),
    ],
    ids=lambda n: f"tau{n.tau:.2f}-reset{n.v_reset}-{'decay' if n.decay_input else 'whole'}-drop{n.v_drop}",
)
def test_neuron_bodies_follow_the_equations(node):
    """Every kind of neuron, alone, against the oracle's equations."""
    from spiketicket.csr import Csr
    from spiketicket.graph import Flatten, Linear, Repeat

    rng = np.random.default_rng(0)
    identity = Linear("readout", ("v",), "y", Csr.from_dense(np.eye(8, dtype=np.float32)), np.zeros(8, np.float32))
    lif = replace(node, inputs=("r",))
    graph = Graph("x", (2, 2, 2), (Repeat("repeat", ("x",), "r"), lif, Flatten("f", ("s",), "v"), identity), "y", 12)
    x = (2 * rng.standard_normal((50, 2, 2, 2))).astype(np.float32)
    (spikes,) = run(to_onnx(graph), {"input": x}, ["logits_t"])
    expected = fire(node, np.repeat(x.reshape(1, 50, 8), 12, axis=0).astype(np.float64))
    assert 0.1 < expected.mean() < 0.9
    assert (spikes != expected).mean() < 1e-3
