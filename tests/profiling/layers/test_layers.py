"""The profile of layers: rows, times, sections. What takes how long is not tested."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from spiketicket.errors import InputError
from spiketicket.profiling.layers import roofline
from spiketicket.profiling.layers import times as layer_times
from spiketicket.profiling.layers.energy import CMOS_45NM, EnergyTable
from spiketicket.profiling.layers.operations import LayerOperations, workload
from spiketicket.profiling.layers.profile import mean_input_rate, profile_layers
from spiketicket.profiling.layers.roofline import PROBES, Roof, measure_roof
from spiketicket.profiling.layers.sections import sections
from spiketicket.profiling.layers.times import LayerTimes, median
from spiketicket.runtime import Session
from spiketicket.runtime.engines.native.engine import NativeEngine
from spiketicket.runtime.engines.native.planner import KERNELS
from spiketicket.runtime.engines.registry import ENGINE_NAMES
from tests.support.graphs import events, everything, feed, gates_and_joins, residual_blocks, write

GRAPHS = [everything, events, gates_and_joins, residual_blocks]


def profile_of(graph, folder, engine="native", images=2, **options):
    rng = np.random.default_rng(0)
    with Session(write(graph, folder), engine=engine, threads=1, plan="fixed") as session:
        return profile_layers(session, feed(rng, session, images, graph.timesteps), duration=0, **options)


@pytest.mark.parametrize("make", GRAPHS)
def test_every_layer_is_in_one_row_or_free(tmp_path, make):
    graph = make(np.random.default_rng(0))
    profile = profile_of(graph, tmp_path)
    parts = [part for row in profile.rows for part in row.parts]
    left_out = {type(node).__name__ for node in graph.nodes if node.name not in parts}
    assert len(parts) == len(set(parts)) and left_out <= {"Repeat", "Flatten", "Unsqueeze"}
    assert [row.name for row in profile.rows] == list(dict.fromkeys(row.name for row in profile.rows))
    assert set(profile.times.layers) == {row.name for row in profile.rows}
    assert all(row.seconds.low <= row.seconds.value <= row.seconds.high for row in profile.rows)
    assert all(len(row.by_timestep) == graph.timesteps for row in profile.rows)
    assert all(row.kernel and row.why for row in profile.rows)


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_rows_add_up_to_the_workload(tmp_path, engine):
    profile = profile_of(everything(np.random.default_rng(0)), tmp_path, engine)
    totals = profile.workload.synaptic_operations
    assert sum(sum(row.acs) for row in profile.rows) == pytest.approx(totals["Effective_ACs"])
    assert sum(sum(row.macs) for row in profile.rows) == pytest.approx(totals["Effective_MACs"])
    assert sum(sum(row.dense) for row in profile.rows) == totals["Dense"]
    energy = CMOS_45NM.estimate(totals["Effective_MACs"], totals["Effective_ACs"])
    assert sum(sum(row.energy_pj) for row in profile.rows) == pytest.approx(energy)


def test_a_fused_row(tmp_path):
    """`same`, the residual that is added and the neurons are one kernel."""
    profile = profile_of(everything(np.random.default_rng(0), size=(16, 16)), tmp_path)
    row = next(row for row in profile.rows if row.name == "same")
    assert row.parts == ("same", "residual", "lif2") and row.kind == "Conv + Add + Lif"
    assert row.activity.name == "lif2" and row.density == pytest.approx(0.3, abs=0.05)
    # Its input s2 and its output s3 are spikes, 17 channels of 4x4: bits, at each of 5 timesteps. Weights at the first.
    assert row.bytes[1:] == (2 * 17 * 16 / 8,) * 4 and row.bytes[0] > row.bytes[1] + 17 * 17 * 9 * 0.2 * 4
    # stem is static: a 3x16x16 image in, 5x16x16 numbers out, at the first timestep alone.
    stem = next(row for row in profile.rows if row.name == "stem")
    assert stem.bytes[1:] == (0,) * 4 and stem.bytes[0] >= 4 * (3 + 5) * 256 and sum(stem.macs) == stem.macs[0]


@pytest.mark.parametrize("engine", [name for name in ENGINE_NAMES if name != "native"])
def test_an_engine_that_does_not_tell(tmp_path, engine):
    graph = everything(np.random.default_rng(0))
    profile = profile_of(graph, tmp_path, engine)
    assert profile.times is None and profile.roof is None and profile.overhead is None
    assert [row.name for row in profile.rows] == [n.name for n in graph.nodes if n.name not in ("repeat", "flat")]
    assert all(row.seconds is None and row.roofline is None for row in profile.rows)
    assert [section.key for section in sections(profile)] == ["layers", "firing-rates", "synaptic-operations"]
    json.dumps(profile.to_dict(), allow_nan=False)
    with (
        Session(tmp_path / "model.onnx", engine=engine) as session,
        pytest.raises(InputError, match=f"engine {engine} does not tell how long each layer takes"),
    ):
        session.time_layers({"input": np.zeros((1, 3, 16, 16), np.float32)})


def test_sections_and_data(tmp_path):
    profile = profile_of(everything(np.random.default_rng(0)), tmp_path)
    layers, by_timestep, firing, operations = sections(profile)
    assert len(layers.table.rows) == len(by_timestep.table.rows) == len(profile.rows)
    shares = [row[[column.name for column in layers.table.columns].index("share")] for row in layers.table.rows]
    assert sum(shares) == pytest.approx(1)
    assert layers.pictures[0].labels == tuple(row.name for row in profile.rows)
    assert f"The clocks of {len(profile.rows)} layers cost" in " ".join(layers.notes)
    assert any("estimate" in note for note in layers.notes)
    owners = {part: row.name for row in profile.rows for part in row.parts}
    assert [row[:2] for row in firing.table.rows] == [(f"lif{i}", owners[f"lif{i}"]) for i in range(4)]
    assert len({owners[f"lif{i}"] for i in range(4)}) == 4
    assert len(firing.pictures[0].series[0].points) == 5
    assert "estimated" in operations.says
    data = json.loads(json.dumps(profile.to_dict(), allow_nan=False))
    assert data["overhead"].keys() == {"value", "low", "high"}
    assert data["neurobench"]["SynapticOperations"].keys() == {"Effective_MACs", "Effective_ACs", "Dense"}
    for section in sections(profile):
        assert all(section.table.written())


def test_memory_counts_where_the_table_says_what_it_costs(tmp_path):
    table = EnergyTable("bytes", "test", 0, 0, 3)
    profile = profile_of(everything(np.random.default_rng(0)), tmp_path, energy=table)
    for row in profile.rows:
        assert row.energy_pj == pytest.approx([3 * nbytes for nbytes in row.bytes])


def test_one_timestep_and_a_fixed_number_of_them(tmp_path):
    graph = everything(np.random.default_rng(0), timesteps=1)
    profile = profile_of(graph, tmp_path)
    assert all(row.by_timestep == (row.seconds,) for row in profile.rows)
    graph = replace(everything(np.random.default_rng(0), timesteps=3), fixed_timesteps=True, batch=2)
    profile = profile_of(graph, tmp_path, images=4)
    assert profile.images_at_once == 2 and all(row.by_timestep is None and row.seconds for row in profile.rows)
    assert [section.key for section in sections(profile)] == ["layers", "firing-rates", "synaptic-operations"]


@pytest.mark.parametrize(("threads", "batch"), [(1, 1), (2, 1), (2, 20)])
def test_layers_are_timed_as_they_run(tmp_path, threads, batch):
    """Every layer took some time, and all of them no longer than the call; threads share images, or have their own."""
    import time

    rng = np.random.default_rng(0)
    with Session(write(everything(rng), tmp_path), threads=threads, plan="fixed") as session:
        x = feed(rng, session, batch, 5)
        start = time.perf_counter()
        seconds = session.time_layers({"input": x})
        wall = time.perf_counter() - start
        assert list(seconds) == ["stem", "lif0", "down", "max", "same", "mean", "hidden", "readout"]
        assert min(seconds.values()) >= 0 and 0 < sum(seconds.values()) <= wall


def test_a_timestep_takes_what_it_adds_to_a_run():
    layer = np.array([[1.0, 3.0, 3.5]] * 10)
    times = LayerTimes(3, {"a": layer, "b": 2 * layer}, np.full(10, 12.0), np.full(10, 11.0))
    assert [step.value for step in times.by_timestep("a")] == [1.0, 2.0, 0.5]
    assert times.whole("b").value == 7.0 and times.rounds == 10
    assert times.overhead.value == pytest.approx(1 / 11) and times.covered.value == pytest.approx(10.5 / 11)


def test_times_are_per_image_where_a_model_takes_several(monkeypatch):
    """Two images at a time; a layer takes 3 s, a run 8 s, with clocks 10 s."""
    now = [0.0]

    def takes(seconds, result=None):
        def run(*_):
            now[0] += seconds
            return result

        return run

    graph = SimpleNamespace(fixed_timesteps=True)
    session = SimpleNamespace(
        timed_input=False, batch=2, graph=graph, time_layers=takes(10.0, {"a": 3.0}), run=takes(8.0)
    )
    monkeypatch.setattr(layer_times, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    times = layer_times.time_layers(session, np.zeros((4, 1), np.float32), 3, duration=0.0)
    assert times.layers["a"].tolist() == [[1.5]] * 10
    assert set(times.plain) == {4.0} and set(times.clocked) == {5.0}


def test_the_interval_of_a_median():
    # Of 10 samples, the true median lies between the 2nd and the 9th in 1 - 2 * (1 + 10) / 1024 = 97.9% of all cases,
    # between the 3rd and the 8th in 1 - 2 * (1 + 10 + 45) / 1024 = 89.1%.
    interval = median(np.array([10, 9, 8, 7, 6, 5, 4, 3, 2, 1.0]))
    assert (interval.low, interval.value, interval.high) == (2, 5.5, 9)
    assert median(np.array([3.0, 1.0])).to_dict() == {"value": 2.0, "low": 1.0, "high": 3.0}


def test_roofline_counts_all_operations_and_bytes(tmp_path):
    profile = profile_of(everything(np.random.default_rng(0)), tmp_path)
    weighted = [row for row in profile.rows if row.density is not None]
    assert any(sum(row.macs) for row in weighted) and any(sum(row.acs) for row in weighted)
    for row in weighted:
        expected = profile.roof.share(sum(row.acs) + sum(row.macs), sum(row.bytes), row.seconds.value)
        assert row.roofline == pytest.approx(expected)


def test_inputs_of_a_kernel_that_reads_several_values():
    large, small = (LayerOperations("a", True, True, n, rate, (1.0,), (1,)) for n, rate in ((90, 0.1), (10, 0.6)))
    assert mean_input_rate([large, small]) == pytest.approx((9 + 6) / 100) and mean_input_rate([]) is None


@pytest.mark.parametrize("kernel", PROBES)
def test_the_probe_adds_as_much_as_is_counted(monkeypatch, tmp_path, kernel):
    """Every neuron fires, and the rate is that of the synaptic operations of its layer."""
    graph = roofline.probe(PROBES[kernel])
    with Session(write(graph, tmp_path), engine="reference") as session:
        work = workload(session, np.ones((1, *graph.input_shape), np.float32))
    (conv,) = (layer for layer in work.layers if layer.name == "conv")
    assert conv.input_rate == 1
    monkeypatch.setattr(NativeEngine, "time_layers", lambda *_: {"conv": 0.5})
    assert roofline.additions_per_second(kernel, 1) == pytest.approx(sum(conv.acs) / 0.5)


def test_bandwidth_counts_what_is_read_and_written(monkeypatch):
    """128 copies of half of 256 KiB in a second, by a clock that moves a second per look."""
    monkeypatch.setattr(roofline, "time", SimpleNamespace(perf_counter=iter(range(100)).__next__))
    assert roofline.bytes_per_second(2**18, 1) == 128 * 2**18


def test_the_roof_is_that_of_the_fastest_kernel():
    """All that take float32 weights; `sparse-events` skips, and is slowest where there is nothing to skip."""
    assert set(PROBES) == set(KERNELS) - {"events-int16", "sparse-events"}


def test_the_roof():
    roof = Roof(additions=100.0, bytes=10.0, threads=1, working_set=1)
    assert roof.share(50, 1, 1.0) == 0.5  # bound by additions: they take half a second at best
    assert roof.share(50, 8, 1.0) == 0.8  # bound by bytes
    measured = measure_roof(2, 0)
    assert measured.additions > 0 and measured.bytes > 0 and measured.working_set == 2**18
