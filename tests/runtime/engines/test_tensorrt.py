"""The TensorRT engine file and the engine that runs it; TensorRT itself is replaced by a stand-in."""

import json
import threading
from dataclasses import replace

import numpy as np
import pytest

from spiketicket.errors import DeviceError, InputError, MissingExtraError, ModelError
from spiketicket.export.formats.tensorrt import export_engine
from spiketicket.model.engine_file import MAGIC, VERSION, Build, EngineFile, pack, unpack
from spiketicket.runtime import Session
from spiketicket.runtime.engines.registry import ENGINE_NAMES
from tests.support import nvidia_standin
from tests.support.graphs import events, everything, feed, gates_and_joins, images, signals, write

GRAPH = everything(np.random.default_rng(0))
BUILD = Build(5, (1, 4, 8), True, ("same", "größer"), "10.9.0", "NVIDIA H100")
FILE = EngineFile(BUILD, b"model" * 20, b"engine" * 30)
PACKED = pack(FILE)


@pytest.fixture
def engine_file(tmp_path, monkeypatch):
    nvidia_standin.install(monkeypatch)
    path = tmp_path / "model.engine"
    export_engine(GRAPH, path, batch=(2, 4, 8), half=False)
    return path


def header_of(packed):
    length = int.from_bytes(packed[8:12], "little")
    return json.loads(packed[12 : 12 + length]), packed[12 + length :]


def with_header(header, rest):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return MAGIC + len(text).to_bytes(4, "little") + text + rest


def test_round_trip():
    assert unpack(PACKED) == FILE
    header, rest = header_of(PACKED)
    assert header["version"] == VERSION and header["gpu"] == "NVIDIA H100"
    assert rest == FILE.model + FILE.engine
    empty = EngineFile(replace(BUILD, two_of_four=()), b"", b"")
    assert unpack(pack(empty)) == empty


def test_cut_short():
    for length in range(len(PACKED)):
        with pytest.raises(ModelError, match="cut short|not a TensorRT engine file|bytes, expected"):
            unpack(PACKED[:length])


@pytest.mark.parametrize("data", [b"", b"\x08\x0a\x12", b"ptrt" + PACKED[4:], PACKED[1:]])
def test_foreign(data):
    with pytest.raises(ModelError, match="not a TensorRT engine file: snn-export --format tensorrt makes one"):
        unpack(data)


@pytest.mark.parametrize(
    "change",
    [
        {"batch": [1, 2]},
        {"batch": "abc"},
        {"batch": None},
        {"timesteps": "five"},
        {"timesteps": 1e999},
        {"two_of_four": 3},
        {"model_nbytes": None},
        {"engine_nbytes": []},
    ],
    ids=str,
)
def test_bad_header(change):
    header, rest = header_of(PACKED)
    with pytest.raises(ModelError, match="the header of the TensorRT engine file is damaged"):
        unpack(with_header(header | change, rest))


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000, b'{"version": 1}'])
def test_no_header(text):
    with pytest.raises(ModelError, match="the header of the TensorRT engine file is damaged"):
        unpack(with_header(text, b"rest"))


def test_damage_and_other_versions():
    header, rest = header_of(PACKED)
    with pytest.raises(ModelError, match="do not have the digest"):
        unpack(PACKED[:-1] + b"X")
    with pytest.raises(ModelError, match="bytes, expected"):
        unpack(PACKED + b"X")
    with pytest.raises(ModelError, match="bytes, expected"):
        unpack(with_header(header | {"model_nbytes": -5}, rest))
    with pytest.raises(ModelError, match="of version 2, this release reads 1"):
        unpack(with_header(header | {"version": 2}, rest))


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_other_engines_name_the_one_that_reads_it(tmp_path, engine):
    path = tmp_path / "model.engine"
    path.write_bytes(PACKED)
    with pytest.raises(ModelError, match="model.engine: a TensorRT engine file, which engine tensorrt runs"):
        Session(path, engine=engine)


def test_a_model_file_is_no_engine(tmp_path):
    with pytest.raises(ModelError, match="model.onnx: not a TensorRT engine file"):
        Session(write(GRAPH, tmp_path), engine="tensorrt")
    with pytest.raises(ModelError, match="cannot read engine .*none.engine"):
        Session(tmp_path / "none.engine", engine="tensorrt")


def test_a_model_inside_is_checked(tmp_path):
    path = tmp_path / "model.engine"
    path.write_bytes(PACKED)
    with pytest.raises(ModelError, match="model.engine: not a spiketicket model"):
        Session(path, engine="tensorrt")


