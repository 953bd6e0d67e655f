"""Resident memory and load time of one engine, each measured in a process of its own.

`footprint.py ENGINE MODEL IMAGES.npy THREADS` is that process; it prints one line of JSON. Libraries are imported
before the first reading, so the growth is the model's: weights, tables, buffers, and what the file leaves behind.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

REPEATS = 3


def measure_footprint(engine: str, model: Path, images: np.ndarray, threads: int) -> dict[str, Any]:
    """Medians over three fresh processes: seconds to load and to the first result, growth of memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.save(path, images)
        command = [sys.executable, __file__, engine, str(model), str(path), str(threads)]
        results = [
            json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            for _ in range(REPEATS)
        ]
    return {
        "engine": engine,
        "file_mb": model.stat().st_size / 1e6,
        **{key: median(result[key] for result in results) for key in results[0]},
    }


def main() -> None:
    engine, model, images, threads = sys.argv[1], sys.argv[2], np.load(sys.argv[3]), int(sys.argv[4])
    load = LOADERS[engine]()
    before, start = memory("VmRSS"), time.perf_counter()
    run = load(model, threads)
    loaded = time.perf_counter()
    run(images)
    finished = time.perf_counter()
    print(
        json.dumps(
            {
                "load_s": loaded - start,
                "load_and_first_run_s": finished - start,
                "resident_mb": memory("VmRSS") - before,
                "peak_mb": memory("VmHWM") - before,
            }
        )
    )


Loader = Callable[[str, int], Callable[[np.ndarray], object]]


def _native() -> Loader:
    from spiketicket.runtime import Session
    from spiketicket.runtime.native import build_info

    build_info()

    def load(model: str, threads: int) -> Callable[[np.ndarray], object]:
        session = Session(model, engine="native", threads=threads)
        return lambda x: session.run({"input": x})

    return load


def _onnxruntime() -> Loader:
    import onnxruntime

    def load(model: str, threads: int) -> Callable[[np.ndarray], object]:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return lambda x: session.run(["logits_t"], {"input": x})

    return load


LOADERS: dict[str, Callable[[], Loader]] = {"native": _native, "onnxruntime": _onnxruntime}


def memory(field: str) -> float:
    """A line of /proc/self/status in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
    main()
