"""Every engine against the oracle: awkward sizes, any T, any batch, threads, instruction sets."""

import subprocess
import sys
import threading
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from spiketicket.csr import Csr
from spiketicket.errors import InputError
from spiketicket.export.check.agreement import compare
from spiketicket.graph import Conv, Flatten, Graph, Lif, Linear, Repeat, window
from spiketicket.runtime import Session
from spiketicket.runtime.engine import AUTO, FIXED
from spiketicket.runtime.engines.native.engine import build_info
from spiketicket.runtime.engines.registry import ENGINE_NAMES
from tests.support.contract import EXACT, ISAS, assert_agrees, trace
from tests.support.graphs import (
    everything,
    flattened_residual,
    images,
    one_conv,
    poolings_and_views,
    random_bias,
    random_csr,
    residual_blocks,
    wide_linear,
    write,
)


@pytest.mark.parametrize("timesteps", [1, 2, 3, 4, 5, 6, 7, 8, 9, 16])
@pytest.mark.parametrize("batch", [1, 3, 5])
def test_every_layer_kind(engine, tmp_path, batch, timesteps):
    rng = np.random.default_rng(timesteps)
    path = write(everything(rng), tmp_path)
    x = images(rng, batch, (3, 16, 16))
    assert_agrees(path, engine, x, timesteps, threads=2)


@pytest.mark.parametrize("timesteps", [1, 4, 7])
@pytest.mark.parametrize("batch", [1, 4])
def test_poolings_and_views(engine, tmp_path, batch, timesteps):
    rng = np.random.default_rng(timesteps)
    path = write(poolings_and_views(rng), tmp_path)
    assert_agrees(path, engine, images(rng, batch, (3, 19, 14)), timesteps, threads=2)


@pytest.mark.parametrize("timesteps", [1, 5, 7])
@pytest.mark.parametrize("batch", [1, 4])
def test_residual_blocks(engine, tmp_path, batch, timesteps):
    rng = np.random.default_rng(timesteps)
    path = write(residual_blocks(rng), tmp_path)
    assert_agrees(path, engine, images(rng, batch, (3, 13, 10)), timesteps, threads=2)


@pytest.mark.parametrize("make", [everything, poolings_and_views, residual_blocks])
def test_the_test_graphs_are_alive(tmp_path, make):
    """Every layer fires, not always, and logits differ from image to image and step to step."""
    path = write(make(np.random.default_rng(3)), tmp_path)
    with Session(path) as session:
        shape = session.input_shape
    ran = trace(path, "reference", images(np.random.default_rng(3), 4, shape), 7)
    assert all(0.02 < spikes.mean() < 0.9 for spikes in ran.spikes.values())
    assert ran.logits_t.std(axis=0).mean() > 0.01 and ran.logits_t.std(axis=1).mean() > 0.01


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("batch", [1, 2, 9])
@pytest.mark.parametrize("plan", EXACT)
def test_any_number_of_threads_gives_the_same_bits(tmp_path, threads, batch, plan):
    rng = np.random.default_rng(7)
    path = write(everything(rng, (3, 18, 66), (33, 31), 0.2), tmp_path)
    x = images(rng, batch, (3, 33, 31))
    alone, many = (trace(path, ("native", plan), x, 5, n) for n in (1, threads))
    assert np.array_equal(alone.logits_t, many.logits_t)
    assert all(np.array_equal(alone.spikes[name], many.spikes[name]) for name in alone.spikes)


@pytest.mark.skipif(len(ISAS) == 1, reason="this CPU has no vector instruction set that the build knows")
@pytest.mark.parametrize("plan", EXACT)
def test_instruction_sets_give_the_same_bits(tmp_path, monkeypatch, plan):
    rng = np.random.default_rng(8)
    path = write(everything(rng, size=(15, 18)), tmp_path)
    x = images(rng, 3, (3, 15, 18))
    results = []
    for isa in ISAS:
        monkeypatch.setenv("SPIKETICKET_ISA", isa)
        results.append(trace(path, ("native", plan), x, 6).logits_t)
    assert all(np.array_equal(results[0], other) for other in results[1:])


GEOMETRIES = [
    {},
    {"pads": (1, 1, 1, 1)},
    {"pads": (0, 2, 1, 0)},
    {"pads": (2, 2, 2, 2), "strides": (2, 2)},
    {"pads": (1, 0, 1, 3), "strides": (1, 3)},
    {"pads": (2, 2, 2, 2), "dilations": (2, 2)},
    {"pads": (3, 2, 3, 2), "strides": (2, 1), "dilations": (3, 2)},
]


