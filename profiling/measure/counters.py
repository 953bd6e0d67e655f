"""What the CPU counted during a run: cycles, instructions, cache misses, by Linux's perf_event_open.

Kernels forbid it (perf_event_paranoid above 2, containers) and most virtual machines have no counters; then there is a
reason instead of figures. No program and no package is needed.
"""

import ctypes
import fcntl
import os
import platform
import struct
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path

SYSCALL = {"x86_64": 298, "aarch64": 241}  # perf_event_open
PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")

# linux/perf_event.h
HARDWARE = 0
EVENTS = {"cycles": 0, "instructions": 1, "cache_references": 2, "cache_misses": 3}
DISABLED, INHERIT, EXCLUDE_KERNEL, EXCLUDE_HYPERVISOR = 1 << 0, 1 << 1, 1 << 5, 1 << 6
TIMES = 1 | 2  # read the time that an event was wanted and the time that it was counted, too
ENABLE, DISABLE = 0x2400, 0x2401


@dataclass(frozen=True)
class Counters:
    """Per run, outside of the kernel, of all threads; None where this CPU does not count that. An event that had to
    share a counter with others is scaled up to the whole time."""

    cycles: float | None
    instructions: float | None
    cache_references: float | None
    cache_misses: float | None


@dataclass(frozen=True)
class CountersUnavailable:
    reason: str


def count(run: Callable[[], object], repeats: int) -> Counters | CountersUnavailable:
    """Count over `repeats` runs. Threads that this process has, and those that they start meanwhile, are counted."""
    found: dict[str, list[int]] = {}
    reason = ""
    with ExitStack() as stack:
        for name, event in EVENTS.items():
            try:
                found[name] = [_open(event, thread, stack) for thread in _threads()]
            except OSError as error:
                reason = reason or _why(error)
        if not found:
            return CountersUnavailable(reason)
        descriptors = [descriptor for group in found.values() for descriptor in group]
        for descriptor in descriptors:
            fcntl.ioctl(descriptor, ENABLE, 0)
        for _ in range(repeats):
            run()
        for descriptor in descriptors:
            fcntl.ioctl(descriptor, DISABLE, 0)
        totals = {name: _total(group) for name, group in found.items()}
    if not any(total for total in totals.values()):
        return CountersUnavailable("the kernel opens the counters, but they count nothing")
    per_run = {name: None if total is None else total / repeats for name, total in totals.items()}
    return Counters(**{field.name: per_run.get(field.name) for field in fields(Counters)})


def _total(descriptors: list[int]) -> float | None:
    """Over all threads; None where an event was wanted all the time and never got a counter."""
    total, counted = 0.0, False
    for descriptor in descriptors:
        value, wanted, running = struct.unpack("QQQ", os.read(descriptor, 24))
        if running:
            total, counted = total + value * wanted / running, True
    return total if counted else None


class _Attributes(ctypes.Structure):
    """The first version of perf_event_attr, which all kernels know."""

    _fields_ = (
        ("type", ctypes.c_uint32), ("size", ctypes.c_uint32), ("config", ctypes.c_uint64),
        ("sample_period", ctypes.c_uint64), ("sample_type", ctypes.c_uint64), ("read_format", ctypes.c_uint64),
        ("flags", ctypes.c_uint64), ("wakeup", ctypes.c_uint32), ("bp_type", ctypes.c_uint32),
        ("bp_addr", ctypes.c_uint64),
    )  # fmt: skip


def _open(event: int, thread: int, stack: ExitStack) -> int:
    """A descriptor that counts an event of a thread and of those that it starts. Raises OSError."""
    attributes = _Attributes(
        type=HARDWARE, size=ctypes.sizeof(_Attributes), config=event, read_format=TIMES,
        flags=DISABLED | INHERIT | EXCLUDE_KERNEL | EXCLUDE_HYPERVISOR,
    )  # fmt: skip
    descriptor = _perf_event_open(attributes, thread)
    stack.callback(os.close, descriptor)
    return descriptor


def _perf_event_open(attributes: _Attributes, thread: int) -> int:
    number = SYSCALL.get(platform.machine())
    if platform.system() != "Linux" or number is None:
        raise OSError(0, f"{platform.system()} on {platform.machine()} has no perf_event_open that is known here")
    library = ctypes.CDLL(None, use_errno=True)
    any_core, no_group, no_flags = ctypes.c_int(-1), ctypes.c_int(-1), ctypes.c_ulong(0)
    descriptor = library.syscall(
        ctypes.c_long(number), ctypes.byref(attributes), ctypes.c_int(thread), any_core, no_group, no_flags
    )
    if descriptor < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return int(descriptor)


def _threads() -> list[int]:
    try:
        return [int(folder.name) for folder in Path("/proc/self/task").iterdir()]
    except OSError:
        return [0]  # the calling one


def _why(error: OSError) -> str:
    if isinstance(error, PermissionError):
        level = PARANOID.read_text().strip() if PARANOID.exists() else "unknown"
        return f"the kernel does not allow it (perf_event_paranoid is {level}; 2 or less is needed)"
    if isinstance(error, FileNotFoundError):
        return "this CPU shows no counters, as in most virtual machines"
    return error.strerror or str(error)
