"""The rivals' best graph: plain ONNX for one fixed T and batch, time folded into the batch, no Scan.

Weighted layers and poolings run once on `[T * N, ...]`; a LIF is T copies of a few elementwise operators on slices of
it. The potential is kept as w = u / gain (u above rest, gain = 1 / tau where the input decays, else 1), which saves the
multiplication of every current:

    h_t = keep w_(t-1) + x_t,   s_t = h_t >= level / gain,   w_t = (1 - s_t) h_t          hard reset
                                                             w_t = h_t - s_t drop / gain    soft reset

with keep = 1 - 1 / tau and level = v_threshold - rest: spiketicket.graph.Lif up to rounding. (In onnxruntime, at batch
32, difference and product take half the time of a Where; one convolution per timestep instead of a folded one is
slower.)
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from spiketicket.domain import INPUT, LOGITS_T
from spiketicket.graph import Add, AvgPool, Conv, Flatten, Graph, Lif, Linear, MaxPool, Node, Repeat

OPSET, IR_VERSION = 13, 8  # as old as these operators allow: DeepSparse reads no newer ones


@dataclass(frozen=True)
class Neuron:
    """A LIF as the rivals compute it; see the module's text."""

    keep: float
    level: float  # the threshold of w
    drop: float  # what a soft reset subtracts

    @classmethod
    def of(cls, node: Lif) -> "Neuron":
        rest = 0.0 if node.v_reset is None else node.v_reset
        gain = 1 / node.tau if node.decay_input else 1.0
        return cls(1 - 1 / node.tau, (node.v_threshold - rest) / gain, node.drop / gain)


def unrolled_onnx(graph: Graph, timesteps: int, batch: int) -> onnx.ModelProto:
    """Input `input` `[batch, *input_shape]`, output `logits_t` `[timesteps, batch, classes]`."""
    writer = _Writer(graph, timesteps, batch)
    for node in graph.nodes:
        writer.add(node)
    shape = writer.ints("logits_shape", [timesteps, batch, graph.classes])
    writer.node("Reshape", [writer.name(graph.output), shape], LOGITS_T)
    model = helper.make_model(
        helper.make_graph(
            writer.nodes,
            "unrolled",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [batch, *graph.input_shape])],
            [helper.make_tensor_value_info(LOGITS_T, TensorProto.FLOAT, [timesteps, batch, graph.classes])],
            writer.tensors,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model)
    return model


@dataclass
class _Writer:
    graph: Graph
    timesteps: int
    batch: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)
    constant: dict[str, str] = field(default_factory=dict)  # repeated value -> the static value that it repeats

    def __post_init__(self) -> None:
        self.tensor("one", np.ones((), np.float32))

    def name(self, value: str) -> str:
        """Of a value of the graph: apart from the names that the file's input, output and LIF slices have."""
        return INPUT if value == self.graph.input else f"value:{value}"

    def tensor(self, name: str, array: NDArray[Any]) -> str:
        self.tensors.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, name: str, values: list[int]) -> str:
        return self.tensor(name, np.array(values, dtype=np.int64))

    def node(self, op: str, inputs: list[str], *outputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, list(outputs), f"{op}:{outputs[0]}", **attributes))
        return outputs[0]

    def add(self, node: Node) -> None:
        inputs = [self.name(value) for value in node.inputs]
        if not isinstance(node, Lif):
            inputs = [self.every_step(value) for value in inputs]
        x, out = inputs[0], self.name(node.output)
        match node:
            case Conv():
                self.node(
                    "Conv", [x, *self.weight(node)], out, strides=node.strides, pads=node.pads,
                    dilations=node.dilations, group=node.group, kernel_shape=node.weight.shape[2:],
                )  # fmt: skip
            case Linear():
                self.node("Gemm", [x, *self.weight(node)], out, transB=1)
            case Lif():
                self.lif(node, x, out)
            case MaxPool():
                self.node("MaxPool", [x], out, kernel_shape=node.kernel, strides=node.strides, pads=node.pads)
            case AvgPool():
                self.node("AveragePool", [x], out, kernel_shape=node.kernel, strides=node.strides)
            case Add():
                self.node("Add", inputs, out)
            case Flatten():
                self.node("Flatten", [x], out)
            case Repeat():
                self.constant[out] = x
            case _:
                raise TypeError(f"no ONNX form for {type(node).__name__}")

    def every_step(self, value: str) -> str:
        """`value` as `[T * N, ...]`: a repeated one is written out only where something other than a LIF reads it."""
        if value not in self.constant:
            return value
        return self.node("Concat", [self.constant.pop(value)] * self.timesteps, value, axis=0)

    def weight(self, node: Conv | Linear) -> list[str]:
        weight = node.weight.to_dense().astype(np.float32)
        return [self.tensor(f"{node.name}.weight", weight), self.tensor(f"{node.name}.bias", node.bias)]

    def lif(self, node: Lif, currents: str, out: str) -> None:
        neuron, name = Neuron.of(node), node.name
        keep = self.tensor(f"{name}.keep", np.array(neuron.keep, np.float32))
        level = self.tensor(f"{name}.level", np.array(neuron.level, np.float32))
        drop = self.tensor(f"{name}.drop", np.array(neuron.drop, np.float32)) if node.v_reset is None else ""
        w, spikes = "", []
        for t, x in enumerate(self.steps(node.name, currents)):
            here = f"{name}.{t}"
            h = self.node("Add", [self.node("Mul", [w, keep], f"{here}.kept"), x], f"{here}.h") if w else x
            fired = self.node("GreaterOrEqual", [h, level], f"{here}.fired")
            spikes.append(self.node("Cast", [fired], f"{here}.s" if self.timesteps > 1 else out, to=TensorProto.FLOAT))
            if t < self.timesteps - 1:
                if node.v_reset is None:
                    w = self.node("Sub", [h, self.node("Mul", [spikes[-1], drop], f"{here}.dropped")], f"{here}.w")
                else:
                    w = self.node("Mul", [h, self.node("Sub", ["one", spikes[-1]], f"{here}.rests")], f"{here}.w")
        if self.timesteps > 1:
            self.node("Concat", spikes, out, axis=0)

    def steps(self, name: str, currents: str) -> list[str]:
        """The currents of each timestep, `[N, ...]`."""
        if currents in self.constant:
            return [self.constant[currents]] * self.timesteps
        if self.timesteps == 1:
            return [currents]
        parts = [f"{name}.{t}.x" for t in range(self.timesteps)]
        self.node("Split", [currents, self.ints(f"{name}.split", [self.batch] * self.timesteps)], *parts, axis=0)
        return parts