def fits(size, kernel, pads=(0, 0, 0, 0), strides=(1, 1), dilations=(1, 1), group=1):
    """Whether window and pads fit, at least once; tests/test_graph.py covers the refusal."""
    span = [dilations[i] * (kernel[i] - 1) + 1 for i in (0, 1)]
    return all(
        window(size[i], kernel[i], strides[i], pads[i], pads[i + 2], dilations[i]) >= 1
        and max(pads[i], pads[i + 2]) <= span[i]
        for i in (0, 1)
    )


CONVOLUTIONS = [
    (size, kernel, geometry)
    for size in [(1, 1), (2, 3), (7, 7), (33, 31)]
    for kernel in [(1, 1), (3, 3), (5, 5), (2, 4)]
    for geometry in GEOMETRIES
    if fits(size, kernel, **geometry)
]


@pytest.mark.parametrize(("size", "kernel", "geometry"), CONVOLUTIONS, ids=str)
def test_convolution_geometries(engine, tmp_path, size, kernel, geometry):
    rng = np.random.default_rng(0)
    path = write(one_conv(rng, 5, 7, size, kernel, 0.4, 3, **geometry), tmp_path)
    assert_agrees(path, engine, (rng.random((2, 5, *size)) < 0.3).astype(np.float32), 3)


@pytest.mark.parametrize("density", [0.0, 0.001, 0.02, 0.3, 1.0])
@pytest.mark.parametrize("rate", [0.0, 0.01, 0.15, 1.0])
def test_densities_and_firing_rates(engine, tmp_path, density, rate):
    rng = np.random.default_rng(1)
    path = write(one_conv(rng, 17, 9, (7, 7), (3, 3), density, 5, pads=(1, 1, 1, 1)), tmp_path)
    assert_agrees(path, engine, (rng.random((2, 17, 7, 7)) < rate).astype(np.float32), 5)


@pytest.mark.parametrize(("channels", "out", "group"), [(1, 1, 1), (3, 6, 3), (10, 4, 2), (17, 17, 17), (8, 8, 2)])
def test_channels_and_groups(engine, tmp_path, channels, out, group):
    rng = np.random.default_rng(2)
    path = write(one_conv(rng, channels, out, (7, 5), (3, 3), 0.5, 4, group=group), tmp_path)
    assert_agrees(path, engine, (rng.random((3, channels, 7, 5)) < 0.3).astype(np.float32), 4)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_convolution(engine, tmp_path, data):
    """Whatever fits is run, and run right."""
    draw, small = data.draw, st.integers(1, 3)
    group = draw(small)
    channels, out = group * draw(st.integers(1, 6)), group * draw(st.integers(1, 6))
    size, kernel = draw(st.tuples(*2 * [st.integers(1, 20)])), draw(st.tuples(small, small))
    geometry = {
        "pads": draw(st.tuples(*4 * [st.integers(0, 3)])),
        "strides": draw(st.tuples(small, small)),
        "dilations": draw(st.tuples(small, small)),
        "group": group,
    }
    assume(fits(size, kernel, **geometry))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    timesteps = draw(st.integers(1, 7))
    density = draw(st.floats(0, 1))
    path = write(one_conv(rng, channels, out, size, kernel, density, timesteps, **geometry), tmp_path)
    assert_agrees(path, engine, (rng.random((2, channels, *size)) < 0.3).astype(np.float32), timesteps)


@pytest.mark.parametrize("make", [everything, poolings_and_views, residual_blocks])
def test_run_timesteps_is_the_running_mean(engine, tmp_path, make):
    rng = np.random.default_rng(3)
    path = write(make(rng), tmp_path)
    with Session(path, engine=engine[0], plan=engine[1]) as session:
        x = images(rng, 4, session.input_shape)
        logits_t = session.run({"input": x}, 7)["logits_t"]
        means = list(session.run_timesteps({"input": x}, 7))
        assert len(means) == 7
        for t, mean in enumerate(means, 1):
            assert np.allclose(mean, logits_t[:t].mean(axis=0), atol=1e-6)
        steps = np.array([t * mean.astype(np.float64) for t, mean in enumerate(means, 1)])
        assert np.allclose(np.diff(steps, axis=0), logits_t[1:], atol=1e-5)
        assert np.array_equal(means[0], logits_t[0])


def test_two_generators_of_one_session_do_not_disturb_each_other(tmp_path):
    rng = np.random.default_rng(4)
    path = write(everything(rng), tmp_path)
    a, b = images(rng, 2, (3, 16, 16))[:, None]
    with Session(path) as session:
        expected = [list(session.run_timesteps({"input": x})) for x in (a, b)]
        first, second = session.run_timesteps({"input": a}), session.run_timesteps({"input": b})
        interleaved = list(zip(first, second, strict=True))
    assert all(np.array_equal(got, expected[0][t]) for t, (got, _) in enumerate(interleaved))
    assert all(np.array_equal(got, expected[1][t]) for t, (_, got) in enumerate(interleaved))


