"""What is said of the machine, and cores that are chosen."""

import os
import threading

import pytest

from spiketicket.errors import InputError
from spiketicket.profiling.measure import machine
from spiketicket.profiling.measure.machine import UNREADABLE, governor, machine_facts, pin

can_pin = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not pin")


@pytest.fixture
def linux(monkeypatch, tmp_path):
    """Writes files of /proc and /sys/devices/system/cpu, which are empty at first."""
    monkeypatch.setattr(machine, "PROC", tmp_path / "proc")
    monkeypatch.setattr(machine, "CPUS", tmp_path / "cpu")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def write(name, text):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    return write


def test_facts_of_this_machine():
    facts = machine_facts()
    assert all(isinstance(value, str) and value for value in facts.values())
    assert {
        "cpu",
        "cores",
        "topology",
        "instruction set",
        "governor",
        "max frequency",
        "memory",
        "system",
        "kernel",
        "virtual machine",
        "load average",
        "gpu",
        "python",
        "spiketicket",
        "numpy",
    } <= facts.keys()


def test_where_nothing_is_readable(linux):
    facts = machine_facts()
    unreadable = {key for key, value in facts.items() if value == UNREADABLE}
    assert unreadable == {"topology", "governor", "max frequency", "memory"}
    assert (facts["virtual machine"], facts["gpu"], governor()) == ("unknown", "none known", "")


def test_a_workstation(linux):
    linux("proc/cpuinfo", "processor : 0\nmodel name\t: A CPU @ 3 GHz\ncpu MHz : 800.0\nflags\t\t: fpu avx2\n")
    linux("proc/meminfo", "MemTotal:       65536000 kB\nMemFree: 1 kB\n")
    for core in range(8):
        linux(f"cpu/cpu{core}/topology/physical_package_id", f"{core % 2}\n")
        linux(f"cpu/cpu{core}/topology/thread_siblings_list", f"{core % 4},{core % 4 + 4}\n")
        linux(f"cpu/cpu{core}/cpufreq/scaling_governor", "powersave\n")
        linux(f"cpu/cpu{core}/cpufreq/cpuinfo_max_freq", f"{4_000_000 + core * 100_000}\n")
    facts = machine_facts()
    assert facts["cpu"] == "A CPU @ 3 GHz" and facts["memory"] == "67.1 GB" and facts["virtual machine"] == "no"
    assert facts["topology"] == "2 sockets, 4 cores, 2 threads per core"
    assert facts["governor"] == "powersave" and facts["max frequency"] == "4.70 GHz"


def test_a_virtual_machine(linux):
    linux("proc/cpuinfo", "model name : Virtual\ncpu MHz : 2300.000\nflags : fpu hypervisor avx2\n")
    facts = machine_facts()
    assert facts["virtual machine"] == "yes" and facts["max frequency"] == "not readable (2.30 GHz now)"


def test_gpus(linux):
    tool = linux("bin/nvidia-smi", "#!/bin/sh\necho 'NVIDIA Z9, 570.1'\necho 'NVIDIA Z8, 570.1'\n")
    tool.chmod(0o755)
    assert machine_facts()["gpu"] == "NVIDIA Z9, driver 570.1; NVIDIA Z8, driver 570.1"
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert machine_facts()["gpu"] == "none known: nvidia-smi fails"


@can_pin
def test_pinned_threads_get_their_cores_back():
    before = os.sched_getaffinity(0)
    core = max(before)
    old, told, stop = [], threading.Event(), threading.Event()
    other = threading.Thread(target=lambda: (told.wait(), old.append(os.sched_getaffinity(0)), stop.wait()))
    other.start()
    try:
        with pin([core]):
            new = []
            young = threading.Thread(target=lambda: new.append(os.sched_getaffinity(0)))
            young.start()
            young.join()
            told.set()
            assert os.sched_getaffinity(0) == new[0] == os.sched_getaffinity(other.native_id) == {core}
        assert os.sched_getaffinity(0) == os.sched_getaffinity(other.native_id) == before
    finally:
        told.set()
        stop.set()
        other.join()


@can_pin
def test_cores_come_back_after_an_error():
    before = os.sched_getaffinity(0)
    with pytest.raises(ZeroDivisionError), pin([min(before)]):
        _ = 1 / 0
    assert os.sched_getaffinity(0) == before


@can_pin
def test_cores_that_are_not_there():
    here = os.sched_getaffinity(0)
    message = f"there is no core 9001, 9002; this process may use {min(here)}"
    with pytest.raises(InputError, match=message), pin([9002, min(here), 9001]):
        pass
    with pytest.raises(InputError, match="cores: expected one or more"), pin([]):
        pass
    assert os.sched_getaffinity(0) == here


def test_where_cores_cannot_be_chosen(monkeypatch):
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with pytest.raises(InputError, match="does not let a process choose them"), pin([0]):
        pass
