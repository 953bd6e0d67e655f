"""The types in which a model file can hold its weights, and how they are rounded to them.

Integers have one float32 scale per row (output channel): weight = integer * scale. The largest weight of a row becomes
the largest integer. int16 is used up to 1023 only, so that sums in the integer kernels of the native engine cannot
overflow: they compute with exactly the numbers in the file.
"""

from dataclasses import replace

import numpy as np

from spiketicket.csr import Csr
from spiketicket.errors import InputError
from spiketicket.graph import Conv, Graph, Linear

LARGEST = {"int8": 127, "int16": 1023}
VALUES = ("float32", "float16", *LARGEST)


def check_values(values: str) -> None:
    """Raise InputError unless `values` is one of VALUES."""
    if values not in VALUES:
        raise InputError(f"values: expected one of {', '.join(VALUES)}, got {values!r}")


def cast(graph: Graph, values: str) -> Graph:
    """Return the graph with its weights in the type that the file stores: the last step, so that they round once.

    Raises InputError for an unknown type, ModelError if a weight does not fit in it.
    """
    check_values(values)
    nodes = tuple(
        replace(node, weight=_cast(node.weight, values)) if isinstance(node, Conv | Linear) else node
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes)


def _cast(weight: Csr, values: str) -> Csr:
    if values not in LARGEST:
        return weight.astype(values)
    rows = weight.row_indices
    largest = np.zeros(weight.rows)
    np.maximum.at(largest, rows, np.abs(weight.values.astype(np.float64)))
    scales = (largest / LARGEST[values]).astype(np.float32)
    scales[scales == 0] = 1  # an empty row, or one too small for float32
    whole = np.rint(weight.values.astype(np.float64) / scales[rows])
    whole = np.clip(whole, -LARGEST[values], LARGEST[values]).astype(values)
    return replace(weight, values=whole, scales=scales).without_zeros()
