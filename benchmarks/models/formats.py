"""A pruned network in the file formats that a user could choose, and the engines that load them."""

import gzip
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from benchmarks.rivals.engines import Run, Unavailable, onnxruntime_session
from spiketicket.graph import Graph
from spiketicket.model.names import INPUT, LOGITS_T
from spiketicket.model.values import VALUES, cast
from spiketicket.model.writer import to_onnx
from spiketicket.runtime import Session

DENSE, GZIP, COO, SAFETENSORS = "dense ONNX", "dense ONNX, gzip", "ONNX sparse_initializer", "safetensors of scipy CSR"
OURS = "spiketicket"


def dense(graph: Graph) -> bytes:
    """Write all weights, zeros included, as a plain ONNX file."""
    data: bytes = to_onnx(graph, dense=True).SerializeToString()
    return data


def gzipped(graph: Graph) -> bytes:
    """Compress the dense file."""
    return gzip.compress(dense(graph), 6, mtime=0)


def sparse_initializers(graph: Graph) -> bytes:
    """Write the dense graph with its weights as ONNX's own sparse tensors: values and flat int64 indices."""
    model = to_onnx(graph, dense=True)
    weights = {f"{node.name}.weight": node.weight for node in graph.weighted()}
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in weights]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    for name, weight in weights.items():
        rows = weight.row_indices
        positions = rows * weight.columns + weight.indices
        values = numpy_helper.from_array(weight.values.astype(np.float32), name)
        tensor = helper.make_sparse_tensor(values, numpy_helper.from_array(positions), weight.shape)
        model.graph.sparse_initializer.append(tensor)
    data: bytes = model.SerializeToString()
    return data


def safetensors(graph: Graph) -> bytes:
    """Write weights (float32 values, int32 indices and indptr, as in scipy) and biases, without the network.

    Raises Unavailable if safetensors is not installed.
    """
    try:
        from safetensors.numpy import save
    except ImportError as error:
        raise Unavailable("safetensors is not installed") from error
    arrays: dict[str, Any] = {}
    for node in graph.weighted():
        weight = node.weight
        arrays |= {
            f"{node.name}.data": weight.values.astype(np.float32),
            f"{node.name}.indices": weight.indices.astype(np.int32),
            f"{node.name}.indptr": weight.indptr,
            f"{node.name}.bias": node.bias,
        }
    return save(arrays)


def ours(values: str, graph: Graph) -> bytes:
    """Write the sparse ONNX file of this project, with weights of type `values`."""
    data: bytes = to_onnx(cast(graph, values)).SerializeToString(deterministic=True)
    return data


FORMATS: dict[str, Callable[[Graph], bytes]] = {
    DENSE: dense,
    GZIP: gzipped,
    COO: sparse_initializers,
    SAFETENSORS: safetensors,
    **{f"{OURS} {values}": partial(ours, values) for values in VALUES},
}


def load_in_onnxruntime(path: Path, threads: int) -> Run:
    """Load a file, decompressed if it ends in .gz, in onnxruntime."""
    model = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else str(path)
    session = onnxruntime_session(model, threads)
    return lambda x: session.run([LOGITS_T], {INPUT: x})[0]


def load_in_native(path: Path, threads: int) -> Run:
    """Load a file in the native engine."""
    session = Session(path, engine="native", threads=threads)
    return lambda x: session.run({INPUT: x})[LOGITS_T]


def loaders(name: str) -> dict[str, Callable[[Path, int], Run]]:
    """Return the engines that can load a file of the format `name`."""
    if name == SAFETENSORS:
        return {}
    return {"onnxruntime": load_in_onnxruntime} | ({"native": load_in_native} if name.startswith(OURS) else {})
