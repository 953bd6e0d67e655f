"""Gates, joins, integrators, neurons without leak, signals and timed inputs: every engine against the oracle, one
timestep after the other, with any number of threads."""

import numpy as np
import pytest

from spiketicket.runtime import Session
from tests.support.contract import EXACT, ISAS, assert_agrees, trace
from tests.support.graphs import (
    event_vectors,
    events,
    everything,
    feed,
    flattened_residual,
    gated_output,
    gates_and_joins,
    poolings_and_views,
    residual_blocks,
    signals,
    write,
)


def timed_signals(rng, timesteps=4):
    return signals(rng, timesteps, timed_input=True)


GRAPHS = [gates_and_joins, gated_output, signals, timed_signals, events, event_vectors]


@pytest.mark.parametrize("make", GRAPHS)
@pytest.mark.parametrize("timesteps", [1, 2, 5, 8])
@pytest.mark.parametrize("batch", [1, 3])
def test_every_engine_agrees_with_the_oracle(engine, tmp_path, make, batch, timesteps):
    rng = np.random.default_rng(timesteps)
    graph = make(rng)
    assert_agrees(write(graph, tmp_path), engine, feed(rng, graph, batch, timesteps), timesteps, threads=2)


@pytest.mark.parametrize("make", GRAPHS)
def test_the_test_graphs_are_alive(tmp_path, make):
    """Every layer fires, not always, and logits differ from image to image and step to step."""
    rng = np.random.default_rng(3)
    graph = make(rng)
    ran = trace(write(graph, tmp_path), "reference", feed(rng, graph, 4, 7), 7)
    rates = {name: spikes.mean() for name, spikes in ran.spikes.items()}
    assert all(0.02 < rate < 0.9 for rate in rates.values()), rates
    assert ran.logits_t.std(axis=0).mean() > 0.01 and ran.logits_t.std(axis=1).mean() > 0.01


@pytest.mark.parametrize("make", [*GRAPHS, everything, poolings_and_views, residual_blocks, flattened_residual])
def test_a_run_gives_the_logits_of_a_trace(engine, tmp_path, make):
    """The tests hold traces against the oracle, users run: without recorded spikes."""
    rng = np.random.default_rng(6)
    graph = make(rng)
    feeds = {"input": feed(rng, graph, 3, 5)}
    with Session(write(graph, tmp_path), engine=engine[0], plan=engine[1], threads=2) as session:
        logits, traced = session.run(feeds, 5)["logits_t"], session.trace(feeds, 5).logits_t
    # onnxruntime fuses operators otherwise where their values are outputs of the graph, too.
    assert np.array_equal(logits, traced) or (engine[0] == "onnxruntime" and np.allclose(logits, traced, atol=1e-5))


@pytest.mark.parametrize("make", GRAPHS)
def test_stepping_gives_the_bits_of_a_whole_run(engine, tmp_path, make):
    rng = np.random.default_rng(4)
    graph = make(rng)
    x = feed(rng, graph, 3, 7)
    with Session(write(graph, tmp_path), engine=engine[0], plan=engine[1]) as session:
        logits_t = session.run({"input": x}, 7)["logits_t"]
        total, means = np.zeros_like(logits_t[0]), list(session.run_timesteps({"input": x}, 7))
        assert len(means) == 7
        for t, mean in enumerate(means, 1):
            total += logits_t[t - 1]
            assert np.array_equal(mean, total / np.float32(t))


@pytest.mark.parametrize("make", GRAPHS)
@pytest.mark.parametrize("plan", EXACT)
def test_threads_groups_and_instruction_sets_give_the_same_bits(tmp_path, monkeypatch, make, plan):
    """Images in groups of other sizes, threads that share an image, and threads with images of their own."""
    rng = np.random.default_rng(5)
    graph = make(rng)
    path, x = write(graph, tmp_path), feed(rng, graph, 11, 5)
    one = x[:, :1] if graph.timed_input else x[:1]
    wanted, wanted_one = trace(path, ("native", plan), x, 5, 1), trace(path, ("native", plan), one, 5, 1)
    assert np.array_equal(wanted.logits_t[:, :1], wanted_one.logits_t)
    for isa in ISAS:
        monkeypatch.setenv("SPIKETICKET_ISA", isa)
        for threads in (1, 2, 3):
            for inputs, expected in ((x, wanted), (one, wanted_one)):
                got = trace(path, ("native", plan), inputs, 5, threads)
                assert np.array_equal(got.logits_t, expected.logits_t)
                assert all(np.array_equal(got.spikes[name], expected.spikes[name]) for name in expected.spikes)


def test_frames_are_those_at_the_call(tmp_path):
    rng = np.random.default_rng(6)
    graph = events(rng)
    x = feed(rng, graph, 2, 5)
    with Session(write(graph, tmp_path)) as session:
        expected = list(session.run_timesteps({"input": x}))
        steps = session.run_timesteps({"input": x})
        x[:] = 0
        assert all(np.array_equal(got, want) for got, want in zip(steps, expected, strict=True))
