"""The engine's kernels inside onnxruntime, against the oracle; a bad model is an error and never a crash."""

import json
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from spiketicket.errors import NotBuiltError
from spiketicket.export.check.agreement import compare
from spiketicket.graph import Flatten, Graph, Lif, Linear, Repeat, window
from spiketicket.model.writer import to_onnx
from spiketicket.runtime import Session, custom_ops, onnxruntime_library
from spiketicket.runtime.engine import Trace, names_by_lif_output
from tests.support.graphs import (
    event_vectors,
    events,
    everything,
    feed,
    gated_output,
    gates_and_joins,
    images,
    one_conv,
    poolings_and_views,
    random_bias,
    random_csr,
    signals,
    write,
)

onnxruntime = pytest.importorskip("onnxruntime")
try:
    LIBRARY = onnxruntime_library()
except NotBuiltError as error:
    LIBRARY = str(error)
needs_library = pytest.mark.skipif(not Path(LIBRARY).is_file(), reason=LIBRARY)

DENSE = {"Conv", "FusedConv", "MatMul", "Gemm", "Scan"}


def load(data, threads=1, profile=None):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(LIBRARY)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def trace(graph, x, timesteps, threads=1):
    """Spikes of every LIF and the logits, as onnxruntime computes them with the library."""
    names = names_by_lif_output(graph)
    proto = to_onnx(graph)
    outputs = {output.name for output in proto.graph.output}
    for value in names:
        if value not in outputs:
            proto.graph.output.append(helper.make_tensor_value_info(value, TensorProto.FLOAT, None))
    session = load(proto.SerializeToString(), threads)
    steps = {} if graph.timed_input else {"timesteps": np.array(timesteps, np.int64)}
    logits_t, *spikes = session.run(["logits_t", *names], {"input": x} | steps)
    return Trace(dict(zip(names.values(), spikes, strict=True)), logits_t)


def assert_agrees(graph, folder, x, timesteps, threads=1):
    path = write(graph, folder)
    with Session(path, engine="reference") as session:
        wanted = session.trace({"input": x}, timesteps)
    compare("custom operators", trace(graph, x, timesteps, threads), "reference", wanted).require_exact()


@needs_library
def test_the_kernels_run_and_the_bodies_do_not(tmp_path):
    graph = everything(np.random.default_rng(1))
    session = load(to_onnx(graph).SerializeToString(), profile=tmp_path / "profile")
    session.run(None, {"input": images(np.random.default_rng(1), 2, (3, 16, 16))})
    events = json.loads(Path(session.end_profiling()).read_text())
    ran = Counter(event["args"]["op_name"] for event in events if "op_name" in event.get("args", {}))
    assert [ran[name] for name in ("SparseConv", "SparseLinear", "LIF")] == [3, 2, 4]
    assert not DENSE & set(ran)


