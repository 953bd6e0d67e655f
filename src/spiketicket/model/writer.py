"""Write a sparse graph as an ONNX model, one file (docs/formats.md)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from spiketicket import __version__
from spiketicket.errors import InputError
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
from spiketicket.model.functions import DENSE_CONV, DENSE_LINEAR, functions
from spiketicket.model.metadata import add_prefix
from spiketicket.model.names import (
    AND,
    AND_NOT,
    DOMAIN,
    DOMAIN_VERSION,
    HARD_RESET,
    INPUT,
    IR_VERSION,
    LI,
    LI_STEP,
    LIF,
    LIF_STEP,
    LOGITS,
    LOGITS_T,
    OPSET,
    OPSETS,
    PRODUCER,
    REPEAT,
    SCALED,
    SOFT_RESET,
    SPARSE_CONV,
    SPARSE_LINEAR,
    TIMESTEPS,
    potential,
)


def to_onnx(graph: Graph, *, dense: bool = False, step: bool = False, opset: int = OPSET) -> onnx.ModelProto:
    """Return the model of `graph`: CSR weights and the domain's operators or, if `dense`, plain standard ONNX.

    The inputs are `input` float32 `[N, *input_shape]` and `timesteps`, an int64 scalar with a default; for a graph with
    a timed input, `input` `[T, N, *input_shape]` alone (the default T is in the metadata). The outputs are `logits`
    `[N, classes]` (mean over time) and `logits_t` `[T, N, classes]`.

    With `step`, the model computes one timestep per call: its inputs are `input` `[N, *input_shape]` and, for each
    layer of neurons, `v_<layer>`, the potentials above rest; its outputs are `logits` `[N, classes]` of that timestep
    and `v_<layer>_out`. N and T are free unless the graph fixes them. Raises InputError for an opset in which the
    operators cannot be written.
    """
    if opset not in OPSETS:
        raise InputError(f"opset must be from {OPSETS.start} to {OPSETS.stop - 1}, got {opset!r}")
    writer = _Writer(graph.stepped() if step else graph, dense, step)
    for node in writer.graph.nodes:
        writer.add(node)
    if not step:
        mean = "mean_over_time"
        while mean in {node.name for node in writer.nodes}:
            mean += "_"
        axes = writer.tensor(f"{mean}.axes", np.array([0]))
        writer.node("ReduceMean", [LOGITS_T, axes], LOGITS, mean, keepdims=0)
    used = {(node.op_type, node.overload) for node in writer.nodes if node.domain == DOMAIN}
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    model = helper.make_model(
        helper.make_graph(writer.nodes, "spiketicket", writer.inputs(), writer.outputs(), writer.tensors),
        functions=[function for key, function in functions(opset).items() if key in used],
        opset_imports=opsets,
        ir_version=max(IR_VERSION, helper.find_min_ir_version_for(opsets[:1])),
    )
    note(model, graph.metadata | ({TIMESTEPS: str(graph.timesteps)} if graph.timed_input or step else {}))
    return onnx.inliner.inline_local_functions(model) if dense else model


def note(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Put what is known of a network into the file."""
    model.producer_name, model.producer_version = PRODUCER, __version__
    helper.set_model_props(model, add_prefix(metadata))


