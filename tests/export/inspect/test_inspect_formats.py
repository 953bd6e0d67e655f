"""What `snn-export inspect` says of NIR, of graphs for TensorRT and of its engines."""

import json
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from rich.console import Console
from typer.testing import CliRunner

from spiketicket.cli.export.command import app
from spiketicket.cli.export.inspect import render
from spiketicket.errors import MissingExtraError, ModelError
from spiketicket.export.formats.settings import FORMATS, ExportFormat
from spiketicket.export.inspect.inspect import inspect
from spiketicket.export.pack import versions
from spiketicket.model.engine_file import pack, unpack
from spiketicket.model.writer import to_onnx
from tests.support import nvidia_standin
from tests.support.packed import METADATA, T, exported, network

FORMS = [
    *(ExportFormat(name) for name in list(FORMATS)[1:]),
    *(ExportFormat(name, "float16") for name in list(FORMATS)[1:3]),
]


def text(inspection, width=120):
    console = Console(width=width, file=None, emoji=False)
    with console.capture() as capture:
        console.print(render(inspection, width))
    return capture.get()


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    nvidia_standin.install(monkeypatch)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.format} {form.values}")
def test_where_it_comes_from_and_what_was_checked(form, tmp_path):
    path, result = exported(tmp_path, form)
    x = inspect(path)
    assert x.nbytes == path.stat().st_size and x.timesteps == T
    assert x.metadata.items() >= {**METADATA, "values": form.values, "versions": versions()}.items()
    assert set(x.metadata) == {*METADATA, "values", "versions", "fingerprint"}
    assert [a.brief() for a in x.verification] == [a.brief() for a in result.agreements] != []
    assert json.loads(json.dumps(x.to_dict()))["kind"] == x.kind
    for width in (80, 120):
        shown = text(x, width)
        assert max(map(len, shown.splitlines())) <= width
        assert (
            "Verified" in shown
            and METADATA["dataset"] in shown
            and f"written by {x.producer}" in " ".join(shown.split())
        )


def test_nir(tmp_path):
    nir = pytest.importorskip("nir", reason="NIR graphs need the extra nir")
    path, result = exported(tmp_path, ExportFormat("nir", dt=1e-5))
    x = inspect(path)
    assert (x.kind, x.fixed_timesteps, x.facts) == ("nir", False, {"seconds per timestep": "1e-05"})
    assert (x.format, x.producer) == (f"NIR {nir.version}", "spiketicket")
    assert [port.shape for port in x.inputs + x.outputs] == [("T", "N", 2, 4, 4), ("T", "N", 3)]
    assert [(layer.name, layer.kind, layer.output) for layer in x.layers] == [
        ("flat", "Flatten", (32,)),
        ("fc", "Linear", (20,)),
        ("lif", "Lif", (20,)),
        ("out", "Linear", (3,)),
    ]
    weights = {node.name: node.weight for node in result.graph.weighted()}
    assert {x.name: x.nonzeros for x in x.layers if x.weight} == {name: w.nnz for name, w in weights.items()}
    assert x.totals.macs_per_timestep == sum(w.nnz for w in weights.values()) and x.totals.neurons == 20
    assert x.operators == {"Input": 1, "Flatten": 1, "Affine": 2, "LIF": 1, "Output": 1}
    shown = text(x)
    assert "6 operators: 2 Affine" in shown and "not for snn-run" in shown and "native" not in shown.split("Layers")[1]
    assert "seconds per timestep" in shown and "bytes" not in shown.split("Layers")[1]


@pytest.mark.parametrize(
    "told, expected",
    [
        ({}, "dt and timesteps; read as if dt were 0.0001 s"),
        ({"dt": 1e-3}, "timesteps"),
        ({"timesteps": 3}, "dt; read as if dt were 0.0001 s"),
        ({"dt": "soon", "timesteps": -1}, "dt and timesteps; read as if dt were 0.0001 s"),
    ],
)
def test_a_nir_file_of_others_does_not_tell_all(told, expected, tmp_path):
    nir = pytest.importorskip("nir", reason="NIR graphs need the extra nir")
    one = np.ones(3)
    nodes = {
        "in": nir.Input(np.array([2])),
        "fc": nir.Linear(np.eye(3, 2)),
        "lif": nir.LIF(0.01 * one, one, 0 * one, one),
        "out": nir.Output(np.array([3])),
    }
    edges = [("in", "fc"), ("fc", "lif"), ("lif", "out")]
    nir.write(tmp_path / "x.nir", nir.NIRGraph(nodes, edges, metadata={"lab": "ours", **told}))
    x = inspect(tmp_path / "x.nir")
    assert x.facts["not in the file"] == expected and x.metadata == {"lab": "ours"}
    assert x.timesteps == (3 if told.get("timesteps") == 3 else None)
    assert [layer.name for layer in x.layers] == ["fc", "lif"] and x.verification == []
    assert "not in the file" in text(x) and "an unknown program" in text(x)