@needs_library
@pytest.mark.parametrize("timesteps", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("batch", [1, 3])
def test_every_layer_kind(tmp_path, batch, timesteps):
    rng = np.random.default_rng(timesteps)
    assert_agrees(everything(rng), tmp_path, images(rng, batch, (3, 16, 16)), timesteps)
    assert_agrees(poolings_and_views(rng), tmp_path, images(rng, batch, (3, 19, 14)), timesteps)


@needs_library
@pytest.mark.parametrize("timesteps", [1, 5])
@pytest.mark.parametrize("make", [gates_and_joins, gated_output, signals, events, event_vectors])
def test_gates_joins_and_every_neuron(tmp_path, make, timesteps):
    rng = np.random.default_rng(timesteps)
    graph = make(rng)
    assert_agrees(graph, tmp_path, feed(rng, graph, 3, timesteps), timesteps)


@needs_library
@pytest.mark.parametrize("threads", [1, 2])
def test_more_channels_than_a_word_and_threads(tmp_path, threads):
    rng = np.random.default_rng(7)
    graph = everything(rng, (3, 70, 130), (33, 31), 0.05)
    assert_agrees(graph, tmp_path, images(rng, 4, (3, 33, 31)), 5, threads)


GEOMETRIES = [
    {},
    {"pads": (1, 1, 1, 1)},
    {"pads": (0, 2, 1, 0)},
    {"pads": (1, 0, 1, 3), "strides": (1, 3)},
    {"pads": (3, 2, 3, 2), "strides": (2, 1), "dilations": (3, 2)},
]


def fits(size, kernel, pads=(0, 0, 0, 0), strides=(1, 1), dilations=(1, 1)):
    return all(
        window(size[i], kernel[i], strides[i], pads[i], pads[i + 2], dilations[i]) >= 1
        and max(pads[i], pads[i + 2]) <= dilations[i] * (kernel[i] - 1) + 1
        for i in (0, 1)
    )


CONVOLUTIONS = [
    (size, kernel, geometry)
    for size in [(1, 1), (2, 3), (7, 7), (33, 31)]
    for kernel in [(1, 1), (3, 3), (2, 4)]
    for geometry in GEOMETRIES
    if fits(size, kernel, **geometry)
]


@needs_library
@pytest.mark.parametrize(("size", "kernel", "geometry"), CONVOLUTIONS, ids=str)
def test_convolution_geometries(tmp_path, size, kernel, geometry):
    rng = np.random.default_rng(0)
    graph = one_conv(rng, 5, 7, size, kernel, 0.4, 3, **geometry)
    assert_agrees(graph, tmp_path, (rng.random((2, 5, *size)) < 0.3).astype(np.float32), 3)


@needs_library
@pytest.mark.parametrize("density", [0.0, 0.001, 0.02, 0.3, 1.0])
@pytest.mark.parametrize("rate", [0.0, 0.15, 1.0])
def test_densities_and_firing_rates(tmp_path, density, rate):
    rng = np.random.default_rng(1)
    graph = one_conv(rng, 40, 70, (9, 8), (3, 3), density, 5, pads=(1, 1, 1, 1))
    assert_agrees(graph, tmp_path, (rng.random((2, 40, 9, 8)) < rate).astype(np.float32), 5)


@needs_library
@pytest.mark.parametrize(("channels", "out", "group"), [(1, 1, 1), (10, 4, 2), (17, 17, 17), (66, 130, 2)])
def test_channels_and_groups(tmp_path, channels, out, group):
    rng = np.random.default_rng(2)
    graph = one_conv(rng, channels, out, (7, 5), (3, 3), 0.5, 4, group=group)
    assert_agrees(graph, tmp_path, (rng.random((3, channels, 7, 5)) < 0.3).astype(np.float32), 4)


@needs_library
def test_rows_longer_than_65536_and_float16(tmp_path):
    rng = np.random.default_rng(3)
    nodes = (
        Repeat("repeat", ("x",), "r"),
        Lif("lif", ("r",), "s", 2.0),
        Flatten("flat", ("s",), "f"),
        Linear("readout", ("f",), "y", random_csr(rng, (3, 257 * 256), 0.01).astype("float16"), random_bias(rng, 3)),
    )
    graph = Graph("x", (1, 257, 256), nodes, "y", 4)
    assert graph.nodes[-1].weight.indices.dtype == np.uint32
    assert_agrees(graph, tmp_path, 2 * images(rng, 2, (1, 257, 256)), 4)


def one_operator(op, shape, **attributes):
    """A model of one SparseConv or SparseLinear that reads `input`, and its initializers by name."""
    rng = np.random.default_rng(4)
    weight = random_csr(rng, attributes["weight_shape"], 0.5)
    arrays = {
        "values": weight.values,
        "indices": weight.indices,
        "indptr": weight.indptr,
        "bias": random_bias(rng, len(weight.indptr) - 1),
    }

    def build(**changes):
        tensors = [numpy_helper.from_array(changes.get(name, array), name) for name, array in arrays.items()]
        settings = {name: changes.get(name, value) for name, value in attributes.items()}
        graph = helper.make_graph(
            [helper.make_node(op, ["input", *arrays], ["y"], "layer", domain="ai.spiketicket", **settings)],
            "one",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            tensors,
        )
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.spiketicket", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()

    return build, arrays, weight


CONV = {"weight_shape": (4, 3, 2, 2), "strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1), "group": 1}
MALFORMED = [
    (lambda a: {"indptr": a["indptr"] + np.int32(1)}, "indptr must rise from 0 to"),
    (lambda a: {"indptr": a["indptr"] * np.int32(1000)}, "indptr must rise from 0 to"),
    (lambda a: {"indptr": np.array([0, -(2**31), 2**31 - 1, 3, len(a["values"])], np.int32)}, "indptr must rise"),
    (lambda a: {"indptr": a["indptr"][:-1]}, r"indptr has 4 entries, expected rows \+ 1 = 5"),
    (lambda a: {"indptr": a["indptr"][:0]}, "indptr has 0 entries"),
    (lambda a: {"indptr": a["indptr"][None]}, "indptr must have one dimension"),
    (lambda a: {"indices": a["indices"] + np.uint16(12)}, "an index lies outside its row of 12 columns"),
    (lambda a: {"indices": np.full(len(a["indices"]), 2**32 - 1, np.uint32)}, "an index lies outside"),
    (lambda a: {"indices": 0 * a["indices"]}, "indices must rise within a row"),
    (lambda a: {"indices": a["indices"][:-1]}, "values but .* indices"),
    (lambda a: {"indices": a["indices"].astype(np.int64)}, "indices has an element type"),
    (lambda a: {"values": a["values"].astype(np.float64)}, "values has an element type"),
    (lambda a: {"values": a["values"][:-2]}, "values but .* indices"),
    (lambda a: {"bias": a["bias"][:-1]}, "bias has 3 entries, expected 4"),
    (lambda a: {"weight_shape": (4, 12)}, "weight_shape must have 4 sizes"),
    (lambda a: {"weight_shape": (4, -3, 2, 2)}, "weight_shape must be positive sizes"),
    (lambda a: {"weight_shape": (2**40, 3, 2, 2)}, "weight_shape must be positive sizes"),
    (lambda a: {"weight_shape": (4, 2**30, 2**30, 2**30)}, "is too large"),
    (lambda a: {"strides": (0, 1)}, "strides must lie between 1 and"),
    (lambda a: {"strides": (1,)}, "strides must be 2 numbers"),
    (lambda a: {"dilations": (1, 2**40)}, "dilations must lie between 1 and"),
    (lambda a: {"pads": (0, 0, -1, 0)}, "pads must lie between 0 and"),
    (lambda a: {"pads": (0, 9, 0, 0)}, "must not be larger than the kernel"),
    (lambda a: {"pads": (0, 0)}, "pads must be 4 numbers"),
    (lambda a: {"group": 3}, "group must divide the 4 outputs"),
    (lambda a: {"group": 0}, "group must divide the 4 outputs"),
]


@needs_library
@pytest.mark.parametrize(("change", "message"), MALFORMED, ids=[message for _, message in MALFORMED])
def test_malformed_weights_are_refused(change, message):
    build, arrays, _ = one_operator("SparseConv", ["N", "C", "H", "W"], **CONV)
    load(build())
    with pytest.raises(Exception, match=f"(?s)SparseConv layer: .*{message}"):
        load(build(**change(arrays)))


@needs_library
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 4, 5, 5), "X has 4 channels, the weight expects 3"),
        ((2, 3, 1, 5), "the kernel does not fit into images of 1 x 5"),
        ((2, 3, 0, 5), "images of 0 x 5 are not supported"),
        ((3, 5, 5), r"X must have 4 or 5 dimensions, got shape \[3, 5, 5\]"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(shape, message):
    build, _, _ = one_operator("SparseConv", None, **CONV)
    session = load(build())
    with pytest.raises(Exception, match=f"SparseConv layer: {message}"):
        session.run(None, {"input": np.zeros(shape, np.float32)})
    assert session.run(None, {"input": np.zeros((2, 3, 5, 5), np.float32)})[0].shape == (2, 4, 4, 4)


@needs_library
def test_weights_must_be_initializers():
    build, _, _ = one_operator("SparseConv", None, **CONV)
    model = onnx.load_model_from_string(build())
    model.graph.input.append(helper.make_tensor_value_info("values", TensorProto.FLOAT, None))
    with pytest.raises(Exception, match="SparseConv layer: values must be an initializer"):
        load(model.SerializeToString())


def one_lif(overload, **attributes):
    """A model of one LIF that reads `input` [T, 4]."""
    attributes = {"tau": 2.0, "v_threshold": 1.0, "decay_input": 0} | attributes
    lif = helper.make_node("LIF", ["input"], ["s"], "lif", domain="ai.spiketicket", overload=overload, **attributes)
    graph = helper.make_graph(
        [lif],
        "one",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["T", 4])],
        [helper.make_tensor_value_info("s", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.spiketicket", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


CURRENTS = np.array([[0.6, 1.0, 2.3, -1.0]] * 4, np.float32)
BY_HAND = [
    # No leak: the current sums up. Hard: 0.6, 1.2 fires, 0.6, 1.2 fires; 2.3 fires always.
    ("hard", {"tau": np.inf, "v_reset": 0.0}, [[0, 1, 1, 0], [1, 1, 1, 0], [0, 1, 1, 0], [1, 1, 1, 0]]),
    # Soft, without v_drop: by the threshold. 0.6, 1.2 fires, 0.8, 1.4 fires.
    ("soft", {"tau": np.inf}, [[0, 1, 1, 0], [1, 1, 1, 0], [0, 1, 1, 0], [1, 1, 1, 0]]),
    # By 1.5: 0.6, 1.2 fires, 0.3, 0.9; 1.0 fires, 0.5, 1.5 fires, 1.0 fires.
    ("soft", {"tau": np.inf, "v_drop": 1.5}, [[0, 1, 1, 0], [1, 0, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0]]),
]


@needs_library
@pytest.mark.parametrize(("overload", "attributes", "spikes"), BY_HAND)
def test_neurons_by_hand(overload, attributes, spikes):
    assert load(one_lif(overload, **attributes)).run(None, {"input": CURRENTS})[0].tolist() == spikes


@needs_library
@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"tau": 0.0}, "tau must be above 0, got 0"),
        ({"tau": -2.0}, "tau must be above 0, got -2"),
        ({"tau": float("nan")}, "tau must be above 0, got nan"),
        ({"v_drop": 2}, "v_drop must be a float"),
        ({"v_drop": 1.0, "v_reset": 0.0}, "v_drop belongs to a soft reset, v_reset to a hard one"),
    ],
)
def test_neurons_that_cannot_be_are_refused(attributes, message):
    with pytest.raises(Exception, match=f"(?s)LIF lif: .*{message}"):
        load(one_lif("soft", **attributes))