def test_without_tensorrt(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        nvidia_standin.install(patch)
        export_engine(GRAPH, tmp_path / "model.engine")
    with pytest.raises(MissingExtraError, match=r"tensorrt needs tensorrt: pip install 'spiketicket\[tensorrt\]'"):
        Session(tmp_path / "model.engine", engine="tensorrt")


def test_runs_what_it_was_built_for(engine_file, tmp_path):
    x = images(np.random.default_rng(1), 8, GRAPH.input_shape)
    with (
        Session(engine_file, engine="tensorrt") as session,
        Session(write(GRAPH, tmp_path), engine="onnxruntime") as plain,
    ):
        assert session.input_shape == GRAPH.input_shape and session.timesteps == GRAPH.timesteps
        assert session.metadata == GRAPH.metadata
        for count in (2, 8, 3):
            got, expected = (s.run({"input": x[:count]}) for s in (session, plain))
            assert np.allclose(got["logits_t"], expected["logits_t"], atol=1e-4)
            assert np.allclose(got["logits"], expected["logits"], atol=1e-4)
        means = list(session.run_timesteps({"input": x}))
        assert len(means) == GRAPH.timesteps and np.allclose(means[-1], session.run({"input": x})["logits"], atol=1e-5)


@pytest.mark.parametrize("make", [events, gates_and_joins, signals])
def test_other_kinds_of_layers_and_inputs(tmp_path, monkeypatch, make):
    """Of a timed input, `[T, N, ...]`, the batch is the second axis."""
    nvidia_standin.install(monkeypatch)
    rng = np.random.default_rng(2)
    graph = make(rng)
    x = feed(rng, graph, 9, 3)
    few = {"input": np.ascontiguousarray(x[:, :5] if graph.timed_input else x[:5])}
    path = tmp_path / "model.engine"
    export_engine(graph, path, timesteps=3, batch=(1, 4, 8), half=False)
    with (
        Session(path, engine="tensorrt") as session,
        Session(write(graph, tmp_path), engine="reference") as reference,
    ):
        got, expected = (s.run(few, 3)["logits_t"] for s in (session, reference))
        assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()
        with pytest.raises(InputError, match="built for 1 to 8 images at once, got 9"):
            session.run({"input": x}, 3)


def test_refuses_what_it_was_not_built_for(engine_file):
    x = images(np.random.default_rng(1), 9, GRAPH.input_shape)
    with Session(engine_file, engine="tensorrt") as session:
        with pytest.raises(InputError, match="built for 5 timesteps, got 4"):
            session.run({"input": x[:3]}, 4)
        for count in (1, 9):
            with pytest.raises(InputError, match=f"built for 2 to 8 images at once, got {count}"):
                session.run({"input": x[:count]})
        with pytest.raises(InputError, match="engine tensorrt has no spikes"):
            session.spikes({"input": x[:3]})


def test_layers(engine_file):
    with Session(engine_file, engine="tensorrt") as session:
        layers = {layer.name: layer for layer in session.layers()}
    assert list(layers) == [node.name for node in GRAPH.nodes]
    assert layers["down"].kernel == layers["lif0"].kernel == "tensorrt/float32"
    assert layers["down"].why == f"compiled by TensorRT 10.9.0.34 for {nvidia_standin.GPU}, weights dense"


def test_layers_of_float16_and_2_4(tmp_path, monkeypatch):
    nvidia_standin.install(monkeypatch)
    path = tmp_path / "model.engine"
    export_engine(GRAPH, path)
    file = unpack(path.read_bytes())
    path.write_bytes(pack(replace(file, build=replace(file.build, two_of_four=("same",)))))
    with Session(path, engine="tensorrt") as session:
        layers = {layer.name: layer for layer in session.layers()}
    assert (layers["same"].kernel, layers["lif0"].kernel) == ("tensorrt/float16", "tensorrt/float32")
    assert layers["same"].why.endswith("weights 2:4 sparse") and layers["down"].why.endswith("weights dense")


def test_elsewhere(engine_file, monkeypatch):
    nvidia_standin.install(monkeypatch, version="11.1.0", refuses=["load"])
    with pytest.raises(ModelError, match=r"by TensorRT 10.9.0.34 for Stand-in GPU, here are 11.1.0 and Stand-in GPU"):
        Session(engine_file, engine="tensorrt")
    nvidia_standin.install(monkeypatch, devices=0)
    with pytest.raises(DeviceError, match="engine tensorrt needs an NVIDIA GPU: cudaGetDevice: no CUDA-capable device"):
        Session(engine_file, engine="tensorrt")


def test_memory_is_given_back(engine_file, monkeypatch):
    _, cudart = nvidia_standin.install(monkeypatch)
    with Session(engine_file, engine="tensorrt"):
        assert len(cudart.blocks) == 3
    assert not cudart.blocks
    file = unpack(engine_file.read_bytes())
    engine_file.write_bytes(pack(replace(file, build=replace(file.build, batch=(1, 1, 1 << 20)))))
    with pytest.raises(MemoryError, match="out of memory"):
        Session(engine_file, engine="tensorrt")
    assert not cudart.blocks


def test_several_threads(engine_file):
    x = images(np.random.default_rng(1), 8, GRAPH.input_shape)
    with Session(engine_file, engine="tensorrt") as session:
        expected = [session.run({"input": x[i : i + 4]})["logits_t"] for i in range(4)]
        got = [None] * 4

        def work(i):
            for _ in range(5):
                got[i] = session.run({"input": x[i : i + 4]})["logits_t"]

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))
