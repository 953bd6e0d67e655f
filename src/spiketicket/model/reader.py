"""Read an ONNX model as a sparse graph. A file is either understood completely or refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto

from spiketicket.csr import Csr
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
from spiketicket.model.engine_file import MAGIC
from spiketicket.model.metadata import stored_texts, without_prefix
from spiketicket.model.names import (
    AND,
    AND_NOT,
    DOMAIN,
    DOMAIN_VERSION,
    HARD_RESET,
    INPUT,
    LI,
    LI_STEP,
    LIF,
    LIF_STEP,
    LOGITS,
    LOGITS_T,
    METADATA_PREFIX,
    REPEAT,
    SCALED,
    SOFT_RESET,
    SPARSE_CONV,
    SPARSE_LINEAR,
    TIMESTEPS,
    potential,
)
from spiketicket.model.parts import Attributes, array, quad


def read_model(path: Path) -> tuple[Graph, bytes]:
    """Return the graph of the model file `path`, and the file's bytes. Raises ModelError."""
    data = read_bytes(path, "model", ModelError)
    if data.startswith(MAGIC):
        raise ModelError(f"{path}: a TensorRT engine file, which engine tensorrt runs and no other")
    try:
        return parse_model(data), data
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def parse_model(data: bytes) -> Graph:
    """Return the graph of a serialised model. Raises ModelError."""
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
    """What the reader must know about a value; the graph infers everything else."""

    dims: int  # without batch and time
    timed: bool


