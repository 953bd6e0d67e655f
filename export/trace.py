"""Torch network -> sparse graph: trace the modules, fold batch norm, pack the survivors as CSR."""

import operator
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from spikingjelly.activation_based import neuron
from torch import fx, nn

from spiketicket.csr import Csr
from spiketicket.errors import ModelError
from spiketicket.graph import Add, AvgPool, Conv, Flatten, Graph, Lif, Linear, MaxPool, Node, Repeat
from spiketicket.train import layers

Array = NDArray[np.float64]


def trace(network: nn.Module, input_shape: tuple[int, ...], metadata: dict[str, str], values: str = "float32") -> Graph:
    """The graph of a network in evaluation mode, batch norm folded in float64; zero weights are dropped.

    `values`: float32 or float16, the type of the weights in the file. Raises ModelError for a module
    or operation that has no place in the graph.
    """
    if network.training:
        raise ModelError("export needs the network in evaluation mode: call network.eval()")
    tracer = _Tracer()
    fx_graph = tracer.trace(network)
    modules = dict(network.named_modules())
    builder = _Builder()
    for node in fx_graph.nodes:
        builder.add(node, modules)
    if builder.timesteps is None:
        raise ModelError("the network never repeats its input over time: no spiketicket.train.layers.Repeat in it")
    return Graph(
        builder.input,
        input_shape,
        tuple(_cast(node, values) for node in builder.nodes),
        builder.output,
        builder.timesteps,
        metadata,
    )


