"""What a machine did meanwhile, read from a /proc that the tests write, and what is said about it."""

import time
from dataclasses import replace

import pytest

from spiketicket.profiling.measure import noise
from spiketicket.profiling.measure.clock import measure
from spiketicket.profiling.measure.noise import Noise, Watch

QUIET = Noise(0.02, 0.0, 3.0, 0.02, "performance", 0.4, 2)


def test_a_quiet_machine_is_not_talked_about():
    assert QUIET.warnings == ()
    assert replace(QUIET, others=None, stolen=None, preempted=None, governor="", load_average=None).warnings == ()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"others": 0.53}, "The machine was not quiet: other processes took 0.53 cores."),
        ({"stolen": 0.1}, "The host of this virtual machine gave 0.1 of its cores to others."),
        ({"preempted": 120.4}, "The process was preempted 120 times per second."),
        ({"spread": 0.25}, "Times scatter: the middle half of all turns spans 25% of the median."),
        (
            {"governor": "powersave"},
            "The frequency governor is powersave, so that the clock frequency may change.",
        ),
        (
            {"load_average": 3.1},
            "When the measurement began, 3.1 threads wanted to run on 2 cores (load average).",
        ),
    ],
)
def test_what_disturbs_is_said(change, sentence):
    disturbed = replace(QUIET, **change)
    assert disturbed.warnings == (sentence,)
    assert disturbed.to_dict()["warnings"] == [sentence] and disturbed.to_dict()["spread"] == disturbed.spread


class Proc:
    """A machine whose figures are told; ticks are hundredths of a second."""

    def __init__(self, monkeypatch, folder):
        self.seconds, self.own, self.preempted, self.file = 100.0, 5.0, 7, folder / "stat"
        monkeypatch.setattr(noise, "STAT", self.file)
        monkeypatch.setattr(noise.os, "sysconf", lambda _: 100)
        monkeypatch.setattr(noise.os, "times", lambda: time_of(self.own))
        monkeypatch.setattr(noise.os, "getloadavg", lambda: (0.75, 9.0, 9.0))
        monkeypatch.setattr(noise.time, "perf_counter", lambda: self.seconds)
        monkeypatch.setattr(noise.resource, "getrusage", lambda _: usage_of(self.preempted))
        self.tick(1000, 0)

    def tick(self, user, steal):
        self.file.write_text(f"cpu  {user} 20 300 99999 50 6 7 {steal} 11 12\ncpu0 1 2 3\n")


def time_of(seconds):
    return type("Times", (), {"user": seconds, "system": 0.5, "children_user": 0.0, "children_system": 0.0})


def usage_of(count):
    return type("Usage", (), {"ru_nivcsw": count})


@pytest.fixture
def proc(monkeypatch, tmp_path):
    return Proc(monkeypatch, tmp_path)


def test_what_others_took(proc):
    """In two seconds: cores were busy for 3, of which 2.2 were this process's, and half a second was stolen."""
    with Watch() as watch:
        proc.tick(1300, 50)
        proc.seconds, proc.own, proc.preempted = 102.0, 7.2, 27
    found = watch.noise(0.03)
    assert (found.others, found.stolen, found.preempted) == pytest.approx(((3.5 - 2.2) / 2, 0.25, 10.0))
    assert (found.spread, found.load_average) == (0.03, 0.75)


def test_too_short_to_say(proc):
    with Watch() as watch:
        proc.tick(1010, 0)
        proc.seconds += 0.1
    found = watch.noise(0.0)
    assert (found.others, found.stolen, found.preempted) == (None, None, None)


def test_where_there_is_no_proc(proc):
    proc.file.unlink()
    with Watch() as watch:
        proc.seconds += 2
    found = watch.noise(0.0)
    assert (found.others, found.stolen, found.preempted) == (None, None, 0.0)


def test_every_measurement_has_it():
    found = measure({"a": lambda: time.sleep(0)}, iterations=20, warmup=0)
    medians = sorted(found.timings["a"].medians)
    assert found.noise.cores >= 1 and found.noise.spread <= (medians[-1] - medians[0]) / medians[len(medians) // 2]
