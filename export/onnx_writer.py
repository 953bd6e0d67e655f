"""Sparse graph -> ONNX model, one file (docs/formats.md)."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from spiketicket import __version__
from spiketicket.domain import (
    AND,
    AND_NOT,
    DOMAIN,
    DOMAIN_VERSION,
    HARD_RESET,
    INPUT,
    IR_VERSION,
    LI,
    LIF,
    LOGITS,
    LOGITS_T,
    METADATA_PREFIX,
    OPSET,
    REPEAT,
    SOFT_RESET,
    SPARSE_CONV,
    SPARSE_LINEAR,
    TIMESTEPS,
)
from spiketicket.export.functions import DENSE_CONV, DENSE_LINEAR, functions
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


def to_onnx(graph: Graph, *, dense: bool = False) -> onnx.ModelProto:
    """The model of `graph`: CSR weights and the domain's operators, or (`dense`) plain standard ONNX.

    Input `input` float32 `[N, *input_shape]` and `timesteps` int64 scalar with a default, or, of a graph with a timed
    input, `input` `[T, N, *input_shape]` alone (the default T stands in the metadata); outputs `logits` `[N, classes]`
    (mean over time) and `logits_t` `[T, N, classes]`.
    """
    writer = _Writer(graph, dense)
    for node in graph.nodes:
        writer.add(node)
    writer.node("ReduceMean", [LOGITS_T, writer.tensor("time_axis", np.array([0]))], LOGITS, LOGITS, keepdims=0)
    used = {(node.op_type, node.overload) for node in writer.nodes if node.domain == DOMAIN}
    model = helper.make_model(
        helper.make_graph(
            writer.nodes,
            "spiketicket",
            _inputs(graph),
            [
                helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["N", graph.classes]),
                helper.make_tensor_value_info(LOGITS_T, TensorProto.FLOAT, ["T", "N", graph.classes]),
            ],
            writer.tensors,
        ),
        functions=[function for key, function in functions().items() if key in used],
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)],
        ir_version=IR_VERSION,
        producer_name="spiketicket",
        producer_version=__version__,
    )
    metadata = graph.metadata | ({TIMESTEPS: str(graph.timesteps)} if graph.timed_input else {})
    helper.set_model_props(model, {METADATA_PREFIX + key: text for key, text in sorted(metadata.items())})
    return onnx.inliner.inline_local_functions(model) if dense else model


def _inputs(graph: Graph) -> list[onnx.ValueInfoProto]:
    free = ["T", "N"] if graph.timed_input else ["N"]
    inputs = [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [*free, *graph.input_shape])]
    if not graph.timed_input:
        inputs.append(helper.make_tensor_value_info(TIMESTEPS, TensorProto.INT64, []))
    return inputs


@dataclass
class _Writer:
    graph: Graph
    dense: bool
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.graph.timed_input:
            self.tensor(TIMESTEPS, np.array(self.graph.timesteps, dtype=np.int64))

    def tensor(self, name: str, array: NDArray[np.generic]) -> str:
        self.tensors.append(numpy_helper.from_array(array, name))
        return name

    def node(self, op: str, inputs: list[str], output: str, name: str, domain: str = "", **attributes: Any) -> None:
        self.nodes.append(helper.make_node(op, inputs, [output], name, domain=domain, **attributes))

    def rename(self, value: str) -> str:
        """Names inside the graph are free; the file's inputs and outputs have fixed ones."""
        if value in (self.graph.input, self.graph.output):
            return INPUT if value == self.graph.input else LOGITS_T
        return f"{value}_" if value in (INPUT, TIMESTEPS, LOGITS, LOGITS_T) else value

    def add(self, node: Node) -> None:
        x, output = [self.rename(value) for value in node.inputs], self.rename(node.output)
        timed = self.graph.values[node.inputs[0]].timed
        lead = [1] if timed else []  # a pooling window of one timestep
        match node:
            case Conv():
                self.node(
                    DENSE_CONV if self.dense else SPARSE_CONV, x + self.weight(node), output, node.name, DOMAIN,
                    strides=node.strides, pads=node.pads, dilations=node.dilations, group=node.group,
                    **self.weight_shape(node),
                )  # fmt: skip
            case Linear():
                op = DENSE_LINEAR if self.dense else SPARSE_LINEAR
                self.node(op, x + self.weight(node), output, node.name, DOMAIN, **self.weight_shape(node))
            case Lif():
                hard = node.v_reset is not None
                reset = {"v_reset": float(node.v_reset)} if node.v_reset is not None else {"v_drop": float(node.drop)}
                self.node(
                    LIF, x, output, node.name, DOMAIN, overload=HARD_RESET if hard else SOFT_RESET,
                    tau=float(node.tau), v_threshold=float(node.v_threshold), decay_input=int(node.decay_input),
                    **reset,
                )  # fmt: skip
            case Li():
                self.node(
                    LI, x, output, node.name, DOMAIN, tau=float(node.tau), decay_input=int(node.decay_input)
                )  # fmt: skip
            case MaxPool():
                # On [T, N, C, H, W] this is a 3-d pooling whose batch is T and whose depth is C.
                top, left, bottom, right = node.pads
                zero = [0] if timed else []
                self.node(
                    "MaxPool", x, output, node.name, kernel_shape=[*lead, *node.kernel],
                    strides=[*lead, *node.strides], pads=[*zero, top, left, *zero, bottom, right],
                )  # fmt: skip
            case AvgPool():
                self.node(
                    "AveragePool", x, output, node.name,
                    kernel_shape=[*lead, *node.kernel], strides=[*lead, *node.strides],
                )  # fmt: skip
            case Add():
                self.node("Add", x, output, node.name)
            case And():
                self.node(AND_NOT if node.negated else AND, x, output, node.name, DOMAIN)
            case Concat():
                # Counted from behind: the same axis whether timed or not.
                self.node("Concat", x, output, node.name, axis=-len(self.graph.values[node.output].shape))
            case Unsqueeze():
                self.node("Unsqueeze", [*x, self.tensor(f"{node.name}.axes", np.array([-2]))], output, node.name)
            case Flatten():
                shape = self.tensor(f"{node.name}.shape", np.array([0, 0, -1] if timed else [0, -1]))
                self.node("Reshape", [*x, shape], output, node.name)
            case Repeat():
                self.node(REPEAT, [*x, TIMESTEPS], output, node.name, DOMAIN)
            case _:
                raise TypeError(f"no ONNX form for {type(node).__name__}")

    def weight(self, node: Conv | Linear) -> list[str]:
        weight, name = node.weight, node.name
        arrays: dict[str, NDArray[Any]]
        if self.dense:
            arrays = {"weight": weight.to_dense()}
        else:
            arrays = {"values": weight.values, "indices": weight.indices, "indptr": weight.indptr}
        return [self.tensor(f"{name}.{key}", array) for key, array in {**arrays, "bias": node.bias}.items()]

    def weight_shape(self, node: Conv | Linear) -> dict[str, Any]:
        return {} if self.dense else {"weight_shape": node.weight.shape}