class _Tracer(fx.Tracer):
    """Stops at modules that have no submodules, and at neurons (which hold their surrogate)."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, neuron.BaseNode) or not any(m.children())


class _Builder:
    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.value_of: dict[fx.Node, str] = {}
        self.maker: dict[str, int] = {}  # value -> place of the node that computes it
        self.readers: dict[fx.Node, int] = {}
        self.input = self.output = ""
        self.timesteps: int | None = None

    def add(self, node: fx.Node, modules: dict[str, nn.Module]) -> None:
        self.readers[node] = len(node.users)
        if node.op == "placeholder":
            self.input = self.value_of[node] = node.name
        elif node.op == "output":
            self.output = self.value(node.args[0])
        elif node.op == "call_module":
            self.add_module(node, modules[str(node.target)], str(node.target))
        elif node.op == "call_function" and node.target in (operator.add, torch.add) and not node.kwargs:
            self.emit(node, Add(node.name, (self.value(node.args[0]), self.value(node.args[1])), node.name))
        else:
            raise ModelError(f"operation {node.target} has no place in a spiking graph")

    def add_module(self, node: fx.Node, module: nn.Module, name: str) -> None:
        x = self.value(node.args[0])
        if isinstance(module, nn.Identity | nn.Dropout):
            self.value_of[node] = x
        elif isinstance(module, nn.BatchNorm2d):
            self.fold(node, module, name)
        else:
            convert = next((rule for kind, rule in _RULES if isinstance(module, kind)), None)
            if convert is None:
                raise ModelError(f"layer {name}: a {type(module).__name__} has no place in a spiking graph")
            self.emit(node, convert(module, name, x, node.name))
            if isinstance(module, layers.Repeat):
                self.timesteps = module.timesteps

    def emit(self, node: fx.Node, made: Node) -> None:
        self.value_of[node] = made.output
        self.maker[made.output] = len(self.nodes)
        self.nodes.append(made)

    def value(self, node: object) -> str:
        if not isinstance(node, fx.Node):
            raise ModelError(f"a constant operand {node!r} has no place in a spiking graph")
        return self.value_of[node]

    def fold(self, node: fx.Node, norm: nn.BatchNorm2d, name: str) -> None:
        """Scale the convolution before a batch norm, and move its bias."""
        source = node.args[0]
        assert isinstance(source, fx.Node)
        place = self.maker.get(self.value(source))
        conv = self.nodes[place] if place is not None else None
        if not isinstance(conv, Conv) or self.readers[source] != 1 or place is None:
            raise ModelError(f"layer {name}: a batch norm can only follow a convolution that nothing else reads")
        if norm.running_mean is None or norm.running_var is None:
            raise ModelError(f"layer {name}: a batch norm without running statistics cannot be folded")
        std = np.sqrt(_array(norm.running_var) + norm.eps)
        gamma = _array(norm.weight) if norm.affine else np.ones_like(std)
        beta = _array(norm.bias) if norm.affine else np.zeros_like(std)
        scale = gamma / std
        weight = conv.weight.to_dense("float64") * scale[:, None, None, None]
        bias = (conv.bias.astype(np.float64) - _array(norm.running_mean)) * scale + beta
        self.nodes[place] = Conv(
            conv.name, conv.inputs, conv.output, Csr.from_dense(weight), bias.astype(np.float32),
            conv.strides, conv.pads, conv.dilations, conv.group,
        )  # fmt: skip
        self.value_of[node] = conv.output


def _conv(module: nn.Conv2d, name: str, x: str, out: str) -> Node:
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise ModelError(f"layer {name}: only numeric zero padding can be exported")
    vertical, horizontal = _pair(module.padding)
    bias = np.zeros(module.out_channels) if module.bias is None else _array(module.bias)
    return Conv(
        name, (x,), out, Csr.from_dense(_array(module.weight)), bias.astype(np.float32),
        _pair(module.stride), (vertical, horizontal, vertical, horizontal), _pair(module.dilation), module.groups,
    )  # fmt: skip


def _linear(module: nn.Linear, name: str, x: str, out: str) -> Node:
    bias = np.zeros(module.out_features) if module.bias is None else _array(module.bias)
    return Linear(name, (x,), out, Csr.from_dense(_array(module.weight)), bias.astype(np.float32))


def _lif(module: neuron.LIFNode, name: str, x: str, out: str) -> Node:
    reset = None if module.v_reset is None else float(module.v_reset)
    return Lif(name, (x,), out, float(module.tau), float(module.v_threshold), reset, bool(module.decay_input))


def _max_pool(module: nn.MaxPool2d, name: str, x: str, out: str) -> Node:
    if _pair(module.dilation) != (1, 1) or module.ceil_mode:
        raise ModelError(f"layer {name}: max-pooling with dilation or ceil_mode cannot be exported")
    vertical, horizontal = _pair(module.padding)
    return MaxPool(
        name,
        (x,),
        out,
        _pair(module.kernel_size),
        _pair(module.stride),
        (vertical, horizontal, vertical, horizontal),
    )


def _avg_pool(module: nn.AvgPool2d, name: str, x: str, out: str) -> Node:
    if _pair(module.padding) != (0, 0) or module.ceil_mode or module.divisor_override:
        raise ModelError(f"layer {name}: average pooling with padding, ceil_mode or a divisor cannot be exported")
    return AvgPool(name, (x,), out, _pair(module.kernel_size), _pair(module.stride))


def _flatten(module: nn.Flatten, name: str, x: str, out: str) -> Node:
    if (module.start_dim, module.end_dim) != (1, -1):
        raise ModelError(f"layer {name}: Flatten must start at dimension 1 and end at the last")
    return Flatten(name, (x,), out)


_RULES: tuple[tuple[type[nn.Module], Callable[..., Node]], ...] = (
    (nn.Conv2d, _conv),
    (nn.Linear, _linear),
    (neuron.LIFNode, _lif),
    (nn.MaxPool2d, _max_pool),
    (nn.AvgPool2d, _avg_pool),
    (nn.Flatten, _flatten),
    (layers.Repeat, lambda module, name, x, out: Repeat(name, (x,), out)),
)


def _cast(node: Node, values: str) -> Node:
    """The node with its weights in the type that the file stores: the last step, so that they round once."""
    return replace(node, weight=node.weight.astype(values)) if isinstance(node, Conv | Linear) else node


def _array(tensor: torch.Tensor) -> Array:
    return tensor.detach().cpu().numpy().astype(np.float64)


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