@needs_library
def test_no_images_and_changing_sizes():
    """One session, inputs of other sizes, of spikes and of real values in turn, and none at all."""
    build, arrays, weight = one_operator("SparseLinear", None, weight_shape=(4, 70))
    session = load(build())
    rng = np.random.default_rng(5)
    dense = weight.to_dense().astype(np.float64)
    for shape in [(70,), (0, 70), (3, 70), (5, 2, 70), (1, 0, 70)]:
        for x in (rng.standard_normal(shape), rng.random(shape) < 0.3):
            (y,) = session.run(None, {"input": x.astype(np.float32)})
            assert np.allclose(y, x.astype(np.float32) @ dense.T + arrays["bias"], atol=1e-5) and y.dtype == np.float32
    build, _, _ = one_operator("SparseConv", None, **CONV)
    session, fresh = load(build()), load(build())
    for size in [(2, 2), (9, 4), (5, 5), (3, 8), (6, 6), (2, 2), (9, 4)]:
        for x in (rng.standard_normal((2, 3, *size)), rng.random((2, 2, 3, *size)) < 0.5):
            feed = {"input": x.astype(np.float32)}
            assert np.array_equal(session.run(None, feed)[0], fresh.run(None, feed)[0])


@needs_library
def test_one_session_from_several_threads():
    rng = np.random.default_rng(6)
    session = load(to_onnx(everything(rng)).SerializeToString())
    batches = [images(rng, 1 + i % 3, (3, 16, 16)) for i in range(4)]
    wanted = [session.run(None, {"input": x})[0] for x in batches]
    wrong = []

    def work(index):
        for _ in range(10):
            if not np.array_equal(session.run(None, {"input": batches[index]})[0], wanted[index]):
                wrong.append(index)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_a_missing_library_says_how_to_build_it(monkeypatch):
    monkeypatch.setattr(custom_ops, "LIBRARY", "libnothing.so")
    with pytest.raises(NotBuiltError, match="libnothing.so was not built.*libonnxruntime-dev"):
        onnxruntime_library()
