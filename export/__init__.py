"""Export of a torch module, a NIR graph or a ticket as a sparse graph, to one verified file.

`export` is imported only when it is used: it needs torch, which reading and writing files does not.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "export":
        from spiketicket.export.module import export

        return export
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
