"""Measure the bytes and seconds that a model costs an engine: its file, its size once loaded, its peak, the time to
load.

Each is measured in fresh processes: `python -m spiketicket.profiling.measure.memory ENGINE MODEL X.npy THREADS
TIMESTEPS` is one, and prints one line of JSON. Libraries are imported before the first reading, so that the growth is
the model's: weights, tables, buffers, and what reading the file leaves behind.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spiketicket.errors import InputError, SpikeTicketError, extra
from spiketicket.model.names import INPUT, LOGITS_T, TIMESTEPS
from spiketicket.runtime.engines.registry import ENGINE_NAMES, find_engine

PROCESSES = 3
PLAIN = "plain onnxruntime"
MEMORY_ENGINES = (*ENGINE_NAMES, PLAIN)

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Memory:
    """Medians over fresh processes. `file` is the size of the file in bytes, `resident` the growth of the process when
    the model is loaded, and `peak` its largest growth until the model has run once. `load_seconds` and
    `first_result_seconds` are the times from the file to a session that can run, and to its first result. Files come
    from the page cache, and kernel plans from their own, if they are there.
    """

    file: int
    resident: int
    peak: int
    load_seconds: float
    first_result_seconds: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def measure_memory(engine: str, path: Path, x: NDArray[np.float32], threads: int, timesteps: int) -> Memory:
    """Load `path` and run it once on `x` (as `Session.run` takes it) in three fresh processes, one after another.

    `engine` is native, onnxruntime or reference, through `Session`, or `plain onnxruntime`, for any ONNX file, without
    what a `Session` adds. Raises InputError for another engine, and SpikeTicketError if a process fails (its last line
    says why) or the system has no /proc.
    """
    if engine not in MEMORY_ENGINES:
        raise InputError(f"engine: expected one of {', '.join(MEMORY_ENGINES)}, got {engine!r}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.npy"
        np.save(file, x)
        arguments = [engine, str(path), str(file), str(threads), str(timesteps)]
        found = [_in_a_fresh_process(arguments) for _ in range(PROCESSES)]
    medians = {key: median(one[key] for one in found) for key in found[0]}
    return Memory(file=path.stat().st_size, **medians)


def process_bytes(field: str) -> int:
    """Return the memory of this process according to Linux: `VmRSS` now, `VmHWM` at its peak. Raises SpikeTicketError
    elsewhere.
    """
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    raise SpikeTicketError(f"memory is measured by {_STATUS}, which has no {field} on this system")


def reset_peak() -> None:
    """Let `VmHWM` begin anew, so that imports do not count; where Linux forbids it, it stays."""
    with contextlib.suppress(OSError):
        _RESET.write_text("5")


def _in_a_fresh_process(arguments: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "spiketicket.profiling.measure.memory", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise SpikeTicketError(f"memory of {arguments[1]} in {arguments[0]}: {reason}")
    report: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return report


def _main(engine: str, path: str, file: str, threads: str, timesteps: str) -> None:
    x, steps = np.load(file), int(timesteps)
    load = _plain_onnxruntime() if engine == PLAIN else _session(engine)
    reset_peak()
    before, start = process_bytes("VmRSS"), time.perf_counter()
    run = load(path, int(threads))
    loaded, resident = time.perf_counter(), process_bytes("VmRSS")
    resumed = time.perf_counter()
    run(x, steps)
    finished = time.perf_counter()
    report = {
        "resident": max(0, resident - before),
        "peak": max(0, process_bytes("VmHWM") - before),
        "load_seconds": loaded - start,
        "first_result_seconds": finished - resumed + loaded - start,
    }
    sys.stdout.write(json.dumps(report) + "\n")


Load = Callable[[str, int], Callable[[NDArray[np.float32], int], object]]


def _session(engine: str) -> Load:
    from spiketicket.runtime import Session

    find_engine(engine).load()

    def load(path: str, threads: int) -> Callable[[NDArray[np.float32], int], object]:
        session = Session(path, engine=engine, threads=threads)
        return lambda x, timesteps: session.run({INPUT: x}, timesteps)

    return load


def _plain_onnxruntime() -> Load:
    with extra("cpu", PLAIN, "onnxruntime"):
        import onnxruntime

    def load(path: str, threads: int) -> Callable[[NDArray[np.float32], int], object]:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        takes_steps = TIMESTEPS in {value.name for value in session.get_overridable_initializers()}

        def run(x: NDArray[np.float32], timesteps: int) -> object:
            steps = {TIMESTEPS: np.array(timesteps, np.int64)} if takes_steps else {}
            return session.run([LOGITS_T], {INPUT: x, **steps})

        return run

    return load


if __name__ == "__main__":
    try:
        _main(*sys.argv[1:])
    except SpikeTicketError as error:
        sys.exit(str(error))
