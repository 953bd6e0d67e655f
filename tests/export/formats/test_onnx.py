"""The forms of a file: plain, one timestep per call, fixed sizes, opsets, whole numbers. All compute the same."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from spiketicket.csr import Csr
from spiketicket.errors import InputError, ModelError, VerificationError
from spiketicket.export.check.agreement import Tolerance, compare
from spiketicket.export.check.check import Check, Samples
from spiketicket.export.formats.settings import ExportFormat
from spiketicket.export.pack import pack
from spiketicket.graph import Li, Lif
from spiketicket.model.names import DOMAIN, OPSETS, potential
from spiketicket.model.reader import parse_model
from spiketicket.model.values import LARGEST, cast
from spiketicket.model.writer import to_onnx
from spiketicket.runtime import Session
from spiketicket.runtime.engines.registry import ENGINE_NAMES
from tests.support.graphs import (
    event_vectors,
    events,
    everything,
    feed,
    gates_and_joins,
    one_conv,
    oracle,
    signals,
    write,
)

T = 5
GRAPHS = [everything, gates_and_joins, signals, events, event_vectors]


@pytest.fixture(params=GRAPHS, ids=lambda make: make.__name__)
def graph(request):
    return request.param(np.random.default_rng(1), timesteps=T)


@pytest.fixture
def x(graph):
    return feed(np.random.default_rng(2), graph, 6, T)


def checked(graph, x, tmp_path, **form):
    samples = Samples(x, T, graph.timed_input)
    return pack(graph, tmp_path / "m.onnx", ExportFormat(**form), Check(samples, Tolerance()))


def frames(graph, x):
    return x if graph.timed_input else np.repeat(x[None], T, axis=0)


@pytest.mark.parametrize("values", ["float32", "int16"])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("step", [False, True])
@pytest.mark.parametrize(("batch", "fixed"), [(None, False), (4, True)])
def test_every_form_agrees_with_the_oracle(graph, x, tmp_path, values, dense, step, batch, fixed):
    values, fixed = "float32" if dense else values, fixed and not step
    result = checked(graph, x, tmp_path, values=values, dense=dense, step=step, batch=batch, fixed_timesteps=fixed)
    engines = [a.engine for a in result.agreements if a.engine in ENGINE_NAMES]
    assert engines == (["onnxruntime"] if dense else ["native", "onnxruntime"])
    model = onnx.load(tmp_path / "m.onnx")
    assert {node.domain for node in model.graph.node} == ({""} if dense else {"", DOMAIN})
    assert not dense or not model.functions


def test_a_stream_of_single_steps_gives_the_logits_of_the_whole(graph, x, tmp_path):
    """Plain onnxruntime as a user would drive it: potentials go round by their names, from zeros."""
    whole = Session(write(graph, tmp_path, "whole.onnx"), "onnxruntime").run({"input": x})["logits_t"]
    session = onnxruntime.InferenceSession(write(graph, tmp_path, "step.onnx", step=True))
    neurons = [node for node in graph.nodes if isinstance(node, Lif | Li)]
    shapes = {name: graph.values[node.output].shape for node in neurons for name in potential(node.name)[:1]}
    assert [i.name for i in session.get_inputs()] == ["input", *shapes]
    states = {name: np.zeros((6, *shape), np.float32) for name, shape in shapes.items()}
    for frame, expected in zip(frames(graph, x), whole, strict=True):
        logits, *after = session.run(None, {"input": frame, **states})
        assert np.allclose(logits, expected, atol=1e-5)
        states = dict(zip(states, after, strict=True))
    assert any(state.any() for state in states.values())


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_a_session_runs_a_file_of_one_timestep(graph, x, tmp_path, engine):
    path = write(graph, tmp_path, step=True)
    with Session(path, engine) as session:
        assert session.timed_input and session.timesteps == T
        inputs = {"input": frames(graph, x)}
        got = session.trace(inputs)
    compare(engine, got, "reference", oracle(graph, x, T)).require_exact()


@pytest.mark.parametrize("opset", OPSETS)
def test_opsets(graph, x, tmp_path, opset):
    result = checked(graph, x, tmp_path, opset=opset)
    model = onnx.load(tmp_path / "m.onnx")
    assert {o.domain: o.version for o in model.opset_import} == {"": opset, DOMAIN: 1}
    assert all(a.exact for a in result.agreements if "(" not in a.engine)


@pytest.mark.parametrize("opset", [OPSETS.start - 1, OPSETS.stop, True])
def test_other_opsets_are_refused(opset):
    with pytest.raises(InputError, match="opset must be from 18 to 24"):
        to_onnx(everything(np.random.default_rng(0)), opset=opset)


@pytest.mark.parametrize("step", [False, True])
def test_the_reader_gives_the_graph_back(graph, tmp_path, step):
    fixed = replace(graph, batch=3, fixed_timesteps=not step)
    read = parse_model(to_onnx(fixed, step=step).SerializeToString())
    wanted = fixed.stepped() if step else fixed
    assert (read.batch, read.timesteps, read.timed_input) == (3, T, wanted.timed_input)
    assert read.fixed_timesteps is wanted.fixed_timesteps
    assert [type(n) for n in read.nodes] == [type(n) for n in wanted.nodes]


def test_fixed_sizes_are_held(graph, x, tmp_path):
    path = write(replace(graph, batch=6, fixed_timesteps=True), tmp_path)
    model = onnx.load(path)
    lead = [T, 6] if graph.timed_input else [6]
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[: len(lead)]] == lead
    for engine in ENGINE_NAMES:
        with Session(path, engine) as session:
            assert session.run({"input": x})["logits_t"].shape[:2] == (T, 6)
            few = x[:, :2] if graph.timed_input else x[:2]
            with pytest.raises(InputError, match="takes 6 inputs at a time, no other number, got 2"):
                session.run({"input": few})
            short = {"input": x[:3]} if graph.timed_input else {"input": x}
            with pytest.raises(InputError, match="runs 5 timesteps, no other number, got 3"):
                session.run(short, 3)


@pytest.mark.parametrize("values", LARGEST)
def test_whole_numbers_have_a_scale_per_row(values):
    graph = everything(np.random.default_rng(3))
    for before, after in zip(graph.weighted(), cast(graph, values).weighted(), strict=True):
        weight, stored = before.weight.to_dense(), after.weight
        assert stored.values.dtype == values and np.abs(stored.values).max() == LARGEST[values]
        rows = weight.reshape(len(weight), -1)
        off = np.abs(stored.to_dense().reshape(rows.shape) - rows).max(axis=1)
        assert (off <= np.abs(rows).max(axis=1) / LARGEST[values] * 0.5001).all() and off.max() > 0


def test_int16_kernels_compute_with_the_numbers_in_the_file(tmp_path):
    """Rounding to int16 again changes nothing: what runs is what was stored."""
    rng = np.random.default_rng(4)
    graph, path = cast(one_conv(rng, 17, 33, (9, 8), (3, 3), 0.4, T), "int16"), tmp_path / "m.onnx"
    path.write_bytes(to_onnx(graph).SerializeToString())
    x = (rng.random((8, 17, 9, 8)) < 0.4).astype(np.float32)
    with Session(path, "native", plan="events-int16", values="int16") as session:
        got = session.trace({"input": x})
        assert any("int16" in layer.kernel for layer in session.layers())
    compare("int16", got, "reference", oracle(graph, x, T)).require_exact()


def test_rounding_that_changes_classes_is_refused(tmp_path):
    """A large weight on a feature that is always zero leaves no whole numbers for the others."""
    graph = event_vectors(np.random.default_rng(5), T)
    x = feed(np.random.default_rng(6), graph, 40, T)
    x[..., -1] = 0
    readout = next(node for node in graph.nodes if node.name == "readout")
    weight = readout.weight.to_dense()
    weight[:, -1] = 1e5
    nodes = [replace(n, weight=Csr.from_dense(weight)) if n is readout else n for n in graph.nodes]
    with pytest.raises(VerificationError, match=r"weights in int8 change the class of \d+ of 40 samples"):
        checked(replace(graph, nodes=tuple(nodes)), x, tmp_path, values="int8")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"format": "onxx"}, "format: expected one of onnx, tensorrt-onnx, tensorrt, nir, got 'onxx'"),
        ({"values": "int4"}, "values: expected one of float32, float16, int8, int16, got 'int4'"),
        ({"format": "nir", "values": "int8"}, "nir holds weights as float32, not as int8"),
        ({"format": "tensorrt", "values": "int8"}, "tensorrt holds weights as float32 or float16, not as int8"),
        ({"format": "tensorrt-onnx", "step": True}, "settings of format onnx, not of tensorrt-onnx"),
        ({"dense": True, "values": "int8"}, "plain ONNX holds its weights as float32, not as int8"),
        ({"step": True, "fixed_timesteps": True}, "does not fix T: use --timesteps dynamic:T"),
        ({"format": "nir", "batch": 3}, "a NIR graph has no timesteps and no batch"),
    ],
)
def test_forms_that_do_not_exist(form, message):
    with pytest.raises(InputError, match=message):
        ExportFormat(**form)


def step_model(graph):
    return to_onnx(graph, step=True)


def rename_state(model):
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name.startswith("v_"):
                node.input[i] = model.graph.input[1].name = "state"
                return


TAMPERED = [
    (lambda m: m.graph.output.pop(), "inputs and outputs must be"),
    (lambda m: m.graph.input.pop(), "inputs and outputs must be"),
    (rename_state, "its potentials must be v_"),
    (lambda m: m.graph.node[-1].attribute.pop(), "weight_shape is missing|attribute"),
    (lambda m: m.metadata_props.pop(), "must have a default for them in its metadata"),
]


@pytest.mark.parametrize(("tamper", "message"), TAMPERED)
def test_damaged_files_of_one_timestep(tamper, message):
    model = to_onnx(event_vectors(np.random.default_rng(0), T), step=True)
    tamper(model)
    with pytest.raises(ModelError, match=message):
        parse_model(model.SerializeToString())


def test_damaged_scales():
    graph = cast(everything(np.random.default_rng(0)), "int8")
    model = to_onnx(graph)
    scales = next(t for t in model.graph.initializer if t.name == "same.scales")
    for array, message in (
        (np.ones(3, np.float32), "scales must be float32 of 17 entries"),
        (np.full(17, np.nan, np.float32), "scales hold NaN"),
        (np.full(17, 3e38, np.float32), "weights hold NaN or infinity"),
    ):
        scales.CopyFrom(onnx.numpy_helper.from_array(array, "same.scales"))
        with pytest.raises(ModelError, match=message):
            parse_model(model.SerializeToString())
    node = next(n for n in model.graph.node if n.name == "same")
    node.overload = ""
    with pytest.raises(ModelError, match="SparseConv has 6 inputs"):
        parse_model(model.SerializeToString())


def test_floats_with_scales_are_refused():
    model = to_onnx(cast(everything(np.random.default_rng(0)), "int8"))
    for tensor in model.graph.initializer:
        if tensor.name == "same.values":
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype("f4"), tensor.name))
    assert any(t.data_type == TensorProto.INT8 for t in model.graph.initializer)
    with pytest.raises(ModelError, match="whole numbers, and only these, come with a scale"):
        parse_model(model.SerializeToString())
