"""Facts of the machine that a measurement ran on, and its cores."""

import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path

from spiketicket import __version__
from spiketicket.errors import InputError
from spiketicket.profiling.measure.nvidia_smi import ask

PROC = Path("/proc")
CPUS = Path("/sys/devices/system/cpu")
UNREADABLE = "not readable"

_PACKAGES = ("numpy", "scipy", "onnx", "onnxruntime", "torch", "openvino", "tensorrt")


def machine_facts() -> dict[str, str]:
    """Return the facts that are printed with every figure: CPU and its clock, memory, system, load, GPU, versions."""
    from spiketicket.runtime.engines.native.engine import build_info

    facts = {
        "cpu": _cpu_field("model name") or platform.processor() or "unknown",
        "cores": str(usable_cores()),
        "topology": _topology(),
        "instruction set": build_info()["isa"],
        "governor": governor() or UNREADABLE,
        "max frequency": _max_frequency(),
        "memory": _memory(),
        "system": f"{platform.system()} {platform.machine()}",
        "kernel": platform.release(),
        "virtual machine": _virtual(),
        "load average": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "gpu": _gpu(),
        "python": platform.python_version(),
        "spiketicket": __version__,
    }
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            facts[package] = metadata.version(package)
    return facts


def usable_cores() -> int:
    """Return the number of logical cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def governor() -> str:
    """Return how Linux chooses the clock frequency: performance, powersave, ...; if cores differ, each once. Empty if
    it is not readable, as in virtual machines.
    """
    found = {_text(file) for file in CPUS.glob("cpu[0-9]*/cpufreq/scaling_governor")}
    return ", ".join(sorted(found - {""}))


@contextmanager
def pin(cores: list[int]) -> Iterator[None]:
    """Keep this process, all its threads and those that they start, on `cores` while the block runs.

    Threads get back the cores they had. Raises InputError for cores that this process may not use.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise InputError(f"cores: {platform.system()} does not let a process choose them")
    here = os.sched_getaffinity(0)
    missing = sorted(set(cores) - here)
    if missing or not cores:
        what = f"there is no core {', '.join(map(str, missing))}" if missing else "expected one or more"
        raise InputError(f"cores: {what}; this process may use {', '.join(map(str, sorted(here)))}")
    before = {thread: os.sched_getaffinity(thread) for thread in _threads()}
    try:
        _set_affinity({thread: set(cores) for thread in before})
        yield
    finally:
        _set_affinity({thread: before.get(thread, here) for thread in _threads()})


def _set_affinity(by_thread: dict[int, set[int]]) -> None:
    for thread, cores in by_thread.items():
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setaffinity(thread, cores)


def _threads() -> list[int]:
    return [int(folder.name) for folder in Path("/proc/self/task").iterdir()]


def _topology() -> str:
    """Return sockets, cores and threads per core of the whole machine."""
    sockets = {_text(file) for file in CPUS.glob("cpu[0-9]*/topology/physical_package_id")}
    siblings = [_text(file) for file in CPUS.glob("cpu[0-9]*/topology/thread_siblings_list")]
    if not sockets or not siblings:
        return UNREADABLE
    cores = len(set(siblings))
    threads = _plural(len(siblings) // cores, "thread")
    return f"{_plural(len(sockets), 'socket')}, {_plural(cores, 'core')}, {threads} per core"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _max_frequency() -> str:
    """Return the clock of the fastest core as the kernel states it; a virtual machine knows at most the present one."""
    stated = [_text(file) for file in CPUS.glob("cpu[0-9]*/cpufreq/cpuinfo_max_freq")]
    kilohertz = [int(text) for text in stated if text.isdigit()]
    if kilohertz:
        return f"{max(kilohertz) / 1e6:.2f} GHz"
    now = _cpu_field("cpu MHz")
    return f"{UNREADABLE} ({float(now) / 1e3:.2f} GHz now)" if now else UNREADABLE


def _memory() -> str:
    found = re.search(r"^MemTotal:\s+(\d+) kB", _text(PROC / "meminfo"), re.MULTILINE)
    return f"{int(found[1]) * 1024 / 1e9:.1f} GB" if found else UNREADABLE


def _virtual() -> str:
    flags = _cpu_field("flags")
    if not flags:
        return "unknown"
    return "yes" if "hypervisor" in flags.split() else "no"


def _gpu() -> str:
    """Return the names of the GPUs and the driver, as NVIDIA's tool gives them."""
    gpus = ask(("name", "driver_version"))
    if gpus is None:
        return "none known"
    return "; ".join(", driver ".join(gpu.values()) for gpu in gpus) or "none known: nvidia-smi fails"


def _cpu_field(name: str) -> str:
    """Return a field of the first core in /proc/cpuinfo, or an empty text without one."""
    found = re.search(rf"^{name}\s*:\s*(.*)$", _text(PROC / "cpuinfo"), re.MULTILINE)
    return found[1].strip() if found else ""


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
