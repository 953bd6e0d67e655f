"""Plain ONNX for one fixed T, with time folded into the batch, for engines without Scan, functions or sparse weights.

Weighted layers and poolings run once on `[T * N, ...]`; a neuron is T copies of a few elementwise operators on slices
of it. The potential is stored as w = u / gain, where u is the potential above rest, and gain is 1 / tau if the input
decays and 1 otherwise. This saves multiplying every current by the gain:

    h_t = keep w_(t-1) + x_t,   s_t = h_t >= level,   w_t = (1 - s_t) h_t        hard reset
                                                      w_t = h_t - s_t drop       soft reset

with keep = 1 - 1 / tau, level = (v_threshold - rest) / gain and drop divided by gain. This equals spiketicket.graph.Lif
up to rounding. The output of a leaky integrator is gain h.

In onnxruntime at batch 32, Sub and Mul for the reset take half the time of a Where, and one convolution per timestep is
slower than the folded one.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from spiketicket.errors import ModelError
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
from spiketicket.model.names import INPUT, LOGITS, LOGITS_T, TIMESTEPS
from spiketicket.model.writer import note

OPSET, IR_VERSION = 13, 8  # the oldest that have these operators: DeepSparse reads no newer ones, TensorRT all from 9
FREE = "N"  # the name of a batch size that is not fixed


@dataclass(frozen=True)
class Neuron:
    """The parameters of a neuron in the equations of the module's docstring."""

    keep: float
    gain: float
    level: float = 0.0  # the threshold of w
    drop: float = 0.0  # what a soft reset subtracts from w

    @classmethod
    def of(cls, node: Lif | Li) -> "Neuron":
        if isinstance(node, Li):
            return cls(node.keep, node.gain)
        return cls(node.keep, node.gain, node.level / node.gain, node.drop / node.gain)


def unrolled_onnx(
    graph: Graph,
    timesteps: int,
    batch: int | None,
    *,
    half: bool = False,
    outputs: tuple[str, ...] = (LOGITS, LOGITS_T),
) -> onnx.ModelProto:
    """Return the network of `graph` over `timesteps` as plain ONNX, for `batch` images at once (None: any number).

    The input `input` is float32 `[N, *input_shape]`, or `[T, N, *input_shape]` if the graph's input is timed. `outputs`
    are `logits` `[N, classes]` (the mean over time) and `logits_t` `[T, N, classes]`, or one of them. The spikes of a
    LIF layer are the tensor `value:` + its output, `[T * N, ...]`. With `half`, the inputs, weights and outputs of
    weighted layers are float16; neurons, poolings and sums stay float32. The graph's metadata and T are stored in the
    file. Raises ModelError if a weight or bias is too large for float16.
    """
    writer = _Writer(graph, timesteps, batch, half)
    size = FREE if batch is None else batch
    shape = [size, *graph.input_shape]
    if graph.timed_input:
        shape.insert(0, timesteps)
        writer.reshape(INPUT, writer.name(graph.input), [writer.folded, *graph.input_shape])
    for node in graph.nodes:
        writer.add(node)
    logits_t = writer.every_step(writer.name(graph.output))
    writer.reshape(logits_t, LOGITS_T, [timesteps, -1 if batch is None else batch, graph.classes])
    if LOGITS in outputs:
        writer.node("ReduceMean", [LOGITS_T], LOGITS, axes=[0], keepdims=0)
    results = {LOGITS: [size, graph.classes], LOGITS_T: [timesteps, size, graph.classes]}
    model = helper.make_model(
        helper.make_graph(
            writer.nodes,
            "unrolled",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, results[name]) for name in outputs],
            list(writer.tensors.values()),
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    note(model, graph.metadata | {TIMESTEPS: str(timesteps)})
    onnx.checker.check_model(model)
    return model


