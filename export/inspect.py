"""What is in a model file, and what engines will make of it. Needs no torch."""

import json
import re
from collections import Counter
from dataclasses import asdict, dataclass, fields
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from spiketicket.domain import DOMAIN, INPUT, METADATA_PREFIX, TIMESTEPS, VERIFICATION
from spiketicket.errors import ModelError, NotBuiltError, SpikeTicketError
from spiketicket.export.onnx_writer import to_onnx
from spiketicket.export.verify import Agreement
from spiketicket.files import read_bytes
from spiketicket.graph import Conv, Graph, Li, Lif, Linear
from spiketicket.runtime import Session, onnxruntime_library
from spiketicket.runtime.onnx_parts import array
from spiketicket.runtime.onnx_reader import parse_model

PRODUCER = "spiketicket"


@dataclass(frozen=True)
class Port:
    """An input or output. Sizes that are free have a name: N images, T timesteps."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Layer:
    """One layer of a sparse file, or one weight of a dense file (then without what only the graph tells)."""

    name: str
    kind: str
    nbytes: int  # of weight and bias in the file (of a dense file, of the weight)
    output: tuple[int, ...] | None = None  # shape for one image and timestep
    weight: tuple[int, ...] | None = None
    nonzeros: int | None = None
    timed: bool | None = None  # runs at every timestep; otherwise once
    neurons: int = 0
    macs: int = 0  # multiply-accumulates of one run on one image: with surviving weights
    dense_macs: int = 0  # and with all
    native: str = ""  # kernel of the native engine, by estimate
    why: str = ""
    onnxruntime: str = ""
    custom_operators: str = ""  # onnxruntime with the library of the engine's kernels

    @property
    def density(self) -> float | None:
        return self.nonzeros / prod(self.weight) if self.weight and self.nonzeros is not None else None


@dataclass(frozen=True)
class Totals:
    """Sums over layers. Multiply-accumulates are those of one image: of what runs once, and of every timestep."""

    weights: int
    nonzeros: int
    weight_nbytes: int  # of values and, in a sparse file, their places; without biases
    neurons: int
    macs_once: int
    dense_macs_once: int
    macs_per_timestep: int
    dense_macs_per_timestep: int

    @property
    def density(self) -> float:
        return self.nonzeros / max(self.weights, 1)

    @property
    def bytes_per_nonzero(self) -> float:
        return self.weight_nbytes / max(self.nonzeros, 1)


@dataclass(frozen=True)
class Inspection:
    """All about one model file. `dense`: plain ONNX that spiketicket wrote, without sparse layers; of it, `layers`
    are its weights, and `operators` counts the nodes of its graph."""

    path: Path
    nbytes: int
    dense: bool
    dense_nbytes: int  # the same network as plain dense ONNX
    opset: int
    ir_version: int
    producer: str
    inputs: list[Port]
    outputs: list[Port]
    timesteps: int | None  # by default, or always
    fixed_timesteps: bool
    metadata: dict[str, str]  # without prefix and verification
    verification: list[Agreement]  # empty where the file tells nothing
    layers: list[Layer]
    totals: Totals
    operators: dict[str, int]
    initializer_nbytes: int
    custom_operators_built: bool  # the library for onnxruntime is part of this installation

    def to_dict(self) -> dict[str, Any]:
        layers = [{**asdict(layer), "density": layer.density} for layer in self.layers]
        derived = {"density": self.totals.density, "bytes_per_nonzero": self.totals.bytes_per_nonzero}
        return {**asdict(self), "path": str(self.path), "layers": layers, "totals": asdict(self.totals) | derived}


def inspect(path: Path) -> Inspection:
    """Read the model file `path` and say what it holds. Raises ModelError for a damaged or foreign file."""
    data = read_bytes(path, "model", ModelError)
    try:
        proto = onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise ModelError(f"{path}: not an ONNX file, or cut short") from error
    try:
        metadata = _metadata(proto)
        verification = _verification(metadata.pop(VERIFICATION, "[]"))
        text = metadata.pop(TIMESTEPS, "")  # where the input is timed
        graph = None if _is_dense(proto) else parse_model(data)
        step = graph is not None and any(value.name not in (INPUT, TIMESTEPS) for value in proto.graph.input)
        layers = _weights(proto) if graph is None else _layers(graph, _native(path), step)
        return Inspection(
            path=path,
            nbytes=len(data),
            dense=graph is None,
            dense_nbytes=len(data) if graph is None else int(to_onnx(graph, dense=True).ByteSize()),
            opset=next((entry.version for entry in proto.opset_import if entry.domain == ""), 0),
            ir_version=proto.ir_version,
            producer=f"{proto.producer_name} {proto.producer_version}".strip(),
            inputs=[_port(value) for value in proto.graph.input],
            outputs=[_port(value) for value in proto.graph.output],
            timesteps=_timesteps(proto, text) if graph is None else graph.timesteps,
            fixed_timesteps=graph is not None and graph.fixed_timesteps,
            metadata=metadata,
            verification=verification,
            layers=layers,
            totals=_totals(layers, 0 if graph is None else sum(node.bias.nbytes for node in graph.weighted())),
            operators=dict(Counter(node.op_type for node in proto.graph.node).most_common()),
            initializer_nbytes=sum(array(tensor).nbytes for tensor in proto.graph.initializer),
            custom_operators_built=_library_built(),
        )
    except ModelError as error:
        raise error if str(error).startswith(f"{path}: ") else ModelError(f"{path}: {error}") from error


def _is_dense(proto: onnx.ModelProto) -> bool:
    """Plain ONNX that spiketicket wrote: its signature, and no operator of its domain."""
    used = {node.domain for node in proto.graph.node}
    return proto.producer_name == PRODUCER and not proto.functions and DOMAIN not in used


def _metadata(proto: onnx.ModelProto) -> dict[str, str]:
    pairs = [(entry.key, entry.value) for entry in proto.metadata_props]
    if not all(isinstance(text, str) for pair in pairs for text in pair):  # bytes where it is no UTF-8
        raise ModelError("metadata must be UTF-8 text")
    return {key.removeprefix(METADATA_PREFIX): value for key, value in pairs if key.startswith(METADATA_PREFIX)}


def _verification(text: str) -> list[Agreement]:
    kinds: dict[str, Any] = {
        "engine": str, "against": str, "first_layer": str | None, "images": int, "clean": int, "layers": dict,
        "within": bool, "accuracy": int | float | None,
    }  # fmt: skip
    try:
        found = [{field.name: entry[field.name] for field in fields(Agreement)} for entry in json.loads(text)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"metadata {METADATA_PREFIX}{VERIFICATION} is damaged: {error!r}") from error
    for entry in found:
        for key, value in entry.items():
            if not isinstance(value, kinds.get(key, int | float)):
                raise ModelError(f"metadata {METADATA_PREFIX}{VERIFICATION} is damaged: {key} is {value!r}")
    return [Agreement(**entry) for entry in found]


def _port(value: onnx.ValueInfoProto) -> Port:
    tensor = value.type.tensor_type
    try:
        dtype = str(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except KeyError as error:
        raise ModelError(f"{value.name} has the unknown type {tensor.elem_type}") from error
    return Port(value.name, dtype, tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim))


def _timesteps(proto: onnx.ModelProto, text: str) -> int | None:
    """The default of a dense file: an initializer, or `text` from its metadata."""
    stored = [tensor for tensor in proto.graph.initializer if tensor.name == TIMESTEPS]
    found = array(stored[0]) if stored else np.array([])
    if found.size == 1 and found.dtype == np.int64:
        return int(found.item())
    return int(text) if re.fullmatch("[1-9][0-9]{0,8}", text) else None


def _native(path: Path) -> dict[str, tuple[str, str]]:
    """Kernel and reason by layer; where the native engine is not built or does not run the file, why."""
    try:
        with Session(path, engine="native", threads=1, plan="fixed") as session:
            return {layer.name: (layer.kernel, layer.why) for layer in session.layers()}
    except (ImportError, SpikeTicketError) as error:
        return {"": ("-", str(error))}


def _layers(graph: Graph, native: dict[str, tuple[str, str]], step: bool) -> list[Layer]:
    layers = []
    for node in graph.nodes:
        value = graph.values[node.output]
        weighted = node if isinstance(node, Conv | Linear) else None
        neuron = isinstance(node, Lif | Li)
        kernel, why = native.get(node.name) or native.get("", ("-", "the native engine does not tell"))
        layers.append(
            Layer(
                node.name,
                type(node).__name__,
                weighted.weight.nbytes + weighted.bias.nbytes if weighted else 0,
                value.shape,
                weighted.weight.shape if weighted else None,
                int(np.count_nonzero(weighted.weight.values)) if weighted else None,
                value.timed,
                prod(value.shape) if neuron else 0,
                graph.macs(weighted) if weighted else 0,
                graph.macs(weighted, dense=True) if weighted else 0,
                kernel,
                why,
                "decoded, dense" if weighted else "a Scan over time" if neuron and not step else "standard operators",
                "sparse kernel" if weighted else "kernel" if isinstance(node, Lif) and not step else "as without",
            )
        )
    return layers


def _weights(proto: onnx.ModelProto) -> list[Layer]:
    """Of a dense file: convolutions' and linear layers' weights, which are told by their names and ranks."""
    layers = []
    for tensor in proto.graph.initializer:
        kind = {4: "Conv", 2: "Linear"}.get(len(tensor.dims))
        if kind is None or tensor.data_type != TensorProto.FLOAT:
            continue
        weight = array(tensor)
        name = tensor.name.removesuffix(".weight")
        nonzeros = int(np.count_nonzero(weight))
        layers.append(Layer(name, kind, weight.nbytes, weight=weight.shape, nonzeros=nonzeros))
    return layers


def _totals(layers: list[Layer], bias_nbytes: int) -> Totals:
    def macs(timed: bool) -> tuple[int, int]:
        chosen = [layer for layer in layers if layer.timed is timed]
        return sum(layer.macs for layer in chosen), sum(layer.dense_macs for layer in chosen)

    return Totals(
        sum(prod(layer.weight) for layer in layers if layer.weight),
        sum(layer.nonzeros or 0 for layer in layers),
        sum(layer.nbytes for layer in layers) - bias_nbytes,
        sum(layer.neurons for layer in layers),
        *macs(False),
        *macs(True),
    )


def _library_built() -> bool:
    try:
        onnxruntime_library()
    except NotBuiltError:
        return False
    return True
