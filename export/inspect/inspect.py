"""Inspect a model file: what it contains, and how engines will run it. Needs no torch."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from spiketicket.errors import ModelError, NotBuiltError, SpikeTicketError
from spiketicket.export.inspect.facts import Inspection, Layer, Port, graph_layers, onnx_provenance, totals
from spiketicket.files import read_bytes
from spiketicket.graph import Graph, Li, Lif
from spiketicket.model import engine_file
from spiketicket.model.names import DOMAIN, INPUT, LOGITS_T, PRODUCER, TIMESTEPS
from spiketicket.model.parts import array
from spiketicket.model.reader import parse_model
from spiketicket.model.writer import to_onnx
from spiketicket.runtime import Session, onnxruntime_library

HDF5 = b"\x89HDF\r\n\x1a\n"  # the first bytes of NIR files


def inspect(path: Path) -> Inspection:
    """Return the facts of the model file `path`, of any format that snn-export writes.

    Raises ModelError if the file is damaged or of another format, and MissingExtraError for NIR without its packages.
    """
    data = read_bytes(path, "model", ModelError)
    try:
        if data.startswith(HDF5):
            from spiketicket.export.inspect.nir import inspect_nir

            return inspect_nir(path, len(data))
        if data.startswith(engine_file.MAGIC):
            from spiketicket.export.inspect.engine import inspect_engine

            return inspect_engine(path, data)
        return _inspect_onnx(path, data)
    except ModelError as error:
        raise error if str(error).startswith(str(path)) else ModelError(f"{path}: {error}") from error


def _inspect_onnx(path: Path, data: bytes) -> Inspection:
    try:
        proto = onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise ModelError("not an ONNX file, or cut short") from error
    metadata, verification = onnx_provenance(proto)
    text = metadata.pop(TIMESTEPS, "")  # is there if the input is timed or T is fixed
    graph = None if _is_plain(proto) else parse_model(data)
    single_step = graph is not None and any(value.name not in (INPUT, TIMESTEPS) for value in proto.graph.input)
    layers = _weights(proto) if graph is None else _layers(graph, _native(path), single_step)
    opset = next((entry.version for entry in proto.opset_import if entry.domain == ""), 0)
    outputs = [_port(value) for value in proto.graph.output]
    return Inspection(
        path=path,
        nbytes=len(data),
        kind="plain" if graph is None else "sparse",
        format=f"ONNX opset {opset}, IR version {proto.ir_version}",
        producer=f"{proto.producer_name} {proto.producer_version}".strip(),
        facts={},
        inputs=[_port(value) for value in proto.graph.input],
        outputs=outputs,
        timesteps=_timesteps(proto, text) if graph is None else graph.timesteps,
        fixed_timesteps=_is_fixed(outputs) if graph is None else graph.fixed_timesteps,
        metadata=metadata,
        verification=verification,
        layers=layers,
        totals=totals(layers, 0 if graph is None else sum(node.bias.nbytes for node in graph.weighted())),
        operators=dict(Counter(node.op_type for node in proto.graph.node).most_common()),
        dense_nbytes=len(data) if graph is None else int(to_onnx(graph, dense=True).ByteSize()),
        initializer_nbytes=sum(array(tensor).nbytes for tensor in proto.graph.initializer),
        opset=opset,
        ir_version=proto.ir_version,
        custom_operators_built=_library_built(),
    )


def _is_plain(proto: onnx.ModelProto) -> bool:
    """Return whether spiketicket wrote the file as plain ONNX, without any operator of its domain."""
    used = {node.domain for node in proto.graph.node}
    return proto.producer_name == PRODUCER and not proto.functions and DOMAIN not in used


def _is_fixed(outputs: list[Port]) -> bool:
    """Return whether a plain file has a fixed T."""
    return any(port.name == LOGITS_T and isinstance(port.shape[0], int) for port in outputs)


def _port(value: onnx.ValueInfoProto) -> Port:
    tensor = value.type.tensor_type
    try:
        dtype = str(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except KeyError as error:
        raise ModelError(f"{value.name} has the unknown type {tensor.elem_type}") from error
    return Port(value.name, dtype, tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim))


def _timesteps(proto: onnx.ModelProto, text: str) -> int | None:
    """Return the T of a plain file, which is an initializer or `text` from its metadata; None if it has none."""
    stored = [tensor for tensor in proto.graph.initializer if tensor.name == TIMESTEPS]
    found = array(stored[0]) if stored else np.array([])
    if found.size == 1 and found.dtype == np.int64:
        return int(found.item())
    return int(text) if re.fullmatch("[1-9][0-9]{0,8}", text) else None


def _native(path: Path) -> dict[str, tuple[str, str]]:
    """Return kernel and reason by layer.

    If the native engine is not built or cannot run the file, the key "" has the reason.
    """
    try:
        with Session(path, engine="native", threads=1, plan="fixed") as session:
            return {layer.name: (layer.kernel, layer.why) for layer in session.layers()}
    except (ImportError, SpikeTicketError) as error:
        return {"": ("-", str(error))}


def _layers(graph: Graph, native: dict[str, tuple[str, str]], single_step: bool) -> list[Layer]:
    """Return the layers of a graph with how each engine runs them."""
    layers = []
    for node, layer in zip(graph.nodes, graph_layers(graph), strict=True):
        neuron = isinstance(node, Lif | Li)
        kernel, why = native.get(node.name) or native.get("", ("-", "the native engine gives no reason"))
        layers.append(
            replace(
                layer,
                native=kernel,
                why=why,
                onnxruntime="decoded, dense"
                if layer.weight
                else "a Scan over time"
                if neuron and not single_step
                else "standard operators",
                custom_operators="sparse kernel"
                if layer.weight
                else "kernel"
                if isinstance(node, Lif) and not single_step
                else "as without",
            )
        )
    return layers


def _weights(proto: onnx.ModelProto) -> list[Layer]:
    """Return the weights of a plain file's convolutions and linear layers, recognised by rank and type."""
    layers = []
    for tensor in proto.graph.initializer:
        kind = {4: "Conv", 2: "Linear"}.get(len(tensor.dims))
        if kind is None or tensor.data_type not in (TensorProto.FLOAT, TensorProto.FLOAT16):
            continue
        weight = array(tensor)
        name = tensor.name.removesuffix(".weight")
        nonzeros = int(np.count_nonzero(weight))
        layers.append(Layer(name, kind, weight.nbytes, weight=weight.shape, nonzeros=nonzeros))
    return layers


def _library_built() -> bool:
    try:
        onnxruntime_library()
    except NotBuiltError:
        return False
    return True