@pytest.mark.parametrize("name", ENGINE_NAMES)
def test_one_session_from_several_threads(tmp_path, name):
    rng = np.random.default_rng(5)
    path = write(everything(rng, (3, 16, 32), (20, 20)), tmp_path)
    batches = [images(rng, 1 + i % 3, (3, 20, 20)) for i in range(6)]
    with Session(path, engine=name, threads=2) as session:
        expected = [session.run({"input": x})["logits"] for x in batches]
        wrong = []

        def work(index):
            for _ in range(10):
                if not np.array_equal(session.run({"input": batches[index]})["logits"], expected[index]):
                    wrong.append(index)

        workers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert wrong == []


def test_changing_timesteps_and_batch_leaves_nothing_behind(tmp_path):
    rng = np.random.default_rng(6)
    path = write(everything(rng), tmp_path)
    x = images(rng, 5, (3, 16, 16))
    with Session(path) as session:
        expected = session.run({"input": x[:1]}, 3)["logits_t"]
        session.run({"input": 3 * x}, 16)
        assert np.array_equal(session.run({"input": x[:1]}, 3)["logits_t"], expected)


def test_unknown_instruction_set_is_refused(tmp_path, monkeypatch):
    path = write(everything(np.random.default_rng(0)), tmp_path)
    monkeypatch.setenv("SPIKETICKET_ISA", "mmx")
    with pytest.raises(InputError, match="SPIKETICKET_ISA is 'mmx', this CPU and build have: .*portable"):
        Session(path)


