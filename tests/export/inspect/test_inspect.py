"""What `snn-export inspect` says of a file, without torch."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from rich.console import Console

from spiketicket.cli.export.inspect import render
from spiketicket.csr import Csr
from spiketicket.errors import ModelError
from spiketicket.export.check.agreement import Agreement
from spiketicket.export.inspect import inspect as inspect_module
from spiketicket.export.inspect.inspect import inspect
from spiketicket.graph import Li, Lif
from spiketicket.model.writer import to_onnx
from spiketicket.runtime import Session
from tests.support.graphs import event_vectors, events, everything, gates_and_joins, poolings_and_views, signals, write

DIGITS = Path(__file__).parents[2] / "assets" / "digits.onnx"
GRAPH = everything(np.random.default_rng(0))
AGREEMENTS = [
    Agreement(
        "torch", "reference", 32, 31, 2e-7, {"features.0": 2e-7}, "features.0", 3e-6, 3e-6, 1e-6, 1e-7, True, 1.0, 0.75
    ),
    Agreement("native", "reference", 32, 32, 0.0, {}, None, 1e-6, 1e-6, 1e-6, 1e-7, True, 1.0),
]


def text(inspection, width):
    console = Console(width=width, file=None, emoji=False)
    with console.capture() as capture:
        console.print(render(inspection, width))
    return capture.get()


def with_metadata(tmp_path, graph=GRAPH, **metadata):
    return write(replace(graph, metadata=metadata), tmp_path)


def test_the_demo_ticket():
    x = inspect(DIGITS)
    assert (x.nbytes, x.dense, x.timesteps) == (DIGITS.stat().st_size, False, 5)
    assert (x.opset, x.ir_version, x.producer) == (18, 10, "spiketicket 0.1.0")
    assert [(port.name, port.dtype, port.shape) for port in x.inputs + x.outputs] == [
        ("input", "float32", ("N", 1, 8, 8)),
        ("timesteps", "int64", ()),
        ("logits", "float32", ("N", 10)),
        ("logits_t", "float32", ("T", "N", 10)),
    ]
    assert x.metadata["arch"] == "vgg_digits" and x.verification == []
    totals = x.totals
    assert (totals.weights, totals.nonzeros, totals.neurons) == (17_552, 1_318, 3_072)
    assert (totals.macs_once, totals.dense_macs_once) == (4_288, 64 * 16 * 9)
    assert totals.dense_macs_per_timestep == 64 * 16 * 16 * 9 + 16 * 32 * 16 * 9 + 16 * 32 * 32 * 9 + 1280
    # 6 bytes per nonzero, and 4 for the start of every row and one end per layer
    assert totals.weight_nbytes == 6 * 1_318 + 4 * (16 + 16 + 32 + 32 + 10 + 5)


GRAPHS = [make(np.random.default_rng(1)) for make in (everything, poolings_and_views, gates_and_joins, signals, events)]


@pytest.mark.parametrize("graph", GRAPHS)
def test_layers_are_the_session_s(tmp_path, graph):
    path = write(graph, tmp_path)
    x = inspect(path)
    assert x.dense_nbytes == to_onnx(graph, dense=True).ByteSize()
    with Session(path, plan="fixed") as session:
        for layer, info, node in zip(x.layers, session.layers(), graph.nodes, strict=True):
            assert (layer.name, layer.kind, layer.timed, layer.nbytes) == (
                node.name,
                info.kind,
                info.timed,
                info.nbytes,
            )
            assert (layer.native, layer.why, layer.macs) == (info.kernel, info.why, info.macs)
            assert layer.output == graph.values[node.output].shape and layer.density == info.density
            assert layer.weight == (info.shape if info.density is not None else None)
            assert (layer.neurons > 0) == isinstance(node, Lif | Li)
    assert sum(layer.macs for layer in x.layers if not layer.timed) == x.totals.macs_once


def test_a_stored_zero_is_no_nonzero(tmp_path):
    weight = GRAPH.nodes[0].weight
    zeroed = replace(GRAPH.nodes[0], weight=replace(weight, values=weight.values * (np.arange(weight.nnz) != 3)))
    x = inspect(write(replace(GRAPH, nodes=(zeroed, *GRAPH.nodes[1:])), tmp_path))
    assert x.layers[0].nonzeros == weight.nnz - 1


def test_json_of_an_inspection(tmp_path):
    path = with_metadata(tmp_path, verification=json.dumps([a.to_dict() for a in AGREEMENTS]), arch="x")
    printed = json.loads(json.dumps(inspect(path).to_dict()))
    assert printed["path"] == str(path) and printed["metadata"] == {"arch": "x"}
    assert printed["verification"] == [a.to_dict() for a in AGREEMENTS]
    assert printed["totals"]["bytes_per_nonzero"] > 6 and printed["layers"][0]["density"] == 1.0


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("dense", [False, True])
def test_tables_fit(tmp_path, width, dense):
    metadata = {
        "verification": json.dumps([a.to_dict() for a in AGREEMENTS]),
        "sparsity": "0.75",
        "fingerprint": "f" * 64,
    }
    path = write(replace(GRAPH, metadata=metadata), tmp_path, dense=dense)
    lines = text(inspect(path), width).splitlines()
    assert max(map(len, lines)) <= width
    joined = "\n".join(lines)
    for expected in ("75.00%", "spikes differ", "hidden", "20x17", "float32 [N, 3, 16, 16]"):
        assert expected in joined
    if dense:
        assert "plain dense ONNX" in joined and "4 Scan" in joined and "native" in joined
    else:
        assert ("of dense" in joined.split("Layers")[1]) == (width == 120)
        assert "dense ONNX (" in joined and "MACs per timestep" in joined and "plan fixed" in joined


def test_classes_and_unknown_metadata(tmp_path):
    classes = "\n".join(f"c{i}" for i in range(20))
    shown = text(inspect(with_metadata(tmp_path, classes=classes, sparsity="high", colour="[red]a[/b]")), 120)
    assert "20: c0, c1" in shown and "c11, ..." in shown and "c12" not in shown
    assert "high" in shown and "[red]a[/b]" in shown, "shown as it is"


def test_a_dense_file(tmp_path):
    x = inspect(write(GRAPH, tmp_path, dense=True))
    sparse = inspect(write(GRAPH, tmp_path))
    assert x.dense and x.metadata == {"dataset": "none"} and x.timesteps == 5 and x.nbytes == x.dense_nbytes
    assert x.nbytes == sparse.dense_nbytes
    assert x.operators["Conv"] == 3 and x.operators["Scan"] == 4
    assert [(w.name, w.weight, w.nonzeros) for w in x.layers] == [
        (w.name, w.weight, w.nonzeros) for w in sparse.layers if w.weight
    ]
    assert x.totals.nonzeros == sparse.totals.nonzeros and x.totals.weight_nbytes == 4 * x.totals.weights
    assert x.initializer_nbytes > x.totals.weight_nbytes


@pytest.mark.parametrize("dense", [False, True])
def test_timed_input(tmp_path, dense):
    graph = event_vectors(np.random.default_rng(0))
    x = inspect(write(graph, tmp_path, dense=dense))
    assert (x.dense, x.timesteps, x.metadata) == (dense, graph.timesteps, graph.metadata)
    assert [port.name for port in x.inputs] == ["input"] and x.inputs[0].shape == ("T", "N", *graph.input_shape)
    assert f"{graph.timesteps} by default" in text(x, 80)


def test_no_torch():
    """In a process of its own: inspecting and rendering import no torch."""
    code = (
        "import sys; from pathlib import Path\n"
        "from spiketicket.export.inspect.inspect import inspect\n"
        "from spiketicket.cli.export.inspect import render\n"
        f"render(inspect(Path({str(DIGITS)!r})), 80)\n"
        "print(sorted(name for name in sys.modules if name.split('.')[0] == 'torch'))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_without_the_native_engine(tmp_path, monkeypatch):
    def session(*_arguments, **_options):
        raise ImportError("spiketicket's native engine is not built")

    monkeypatch.setattr(inspect_module, "Session", session)
    x = inspect(write(GRAPH, tmp_path))
    assert {(layer.native, layer.why) for layer in x.layers} == {("-", "spiketicket's native engine is not built")}
    assert "not built" in text(x, 80)


def foreign(tmp_path, producer="someone", location=None):
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2, 2], [1.0, 2.0, 0.0, 4.0])
    if location:
        weight.data_location = TensorProto.EXTERNAL
        weight.ClearField("float_data")
        entry = weight.external_data.add()
        entry.key, entry.value = "location", location
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ports[:1], ports[1:], [weight])
    path = tmp_path / "foreign.onnx"
    path.write_bytes(helper.make_model(graph, producer_name=producer).SerializeToString())
    return path


def test_foreign_and_damaged_files(tmp_path):
    with pytest.raises(ModelError, match="cannot read model"):
        inspect(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="foreign.onnx: not a spiketicket model"):
        inspect(foreign(tmp_path))
    with pytest.raises(ModelError, match="is in another file"):
        inspect(foreign(tmp_path, "spiketicket", "/etc/passwd"))
    path = tmp_path / "cut.onnx"
    path.write_bytes(DIGITS.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="cut.onnx: not an ONNX file, or cut short"):
        inspect(path)
    proto = onnx.load(DIGITS)
    proto.graph.input[0].type.tensor_type.elem_type = 99
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="cut.onnx: "):
        inspect(path)


@pytest.mark.parametrize(
    "verification",
    [
        "",
        "{",
        "5",
        "null",
        "[5]",
        '["x"]',
        "[{}]",
        '{"engine": 1}',
        json.dumps([AGREEMENTS[0].to_dict() | {"top1": "x"}]),
    ],
)
def test_a_damaged_verification(tmp_path, verification):
    with pytest.raises(ModelError, match="model.onnx: metadata spiketicket.verification is damaged"):
        inspect(with_metadata(tmp_path, verification=verification))


def test_an_empty_layer(tmp_path):
    empty = Csr.from_dense(np.zeros((5, 3, 3, 3), np.float32))
    x = inspect(write(replace(GRAPH, nodes=(replace(GRAPH.nodes[0], weight=empty), *GRAPH.nodes[1:])), tmp_path))
    assert x.layers[0].density == 0 and "0.00%" in text(x, 80)
