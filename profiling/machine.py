"""What a measurement ran on."""

import os
import platform
from importlib import metadata
from pathlib import Path

from spiketicket import __version__

_PACKAGES = ("numpy", "onnx", "onnxruntime", "torch", "openvino")


def machine_facts() -> dict[str, str]:
    """CPU, cores, load and versions, to stand beside every figure."""
    from spiketicket.runtime.native import build_info

    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts = {
        "cpu": _cpu(),
        "cores": str(affinity),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "spiketicket": __version__,
        "instruction set": build_info()["isa"],
        "load average": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }
    for package in _PACKAGES:
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return facts


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
