"""ONNX model -> sparse graph. Whatever the file holds, it is either understood whole or refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from spiketicket.csr import MAX_ELEMENTS, Csr
from spiketicket.domain import (
    AND,
    AND_NOT,
    DOMAIN,
    DOMAIN_VERSION,
    HARD_RESET,
    INPUT,
    LI,
    LIF,
    LOGITS,
    LOGITS_T,
    METADATA_PREFIX,
    REPEAT,
    SOFT_RESET,
    SPARSE_CONV,
    SPARSE_LINEAR,
    TIMESTEPS,
)
from spiketicket.errors import ModelError
from spiketicket.files import read_bytes
from spiketicket.graph import (
    Add,
    And,
    AvgPool,
    Concat,
    Conv,
    Flatten,
    Graph,
    Li,
    Lif,
    Linear,
    MaxPool,
    Node,
    Repeat,
    Unsqueeze,
)
from spiketicket.runtime.engine_file import MAGIC


def read_model(path: Path) -> tuple[Graph, bytes]:
    """The graph of the model file `path`, and the file's bytes. Raises ModelError."""
    data = read_bytes(path, "model", ModelError)
    if data.startswith(MAGIC):
        raise ModelError(f"{path}: a TensorRT engine file, which engine tensorrt runs and no other")
    try:
        return parse_model(data), data
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def parse_model(data: bytes) -> Graph:
    """The graph of a serialised model. Raises ModelError."""
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise ModelError("not an ONNX file, or cut short") from error
    versions = {opset.domain: opset.version for opset in model.opset_import}
    if DOMAIN not in versions:
        raise ModelError(f"not a spiketicket model: it does not import the operator domain {DOMAIN}")
    if versions[DOMAIN] != DOMAIN_VERSION:
        raise ModelError(f"domain {DOMAIN} version {versions[DOMAIN]}, this release reads {DOMAIN_VERSION}")
    return _Reader(model).graph()


class _Kind(NamedTuple):
    """What the reader has to know of a value; all the rest is inferred by the graph."""

    dims: int  # without batch and time
    timed: bool