@pytest.mark.parametrize("values", ["float32", "float16"])
def test_a_graph_for_tensorrt(values, tmp_path):
    path, result = exported(tmp_path, ExportFormat("tensorrt-onnx", values, batch=2))
    x = inspect(path)
    assert (x.kind, x.timesteps, x.fixed_timesteps) == ("plain", T, True)
    weights = {node.name: node.weight for node in result.graph.weighted()}
    assert [(w.name, w.kind, w.weight, w.nonzeros) for w in x.layers] == [
        (name, "Linear", w.shape, np.count_nonzero(w.values)) for name, w in weights.items()
    ]
    assert x.totals.weight_nbytes == (4 if values == "float32" else 2) * x.totals.weights
    assert x.operators["GreaterOrEqual"] == T and f"{T}, fixed" in text(x)


@pytest.mark.parametrize("fixed", [False, True])
def test_plain_onnx_whose_timesteps_are_free_or_fixed(fixed, tmp_path):
    path = tmp_path / "x.onnx"
    path.write_bytes(to_onnx(network(fixed_timesteps=fixed), dense=True).SerializeToString())
    assert (inspect(path).fixed_timesteps, inspect(path).timesteps) == (fixed, T)


def test_an_engine(tmp_path):
    path, _ = exported(tmp_path, ExportFormat("tensorrt", "float16"))
    x = inspect(path)
    assert (x.kind, x.timesteps, x.fixed_timesteps, x.layers, x.dense_nbytes) == ("engine", T, True, [], None)
    assert [port.shape for port in x.inputs + x.outputs] == [("N", 2, 4, 4), ("N", 3), (T, "N", 3)]
    assert {key: x.facts[key] for key in ("GPU", "TensorRT", "images at once", "weighted sums", "2:4 sparse")} == {
        "GPU": nvidia_standin.GPU,
        "TensorRT": "10.9.0.34",
        "images at once": "1 to 32, fastest for 8",
        "weighted sums": "float16",
        "2:4 sparse": "no layer",
    }
    shown = text(x)
    row = next(line for line in shown.splitlines() if line.startswith("tensorrt (float16)"))
    assert row.split()[4] == "-", "an engine shows no spikes that could differ"
    assert nvidia_standin.GPU in shown and "Layers" not in shown and "Weights and work" not in shown
    file = unpack(path.read_bytes())
    path.write_bytes(pack(replace(file, build=replace(file.build, two_of_four=("fc", "out")))))
    assert inspect(path).facts["2:4 sparse"] == "fc, out"


def test_damaged_files(tmp_path):
    engine, _ = exported(tmp_path, ExportFormat("tensorrt"))
    engine.write_bytes(engine.read_bytes()[:-1])
    with pytest.raises(ModelError, match=f"^{engine}: the TensorRT engine file has"):
        inspect(engine)
    nir, _ = exported(tmp_path, ExportFormat("nir"))
    nir.write_bytes(nir.read_bytes()[:600])
    with pytest.raises(ModelError, match=f"^{nir}: not a NIR file, or damaged"):
        inspect(nir)
    plain, _ = exported(tmp_path, ExportFormat("tensorrt-onnx"))
    proto = onnx.load(plain)
    next(entry for entry in proto.metadata_props if entry.key.endswith("verification")).value = "[5]"
    plain.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match=f"^{plain}: metadata spiketicket.verification is damaged"):
        inspect(plain)


def test_nir_without_its_packages(tmp_path, monkeypatch):
    path, _ = exported(tmp_path, ExportFormat("nir"))
    monkeypatch.setitem(sys.modules, "nir", None)
    for name in ("inspect.nir", "nir.reader", "nir.graph"):
        monkeypatch.delitem(sys.modules, f"spiketicket.export.{name}", raising=False)
    with pytest.raises(MissingExtraError, match=r"spiketicket\[nir\]"):
        inspect(path)


def test_the_command(tmp_path):
    path, _ = exported(tmp_path, ExportFormat("nir"))
    shown = CliRunner().invoke(app, ["inspect", str(path)])
    assert shown.exit_code == 0 and "NIR graph" in shown.stdout
    printed = json.loads(CliRunner().invoke(app, ["inspect", str(path), "--json"]).stdout)
    assert printed["kind"] == "nir" and printed["dense"] is False and len(printed["layers"]) == 4
