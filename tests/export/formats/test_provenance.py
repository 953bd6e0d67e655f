"""Every format's file says what it was made of, by what, and what was checked; the same input gives the same bytes."""

import json
import time

import numpy as np
import onnx
import onnxruntime
import pytest

from spiketicket.errors import ModelError
from spiketicket.export.formats.registry import format_module
from spiketicket.export.formats.settings import FORMATS, ExportFormat
from spiketicket.export.pack import versions
from spiketicket.model.engine_file import unpack
from spiketicket.model.names import METADATA_PREFIX
from tests.support import nvidia_standin
from tests.support.packed import METADATA, T, exported, network


def metadata_of(path, format):
    if format == "nir":
        nir = pytest.importorskip("nir")
        return dict(nir.read(path).metadata)
    data = unpack(path.read_bytes()).model if format == "tensorrt" else path.read_bytes()
    return {entry.key: entry.value for entry in onnx.load_model_from_string(data).metadata_props}


@pytest.mark.parametrize(
    "form", [ExportFormat(), ExportFormat(dense=True), *(ExportFormat(name) for name in list(FORMATS)[1:])], ids=repr
)
def test_every_file_tells(form, tmp_path, monkeypatch):
    trt, _ = nvidia_standin.install(monkeypatch)
    path, result = exported(tmp_path, form)
    told = {
        key.removeprefix(METADATA_PREFIX): text
        for key, text in metadata_of(path, form.format).items()
        if key.startswith(METADATA_PREFIX)
    }
    assert told.items() >= {**METADATA, "values": "float32", "versions": versions()}.items()
    assert len(told["fingerprint"]) == 64
    assert json.loads(told["verification"]) == [agreement.brief() for agreement in result.agreements] != []
    assert [name for name, *_ in trt.calls].count("create_network") == (form.format == "tensorrt"), "built once"
    before = path.read_bytes()
    time.sleep(1.1 if form.format == "nir" else 0)  # HDF5 can note the second in which it was written
    exported(tmp_path, form)
    assert path.read_bytes() == before


def test_the_engine_is_the_one_that_was_checked(tmp_path, monkeypatch):
    nvidia_standin.install(monkeypatch)
    form, graph = ExportFormat("tensorrt"), network(metadata=METADATA)
    data = format_module(form).write(form, graph)
    again = format_module(form).with_metadata(form, data, network(metadata={"dataset": "another"}))
    assert unpack(again).engine == unpack(data).engine and unpack(again).build == unpack(data).build
    assert b"another" in unpack(again).model and b"another" not in unpack(data).model


def test_versions():
    found = versions("torch", "no-such-package-as-this")
    assert found.startswith("torch ") and "no-such" not in found
    assert f"numpy {np.__version__}" in found and f"onnxruntime {onnxruntime.__version__}" in found


@pytest.mark.parametrize("key, text", [("a/b", "c"), ("a", "b\0c")])
def test_what_hdf5_cannot_hold(key, text):
    pytest.importorskip("nir")
    with pytest.raises(ModelError, match="a NIR file holds no / in names and no NUL"):
        format_module(ExportFormat("nir")).write(ExportFormat("nir"), network(metadata={key: text}))


def test_unrolled_tells_its_timesteps(tmp_path):
    path, _ = exported(tmp_path, ExportFormat("tensorrt-onnx"))
    assert metadata_of(path, "tensorrt-onnx")["spiketicket.timesteps"] == str(T)