def test_native_engine_needs_neither_torch_nor_onnxruntime(tmp_path):
    path = write(everything(np.random.default_rng(0)), tmp_path)
    code = (
        "import sys; sys.modules['torch'] = sys.modules['onnxruntime'] = None\n"
        "import numpy as np; from spiketicket.runtime import Session\n"
        f"print(Session({str(path)!r}).run({{'input': np.zeros((2, 3, 16, 16), np.float32)}})['logits'].shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(2, 4)\n"


def spiking_output(rng, output):
    """Graphs whose logits are not simply what a Linear computes."""
    conv = Conv("conv", ("r",), "c", random_csr(rng, (6, 3, 3, 3), 0.7), random_bias(rng, 6))
    nodes = [Repeat("repeat", ("x",), "r"), conv, Lif("lif", ("c",), "s", 1.5), Flatten("spikes", ("s",), "f")]
    if output == "flat current":
        nodes.append(Flatten("currents", ("c",), "y"))
    elif output == "read twice":
        nodes += [
            Linear("fc", ("f",), "y", random_csr(rng, (5, 6 * 4 * 3), 0.5), random_bias(rng, 5)),
            Lif("after", ("y",), "z", 1.5),
        ]
    elif output == "neurons":
        nodes += [
            Linear("fc", ("f",), "l", random_csr(rng, (5, 6 * 4 * 3), 0.5), random_bias(rng, 5)),
            Lif("after", ("l",), "y", 1.5),
        ]
    return Graph("x", (3, 6, 5), tuple(nodes), "f" if output == "flat spikes" else "y", 4)


@pytest.mark.parametrize("output", ["flat spikes", "flat current", "read twice", "neurons"])
def test_any_timed_vector_can_be_the_output(engine, tmp_path, output):
    rng = np.random.default_rng(11)
    path = write(spiking_output(rng, output), tmp_path)
    x = images(rng, 3, (3, 6, 5))
    assert_agrees(path, engine, x, 4)
    with Session(path, engine=engine[0], plan=engine[1]) as session:
        mean = list(session.run_timesteps({"input": x}))[-1]
        assert np.allclose(mean, session.run({"input": x})["logits"], atol=1e-6) and mean.std() > 0


def test_strides_beyond_the_image(engine, tmp_path):
    rng = np.random.default_rng(12)
    path = write(one_conv(rng, 5, 7, (3, 4), (2, 2), 0.6, 3, strides=(8_000, 9_000), pads=(1, 1, 0, 1)), tmp_path)
    assert_agrees(path, engine, (rng.random((2, 5, 3, 4)) < 0.4).astype(np.float32), 3)


def limited(code, tmp_path):
    path = write(everything(np.random.default_rng(0)), tmp_path)
    header = (
        "import os, resource, numpy as np\nfrom spiketicket.runtime import Session\n"
        f"path = {str(path)!r}\nx = {{'input': np.ones((1, 3, 16, 16), np.float32)}}\n"
    )
    return subprocess.run([sys.executable, "-c", header + code], capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(
    build_info()["sanitizers"] != "", reason="the address sanitizer reserves more address space than this test leaves"
)
def test_threads_that_cannot_be_started(tmp_path):
    done = limited("resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30,) * 2)\nSession(path, threads=1000)", tmp_path)
    assert done.returncode == 1
    assert "InputError: cannot start 1000 threads" in done.stderr or "MemoryError" in done.stderr


def test_a_forked_child_can_run_its_parents_session(tmp_path):
    code = (
        "session = Session(path, threads=2)\nwanted = session.run(x)['logits']\npid = os.fork()\n"
        "same = np.array_equal(session.run(x)['logits'], wanted)\nsession.close()\n"
        "if not pid: os._exit(0 if same else 3)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), same)"
    )
    assert limited(code, tmp_path).stdout == "0 True\n"


def test_timesteps_are_of_the_images_at_the_call(tmp_path):
    rng = np.random.default_rng(13)
    path = write(everything(rng), tmp_path)
    x = images(rng, 1, (3, 16, 16))
    with Session(path) as session:
        expected = list(session.run_timesteps({"input": x}))
        steps = session.run_timesteps({"input": x})
        x[:] = 0
        assert all(np.array_equal(got, want) for got, want in zip(steps, expected, strict=True))


def whole_numbers(graph):
    """The graph with weights as the engine rounds them for int16: 1023 steps up to each output's largest."""

    def rounded(node):
        dense = node.weight.to_dense()
        scale = np.abs(dense.reshape(len(dense), -1)).max(axis=1).astype(np.float32) / np.float32(1023)
        scale = np.where(scale > 0, scale, 1).astype(np.float32).reshape(-1, *[1] * (dense.ndim - 1))
        whole = np.clip(np.rint(dense.astype(np.float32) / scale), -1023, 1023)
        return replace(node, weight=Csr.from_dense((whole * scale).astype(np.float32)))

    nodes = [
        rounded(n) if isinstance(n, Conv | Linear) and graph.values[n.inputs[0]].spikes else n for n in graph.nodes
    ]
    return replace(graph, nodes=tuple(nodes))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("out", [1, 16, 17, 40, 64, 100])
@pytest.mark.parametrize("rate", [0.01, 0.3, 1.0])
def test_int16_is_exact_for_the_rounded_weights(tmp_path, monkeypatch, isa, out, rate):
    monkeypatch.setenv("SPIKETICKET_ISA", isa)
    rng = np.random.default_rng(14)
    graph = one_conv(rng, 70, out, (5, 6), (3, 3), 0.8, 4, pads=(1, 1, 1, 1))
    path, oracle = write(graph, tmp_path), write(whole_numbers(graph), tmp_path, "rounded.onnx")
    x = (rng.random((3, 70, 5, 6)) < rate).astype(np.float32)
    with Session(path, plan="events-int16", values="int16") as session:
        assert {layer.kernel.split("/")[0] for layer in session.layers() if layer.name == "conv"} == {"events-int16"}
        ran = session.trace({"input": x})
    agreement = compare("int16", ran, "reference", trace(oracle, "reference", x, 4))
    agreement.require_exact()


def test_int16_rounds_only_when_asked(tmp_path):
    path = write(everything(np.random.default_rng(15)), tmp_path)
    for plan in (AUTO, FIXED):
        with Session(path, plan=plan) as session:
            assert not any("int16" in layer.kernel for layer in session.layers())
    with pytest.raises(InputError, match="plan events-int16 rounds weights: it needs values int16"):
        Session(path, plan="events-int16")
    with pytest.raises(InputError, match=r"values: expected one of float32, int16, float16, got 'int8'"):
        Session(path, values="int8")


@pytest.mark.parametrize("batch", [1, 3])
def test_an_image_added_to_a_vector(engine, tmp_path, batch):
    """The engine keeps images as they are through a Flatten, but not where they meet a vector."""
    rng = np.random.default_rng(16)
    path = write(flattened_residual(rng), tmp_path)
    assert_agrees(path, engine, 2 * images(rng, batch, (4, 3, 3)), 4)


def test_timesteps_of_many_divisors_have_room(tmp_path):
    """So many images that the tiles of one timestep are longer than another's: 180 has 18 divisors, 240 has 20."""
    rng = np.random.default_rng(17)
    path = write(wide_linear(rng), tmp_path)
    x = rng.standard_normal((128, 45_000, 1, 1)).astype(np.float32)
    with Session(path, plan="events") as session:
        alone = session.run({"input": x[:1]}, 180)["logits_t"][:, 0]
        means = [mean[0] for mean in islice(session.run_timesteps({"input": x}, 300), 180)]
    assert np.allclose(means[-1], alone.mean(axis=0), atol=1e-5)
