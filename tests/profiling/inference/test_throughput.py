"""Images per second of streams, by workers that tell what they do; engines that fail."""

import time
from pathlib import Path

import pytest

from spiketicket.errors import DeviceError
from spiketicket.profiling.inference import engines, throughput
from spiketicket.profiling.inference.samples import load_samples
from spiketicket.profiling.inference.settings import ProfileSettings
from spiketicket.runtime import Session

DIGITS = Path(__file__).parents[2] / "assets" / "digits.onnx"


@pytest.fixture(scope="module")
def samples():
    with Session(DIGITS) as session:
        return load_samples(session, None, None, 8)


def test_images_of_all_streams_count(samples, monkeypatch):
    """Two streams, each three runs of four images in two seconds: 12 images a second."""
    monkeypatch.setattr(throughput, "overlap", lambda workers, _: (3 * len(workers), 2.0))
    monkeypatch.setattr(throughput, "_worker", lambda *_: time.sleep)
    settings = ProfileSettings(("native",), (1, 3), (1, 4))
    (row,) = throughput.measure_throughput(DIGITS, samples, settings, 2)
    assert (row.engine, row.timesteps, row.batch, row.streams, row.threads) == ("native", 3, 4, 2, 1)
    assert row.images_per_second.to_dict() == pytest.approx({"value": 12.0, "low": 12.0, "high": 12.0})


def test_every_worker_runs_and_all_runs_count():
    log = []
    runs, seconds = throughput.overlap([lambda: log.append("a"), lambda: log.append("b")], 0.0)
    assert sorted(log) == ["a", "b"] and runs == 2 and seconds > 0


def test_a_device_that_fails_does_not_end_the_profile(samples, monkeypatch):
    def no_memory(path, threads, stack):
        def run(x, timesteps):
            raise DeviceError("out of memory")

        return run

    monkeypatch.setitem(engines._FOREIGN, "tensorrt", no_memory)
    settings = ProfileSettings(("tensorrt", "native"), (1,), duration=0.01)
    assert [row.engine for row in throughput.measure_throughput(DIGITS, samples, settings, 1)] == ["native"]