@dataclass
class _Writer:
    """The nodes and constant tensors of an unrolled graph under construction."""

    graph: Graph
    timesteps: int
    batch: int | None
    half: bool
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: dict[str, onnx.TensorProto] = field(default_factory=dict)
    constant: dict[str, str] = field(default_factory=dict)  # repeated value, not yet written -> its static value
    halves: dict[str, str] = field(default_factory=dict)  # value -> its float16 copy, if there is one

    def __post_init__(self) -> None:
        self.tensor("one", np.ones((), np.float32))

    @property
    def folded(self) -> int:
        """T * N as a size for Reshape, where -1 is computed from the other sizes."""
        return -1 if self.batch is None else self.timesteps * self.batch

    def name(self, value: str) -> str:
        """Return the tensor of a value of the graph.

        The prefix keeps it apart from the file's input and outputs and from the slices of neurons.
        """
        return INPUT if value == self.graph.input and not self.graph.timed_input else f"value:{value}"

    def tensor(self, name: str, array: NDArray[Any]) -> str:
        self.tensors[name] = numpy_helper.from_array(array, name)
        return name

    def node(self, op: str, inputs: list[str], *outputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, list(outputs), f"{op}:{outputs[0]}", **attributes))
        return outputs[0]

    def reshape(self, x: str, out: str, shape: list[int]) -> str:
        return self.node("Reshape", [x, self.tensor(f"{out}.shape", np.array(shape, np.int64))], out)

    def add(self, node: Node) -> None:
        """Translate one node of the graph."""
        inputs, out = [self.name(value) for value in node.inputs], self.name(node.output)
        if isinstance(node, Lif | Li):
            self.neuron(node, out)
            return
        if isinstance(node, Repeat):
            self.constant[out] = inputs[0]
            return
        inputs = [self.every_step(value) for value in inputs]
        x = inputs[0]
        match node:
            case Conv():
                self.weighted(
                    "Conv",
                    node,
                    x,
                    out,
                    strides=node.strides,
                    pads=node.pads,
                    dilations=node.dilations,
                    group=node.group,
                    kernel_shape=node.weight.shape[2:],
                )
            case Linear():
                self.weighted("Gemm", node, x, out, transB=1)
            case MaxPool():
                self.node("MaxPool", [x], out, kernel_shape=node.kernel, strides=node.strides, pads=node.pads)
            case AvgPool():
                self.node("AveragePool", [x], out, kernel_shape=node.kernel, strides=node.strides)
            case Add():
                self.node("Add", inputs, out)
            case And():
                other = self.node("Sub", ["one", inputs[1]], f"{node.name}.not") if node.negated else inputs[1]
                self.node("Mul", [x, other], out)
            case Concat():
                self.node("Concat", inputs, out, axis=1)
            case Unsqueeze():
                self.node("Unsqueeze", [x, self.tensor(f"{node.name}.axes", np.array([2], np.int64))], out)
            case Flatten():
                self.node("Flatten", [x], out)
            case _:
                raise TypeError(f"no ONNX form for {type(node).__name__}")

    def every_step(self, value: str) -> str:
        """Return `value` as `[T * N, ...]`.

        A repeated value is written only when something other than a neuron reads it: neurons use the static one.
        """
        if value not in self.constant:
            return value
        return self.node("Concat", [self.constant.pop(value)] * self.timesteps, value, axis=0)

    def weighted(self, op: str, node: Conv | Linear, x: str, out: str, **attributes: Any) -> None:
        """Add a weighted layer, with casts to and from float16 around it if sums are in float16."""
        kind = np.float16 if self.half else np.float32
        weight = [
            self.tensor(f"{node.name}.{key}", _cast(kind, node, array))
            for key, array in (("weight", node.weight.to_dense()), ("bias", node.bias))
        ]
        if not self.half:
            self.node(op, [x, *weight], out, **attributes)
            return
        if x not in self.halves:
            self.halves[x] = self.node("Cast", [x], f"{x}.half", to=TensorProto.FLOAT16)
        sums = self.node(op, [self.halves[x], *weight], f"{out}.half", **attributes)
        self.halves[out] = sums
        self.node("Cast", [sums], out, to=TensorProto.FLOAT)

    def neuron(self, node: Lif | Li, out: str) -> None:
        """Add a neuron: for each timestep charge, fire and reset, then the spikes (or potentials) joined over time."""
        neuron = Neuron.of(node)
        w, results = "", []
        for t, x in enumerate(self.steps(node)):
            prefix = f"{node.name}.{t}"
            h = self.charge(node, neuron, w, x, prefix)
            if isinstance(node, Li):
                w = h
                results.append(h)
                continue
            fired = self.node("GreaterOrEqual", [h, self.number(node, "level", neuron.level)], f"{prefix}.fired")
            spikes = self.node("Cast", [fired], f"{prefix}.s" if self.timesteps > 1 else out, to=TensorProto.FLOAT)
            results.append(spikes)
            if t < self.timesteps - 1:
                w = self.reset(node, neuron, h, spikes, prefix)
        if isinstance(node, Li):
            joined = self.join(node, results, f"{node.name}.w")
            self.node("Mul", [joined, self.number(node, "gain", neuron.gain)], out)
        else:
            self.join(node, results, out)

    def charge(self, node: Lif | Li, neuron: Neuron, w: str, x: str, prefix: str) -> str:
        """Add h = keep w + x and return h. Without a potential from an earlier timestep, it is x."""
        if not w or neuron.keep == 0:
            return x
        kept = (
            w if neuron.keep == 1 else self.node("Mul", [w, self.number(node, "keep", neuron.keep)], f"{prefix}.kept")
        )
        return self.node("Add", [kept, x], f"{prefix}.h")

    def reset(self, node: Lif, neuron: Neuron, h: str, spikes: str, prefix: str) -> str:
        """Add the reset of h where there are spikes, and return w."""
        if node.soft:
            drop = self.node("Mul", [spikes, self.number(node, "drop", neuron.drop)], f"{prefix}.drop")
            return self.node("Sub", [h, drop], f"{prefix}.w")
        return self.node("Mul", [h, self.node("Sub", ["one", spikes], f"{prefix}.rests")], f"{prefix}.w")

    def number(self, node: Node, key: str, value: float) -> str:
        return self.tensor(f"{node.name}.{key}", np.array(value, np.float32))

    def steps(self, node: Lif | Li) -> list[str]:
        """Return the currents of each timestep, `[N, ...]`, or `[1, N, ...]` if the batch size is not fixed.

        In that case T first becomes an axis of its own, because Split needs the sizes of its parts in advance.
        """
        currents = self.name(node.inputs[0])
        if currents in self.constant:
            return [self.constant[currents]] * self.timesteps
        if self.timesteps == 1:
            return [currents]
        if self.batch is None:
            shape = self.graph.values[node.output].shape
            currents = self.reshape(currents, f"{node.name}.timed", [self.timesteps, -1, *shape])
        sizes = self.tensor(f"{node.name}.split", np.array([self.batch or 1] * self.timesteps, np.int64))
        parts = [f"{node.name}.{t}.x" for t in range(self.timesteps)]
        self.node("Split", [currents, sizes], *parts, axis=0)
        return parts

    def join(self, node: Lif | Li, results: list[str], out: str) -> str:
        """Concatenate the timesteps that `steps` split, and return the result, `[T * N, ...]`."""
        if self.timesteps == 1:
            return results[0]
        if self.batch is not None or self.name(node.inputs[0]) in self.constant:
            return self.node("Concat", results, out, axis=0)
        joined = self.node("Concat", results, f"{out}.timed", axis=0)
        return self.reshape(joined, out, [-1, *self.graph.values[node.output].shape])


def _cast(kind: type[np.floating[Any]], node: Conv | Linear, array: NDArray[Any]) -> NDArray[Any]:
    """Return `array` in the type `kind`. Raises ModelError, naming the layer, if a number is too large for it."""
    with np.errstate(over="ignore"):
        result = array.astype(kind)
    if not np.isfinite(result).all():
        raise ModelError(f"layer {node.name}: a weight of {np.abs(array).max():.3g} is too large for {kind.__name__}")
    return result
