"""CPU counters: with a system call that the tests answer, and with what this kernel answers."""

import errno
import os
import platform
import struct
from pathlib import Path

import pytest

from spiketicket.profiling.measure import counters
from spiketicket.profiling.measure.counters import Counters, CountersUnavailable, count


class Kernel:
    """Opens counters as files that hold `answers[event]`, one per thread: value, time wanted, time counted."""

    def __init__(self, monkeypatch, answers, threads=(1,)):
        self.answers, self.opened, self.switched = {k: list(v) for k, v in answers.items()}, [], []
        monkeypatch.setattr(counters, "_perf_event_open", self.open)
        monkeypatch.setattr(counters, "_threads", lambda: list(threads))
        monkeypatch.setattr(counters.fcntl, "ioctl", lambda descriptor, request, _: self.switched.append(request))

    def open(self, attributes, thread):
        name = list(counters.EVENTS)[attributes.config]
        if name not in self.answers:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        self.opened.append((name, thread, attributes.size, attributes.flags))
        reader, writer = os.pipe()
        os.write(writer, struct.pack("QQQ", *self.answers[name].pop(0)))
        os.close(writer)
        return reader


def test_counts_are_per_run_of_all_threads_and_scaled_where_counters_were_shared(monkeypatch):
    kernel = Kernel(
        monkeypatch,
        {
            "cycles": [(4000, 10, 10), (1000, 10, 5)],
            "instructions": [(8000, 10, 10), (0, 0, 0)],
            "cache_misses": [(0, 10, 0), (0, 10, 0)],
        },
        threads=(11, 12),
    )
    runs = []
    before = list(Path("/proc/self/fd").iterdir())
    assert count(lambda: runs.append(None), 10) == Counters(600.0, 800.0, None, None)
    assert len(runs) == 10 and kernel.switched == [counters.ENABLE] * 6 + [counters.DISABLE] * 6
    assert [thread for _, thread, *_ in kernel.opened] == [11, 12] * 3
    assert {size for *_, size, _ in kernel.opened} == {64}
    assert {flags for *_, flags in kernel.opened} == {0b1100011}  # disabled, inherit, not the kernel, not its host
    assert list(Path("/proc/self/fd").iterdir()) == before


def refuse(monkeypatch, error):
    def refused(attributes, thread):
        raise error

    monkeypatch.setattr(counters, "_perf_event_open", refused)
    return count(pytest.fail, 1)  # nothing is run


def test_refusals_have_a_reason(monkeypatch, tmp_path):
    paranoid = tmp_path / "paranoid"
    paranoid.write_text("4\n")
    monkeypatch.setattr(counters, "PARANOID", paranoid)
    assert "perf_event_paranoid is 4; 2 or less" in refuse(monkeypatch, PermissionError(errno.EACCES, "no")).reason
    assert "shows no counters" in refuse(monkeypatch, FileNotFoundError(errno.ENOENT, "no")).reason
    assert refuse(monkeypatch, OSError(errno.ENOSYS, "Function not implemented")).reason == "Function not implemented"


def test_counters_that_count_nothing(monkeypatch):
    Kernel(monkeypatch, {"cycles": [(0, 10, 0)]})
    assert count(int, 1) == CountersUnavailable("the kernel opens the counters, but they count nothing")


def test_other_systems(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Plan9")
    assert "Plan9 on" in count(int, 1).reason


def test_this_kernels_answer():
    """Whichever it is: figures that are possible, or a reason."""
    found = count(lambda: sum(range(100_000)), 5)
    if isinstance(found, CountersUnavailable):
        assert found.reason
    else:
        assert found.instructions is None or found.instructions > 100_000
        assert found.cycles is None or found.cycles > 10_000


def test_software_events_count_by_the_same_call(monkeypatch):
    """A virtual machine's kernel has no counters of its CPU, but counts nanoseconds on it (task-clock)."""
    if platform.system() != "Linux" or platform.machine() not in counters.SYSCALL:
        pytest.skip("perf_event_open is Linux's")
    monkeypatch.setattr(counters, "HARDWARE", 1)
    monkeypatch.setattr(counters, "EVENTS", {"cycles": 1})
    found = count(lambda: sum(range(100_000)), 5)
    if isinstance(found, CountersUnavailable):
        pytest.skip(f"this kernel has no perf_event_open for us: {found.reason}")
    assert found.cycles > 1000
