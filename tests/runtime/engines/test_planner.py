"""Which kernel computes a layer: measured once and remembered, fixed, or asked for."""

import json

import numpy as np
import pytest

from spiketicket.errors import InputError, SpikeTicketError
from spiketicket.runtime import Session
from spiketicket.runtime.engines.native import planner
from spiketicket.runtime.engines.native.planner import KERNELS
from tests.support.graphs import events, everything, feed, gates_and_joins, images, one_conv, signals, write


@pytest.fixture
def path(tmp_path):
    return write(everything(np.random.default_rng(0)), tmp_path)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "spiketicket" / "plans"


def kernels(path, **options):
    with Session(path, **options) as session:
        return {layer.name: (layer.kernel, layer.why) for layer in session.layers()}


def test_a_measurement_is_made_once(path, cache):
    first = kernels(path)
    (file,) = cache.iterdir()
    stem, down, *_ = json.loads(file.read_text())
    assert set(stem) == {"events/16", "sparse-events"}  # of real values
    assert set(down) == {"events/16", "events/64", "sparse-events", "masks", "tables"}
    assert "measured" in first["down"][1] and "against" in first["down"][1]
    before = file.stat().st_mtime_ns
    assert kernels(path) == first and file.stat().st_mtime_ns == before


def test_the_fastest_measured_kernel_runs(path, cache):
    kernels(path)
    (file,) = cache.iterdir()
    layers = json.loads(file.read_text())
    for wanted in ("masks", "tables", "sparse-events"):
        file.write_text(json.dumps([{**times, wanted: 0.0} if wanted in times else times for times in layers]))
        assert kernels(path)["down"] == (f"{wanted} ({isa(path)})", kernels(path)["down"][1])


def isa(path):
    return kernels(path)["lif0"][0].removeprefix("lif (").removesuffix(")")


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "[]",
        "[" * 100_000,
        '[{"events/16": 1' + "0" * 400 + "}]",
        "{",
        "[1, 2]",
        '[{"events/16": "fast"}]',
        '{"a": 1}',
        "\x00\xff",
    ],
)
def test_a_damaged_cache_is_measured_again(path, cache, damage):
    expected = set(kernels(path))
    (file,) = cache.iterdir()
    whole = json.loads(file.read_text())
    file.write_text(damage)
    assert set(kernels(path)) == expected
    assert [set(times) for times in json.loads(file.read_text())] == [set(times) for times in whole]


def test_no_cache_where_none_can_be_written(path, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "measured" in kernels(path)["down"][1]


def test_no_cache_where_writing_fails_or_there_is_no_home(path, cache, monkeypatch):
    def fail(*_):
        raise SpikeTicketError("cannot write")

    monkeypatch.setattr(planner, "write_atomic", fail)
    assert "measured" in kernels(path)["down"][1]
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(planner.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert "measured" in kernels(path)["down"][1]


def test_another_model_and_other_values_have_plans_of_their_own(path, cache, tmp_path):
    kernels(path)
    kernels(path, values="int16")
    kernels(write(everything(np.random.default_rng(1)), tmp_path, "other.onnx"))
    assert len(list(cache.iterdir())) == 3


def test_a_fixed_plan_measures_nothing(path, cache):
    assert kernels(path, plan="fixed")["down"][1] == "the least work by estimate"
    assert not cache.exists()


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_is_taken_where_it_suits(path, cache, kernel):
    plan = kernels(path, plan=kernel, values="int16")
    spiking = [plan[name] for name in ("down", "same", "readout")]
    assert {taken.split(" ")[0].split("/")[0] for taken, _ in spiking} == {kernel}
    assert {why for _, why in spiking} == {"asked for"}
    assert plan["residual"][0] == "none" and plan["lif2"] == ("none", "part of same")


def test_dense_layers_of_few_spikes_and_sparse_ones_get_other_kernels(tmp_path):
    """The estimate tells them apart."""
    rng = np.random.default_rng(2)
    dense = write(one_conv(rng, 64, 64, (8, 8), (3, 3), 1.0, 5, pads=(1,) * 4), tmp_path, "dense.onnx")
    sparse = write(one_conv(rng, 64, 64, (8, 8), (3, 3), 0.05, 5, pads=(1,) * 4), tmp_path, "sparse.onnx")
    assert kernels(dense, plan="fixed")["conv"][0].startswith("events/")
    assert kernels(sparse, plan="fixed")["conv"][0].startswith("masks")


def test_unknown_plan(path):
    with pytest.raises(InputError, match="plan: expected one of auto, fixed, events, .*, got 'fast'"):
        Session(path, plan="fast")


@pytest.mark.parametrize("make", [events, signals, gates_and_joins])
def test_every_layer_is_measured_on_spikes_of_its_own(tmp_path, cache, make):
    """Of timed inputs on a frame per timestep, of signals on signals; and what has no weights is explained as well."""
    graph = make(np.random.default_rng(4))
    plan = kernels(write(graph, tmp_path))
    assert all("measured" in plan[node.name][1] or "part of" in plan[node.name][1] for node in graph.weighted())
    assert set(plan) == {node.name for node in graph.nodes} and all(kernel and why for kernel, why in plan.values())
    noise = planner.noise_images(graph.input_shape, 3)
    assert noise.shape == feed(np.random.default_rng(0), graph, 3, 1).reshape(3, *graph.input_shape).shape
    assert 0.5 < noise.std() < 1.5 and not np.array_equal(noise[0], noise[1])


def test_early_exit(path):
    x = images(np.random.default_rng(3), 4, (3, 16, 16))
    with Session(path) as session:
        everything_ran = list(session.run_timesteps({"input": x}, 6))
        leads = [np.diff(np.sort(mean, axis=1)[:, -2:], axis=1).min() for mean in everything_ran]
        assert len(list(session.run_timesteps({"input": x}, 6, margin=0.0))) == 1
        assert len(list(session.run_timesteps({"input": x}, 6, margin=1e9))) == 6
        threshold = float(np.median(leads))
        expected = next(t for t, lead in enumerate(leads, 1) if lead >= threshold)
        taken = list(session.run_timesteps({"input": x}, 6, margin=threshold))
        assert len(taken) == expected
        assert all(np.array_equal(a, b) for a, b in zip(taken, everything_ran, strict=False))
        for margin in (-1.0, float("nan"), "4", True):
            with pytest.raises(InputError, match="margin must be a number from 0"):
                session.run_timesteps({"input": x}, margin=margin)
