"""Building a TensorRT engine, without TensorRT: what is asked of it (by a stand-in), 2:4, and the messages."""

from dataclasses import replace

import numpy as np
import pytest

from spiketicket.csr import Csr
from spiketicket.errors import DeviceError, InputError, MissingExtraError, ModelError
from spiketicket.export.formats.tensorrt import export_engine, follows_2_4, two_of_four
from spiketicket.export.formats.unrolled import unrolled_onnx
from spiketicket.model.engine_file import unpack
from spiketicket.model.reader import parse_model
from tests.support import nvidia_standin
from tests.support.graphs import everything

GRAPH = everything(np.random.default_rng(0), channels=(4, 8, 16))


def with_2_4(graph, name):
    """`graph` with the weights of one layer thinned out to 2:4."""
    nodes = []
    for node in graph.nodes:
        if node.name == name:
            weight = node.weight.to_dense()
            weight[:, 1::4], weight[:, 3::4] = 0, 0
            node = replace(node, weight=Csr.from_dense(weight))
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


@pytest.mark.parametrize(
    ("row", "fits"),
    [
        ([1, 1, 0, 0], True),
        ([0, 1, 0, 1], True),
        ([0, 0, 0, 1, 1, 0, 0, 1], True),
        ([0, 0, 0, 0], True),
        ([1, 1, 1, 0], False),
        ([1, 0, 1, 0, 0, 1, 1, 1], False),
        ([0, 0, 1, 1, 1, 1, 0, 0], True),  # fours are counted from the first channel
        ([1, 0, 0], False),  # channels that do not split into fours
        ([1, 0, 0, 0, 1, 0], False),
    ],
)
def test_2_4_of_a_row(row, fits):
    weight = np.array([row], np.float32)
    assert follows_2_4(weight) == fits
    assert follows_2_4(-weight) == fits
    assert follows_2_4(np.concatenate([np.zeros_like(weight), weight])) == fits


def test_2_4_of_a_convolution_goes_along_channels_at_every_place_of_the_kernel():
    weight = np.zeros((2, 4, 3, 3), np.float32)
    weight[:, :2] = 1  # two channels, everywhere
    assert follows_2_4(weight)
    weight[1, 3, 2, 2] = 1  # a third, at one place of one output
    assert not follows_2_4(weight)
    assert follows_2_4(np.ones((2, 4, 3, 3), np.float32) * (np.arange(4) < 2)[:, None, None])


def test_2_4_of_a_graph():
    assert two_of_four(GRAPH) == ()
    assert two_of_four(with_2_4(with_2_4(GRAPH, "same"), "readout")) == ("same", "readout")


def test_without_tensorrt(tmp_path):
    with pytest.raises(MissingExtraError, match=r"engine needs tensorrt: pip install 'spiketicket\[tensorrt\]'"):
        export_engine(GRAPH, tmp_path / "model.engine")


def test_with_an_old_tensorrt(tmp_path, monkeypatch):
    nvidia_standin.install(monkeypatch, version="8.6.1")
    with pytest.raises(MissingExtraError, match=r"needs tensorrt 10 or later \(here is 8.6.1\)"):
        export_engine(GRAPH, tmp_path / "model.engine")


def test_without_cuda_python(tmp_path, monkeypatch):
    nvidia_standin.install(monkeypatch)
    monkeypatch.setitem(nvidia_standin.sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(MissingExtraError, match="needs cuda-python: pip install"):
        export_engine(GRAPH, tmp_path / "model.engine")


def test_a_tensorrt_that_does_not_load(tmp_path, monkeypatch):
    folder = tmp_path / "tensorrt"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise OSError('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DeviceError, match="tensorrt is installed, but does not load: libnvinfer.so.10"):
        export_engine(GRAPH, tmp_path / "model.engine")


def test_without_a_gpu(tmp_path, monkeypatch):
    nvidia_standin.install(monkeypatch, devices=0)
    with pytest.raises(DeviceError, match="engine needs an NVIDIA GPU: cudaGetDevice: no CUDA-capable device"):
        export_engine(GRAPH, tmp_path / "model.engine")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timesteps": 0}, "timesteps must be a whole number from 1 to 4096, got 0"),
        ({"batch": (0, 1, 2)}, "batch must be three sizes from 1 in ascending order"),
        ({"batch": (2, 1, 2)}, "batch must be three sizes from 1 in ascending order"),
    ],
)
def test_bad_sizes(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        export_engine(GRAPH, tmp_path / "model.engine", **options)


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("sparse", [True, False])
def test_what_is_asked_of_tensorrt(tmp_path, monkeypatch, half, sparse):
    trt, _ = nvidia_standin.install(monkeypatch)
    graph = with_2_4(GRAPH, "same")
    path = tmp_path / "model.engine"
    build = export_engine(graph, path, timesteps=3, batch=(1, 4, 16), half=half, sparse=sparse)
    assert trt.calls == [
        ("create_network", 1 << trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED),
        ("set_memory_pool_limit", "WORKSPACE", 4 << 30),
        ("clear_flag", "TF32"),
        *([("set_flag", "SPARSE_WEIGHTS")] if sparse else []),
        ("set_shape", "input", (1, 4, 16, 16), (4, 4, 16, 16), (16, 4, 16, 16)),
        ("add_optimization_profile",),
    ]
    file = unpack(path.read_bytes())
    assert file.build == build
    assert (build.timesteps, build.batch, build.half) == (3, (1, 4, 16), half)
    assert (build.tensorrt, build.gpu) == ("10.9.0.34", nvidia_standin.GPU)
    assert build.two_of_four == (("same",) if sparse else ())
    assert file.engine == unrolled_onnx(graph, 3, None, half=half).SerializeToString()
    stored = parse_model(file.model)
    assert stored.timesteps == 3 and stored.metadata == GRAPH.metadata and len(stored.nodes) == len(GRAPH.nodes)


def test_dense_weights_need_no_sparse_kernels(tmp_path, monkeypatch):
    trt, _ = nvidia_standin.install(monkeypatch)
    export_engine(GRAPH, tmp_path / "model.engine")
    assert ("set_flag", "SPARSE_WEIGHTS") not in trt.calls


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("parse", "cannot read the graph: Split Split:lif0.0.x: not supported; Conv Conv:value:x3: not supported$"),
        ("build", "cannot build the engine: no kernel for lif0$"),
    ],
)
def test_what_tensorrt_refuses_is_told_whole(tmp_path, monkeypatch, step, message):
    nvidia_standin.install(monkeypatch, refuses=[step])
    with pytest.raises(ModelError, match=message):
        export_engine(GRAPH, tmp_path / "model.engine")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("before", "after"), [(None, b"+"), (b"timings", b"timings+"), (b"damaged", b"+"), (b"foreign", b"+")]
)
def test_timings_are_kept_for_the_next_build(tmp_path, monkeypatch, before, after):
    nvidia_standin.install(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "cache/spiketicket/tensorrt" / f"10.9.0.34-{nvidia_standin.GPU}.timing"
    if before is not None:
        file.parent.mkdir(parents=True)
        file.write_bytes(before)
    export_engine(GRAPH, tmp_path / "model.engine")
    assert file.read_bytes() == after
