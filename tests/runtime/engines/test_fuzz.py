"""The loader and the engine against damaged models: a file is refused, or it runs as the oracle runs it."""

import copy

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spiketicket.errors import InputError, ModelError
from spiketicket.export.check.agreement import compare
from spiketicket.model.writer import to_onnx
from spiketicket.runtime import Session
from spiketicket.runtime.engine import FIXED
from tests.support.graphs import (
    event_vectors,
    events,
    everything,
    feed,
    gates_and_joins,
    poolings_and_views,
    residual_blocks,
    signals,
)

BASES = [
    to_onnx(make(np.random.default_rng(0), **options))
    for make, options in [
        (everything, {"size": (8, 8), "channels": (2, 3, 5)}),
        (poolings_and_views, {}),
        (residual_blocks, {"size": (5, 4)}),
        (gates_and_joins, {}),
        (signals, {}),
        (events, {}),
        (event_vectors, {}),
    ]
]


@st.composite
def damaged(draw):
    """A model file with up to three changes: nodes, their inputs and attributes, weights, shapes of all kinds."""
    model = copy.deepcopy(draw(st.sampled_from(BASES)))
    for _ in range(draw(st.integers(1, 3))):
        damage(draw, model.graph)
    return model


def damage(draw, graph):
    if not graph.node or not graph.initializer:
        return
    node, tensor = draw(st.sampled_from(list(graph.node))), draw(st.sampled_from(list(graph.initializer)))
    small = st.integers(-2, 9)
    match draw(st.sampled_from(["drop", "move", "twice", "input", "output", "attribute", "values", "shape", "image"])):
        case "drop":
            graph.node.remove(node)
        case "move":
            moved = copy.deepcopy(node)
            graph.node.remove(node)
            graph.node.insert(draw(st.integers(0, len(graph.node))), moved)
        case "twice":
            graph.node.append(copy.deepcopy(node))
        case "input":
            node.input[draw(st.integers(0, len(node.input) - 1))] = draw(
                st.sampled_from([*(other.output[0] for other in graph.node), tensor.name, "input", "nothing"])
            )
        case "output":
            node.output[0] = draw(st.sampled_from([other.output[0] for other in graph.node]))
        case "attribute" if node.attribute:
            attribute = draw(st.sampled_from(list(node.attribute)))
            if attribute.type == onnx.AttributeProto.INTS and attribute.ints:
                attribute.ints[draw(st.integers(0, len(attribute.ints) - 1))] = draw(small)
            elif attribute.type == onnx.AttributeProto.INT:
                attribute.i = draw(small)
            elif attribute.type == onnx.AttributeProto.FLOAT:
                attribute.f = draw(st.floats(width=32))
        case "values" if tensor.raw_data:
            raw = bytearray(tensor.raw_data)
            raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
            tensor.raw_data = bytes(raw)
        case "shape" if tensor.dims:
            tensor.dims[draw(st.integers(0, len(tensor.dims) - 1))] = draw(small)
        case "image":
            dims = graph.input[0].type.tensor_type.shape.dim
            dims[draw(st.integers(0, len(dims) - 1))].dim_value = draw(st.integers(0, 12))


@pytest.mark.parametrize("plan", [FIXED, "events", "masks", "tables"])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(model=damaged())
def test_a_damaged_model_is_refused_or_runs_like_the_oracle(tmp_path_factory, plan, model):
    path = tmp_path_factory.mktemp("fuzz") / "model.onnx"
    path.write_bytes(model.SerializeToString())
    try:
        with Session(path, plan=plan, threads=1) as session:
            if session.timesteps > 16:
                return
            x = feed(np.random.default_rng(0), session, 2, 3)
            native = session.trace({"input": x}, 3)
    except (ModelError, InputError):
        return
    with Session(path, engine="reference") as session:
        oracle = session.trace({"input": x}, 3)
    if not all(np.isfinite(part).all() for part in (native.logits_t, oracle.logits_t)):
        return  # weights near the end of float32
    agreement = compare("native", native, "reference", oracle)
    assert agreement.mismatch <= 1e-3, agreement  # a changed weight may set potentials to their thresholds
    assert agreement.clean == 0 or agreement.logits <= 1e-4, agreement