class _Reader:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.tensors: dict[str, NDArray[np.generic]] = {}
        for tensor in model.graph.initializer:
            if tensor.name in self.tensors:
                raise ModelError(f"initializer {tensor.name!r} is stored twice")
            self.tensors[tensor.name] = _array(tensor)
        self.values: dict[str, _Kind] = {}  # every value seen so far

    def graph(self) -> Graph:
        proto = self.model.graph
        shape, timed = self.input_shape()
        if {output.name for output in proto.output} != {LOGITS, LOGITS_T}:
            raise ModelError(f"outputs must be {LOGITS} and {LOGITS_T}")
        metadata = self.metadata()
        timesteps = self.timed_default(metadata) if timed else self.default()
        self.values[INPUT] = _Kind(len(shape), timed)
        nodes: list[Node] = []
        mean = None
        for node in proto.node:
            if mean is not None:
                raise ModelError(f"node {node.name!r} stands after the mean over time")
            if node.op_type == "ReduceMean" and node.domain == "":
                self.check_mean(node)
                mean = node
            else:
                nodes.append(self.read(node))
        if mean is None:
            raise ModelError(f"no ReduceMean computes {LOGITS}")
        return Graph(INPUT, shape, tuple(nodes), LOGITS_T, timesteps, metadata, timed)

    def default(self) -> int:
        """How many timesteps there are where the user does not say."""
        timesteps = self.tensor(TIMESTEPS, "the graph")
        if timesteps.shape != () or timesteps.dtype != np.int64:
            raise ModelError(f"{TIMESTEPS} must be an int64 scalar with a default value")
        return int(timesteps)

    def timed_default(self, metadata: dict[str, str]) -> int:
        """The same of a timed input, whose file has it among the metadata; taken out of them."""
        text = metadata.pop(TIMESTEPS, "")
        if not re.fullmatch("[1-9][0-9]{0,8}", text):
            raise ModelError(
                f"a file without the input {TIMESTEPS} must have a default for them in its metadata "
                f"({METADATA_PREFIX}{TIMESTEPS}: a whole number), got {text!r}"
            )
        if TIMESTEPS in self.tensors:
            raise ModelError(f"{TIMESTEPS} is stored, but is no input")
        return int(text)

    def metadata(self) -> dict[str, str]:
        pairs = [(p.key, p.value) for p in self.model.metadata_props]
        if not all(isinstance(text, str) for pair in pairs for text in pair):  # bytes where it is no UTF-8
            raise ModelError("metadata must be UTF-8 text")
        if len({key for key, _ in pairs}) < len(pairs):
            raise ModelError("metadata holds a key twice")
        return {key.removeprefix(METADATA_PREFIX): value for key, value in pairs if key.startswith(METADATA_PREFIX)}

    def input_shape(self) -> tuple[tuple[int, ...], bool]:
        """The shape of one image, and whether there is one per timestep: where the file does not take `timesteps`."""
        inputs = {value.name: value.type.tensor_type for value in self.model.graph.input}
        names = sorted(value.name for value in self.model.graph.input)
        if names not in ([INPUT, TIMESTEPS], [INPUT]):
            raise ModelError(f"inputs must be {INPUT} and {TIMESTEPS}, or a timed {INPUT} alone, got {names}")
        timed = names == [INPUT]
        if inputs[INPUT].elem_type != TensorProto.FLOAT:
            raise ModelError(f"{INPUT} must be float32")
        sizes = tuple(dim.dim_value for dim in inputs[INPUT].shape.dim)
        free, shape = (sizes[:2], sizes[2:]) if timed else (sizes[:1], sizes[1:])
        if any(free) or len(free) != 1 + timed:
            raise ModelError(f"{'timesteps and ' if timed else 'the '}batch of {INPUT} must be free, got {list(sizes)}")
        if not shape or min(shape) < 1:
            raise ModelError(f"{INPUT} must have fixed sizes after the batch, got {list(shape)}")
        return shape, timed

    def check_mean(self, node: onnx.NodeProto) -> None:
        attributes = _Attributes(node)
        keepdims = attributes.integer("keepdims")
        attributes.finish()
        axes = self.whole_numbers(node.input[1], node.name) if len(node.input) == 2 else []
        if list(node.input[:1]) != [LOGITS_T] or list(node.output) != [LOGITS] or axes != [0] or keepdims != 0:
            raise ModelError(f"{LOGITS} must be the mean of {LOGITS_T} over time")

    def read(self, proto: onnx.NodeProto) -> Node:
        name = proto.name or (proto.output[0] if proto.output else "")
        reader = _READERS.get((proto.domain, proto.op_type))
        if reader is None:
            domain = f"{proto.domain}." if proto.domain else ""
            raise ModelError(f"layer {name}: operator {domain}{proto.op_type} is not one of spiketicket's")
        arity = _ARITY.get(proto.op_type, 1)
        if proto.op_type == "Concat":
            arity = len(proto.input)  # the graph has an opinion on it
        if len(proto.input) != arity or len(proto.output) != 1:
            raise ModelError(
                f"layer {name}: {proto.op_type} has {len(proto.input)} inputs and {len(proto.output)} outputs, "
                f"expected {arity} and 1"
            )
        if proto.overload not in ((HARD_RESET, SOFT_RESET) if proto.op_type == LIF else ("",)):
            raise ModelError(f"layer {name}: {proto.op_type} has no overload {proto.overload!r}")
        if not proto.input or proto.input[0] not in self.values:
            raise ModelError(f"layer {name}: input {next(iter(proto.input), '')!r} is not computed by an earlier layer")
        attributes = _Attributes(proto)
        node = reader(self, proto, name, attributes)
        attributes.finish()
        return node

    def define(self, proto: onnx.NodeProto, kind: _Kind | None = None) -> str:
        """The name of the node's output, which is of the kind of its first input unless said otherwise."""
        self.values[proto.output[0]] = self.kind(proto) if kind is None else kind
        return str(proto.output[0])

    def kind(self, proto: onnx.NodeProto) -> _Kind:
        return self.values[proto.input[0]]

    def whole_numbers(self, name: str, owner: str) -> list[int]:
        tensor = self.tensor(name, owner)
        if tensor.dtype != np.int64 or tensor.ndim != 1:
            raise ModelError(f"layer {owner}: {name!r} must be a list of int64 numbers")
        return [int(number) for number in tensor]

    def tensor(self, name: str, owner: str) -> NDArray[np.generic]:
        if name not in self.tensors:
            raise ModelError(f"layer {owner}: {name!r} is not stored in the file")
        return self.tensors[name]

    def weight(self, proto: onnx.NodeProto, name: str, attributes: "_Attributes") -> tuple[Csr, NDArray[np.float32]]:
        values, indices, indptr, bias = (self.tensor(i, name) for i in proto.input[1:])
        csr = Csr(values, indices, indptr, attributes.integers("weight_shape"))  # type: ignore[arg-type]
        return csr, bias  # type: ignore[return-value]  # the graph checks the types

    def conv(self, proto: onnx.NodeProto, name: str, attributes: "_Attributes") -> Node:
        weight, bias = self.weight(proto, name, attributes)
        strides, dilations = attributes.pair("strides"), attributes.pair("dilations")
        pads, group = _quad(attributes.integers("pads"), name), attributes.integer("group")
        output = self.define(proto)
        return Conv(name, (proto.input[0],), output, weight, bias, strides, pads, dilations, group)

    def linear(self, proto: onnx.NodeProto, name: str, attributes: "_Attributes") -> Node:
        weight, bias = self.weight(proto, name, attributes)
        return Linear(name, (proto.input[0],), self.define(proto), weight, bias)

    def lif(self, proto: onnx.NodeProto, name: str, attributes: "_Attributes") -> Node:
        tau, threshold = attributes.real("tau"), attributes.real("v_threshold")
        decay = bool(attributes.integer("decay_input"))
        reset = attributes.real("v_reset") if proto.overload == HARD_RESET else None
        drop = None
        if reset is None and attributes.has("v_drop"):  # files of before it was there drop by the threshold
            drop = attributes.real("v_drop")
            drop = None if drop == threshold else drop
        return Lif(name, (proto.input[0],), self.define(proto), tau, threshold, reset, decay, drop)

    def li(self, proto: onnx.NodeProto, name: str, attributes: "_Attributes") -> Node:
        tau, decay = attributes.real("tau"), bool(attributes.integer("decay_input"))
        return Li(name, (proto.input[0],), self.define(proto), tau, decay)

    def max_pool(self, proto: onnx.NodeProto, name: str, attributes: "_Attributes") -> Node:
        kernel, strides = self.windows(proto, name, attributes)
        pads = attributes.integers("pads")
        timed = self.kind(proto).timed
        if timed and (len(pads) != 6 or pads[0] or pads[3]):
            raise ModelError(f"layer {name}: pads over time or channels")
        pads = _quad(pads[1:3] + pads[4:6] if timed else pads, name)
        return MaxPool(name, (proto.input[0],), self.define(proto), kernel, strides, pads)

    def avg_pool(self, proto: onnx.NodeProto, name: str, attributes: "_Attributes") -> Node:
        kernel, strides = self.windows(proto, name, attributes)
        return AvgPool(name, (proto.input[0],), self.define(proto), kernel, strides)

    def windows(
        self, proto: onnx.NodeProto, name: str, attributes: "_Attributes"
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """Kernel and strides of a pooling, the leading 1 of a timed one taken off."""
        kernel, strides = attributes.integers("kernel_shape"), attributes.integers("strides")
        if self.kind(proto).timed:
            if kernel[:1] != (1,) or strides[:1] != (1,):
                raise ModelError(f"layer {name}: a pooling window may not span timesteps or channels")
            kernel, strides = kernel[1:], strides[1:]
        if len(kernel) != 2 or len(strides) != 2:
            raise ModelError(f"layer {name}: expected a two-dimensional pooling window")
        return (kernel[0], kernel[1]), (strides[0], strides[1])

    def add(self, proto: onnx.NodeProto, name: str, _: "_Attributes") -> Node:
        return Add(name, (proto.input[0], proto.input[1]), self.define(proto))

    def flatten(self, proto: onnx.NodeProto, name: str, _: "_Attributes") -> Node:
        timed = self.kind(proto).timed
        expected = [0, 0, -1] if timed else [0, -1]
        if self.whole_numbers(proto.input[1], name) != expected:
            raise ModelError(f"layer {name}: Reshape must flatten the image, that is to {expected}")
        return Flatten(name, (proto.input[0],), self.define(proto, _Kind(1, timed)))

    def both(self, proto: onnx.NodeProto, name: str, _: "_Attributes") -> Node:
        inputs = (proto.input[0], proto.input[1])
        return And(name, inputs, self.define(proto), negated=proto.op_type == AND_NOT)

    def concat(self, proto: onnx.NodeProto, name: str, attributes: "_Attributes") -> Node:
        axis, expected = attributes.integer("axis"), -self.kind(proto).dims
        if axis != expected:
            raise ModelError(
                f"layer {name}: Concat must join channels or features, that is axis {expected}, got {axis}"
            )
        return Concat(name, tuple(proto.input), self.define(proto))

    def unsqueeze(self, proto: onnx.NodeProto, name: str, _: "_Attributes") -> Node:
        if self.whole_numbers(proto.input[1], name) != [-2]:
            raise ModelError(f"layer {name}: Unsqueeze must make images of one row, that is axes [-2]")
        dims, timed = self.kind(proto)
        return Unsqueeze(name, (proto.input[0],), self.define(proto, _Kind(dims + 1, timed)))

    def repeat(self, proto: onnx.NodeProto, name: str, _: "_Attributes") -> Node:
        if proto.input[1] != TIMESTEPS:
            raise ModelError(f"layer {name}: must repeat by {TIMESTEPS}, got {proto.input[1]!r}")
        return Repeat(name, (proto.input[0],), self.define(proto, _Kind(self.kind(proto).dims, timed=True)))


_READERS: dict[tuple[str, str], Callable[[_Reader, onnx.NodeProto, str, "_Attributes"], Node]] = {
    (DOMAIN, SPARSE_CONV): _Reader.conv,
    (DOMAIN, SPARSE_LINEAR): _Reader.linear,
    (DOMAIN, LIF): _Reader.lif,
    (DOMAIN, LI): _Reader.li,
    (DOMAIN, AND): _Reader.both,
    (DOMAIN, AND_NOT): _Reader.both,
    (DOMAIN, REPEAT): _Reader.repeat,
    ("", "MaxPool"): _Reader.max_pool,
    ("", "AveragePool"): _Reader.avg_pool,
    ("", "Add"): _Reader.add,
    ("", "Reshape"): _Reader.flatten,
    ("", "Concat"): _Reader.concat,
    ("", "Unsqueeze"): _Reader.unsqueeze,
}

_ARITY = {
    **{SPARSE_CONV: 5, SPARSE_LINEAR: 5, REPEAT: 2, AND: 2, AND_NOT: 2},
    **{"Add": 2, "Reshape": 2, "Unsqueeze": 2},
}  # of all others 1


class _Attributes:
    """The attributes of one node, each read once; what is left over was not understood."""

    def __init__(self, node: onnx.NodeProto) -> None:
        self.name = node.name
        self.left: dict[str, onnx.AttributeProto] = {attribute.name: attribute for attribute in node.attribute}

    def has(self, key: str) -> bool:
        return key in self.left

    def take(self, key: str, kind: int) -> onnx.AttributeProto:
        if key not in self.left:
            raise ModelError(f"layer {self.name}: attribute {key} is missing")
        attribute = self.left.pop(key)
        if attribute.type != kind:
            raise ModelError(f"layer {self.name}: attribute {key} has the wrong type")
        return attribute

    def integer(self, key: str) -> int:
        return int(self.take(key, onnx.AttributeProto.INT).i)

    def real(self, key: str) -> float:
        return float(self.take(key, onnx.AttributeProto.FLOAT).f)

    def integers(self, key: str) -> tuple[int, ...]:
        return tuple(int(value) for value in self.take(key, onnx.AttributeProto.INTS).ints)

    def pair(self, key: str) -> tuple[int, int]:
        values = self.integers(key)
        if len(values) != 2:
            raise ModelError(f"layer {self.name}: attribute {key} must have 2 entries, got {len(values)}")
        return values[0], values[1]

    def finish(self) -> None:
        if self.left:
            raise ModelError(f"layer {self.name}: attribute {sorted(self.left)[0]} is unknown")


def _quad(pads: tuple[int, ...], name: str) -> tuple[int, int, int, int]:
    if len(pads) != 4:
        raise ModelError(f"layer {name}: attribute pads must have 4 entries, got {len(pads)}")
    return pads[0], pads[1], pads[2], pads[3]


def _array(tensor: onnx.TensorProto) -> NDArray[np.generic]:
    if tensor.data_location == TensorProto.EXTERNAL:
        raise ModelError(f"initializer {tensor.name!r} lies in another file; a spiketicket model is one file")
    if any(size < 0 for size in tensor.dims) or np.prod(tensor.dims, dtype=float) > MAX_ELEMENTS:
        raise ModelError(f"initializer {tensor.name!r} has the impossible shape {list(tensor.dims)}")
    try:
        return np.ascontiguousarray(numpy_helper.to_array(tensor)).reshape(tuple(tensor.dims))
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"initializer {tensor.name!r} is damaged: {error}") from error
