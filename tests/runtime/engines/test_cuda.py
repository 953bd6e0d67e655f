"""Engine cuda: its kernels, run on the CPU by an emulator, against the oracle. None of this has run on a GPU."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from spiketicket.csr import Csr
from spiketicket.errors import DeviceError, MissingExtraError
from spiketicket.export.check.agreement import compare
from spiketicket.graph import Flatten, Graph, Lif, Linear, Repeat
from spiketicket.runtime import Session
from spiketicket.runtime.engines.cuda.buffers import Layout
from spiketicket.runtime.engines.cuda.choice import KERNELS as CUDA_KERNELS
from spiketicket.runtime.engines.cuda.fusion import SPIKES, fuse
from spiketicket.runtime.engines.cuda.weights import DEPTH, ROWS, TILE, dense_tiles, sparse_tiles
from tests.support import cupy_standin
from tests.support.graphs import (
    event_vectors,
    events,
    everything,
    feed,
    flattened_residual,
    gated_output,
    gates_and_joins,
    images,
    one_conv,
    poolings_and_views,
    residual_blocks,
    signals,
    wide_linear,
    write,
)
from tests.support.tiers import beyond_the_first

KERNELS = [*CUDA_KERNELS, "fixed"]


@pytest.fixture
def cupy(monkeypatch):
    return cupy_standin.install(monkeypatch)


def traced(session, x, timesteps):
    return session.trace({"input": x}, timesteps)


def assert_exact(path, x, timesteps, plan, **options):
    """The spikes and logits of the oracle, up to potentials at the threshold."""
    with Session(path, engine="cuda", plan=plan, **options) as session, Session(path, engine="reference") as oracle:
        agreement = compare("cuda", traced(session, x, timesteps), "reference", traced(oracle, x, timesteps))
    agreement.require_exact()
    return agreement


@pytest.mark.parametrize("plan", KERNELS)
@pytest.mark.parametrize("timesteps", beyond_the_first(pytest.mark.emulator, [5, 1, 8]))
@pytest.mark.parametrize("make", beyond_the_first(pytest.mark.emulator, [everything, poolings_and_views]))
def test_layers_of_every_kind(cupy, tmp_path, make, timesteps, plan):
    rng = np.random.default_rng(timesteps)
    graph = make(rng)
    assert_exact(write(graph, tmp_path), images(rng, 3, graph.input_shape), timesteps, plan)


@pytest.mark.parametrize("plan", CUDA_KERNELS)
@pytest.mark.emulator
@pytest.mark.parametrize("make", [residual_blocks, flattened_residual, gates_and_joins, gated_output, signals])
def test_networks_that_branch(cupy, tmp_path, make, plan):
    rng = np.random.default_rng(2)
    graph = make(rng)
    assert_exact(write(graph, tmp_path), images(rng, 2, graph.input_shape), 5, plan)


@pytest.mark.parametrize("plan", CUDA_KERNELS)
@pytest.mark.parametrize("make", [events, event_vectors])
def test_frames(cupy, tmp_path, make, plan):
    rng = np.random.default_rng(3)
    path = write(make(rng), tmp_path)
    with Session(path, engine="reference") as oracle:
        x = feed(rng, oracle, 2, 10)
    assert_exact(path, x, 10, plan)


@pytest.mark.emulator
@pytest.mark.parametrize("plan", CUDA_KERNELS)
@pytest.mark.parametrize("timesteps", [9, 17])
def test_runs_of_several_launches_keep_their_potentials(cupy, tmp_path, timesteps, plan):
    rng = np.random.default_rng(4)
    path = write(everything(rng), tmp_path)
    assert_exact(path, images(rng, 2, (3, 16, 16)), timesteps, plan)


@pytest.mark.emulator
@pytest.mark.parametrize(
    "geometry",
    [
        {},
        {"pads": (2, 2, 2, 2)},
        {"strides": (2, 1), "pads": (1, 0, 1, 2)},
        {"dilations": (2, 2)},
        {"strides": (3, 3)},
        {"group": 2, "pads": (1, 1, 1, 1)},
    ],
    ids=str,
)
@pytest.mark.parametrize("plan", CUDA_KERNELS)
def test_convolution_geometries(cupy, tmp_path, geometry, plan):
    """70 outputs: two tiles of rows, the second nearly empty; 150 columns: two tiles and a part of one."""
    rng = np.random.default_rng(5)
    graph = one_conv(rng, 6, 70, (11, 9), (5, 5), 0.1, 5, **geometry)
    assert_exact(write(graph, tmp_path), images(rng, 2, (6, 11, 9)), 5, plan)


@pytest.mark.parametrize("plan", CUDA_KERNELS)
@pytest.mark.parametrize("density", [0.0, 0.001, 1.0])
def test_densities(cupy, tmp_path, density, plan):
    rng = np.random.default_rng(6)
    graph = one_conv(rng, 8, 20, (6, 6), (3, 3), density, 5)
    assert_exact(write(graph, tmp_path), images(rng, 3, (8, 6, 6)), 5, plan)


def test_rows_longer_than_65536(cupy, tmp_path):
    rng = np.random.default_rng(7)
    graph = wide_linear(rng)
    assert_exact(write(graph, tmp_path), images(rng, 1, graph.input_shape), 2, "sparse")


def test_a_pooling_is_computed_with_its_layer_and_gives_the_same(cupy, tmp_path):
    """The spikes of a network of which nothing is taken in are those of the oracle; so the pooled logits must be."""
    rng = np.random.default_rng(8)
    graph = everything(rng)
    fused, apart = fuse(graph), fuse(graph, pooling=False)
    assert any(op.pooled for op in fused.ops) and not any(op.pooled for op in apart.ops)
    lifs = {node.output for node in graph.nodes if isinstance(node, Lif)}
    assert lifs <= {op.output for op in apart.ops}


@pytest.mark.parametrize("plan", CUDA_KERNELS)
def test_float16_is_near(cupy, tmp_path, plan):
    rng = np.random.default_rng(9)
    path = write(everything(rng), tmp_path)
    x = images(rng, 4, (3, 16, 16))
    with Session(path, engine="cuda", plan=plan, values="float16") as session:
        logits = session.run({"input": x})["logits"]
    with Session(path, engine="cuda", plan=plan) as session:
        exact = session.run({"input": x})["logits"]
    assert np.abs(logits - exact).max() < 0.02 * np.abs(exact).max()
    assert (plan == "sparse") == np.array_equal(logits, exact)


def test_two_parts_hold_a_float32(cupy):
    """Also weights of very different size in one row."""
    node = next(
        graph_node for graph_node in everything(np.random.default_rng(0)).weighted() if graph_node.name == "same"
    )
    values = (np.random.default_rng(1).standard_normal(node.weight.nnz) * 1e-3).astype(np.float32)
    values[::7] *= 1e6
    node = replace(node, weight=replace(node.weight, values=values))
    dense = node.weight.to_dense().reshape(node.weight.rows, -1)
    largest = np.abs(dense).max(axis=1, keepdims=True)
    for parts, error in ((1, 2**-11), (2, 2**-22)):
        for tiles in (dense_tiles(node, parts), sparse_tiles(node, parts)):
            assert (np.abs(unpacked(tiles, node, parts) - dense) <= error * largest).all()
    assert (unpacked(dense_tiles(node, 1), node, 1) != dense).any()


@pytest.mark.parametrize("plan", ["tensor", "tensor/sparse"])
def test_long_sums_are_as_good_as_float32(cupy, tmp_path, plan):
    """Though tensor cores cut off what they add: 4,608 weights of one sign lose no more than rounding does."""
    rng = np.random.default_rng(15)
    weight = Csr.from_dense(rng.uniform(0.5, 1, (3, 4608)).astype(np.float32))
    nodes = (
        Repeat("repeat", ("x",), "r"),
        Lif("lif", ("r",), "s", 1.0),
        Flatten("flat", ("s",), "f"),
        Linear("readout", ("f",), "y", weight, np.zeros(3, np.float32)),
    )
    graph = Graph("x", (4608, 1, 1), nodes, "y", 1)
    x = np.full((1, 4608, 1, 1), 9, np.float32)
    with Session(write(graph, tmp_path), engine="cuda", plan=plan) as session:
        logits = session.run({"input": x})["logits"]
    np.testing.assert_allclose(logits, weight.to_dense().sum(axis=1, dtype=np.float64)[None], rtol=3e-7)


def unpacked(tiles, node, parts):
    """The weights that tiles stand for, by the layout of fragments: lane 4 g + q, register i, half h hold row
    g + 8 (i % 2), column 2 q + h + 8 (i // 2) of 16 x 16."""
    down, across = -(-node.weight.rows // ROWS), -(-node.weight.columns // DEPTH)
    halves = np.zeros((down * across, parts, TILE), np.uint16)
    if tiles.weights.dtype.names:
        for tile in range(down * across):
            for entry in tiles.weights[tiles.starts[tile] : tiles.starts[tile + 1]]:
                halves[tile, :, entry["place"]] = entry["parts"][:parts]
    else:
        halves = tiles.weights
    floats = halves.view(np.float16).astype(np.float64)
    floats = (floats * np.array([1, 2**-11])[:parts, None]).sum(axis=1)
    shape = (down, across, 4, 4, 8, 4, 2, 2, 2)  # slab, 16 rows, g, q, late columns, late rows, half
    floats = floats.reshape(shape).transpose(0, 3, 7, 4, 1, 2, 6, 5, 8).reshape(down * ROWS, across * DEPTH)
    return floats[: node.weight.rows, : node.weight.columns] * tiles.scales[:, None]


def test_everything_is_one_graph_of_fused_layers(cupy, tmp_path):
    rng = np.random.default_rng(10)
    graph = everything(rng)
    with Session(write(graph, tmp_path), engine="cuda", plan="fixed") as session:
        x = images(rng, 2, (3, 16, 16))
        session.run({"input": x})
        cupy.calls.clear()
        session.run({"input": x})
        launched = len(cupy.calls)
        layers = session.layers()
    assert launched == 0  # nothing but the graph
    parts = [layer for layer in layers if layer.part_of]
    assert {layer.kind for layer in parts} >= {"Lif", "MaxPool"}
    assert all(layer.why == f"part of {layer.part_of}" for layer in parts)
    assert all(layer.kernel in KERNELS for layer in layers if layer.kind in ("Conv", "Linear"))


def test_a_measurement_chooses(cupy, tmp_path):
    with Session(write(everything(np.random.default_rng(11)), tmp_path), engine="cuda") as session:
        told = {layer.name: layer for layer in session.layers()}
    assert told["same"].kernel in CUDA_KERNELS and told["same"].why.startswith("measured ")
    assert all(name in told["same"].why for name in set(CUDA_KERNELS) - {told["same"].kernel})
    assert told["same"].kernel_nbytes > 0


def test_what_is_measured_are_graphs(cupy, tmp_path, monkeypatch):
    """Nothing is launched from Python between the events."""
    launched, record = [], cupy.cuda.Event.record

    def recorded(event, stream):
        launched.append(len(cupy.calls))
        record(event, stream)

    monkeypatch.setattr(cupy.cuda.Event, "record", recorded)
    Session(write(everything(np.random.default_rng(11)), tmp_path), engine="cuda").close()
    assert launched and launched[::2] == launched[1::2]


@pytest.mark.parametrize("timesteps", [3, 10])
def test_layers_are_timed_by_the_names_that_they_run_under(cupy, tmp_path, timesteps):
    rng = np.random.default_rng(11)
    with Session(write(everything(rng), tmp_path), engine="cuda", plan="sparse") as session:
        seconds = session.time_layers({"input": images(rng, 2, (3, 16, 16))}, timesteps)
        own = [layer.name for layer in session.layers() if layer.part_of is None and layer.kernel != "none"]
    assert list(seconds) == own and all(taken > 0 for taken in seconds.values())


def test_steps_do_not_disturb_each_other(cupy, tmp_path):
    rng = np.random.default_rng(12)
    path = write(everything(rng), tmp_path)
    a, b = images(rng, 2, (3, 16, 16)), images(rng, 2, (3, 16, 16))
    with Session(path, engine="cuda", plan="sparse") as session:
        expected = [list(session.run_timesteps({"input": x})) for x in (a, b)]
        together = list(zip(session.run_timesteps({"input": a}), session.run_timesteps({"input": b}), strict=True))
        whole = session.run({"input": a})["logits"]
    for index in (0, 1):
        np.testing.assert_array_equal([pair[index] for pair in together], expected[index])
    np.testing.assert_allclose(expected[0][-1], whole, atol=1e-5)


def test_several_threads_and_batches(cupy, tmp_path):
    rng = np.random.default_rng(13)
    path = write(everything(rng), tmp_path)
    batches = [images(rng, 1 + i % 3, (3, 16, 16)) for i in range(6)]
    wrong = []
    with Session(path, engine="cuda", plan="sparse") as session:
        expected = [session.run({"input": x})["logits"] for x in batches]

        def work(index):
            for _ in range(3):
                if not np.array_equal(session.run({"input": batches[index]})["logits"], expected[index]):
                    wrong.append(index)

        workers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert wrong == []


def test_borders_stay_zero(cupy, tmp_path):
    rng = np.random.default_rng(14)
    with Session(write(residual_blocks(rng), tmp_path), engine="cuda", plan="fixed") as session:
        session.run({"input": images(rng, 2, session.input_shape)})
        (program,) = [p for key, p in session._engine.programs.items() if key[1] == 2]
    bordered = [buffer for buffer in program.buffers.values() if any(buffer.layout.pads)]
    assert bordered
    for buffer in bordered:
        array = buffer.array.get()
        buffer.layout.inside(array)[...] = 0
        assert not array.any()


def test_layouts():
    layout = Layout((2, 3, 4), (1, 2, 0, 1), SPIKES)
    array = np.arange(layout.image).reshape(layout.allocated(5, 1))
    flat = layout.inside(array).reshape(-1)
    assert flat[0] == layout.origin
    np.testing.assert_array_equal(flat, layout.features() + layout.origin)


def broken_compiler(**_):
    raise RuntimeError("libnvrtc.so.12 is not there")


def test_without_cupy_a_gpu_or_a_new_enough_one(monkeypatch, tmp_path):
    path = write(everything(np.random.default_rng(0)), tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    with pytest.raises(MissingExtraError, match=r"engine cuda needs cupy: pip install 'spiketicket\[gpu\]'"):
        Session(path, engine="cuda")
    cupy_standin.install(monkeypatch, devices=0)
    with pytest.raises(DeviceError, match="engine cuda needs an NVIDIA GPU: cudaErrorNoDevice"):
        Session(path, engine="cuda")
    cupy = cupy_standin.install(monkeypatch)
    cupy.RawModule = broken_compiler
    with pytest.raises(DeviceError, match="GPU kernels do not compile here: libnvrtc.so.12 is not there"):
        Session(path, engine="cuda")
    cupy_standin.install(monkeypatch, capability="70")
    with pytest.raises(DeviceError, match="compute capability 7.5 or later, here is 70"):
        Session(path, engine="cuda")
