"""What NVIDIA's tool says of the first GPU."""

import subprocess

_QUERY = ("name", "driver_version", "clocks.sm", "clocks.mem", "power.draw", "power.limit", "memory.total")


def nvidia_smi() -> dict[str, str]:
    """Name, driver, clocks and power of the first GPU; empty where there is none."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    fields = [field.strip() for field in answer.splitlines()[0].split(",")] if answer.strip() else []
    return dict(zip(_QUERY, fields, strict=True)) if len(fields) == len(_QUERY) else {}
