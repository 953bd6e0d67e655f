"""Damaged, foreign and tampered model files are refused with a message, by every engine."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from spiketicket.errors import ModelError
from spiketicket.model.reader import parse_model
from spiketicket.model.writer import to_onnx
from spiketicket.runtime import Session
from spiketicket.runtime.engines.registry import ENGINE_NAMES
from tests.support.graphs import events, everything, gates_and_joins, signals, write

GRAPH = everything(np.random.default_rng(0), size=(8, 8))
DATA = to_onnx(GRAPH).SerializeToString()


def refuse(model, message):
    with pytest.raises(ModelError, match=message):
        parse_model(model.SerializeToString())


@pytest.fixture
def model():
    return onnx.load_model_from_string(DATA)


def node(model, name):
    return next(n for n in model.graph.node if n.name == name)


def edit(model, name, change):
    """Replace an initializer by what `change` makes of its array."""
    for tensor in model.graph.initializer:
        if tensor.name == name:
            array = np.array(numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(change(array), name))
            return
    raise AssertionError(f"no initializer {name}")


def put(index, value):
    def change(array):
        array[index] = value
        return array

    return change


def set_attribute(node, name, value):
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def test_reading_gives_back_what_was_written():
    graph = parse_model(DATA)
    assert [type(n) for n in graph.nodes] == [type(n) for n in GRAPH.nodes]
    assert graph.timesteps == GRAPH.timesteps and graph.metadata == GRAPH.metadata
    for got, wanted in zip(graph.weighted(), GRAPH.weighted(), strict=True):
        assert got.name == wanted.name and np.array_equal(got.bias, wanted.bias)
        assert np.array_equal(got.weight.to_dense(), wanted.weight.to_dense())
        assert got.weight.indices.dtype == wanted.weight.indices.dtype == np.uint16
    assert (
        to_onnx(graph).SerializeToString()
        == to_onnx(parse_model(to_onnx(graph).SerializeToString())).SerializeToString()
    )


CSR_TAMPERING = [
    ("same.values", put(0, np.nan), "layer same: weights hold NaN or infinity"),
    ("same.values", put(3, np.inf), "layer same: weights hold NaN or infinity"),
    ("same.values", lambda a: a[:-1], "values but .* indices"),
    ("same.values", lambda a: a.astype(np.int32), "values are int32, expected float32, float16, int8 or int16"),
    ("same.values", lambda a: a[None], "one-dimensional"),
    ("same.indices", put(2, 65_535), "layer same: an index lies outside its row of 153 columns"),
    ("same.indices", lambda a: a[::-1].copy(), "indices must rise within each row"),
    ("same.indices", lambda a: a.astype(np.int16), "indices are int16, not unsigned"),
    ("same.indptr", put(3, 10_000), "indptr must rise from 0 to"),
    ("same.indptr", put(0, 1), "indptr must rise from 0 to"),
    ("same.indptr", put(-1, 3), "indptr must rise from 0 to"),
    ("same.indptr", put(4, -7), "indptr must rise from 0 to"),
    ("same.indptr", lambda a: a[:-1], "indptr has 17 entries, expected rows \\+ 1 = 18"),
    ("same.indptr", lambda a: a.astype(np.int64), "indptr is int64, expected int32"),
    ("same.bias", put(1, np.nan), "layer same: bias holds NaN or infinity"),
    ("same.bias", lambda a: a[:-1], "layer same: bias must be float32 of 17 entries"),
    ("same.bias", lambda a: a.astype(np.float64), "layer same: bias must be float32"),
    ("timesteps", lambda a: np.array([5]), "timesteps must be an int64 scalar"),
    ("timesteps", lambda a: np.array(0), "timesteps must be at least 1, got 0"),
    ("flat.shape", lambda a: np.array([0, -1]), "Reshape must flatten the image"),
    ("mean_over_time.axes", lambda a: np.array([1]), "logits must be the mean of logits_t over time"),
]


@pytest.mark.parametrize(("name", "change", "message"), CSR_TAMPERING)
def test_tampered_tensors(model, name, change, message):
    edit(model, name, change)
    refuse(model, message)


ATTRIBUTE_TAMPERING = [
    ("same", "weight_shape", [17, 17, 3, 4], "same: weight .* does not fit|an index|cannot add"),
    ("same", "weight_shape", [18, 17, 3, 3], "indptr has 18 entries"),
    ("same", "weight_shape", [17, 2**40, 3, 3], "layer same: weight_shape must be|too large"),
    ("same", "weight_shape", [17, 153], "layer same: weight must have 4 dimensions"),
    ("same", "weight_shape", [17, -17, 3, 3], "weight_shape must be 2 or 4 positive sizes"),
    ("same", "group", 0, "layer same: 17 outputs do not split into 0 groups"),
    ("same", "group", 2, "layer same: 17 outputs do not split into 2 groups"),
    ("same", "strides", [0, 1], "strides must be 2 positive sizes"),
    ("same", "pads", [1, 1, 1], "attribute pads must have 4 entries, got 3"),
    ("same", "pads", [-1, 1, 1, 1], "pads must be 4 sizes from 0"),
    ("same", "pads", [100_000, 1, 1, 1], "end at 32,768"),
    ("same", "dilations", [9, 9], "impossible shape"),
    ("same", "mystery", 1, "layer same: attribute mystery is unknown"),
    ("lif0", "tau", float("nan"), "layer lif0: tau must be at least 1"),
    ("lif0", "tau", 0.5, "layer lif0: tau must be at least 1"),
    ("lif0", "tau", 2, "attribute tau has the wrong type"),
    ("lif0", "v_threshold", float("inf"), "v_threshold must be finite"),
    ("lif0", "v_reset", 1.5, "v_reset must lie below v_threshold"),
    ("max", "kernel_shape", [2, 2, 2], "may not span timesteps"),
    ("max", "kernel_shape", [1, 9, 9], "impossible shape"),
    ("max", "pads", [1, 0, 0, 1, 0, 0], "pads over time"),
]


@pytest.mark.parametrize(("name", "attribute", "value", "message"), ATTRIBUTE_TAMPERING)
def test_tampered_attributes(model, name, attribute, value, message):
    set_attribute(node(model, name), attribute, value)
    refuse(model, message)


def test_missing_attribute(model):
    attributes = node(model, "same").attribute
    del attributes[:]
    refuse(model, "layer same: attribute weight_shape is missing")


def test_missing_initializer(model):
    kept = [t for t in model.graph.initializer if t.name != "same.indices"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    refuse(model, "'same.indices' is not stored in the file")


def test_layer_order(model):
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([nodes[1], nodes[0], *nodes[2:]])
    refuse(model, "is not computed by an earlier layer")


def test_foreign_operator(model):
    node(model, "max").op_type = "Softmax"
    refuse(model, "layer max: operator Softmax is not one of spiketicket's")


def test_wrong_arity(model):
    node(model, "residual").input.append("s2")
    refuse(model, "Add has 3 inputs and 1 outputs, expected 2 and 1")


def test_other_domain_version(model):
    next(o for o in model.opset_import if o.domain == "ai.spiketicket").version = 9
    refuse(model, "domain ai.spiketicket version 9, this release reads 1")


def test_plain_onnx_is_foreign():
    with pytest.raises(ModelError, match="not a spiketicket model"):
        parse_model(to_onnx(GRAPH, dense=True).SerializeToString().replace(b"ai.spiketicket", b"ai.elsewhere00"))


def test_external_data_is_refused(model):
    tensor = next(t for t in model.graph.initializer if t.name == "same.values")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    refuse(model, "is in another file")


def test_huge_declared_tensor(model):
    tensor = next(t for t in model.graph.initializer if t.name == "same.values")
    tensor.dims[:] = [2**50]
    refuse(model, "impossible shape")


def test_wrong_input_type(model):
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    refuse(model, "input must be float32")


def test_wrong_input_shape(model):
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4
    refuse(model, "layer stem: weight .* does not fit 4 input channels")


@pytest.mark.parametrize("name", ENGINE_NAMES)
@pytest.mark.parametrize(
    "data", [b"", b"hello", DATA[: len(DATA) // 2], DATA[:-1]], ids=["empty", "text", "half", "cut"]
)
def test_cut_and_foreign_files(tmp_path, name, data):
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"m\.onnx: "):
        Session(path, engine=name)


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, len(DATA) - 1), byte=st.integers(0, 255))
def test_one_changed_byte_is_refused_or_runs(tmp_path_factory, place, byte):
    """No crash, and no error but ours, whatever byte is changed."""
    path = tmp_path_factory.getbasetemp() / "fuzzed.onnx"
    path.write_bytes(DATA[:place] + bytes([byte]) + DATA[place + 1 :])
    try:
        session = Session(path)
    except ModelError:
        return
    with session:
        x = np.zeros((1, *session.input_shape), np.float32)
        if x.size < 10_000:
            assert session.run({"input": x}, 2)["logits"].shape[0] == 1


def test_file_runs_in_every_engine(tmp_path):
    path = write(GRAPH, tmp_path)
    for name in ENGINE_NAMES:
        with Session(path, engine=name) as session:
            assert session.run({"input": np.zeros((1, 3, 8, 8), np.float32)})["logits"].shape == (1, 4)


def test_mean_without_inputs(model):
    mean = next(n for n in model.graph.node if n.op_type == "ReduceMean")
    del mean.input[:]
    refuse(model, "logits must be the mean of logits_t over time")


def test_metadata_must_be_text():
    broken = DATA.replace(b"spiketicket.dataset", b"spiketicket.\xff\xfe\xfd\xfcset")
    with pytest.raises(ModelError, match="metadata must be UTF-8 text|not an ONNX file"):
        parse_model(broken)


def test_a_fixed_batch_is_read(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    assert parse_model(model.SerializeToString()).batch == 3
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -3
    refuse(model, "must have fixed sizes after the batch")


NEWER = {make.__name__: make(np.random.default_rng(1)) for make in (gates_and_joins, signals, events)}


def newer(name):
    return onnx.load_model_from_string(to_onnx(NEWER[name]).SerializeToString())


@pytest.mark.parametrize("name", NEWER)
def test_reading_gives_back_gates_joins_and_timed_inputs(name):
    wanted, graph = NEWER[name], parse_model(to_onnx(NEWER[name]).SerializeToString())
    assert (graph.input_shape, graph.timed_input, graph.timesteps) == (
        wanted.input_shape,
        wanted.timed_input,
        wanted.timesteps,
    )
    assert graph.metadata == wanted.metadata
    for got, node in zip(graph.nodes, wanted.nodes, strict=True):
        assert type(got) is type(node) and got.name == node.name
        for field in ("tau", "v_threshold", "v_reset", "decay_input", "v_drop", "negated"):
            value, expected = getattr(got, field, None), getattr(node, field, None)
            assert value == expected or value == np.float32(expected), (node.name, field)
    assert (
        to_onnx(graph).SerializeToString()
        == to_onnx(parse_model(to_onnx(graph).SerializeToString())).SerializeToString()
    )


def shorten(model, name):
    del node(model, name).input[1:]


NEWER_TAMPERING = [
    (
        "gates_and_joins",
        lambda m: set_attribute(node(m, "synapse"), "tau", 0.5),
        "layer synapse: tau must be at least 1",
    ),
    (
        "gates_and_joins",
        lambda m: set_attribute(node(m, "synapse"), "tau", float("nan")),
        "synapse: tau must be at least",
    ),
    (
        "gates_and_joins",
        lambda m: set_attribute(node(m, "of a static current"), "tau", float("inf")),
        "an infinite tau",
    ),
    ("gates_and_joins", lambda m: set_attribute(node(m, "synapse"), "v_threshold", 1.0), "v_threshold is unknown"),
    (
        "gates_and_joins",
        lambda m: set_attribute(node(m, "soft"), "v_drop", float("inf")),
        "soft: v_drop must be finite",
    ),
    ("gates_and_joins", lambda m: set_attribute(node(m, "soft"), "v_drop", 1), "attribute v_drop has the wrong type"),
    ("gates_and_joins", lambda m: set_attribute(node(m, "soft"), "v_reset", 0.0), "soft: attribute v_reset is unknown"),
    ("gates_and_joins", lambda m: set_attribute(node(m, "periodic"), "v_drop", 1.0), "attribute v_drop is unknown"),
    ("gates_and_joins", lambda m: setattr(node(m, "soft"), "overload", "hard"), "soft: attribute v_reset is missing"),
    ("gates_and_joins", lambda m: setattr(node(m, "soft"), "overload", ""), "layer soft: LIF has no overload ''"),
    ("gates_and_joins", lambda m: setattr(node(m, "and"), "overload", "or"), "layer and: And has no overload 'or'"),
    ("gates_and_joins", lambda m: setattr(node(m, "and"), "op_type", "Or"), "operator ai.spiketicket.Or is not one of"),
    ("gates_and_joins", lambda m: node(m, "and").input.append("x"), "And has 3 inputs and 1 outputs, expected 2 and 1"),
    ("gates_and_joins", lambda m: set_attribute(node(m, "and"), "axis", 1), "layer and: attribute axis is unknown"),
    (
        "gates_and_joins",
        lambda m: node(m, "and").input.__setitem__(1, "after mixed.out"),
        "'after mixed.out' is not comp",
    ),
    ("gates_and_joins", lambda m: node(m, "and").input.__setitem__(1, "joined.out"), "layer and: takes spikes only"),
    ("gates_and_joins", lambda m: node(m, "and").input.__setitem__(1, "periodic.out"), "layer and: cannot combine"),
    (
        "gates_and_joins",
        lambda m: set_attribute(node(m, "mixed"), "axis", 2),
        r"mixed: Concat must join .* axis -3, got 2",
    ),
    ("gates_and_joins", lambda m: set_attribute(node(m, "mixed"), "axis", -1), "mixed: Concat must join channels"),
    (
        "gates_and_joins",
        lambda m: set_attribute(node(m, "features"), "axis", -2),
        "features: Concat must join channels",
    ),
    ("gates_and_joins", lambda m: set_attribute(node(m, "static reals"), "axis", 1), "Concat must join channels"),
    ("gates_and_joins", lambda m: shorten(m, "mixed"), "layer mixed: expected two inputs or more, got 1"),
    (
        "gates_and_joins",
        lambda m: node(m, "mixed").input.append("nowhere"),
        "layer mixed: input 'nowhere' is not computed",
    ),
    ("gates_and_joins", lambda m: node(m, "mixed").input.append("stem.out"), "layer mixed: cannot concatenate"),
    ("gates_and_joins", lambda m: node(m, "mixed").ClearField("input"), "layer mixed: input '' is not computed"),
    ("signals", lambda m: set_attribute(node(m, "channels"), "axis", -3), "channels: Concat must .* axis -2, got -3"),
    ("signals", lambda m: edit(m, "rows.axes", put(0, -3)), r"layer rows: Unsqueeze must .* axes \[-2\]"),
    ("signals", lambda m: edit(m, "rows.axes", lambda a: a.astype(np.int32)), "'rows.axes' must be a list of int64"),
    ("signals", lambda m: edit(m, "rows.axes", lambda a: a[0]), "'rows.axes' must be a list of int64"),
    ("signals", lambda m: shorten(m, "rows"), "Unsqueeze has 1 inputs and 1 outputs, expected 2 and 1"),
    ("signals", lambda m: node(m, "real rows").input.__setitem__(0, "rows.out"), r"expects signals \[C, L\], gets \["),
    ("events", lambda m: m.metadata_props.pop(), r"without the input timesteps must .*spiketicket.timesteps.*, got ''"),
    ("events", lambda m: setattr(m.metadata_props[0], "value", "0"), "must have a default .* got '0'"),
    ("events", lambda m: setattr(m.metadata_props[0], "value", "-4"), "must have a default .* got '-4'"),
    ("events", lambda m: setattr(m.metadata_props[0], "value", "9" * 4000), "must have a default"),
    ("events", lambda m: setattr(m.metadata_props[0], "value", "\u0664"), "must have a default"),
    ("events", lambda m: m.metadata_props.append(m.metadata_props[0]), "metadata holds a key twice"),
    (
        "events",
        lambda m: m.graph.input.append(m.graph.input[0]),
        "two inputs have the same name",
    ),
    ("events", lambda m: m.graph.initializer.append(numpy_helper.from_array(np.array(4), "timesteps")), "fixed sizes"),
    (
        "events",
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 99),
        "has other timesteps than",
    ),
    (
        "events",
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", -4),
        "fixed sizes",
    ),
    ("events", lambda m: m.graph.input[0].type.tensor_type.shape.ClearField("dim"), "fixed sizes"),
]


@pytest.mark.parametrize(("name", "change", "message"), NEWER_TAMPERING)
def test_tampered_gates_joins_and_timed_inputs(name, change, message):
    model = newer(name)
    change(model)
    refuse(model, message)


def test_a_file_of_before_v_drop_drops_by_the_threshold():
    model = newer("gates_and_joins")
    soft = node(model, "soft")
    kept = [attribute for attribute in soft.attribute if attribute.name != "v_drop"]
    del soft.attribute[:]
    soft.attribute.extend(kept)
    lif = next(n for n in parse_model(model.SerializeToString()).nodes if n.name == "soft")
    assert lif.v_drop is None and lif.drop == lif.v_threshold == np.float32(0.9)


def test_timesteps_that_are_no_input_are_fixed():
    model = onnx.load_model_from_string(DATA)
    del model.graph.input[1]
    assert parse_model(model.SerializeToString()).fixed_timesteps
    for tensor in [t for t in model.graph.initializer if t.name == "timesteps"]:
        model.graph.initializer.remove(tensor)
    refuse(model, "must have a default for them in its metadata|fixed sizes")
