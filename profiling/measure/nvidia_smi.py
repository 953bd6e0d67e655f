"""Ask NVIDIA's tool nvidia-smi about the GPUs."""

import shutil
import subprocess
from collections.abc import Sequence

SECONDS = 20.0  # waking a GPU takes some of them


def ask(fields: Sequence[str]) -> list[dict[str, str]] | None:
    """Return the fields of every GPU as texts: None without the tool, an empty list if it fails."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = ([part.strip() for part in line.split(",")] for line in output.splitlines() if line.strip())
    return [dict(zip(fields, row, strict=True)) for row in rows if len(row) == len(fields)]
