"""Export: torch module, NIR graph or ticket -> sparse graph -> one ONNX file, verified.

`export` is imported when it is asked for: it needs torch, which reading and writing files does not.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "export":
        from spiketicket.export.module import export

        return export
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