class _Reader:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.tensors: dict[str, NDArray[np.generic]] = {}
        for tensor in model.graph.initializer:
            if tensor.name in self.tensors:
                raise ModelError(f"initializer {tensor.name!r} is stored twice")
            self.tensors[tensor.name] = array(tensor)
        self.values: dict[str, _Kind] = {}  # every value seen so far
        self.step = False  # one timestep per call

    def graph(self) -> Graph:
        proto = self.model.graph
        metadata = self.metadata()
        self.step = any(node.domain == DOMAIN and node.op_type in (LIF_STEP, LI_STEP) for node in proto.node)
        inputs = {value.name: value.type.tensor_type for value in proto.input}
        if len(inputs) < len(proto.input):
            raise ModelError("two inputs have the same name")
        timed, fixed = self.check_inputs(set(inputs))
        batch, shape = self.input_shape(inputs[INPUT], timed)
        timesteps = self.default() if not timed else self.timed_default(metadata)
        if timed and not self.step:
            fixed = inputs[INPUT].shape.dim[0].dim_value != 0
            if fixed and inputs[INPUT].shape.dim[0].dim_value != timesteps:
                raise ModelError(f"{INPUT} has other timesteps than {METADATA_PREFIX}{TIMESTEPS} says: {timesteps}")
        self.values[INPUT] = _Kind(len(shape), timed)
        nodes = [self.read(node) for node in self.without_mean()]
        output = LOGITS if self.step else LOGITS_T
        graph = Graph(INPUT, shape, tuple(nodes), output, timesteps, metadata, timed, batch, fixed)
        self.check_states(graph)
        return graph

    def check_inputs(self, names: set[str]) -> tuple[bool, bool]:
        """Return whether there is an image per timestep, and whether the number of timesteps is fixed."""
        states = {name for name in names if name not in (INPUT, TIMESTEPS)}
        if INPUT not in names or (states and not self.step) or (self.step and TIMESTEPS in names):
            raise ModelError(
                f"inputs must be {INPUT} and {TIMESTEPS}, or a timed {INPUT} alone, or {INPUT} and potentials, got "
                f"{sorted(names)}"
            )
        fixed = TIMESTEPS not in names and TIMESTEPS in self.tensors
        return self.step or (TIMESTEPS not in names and not fixed), fixed

    def without_mean(self) -> list[onnx.NodeProto]:
        """Return the nodes that compute the logits of every timestep. The mean over time must follow them."""
        outputs, nodes = {output.name for output in self.model.graph.output}, list(self.model.graph.node)
        if self.step:
            return nodes
        if outputs != {LOGITS, LOGITS_T}:
            raise ModelError(f"outputs must be {LOGITS} and {LOGITS_T}")
        places = [i for i, node in enumerate(nodes) if node.op_type == "ReduceMean" and node.domain == ""]
        if not places:
            raise ModelError(f"no ReduceMean computes {LOGITS}")
        if places[0] < len(nodes) - 1:
            raise ModelError(f"node {nodes[places[0] + 1].name!r} comes after the mean over time")
        self.check_mean(nodes[-1])
        return nodes[:-1]

    def check_states(self, graph: Graph) -> None:
        """Check that a file of one timestep has the potentials of all neurons, and no others, as inputs and outputs."""
        if not self.step:
            return
        states = [potential(node.name) for node in graph.nodes if isinstance(node, Lif | Li)]
        got = [sorted(value.name for value in side) for side in (self.model.graph.input, self.model.graph.output)]
        expected = [
            sorted([first, *names]) for first, names in zip((INPUT, LOGITS), zip(*states, strict=True), strict=True)
        ]
        if got != expected:
            raise ModelError(f"inputs and outputs must be {expected[0]} and {expected[1]}, got {got[0]} and {got[1]}")

    def default(self) -> int:
        """Return the default number of timesteps."""
        timesteps = self.tensor(TIMESTEPS, "the graph")
        if timesteps.shape != () or timesteps.dtype != np.int64:
            raise ModelError(f"{TIMESTEPS} must be an int64 scalar with a default value")
        return int(timesteps)

    def timed_default(self, metadata: dict[str, str]) -> int:
        """Take the default number of timesteps of a file with a timed input out of its metadata, and return it."""
        text = metadata.pop(TIMESTEPS, "")
        if not re.fullmatch("[1-9][0-9]{0,8}", text):
            raise ModelError(
                f"a file without the input {TIMESTEPS} must have a default for them in its metadata "
                f"({METADATA_PREFIX}{TIMESTEPS}: a whole number), got {text!r}"
            )
        return int(text)

    def metadata(self) -> dict[str, str]:
        pairs = stored_texts(self.model)
        if len({key for key, _ in pairs}) < len(pairs):
            raise ModelError("metadata holds a key twice")
        return without_prefix(pairs)

    def input_shape(self, tensor: onnx.TypeProto.Tensor, timed: bool) -> tuple[int | None, tuple[int, ...]]:
        """Return the batch (None: any) and the shape of one image."""
        if tensor.elem_type != TensorProto.FLOAT:
            raise ModelError(f"{INPUT} must be float32")
        sizes = tuple(dim.dim_value for dim in tensor.shape.dim)
        lead = 1 + (timed and not self.step)
        if len(sizes) <= lead or min(sizes[lead:]) < 1 or min(sizes) < 0:
            raise ModelError(f"{INPUT} must have fixed sizes after the batch, got {list(sizes[lead:])}")
        return sizes[lead - 1] or None, sizes[lead:]

    def check_mean(self, node: onnx.NodeProto) -> None:
        attributes = Attributes(node)
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
        arity = _ARITY.get(proto.op_type, 1) + (proto.overload == SCALED)
        if proto.op_type == "Concat":
            arity = len(proto.input)  # the graph checks the number of inputs
        results = 2 if proto.op_type in (LIF_STEP, LI_STEP) else 1
        if len(proto.input) != arity or len(proto.output) != results:
            raise ModelError(
                f"layer {name}: {proto.op_type} has {len(proto.input)} inputs and {len(proto.output)} outputs, "
                f"expected {arity} and {results}"
            )
        if proto.overload not in _OVERLOADS.get(proto.op_type, ("",)):
            raise ModelError(f"layer {name}: {proto.op_type} has no overload {proto.overload!r}")
        if not proto.input or proto.input[0] not in self.values:
            raise ModelError(f"layer {name}: input {next(iter(proto.input), '')!r} is not computed by an earlier layer")
        attributes = Attributes(proto)
        node = reader(self, proto, name, attributes)
        attributes.finish()
        return node

    def define(self, proto: onnx.NodeProto, kind: _Kind | None = None) -> str:
        """Return the name of the node's output, which is of `kind` or else of the kind of its first input."""
        self.values[proto.output[0]] = self.kind(proto) if kind is None else kind
        return str(proto.output[0])

    def kind(self, proto: onnx.NodeProto) -> _Kind:
        return self.values[proto.input[0]]

    def has_time(self, proto: onnx.NodeProto) -> bool:
        """Return whether the node's input has a dimension of timesteps in the file."""
        return self.kind(proto).timed and not self.step

    def whole_numbers(self, name: str, owner: str) -> list[int]:
        tensor = self.tensor(name, owner)
        if tensor.dtype != np.int64 or tensor.ndim != 1:
            raise ModelError(f"layer {owner}: {name!r} must be a list of int64 numbers")
        return [int(number) for number in tensor]

    def tensor(self, name: str, owner: str) -> NDArray[np.generic]:
        if name not in self.tensors:
            raise ModelError(f"layer {owner}: {name!r} is not stored in the file")
        return self.tensors[name]

    def weight(self, proto: onnx.NodeProto, name: str, attributes: Attributes) -> tuple[Csr, NDArray[np.float32]]:
        values, indices, indptr, bias, *scales = (self.tensor(i, name) for i in proto.input[1:])
        shape = attributes.integers("weight_shape")
        csr = Csr(values, indices, indptr, shape, *scales)  # type: ignore[arg-type]
        return csr, bias  # type: ignore[return-value]  # the graph checks the types

    def conv(self, proto: onnx.NodeProto, name: str, attributes: Attributes) -> Node:
        weight, bias = self.weight(proto, name, attributes)
        strides, dilations = attributes.pair("strides"), attributes.pair("dilations")
        pads, group = quad(attributes.integers("pads"), name), attributes.integer("group")
        output = self.define(proto)
        return Conv(name, (proto.input[0],), output, weight, bias, strides, pads, dilations, group)

    def linear(self, proto: onnx.NodeProto, name: str, attributes: Attributes) -> Node:
        weight, bias = self.weight(proto, name, attributes)
        return Linear(name, (proto.input[0],), self.define(proto), weight, bias)

    def check_potential(self, proto: onnx.NodeProto, name: str) -> None:
        if self.step and (proto.input[1], proto.output[1]) != potential(name):
            raise ModelError(f"layer {name}: its potentials must be {' and '.join(potential(name))}")

    def lif(self, proto: onnx.NodeProto, name: str, attributes: Attributes) -> Node:
        self.check_potential(proto, name)
        tau, threshold = attributes.real("tau"), attributes.real("v_threshold")
        decay = bool(attributes.integer("decay_input"))
        reset = attributes.real("v_reset") if proto.overload == HARD_RESET else None
        drop = None
        if reset is None and attributes.has("v_drop"):  # files of before it was there drop by the threshold
            drop = attributes.real("v_drop")
            drop = None if drop == threshold else drop
        return Lif(name, (proto.input[0],), self.define(proto), tau, threshold, reset, decay, drop)

    def li(self, proto: onnx.NodeProto, name: str, attributes: Attributes) -> Node:
        self.check_potential(proto, name)
        tau, decay = attributes.real("tau"), bool(attributes.integer("decay_input"))
        return Li(name, (proto.input[0],), self.define(proto), tau, decay)

    def max_pool(self, proto: onnx.NodeProto, name: str, attributes: Attributes) -> Node:
        kernel, strides = self.windows(proto, name, attributes)
        pads = attributes.integers("pads")
        timed = self.has_time(proto)
        if timed and (len(pads) != 6 or pads[0] or pads[3]):
            raise ModelError(f"layer {name}: pads over time or channels")
        pads = quad(pads[1:3] + pads[4:6] if timed else pads, name)
        return MaxPool(name, (proto.input[0],), self.define(proto), kernel, strides, pads)

    def avg_pool(self, proto: onnx.NodeProto, name: str, attributes: Attributes) -> Node:
        kernel, strides = self.windows(proto, name, attributes)
        return AvgPool(name, (proto.input[0],), self.define(proto), kernel, strides)

    def windows(
        self, proto: onnx.NodeProto, name: str, attributes: Attributes
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return kernel and strides of a pooling, without the leading 1 of a timed one."""
        kernel, strides = attributes.integers("kernel_shape"), attributes.integers("strides")
        if self.has_time(proto):
            if kernel[:1] != (1,) or strides[:1] != (1,):
                raise ModelError(f"layer {name}: a pooling window may not span timesteps or channels")
            kernel, strides = kernel[1:], strides[1:]
        if len(kernel) != 2 or len(strides) != 2:
            raise ModelError(f"layer {name}: expected a two-dimensional pooling window")
        return (kernel[0], kernel[1]), (strides[0], strides[1])

    def add(self, proto: onnx.NodeProto, name: str, _: Attributes) -> Node:
        return Add(name, (proto.input[0], proto.input[1]), self.define(proto))

    def flatten(self, proto: onnx.NodeProto, name: str, _: Attributes) -> Node:
        timed = self.kind(proto).timed
        expected = [0, 0, -1] if self.has_time(proto) else [0, -1]
        if self.whole_numbers(proto.input[1], name) != expected:
            raise ModelError(f"layer {name}: Reshape must flatten the image, that is to {expected}")
        return Flatten(name, (proto.input[0],), self.define(proto, _Kind(1, timed)))

    def both(self, proto: onnx.NodeProto, name: str, _: Attributes) -> Node:
        inputs = (proto.input[0], proto.input[1])
        return And(name, inputs, self.define(proto), negated=proto.op_type == AND_NOT)

    def concat(self, proto: onnx.NodeProto, name: str, attributes: Attributes) -> Node:
        axis, expected = attributes.integer("axis"), -self.kind(proto).dims
        if axis != expected:
            raise ModelError(
                f"layer {name}: Concat must join channels or features, that is axis {expected}, got {axis}"
            )
        return Concat(name, tuple(proto.input), self.define(proto))

    def unsqueeze(self, proto: onnx.NodeProto, name: str, _: Attributes) -> Node:
        if self.whole_numbers(proto.input[1], name) != [-2]:
            raise ModelError(f"layer {name}: Unsqueeze must make images of one row, that is axes [-2]")
        dims, timed = self.kind(proto)
        return Unsqueeze(name, (proto.input[0],), self.define(proto, _Kind(dims + 1, timed)))

    def repeat(self, proto: onnx.NodeProto, name: str, _: Attributes) -> Node:
        if proto.input[1] != TIMESTEPS:
            raise ModelError(f"layer {name}: must repeat by {TIMESTEPS}, got {proto.input[1]!r}")
        return Repeat(name, (proto.input[0],), self.define(proto, _Kind(self.kind(proto).dims, timed=True)))


_READERS: dict[tuple[str, str], Callable[[_Reader, onnx.NodeProto, str, Attributes], Node]] = {
    (DOMAIN, SPARSE_CONV): _Reader.conv,
    (DOMAIN, SPARSE_LINEAR): _Reader.linear,
    (DOMAIN, LIF): _Reader.lif,
    (DOMAIN, LI): _Reader.li,
    (DOMAIN, LIF_STEP): _Reader.lif,
    (DOMAIN, LI_STEP): _Reader.li,
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
    **{SPARSE_CONV: 5, SPARSE_LINEAR: 5, REPEAT: 2, AND: 2, AND_NOT: 2, LIF_STEP: 2, LI_STEP: 2},
    **{"Add": 2, "Reshape": 2, "Unsqueeze": 2},
}  # 1 for all other operators

_OVERLOADS = {
    **dict.fromkeys((LIF, LIF_STEP), (HARD_RESET, SOFT_RESET)),
    **dict.fromkeys((SPARSE_CONV, SPARSE_LINEAR), ("", SCALED)),
}  # empty for all other operators
