"""The unrolled graph: what TensorRT's parser takes, by its published list, and what the oracle computes."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, checker, helper, shape_inference

from spiketicket.csr import Csr
from spiketicket.errors import ModelError
from spiketicket.export.check.agreement import compare
from spiketicket.export.formats.unrolled import OPSET, unrolled_onnx
from spiketicket.graph import Add, Concat, Graph, Li, Lif, Linear, Repeat
from spiketicket.runtime.engine import Model, Options, Trace
from spiketicket.runtime.engines.reference import ReferenceEngine
from tests.support.graphs import (
    TAU,
    event_vectors,
    events,
    everything,
    feed,
    gated_output,
    gates_and_joins,
    poolings_and_views,
    random_bias,
    random_csr,
    residual_blocks,
    signals,
)

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}
NUMBERS = FLOATS | {TensorProto.INT32, TensorProto.INT64}
ANY = NUMBERS | {TensorProto.BOOL}
WINDOW_2D = "two-dimensional, no dilations, one output"
CONSTANT = "the last input is an initializer"

# The rows that concern us of the ONNX operators that TensorRT's parser supports: types, restrictions. From
# onnx-tensorrt, docs/operators.md, of TensorRT 10.15 (opset 9 to 24); that of TensorRT 10.1 (opset 9 to 20) says the
# same of them. For Cast they also list UINT8. Types are those of the first input; comparisons give BOOL.
TENSORRT = {
    "Add": (NUMBERS, ""),
    "AveragePool": (FLOATS, WINDOW_2D),
    "Cast": (ANY, ""),
    "Concat": (ANY, ""),
    "Conv": (FLOATS, ""),
    "Flatten": (ANY, ""),
    "Gemm": (FLOATS, ""),
    "GreaterOrEqual": (NUMBERS, ""),
    "MaxPool": (FLOATS, WINDOW_2D),
    "Mul": (NUMBERS, ""),
    "ReduceMean": (NUMBERS, ""),  # axes must be an initializer: up to opset 17 they are an attribute
    "Reshape": (ANY, ""),
    "Split": (ANY, ""),
    "Sub": (NUMBERS, ""),
    "Unsqueeze": (ANY, CONSTANT),
}
TENSORRT_OPSETS = range(9, 20 + 1)
COMPUTED = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BOOL}  # int64 for shapes alone
SHAPE_OPERANDS = {("Reshape", 1), ("Split", 1), ("Unsqueeze", 1)}


def repeated(rng, timesteps=4):
    """Repeated values that other layers than neurons read too, and a neuron that forgets at once."""
    nodes = (
        Repeat("repeat", ("x",), "r"),
        Lif("lif0", ("r",), "s0", 1.0),
        Li("li", ("r",), "l", np.inf, False),
        Add("sum", ("r", "l"), "a"),
        Concat("beside", ("a", "s0"), "c"),
        Lif("lif1", ("c",), "s1", TAU),
        Lif("lif2", ("r",), "s2", 1.5, 1.0, None),
        Concat("all", ("s1", "s2"), "f"),
        Linear("readout", ("f",), "y", random_csr(rng, (3, 18), 0.8), random_bias(rng, 3)),
    )
    return Graph("x", (6,), nodes, "y", timesteps)


def timed_signals(rng):
    return signals(rng, timed_input=True)


@pytest.fixture(
    params=[
        everything,
        poolings_and_views,
        residual_blocks,
        gates_and_joins,
        gated_output,
        signals,
        timed_signals,
        events,
        event_vectors,
        repeated,
    ],
    ids=lambda make: make.__name__,
)
def graph(request):
    return request.param(np.random.default_rng(1))


@pytest.fixture(params=[1, 2, 5])
def timesteps(request):
    return request.param


def unrolled_trace(graph, model, x, timesteps, batch):
    """What onnxruntime computes, the tensors of the spikes added to the outputs."""
    lifs = [node for node in graph.nodes if isinstance(node, Lif)]
    names = [f"value:{node.output}" for node in lifs]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    logits, logits_t, *spikes = session.run(["logits", "logits_t", *names], {"input": x})
    assert logits.shape == (batch, graph.classes) and np.allclose(logits, logits_t.mean(axis=0), atol=1e-5)
    shaped = {
        node.name: array.reshape(timesteps, batch, *graph.values[node.output].shape)
        for node, array in zip(lifs, spikes, strict=True)
    }
    return Trace(shaped, logits_t)


def oracle_trace(graph, x, timesteps):
    oracle = ReferenceEngine(Model(Path(), b"", graph), Options(1, "fixed", "float32"))
    return oracle.trace(x, timesteps)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("free", [False, True], ids=["fixed", "free"])
def test_agrees_with_the_oracle(graph, timesteps, batch, free):
    x = feed(np.random.default_rng(2), graph, batch, timesteps)
    model = unrolled_onnx(graph, timesteps, None if free else batch)
    expected = oracle_trace(graph, x, timesteps)
    compare("unrolled", unrolled_trace(graph, model, x, timesteps, batch), "reference", expected).require_exact()
    assert timesteps < 5 or all(spikes.any() for spikes in expected.spikes.values()), "every layer is alive"


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("batch", [3, None])
def test_tensorrt_takes_every_operator_type_and_shape(graph, timesteps, batch, half):
    model = unrolled_onnx(graph, timesteps, batch, half=half)
    checker.check_model(model, full_check=True)
    assert not model.functions
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]
    assert OPSET in TENSORRT_OPSETS
    values = known_values(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        assert node.domain == ""
        types, restriction = TENSORRT[node.op_type]
        operands = [name for i, name in enumerate(node.input) if (node.op_type, i) not in SHAPE_OPERANDS]
        kinds = {values[name][0] for name in operands}
        assert kinds <= types, node.name
        assert {values[name][0] for name in [*operands, *node.output]} <= COMPUTED, node.name
        assert all(name in constants for i, name in enumerate(node.input) if (node.op_type, i) in SHAPE_OPERANDS)
        if restriction == WINDOW_2D:
            assert len(values[node.input[0]][1]) == 4 and len(node.output) == 1
            assert "dilations" not in {attribute.name for attribute in node.attribute}
        if restriction == CONSTANT:
            assert node.input[-1] in constants
        # Strongly typed networks (all of TensorRT 11) convert nothing by themselves.
        assert len(kinds) == 1, node.name
        same = node.op_type not in ("Cast", "GreaterOrEqual")
        assert not same or {values[name][0] for name in node.output} == kinds, node.name


def known_values(model):
    """Type and shape of every tensor, by strict inference; None where a size depends on the batch."""
    inferred = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    values = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in inferred.initializer}
    for value in [*inferred.input, *inferred.output, *inferred.value_info]:
        kind = value.type.tensor_type
        assert kind.HasField("shape"), value.name
        values[value.name] = (kind.elem_type, [dim.dim_value or None for dim in kind.shape.dim])
    free = not model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or None in values["input"][1]
    for name, (_, shape) in values.items():
        unknown = [axis for axis, size in enumerate(shape) if size is None]
        assert len(unknown) <= free and all(axis <= 1 for axis in unknown), (name, shape)
    assert set(values) >= {name for node in model.graph.node for name in [*node.input, *node.output]}
    return values


def test_float16_stays_near():
    """Weighted sums in float16: a spike may flip where a potential lies within 1e-3 of the threshold."""
    graph = everything(np.random.default_rng(1))
    x = feed(np.random.default_rng(2), graph, 8, 5)
    got = unrolled_trace(graph, unrolled_onnx(graph, 5, None, half=True), x, 5, 8)
    expected = oracle_trace(graph, x, 5)
    flips = [(got.spikes[name] != spikes).mean() for name, spikes in expected.spikes.items()]
    assert flips[0] < 2e-3 and max(flips) < 2e-2
    assert (got.logits_t.mean(axis=0).argmax(axis=1) == expected.logits_t.mean(axis=0).argmax(axis=1)).mean() >= 0.75


def test_float16_keeps_neurons_and_pools_in_float32():
    model = unrolled_onnx(everything(np.random.default_rng(1)), 3, None, half=True)
    values = known_values(model)
    halves = {node.op_type for node in model.graph.node if values[node.output[0]][0] == TensorProto.FLOAT16}
    assert halves == {"Cast", "Conv", "Gemm"}
    weights = [t for t in model.graph.initializer if t.name.endswith((".weight", ".bias"))]
    assert {tensor.data_type for tensor in weights} == {TensorProto.FLOAT16}


def test_weights_without_a_float16():
    weight = Csr.from_dense(np.array([[1e5, 0.0]], np.float32))
    nodes = (Repeat("r", ("x",), "a"), Linear("big", ("a",), "y", weight, np.zeros(1, np.float32)))
    graph = Graph("x", (2,), nodes, "y", 2)
    unrolled_onnx(graph, 2, None)
    with pytest.raises(ModelError, match="layer big: a weight of 1e[+]05 is too large for float16"):
        unrolled_onnx(graph, 2, None, half=True)


def test_one_output_alone():
    model = unrolled_onnx(everything(np.random.default_rng(1)), 3, 2, outputs=("logits_t",))
    assert [output.name for output in model.graph.output] == ["logits_t"]
    assert "ReduceMean" not in {node.op_type for node in model.graph.node}


def test_values_may_have_the_names_of_the_files_own():
    nodes = (Repeat("r", ("logits",), "input"), Lif("one", ("input",), "logits_t", 2.0))
    graph = Graph("logits", (3,), nodes, "logits_t", 2)
    x = feed(np.random.default_rng(2), graph, 4, 2)
    model = unrolled_onnx(graph, 2, None)
    checker.check_model(model, full_check=True)
    compare("unrolled", unrolled_trace(graph, model, x, 2, 4), "reference", oracle_trace(graph, x, 2)).require_exact()
    assert len({tensor for node in model.graph.node for tensor in node.output}) == sum(
        len(node.output) for node in model.graph.node
    )