@dataclass
class _Writer:
    graph: Graph
    dense: bool
    step: bool
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        neurons = [node for node in self.graph.nodes if isinstance(node, Lif | Li)] if self.step else []
        self.potentials = {name: node for node in neurons for name in potential(node.name)}
        if not self.graph.timed_input:
            self.tensor(TIMESTEPS, np.array(self.graph.timesteps, dtype=np.int64))

    def ahead(self, *, timed: bool) -> list[int | str]:
        """Return the dimensions before the shape of the file's inputs and outputs."""
        batch = self.graph.batch or "N"
        return [self.graph.timesteps if self.graph.fixed_timesteps else "T", batch] if timed else [batch]

    def inputs(self) -> list[onnx.ValueInfoProto]:
        lead = self.ahead(timed=self.graph.timed_input and not self.step)
        inputs = [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [*lead, *self.graph.input_shape])]
        if not self.graph.timed_input and not self.graph.fixed_timesteps:
            inputs.append(helper.make_tensor_value_info(TIMESTEPS, TensorProto.INT64, []))
        return inputs + [self.potential(name, node) for name, node in list(self.potentials.items())[::2]]

    def outputs(self) -> list[onnx.ValueInfoProto]:
        batch, classes = self.ahead(timed=False), self.graph.classes
        outputs = [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, [*batch, classes])]
        if not self.step:
            lead = self.ahead(timed=True)
            outputs.append(helper.make_tensor_value_info(LOGITS_T, TensorProto.FLOAT, [*lead, classes]))
        return outputs + [self.potential(name, node) for name, node in list(self.potentials.items())[1::2]]

    def potential(self, name: str, node: Node) -> onnx.ValueInfoProto:
        shape = [*self.ahead(timed=False), *self.graph.values[node.output].shape]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    def tensor(self, name: str, array: NDArray[np.generic]) -> str:
        self.tensors.append(numpy_helper.from_array(array, name))
        return name

    def node(
        self, op: str, inputs: list[str], output: str | list[str], name: str, domain: str = "", **attributes: Any
    ) -> None:
        outputs = [output] if isinstance(output, str) else output
        self.nodes.append(helper.make_node(op, inputs, outputs, name, domain=domain, **attributes))

    def rename(self, value: str) -> str:
        """Return the name of a value in the file. Only the file's inputs and outputs have fixed names."""
        if value in (self.graph.input, self.graph.output):
            return INPUT if value == self.graph.input else LOGITS if self.step else LOGITS_T
        fixed = value in (INPUT, TIMESTEPS, LOGITS, LOGITS_T) or value in self.potentials
        return f"{value}_" if fixed else value

    def neurons(self, op: str, step_op: str, node: Lif | Li, x: list[str], output: str, **attributes: Any) -> None:
        """Add the node of a neuron layer, for all timesteps, or for one with the potentials as input and output."""
        if self.step:
            before, after = potential(node.name)
            self.node(step_op, [*x, before], [output, after], node.name, DOMAIN, **attributes)
        else:
            self.node(op, x, output, node.name, DOMAIN, **attributes)

    def add(self, node: Node) -> None:
        x, output = [self.rename(value) for value in node.inputs], self.rename(node.output)
        timed = self.graph.values[node.inputs[0]].timed and not self.step
        lead = [1] if timed else []  # a pooling window of one timestep
        match node:
            case Conv():
                self.node(
                    DENSE_CONV if self.dense else SPARSE_CONV,
                    x + self.weight(node),
                    output,
                    node.name,
                    DOMAIN,
                    strides=node.strides,
                    pads=node.pads,
                    dilations=node.dilations,
                    group=node.group,
                    **self.storage(node),
                )
            case Linear():
                op = DENSE_LINEAR if self.dense else SPARSE_LINEAR
                self.node(op, x + self.weight(node), output, node.name, DOMAIN, **self.storage(node))
            case Lif():
                hard = node.v_reset is not None
                reset = {"v_reset": float(node.v_reset)} if node.v_reset is not None else {"v_drop": float(node.drop)}
                self.neurons(
                    LIF,
                    LIF_STEP,
                    node,
                    x,
                    output,
                    overload=HARD_RESET if hard else SOFT_RESET,
                    tau=float(node.tau),
                    v_threshold=float(node.v_threshold),
                    decay_input=int(node.decay_input),
                    **reset,
                )
            case Li():
                leak = {"tau": float(node.tau), "decay_input": int(node.decay_input)}
                self.neurons(LI, LI_STEP, node, x, output, **leak)
            case MaxPool():
                # On [T, N, C, H, W] this is a 3-d pooling whose batch is T and whose depth is C.
                top, left, bottom, right = node.pads
                zero = [0] if timed else []
                self.node(
                    "MaxPool",
                    x,
                    output,
                    node.name,
                    kernel_shape=[*lead, *node.kernel],
                    strides=[*lead, *node.strides],
                    pads=[*zero, top, left, *zero, bottom, right],
                )
            case AvgPool():
                self.node(
                    "AveragePool",
                    x,
                    output,
                    node.name,
                    kernel_shape=[*lead, *node.kernel],
                    strides=[*lead, *node.strides],
                )
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
            arrays = {"weight": weight.to_dense(), "bias": node.bias}
        else:
            arrays = {"values": weight.values, "indices": weight.indices, "indptr": weight.indptr, "bias": node.bias}
            if weight.scales is not None:
                arrays["scales"] = weight.scales
        return [self.tensor(f"{name}.{key}", array) for key, array in arrays.items()]

    def storage(self, node: Conv | Linear) -> dict[str, Any]:
        scaled = {} if node.weight.scales is None else {"overload": SCALED}
        return {} if self.dense else {"weight_shape": node.weight.shape, **scaled}
