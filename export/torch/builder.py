"""Build a sparse graph node by node, with the shape of every value."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spiketicket.csr import Csr, index_type
from spiketicket.errors import ModelError
from spiketicket.graph import Conv, Graph, Li, Lif, Linear, Node, Repeat, Unsqueeze, Value, infer

Array = NDArray[np.float64]

INPUT = ":input"  # the name of the graph's input; no layer can have it


class Builder:
    """A sparse graph under construction: its nodes in order of execution, and the shapes of their values."""

    def __init__(self, input_shape: tuple[int, ...], timed_input: bool, reserved: Iterable[str] = ()) -> None:
        """Start an empty graph. `reserved` holds the names of layers, which `unique` gives to nothing else: a layer's
        own name is taken out of it when the layer is added.
        """
        self.reserved = set(reserved)
        self.input_shape, self.timed_input = input_shape, timed_input
        self.values = {INPUT: Value(input_shape, timed_input, spikes=False)}
        self.nodes: list[Node] = []
        self._scales: dict[str, tuple[Array, Array]] = {}  # output of a scale -> its factors and bias in float64
        self._outputs_by_node: dict[Any, str] = {}  # node without weights and state -> its output
        self.functional_outputs: dict[tuple[str, str], str] = {}  # functional layer, input -> its output
        self._torch_shapes: dict[str, tuple[int, ...]] = {}  # value -> its shape in torch, if that differs

    def shape(self, value: str) -> tuple[int, ...]:
        return self.values[value].shape

    def torch_shape(self, value: str) -> tuple[int, ...]:
        """Return the shape in torch, where a signal is `[C, L]`; in the graph it is an image `[C, 1, L]`."""
        shape = self._torch_shapes.get(value, self.shape(value))
        return (shape[0], shape[2]) if len(self.input_shape) == 2 and len(shape) == 3 else shape

    def view(self, value: str, shape: tuple[int, ...]) -> str:
        """Record that `value` has the given shape in torch; return it."""
        self._torch_shapes[value] = shape
        return value

    def unknown(self, shape: tuple[int, ...], like: str) -> str:
        """Return a value of the given shape that no node computes, for checking the layers behind a refused one."""
        name = self.unique("unknown")
        self.values[name] = Value(shape, self.values[like].timed, spikes=False)
        return name

    def unique(self, name: str) -> str:
        """Return `name`, with a number appended if a layer or value has that name already."""
        candidate, count = name, 1
        while candidate in self.values or candidate in self.reserved:
            candidate, count = f"{name}.{count}", count + 1
        return candidate

    def emit(self, node: Node) -> str:
        """Append `node`, whose name and output must be unique, and return its output.

        If an equal node without weights and state exists, its output is returned instead: the iterations of a loop over
        time repeat such nodes. Raises ModelError if the node does not fit its inputs.
        """
        value = infer(node, [self.values[name] for name in node.inputs])
        key = None if isinstance(node, Conv | Linear | Lif | Li) else _without_names(node)
        if key is not None and key in self._outputs_by_node:
            return self._outputs_by_node[key]
        self.values[node.output] = value
        self.nodes.append(node)
        if key is not None:
            self._outputs_by_node[key] = node.output
        return node.output

    def timed(self, value: str) -> str:
        """Return `value` at every timestep: a static one, which is computed once per input, is repeated."""
        return value if self.values[value].timed else self._derive(Repeat, value, "repeat")

    def with_same_timing(self, values: list[str]) -> list[str]:
        """Return the values, all of them at every timestep if any is."""
        return [self.timed(v) for v in values] if any(self.values[v].timed for v in values) else values

    def image(self, value: str) -> str:
        """Return `value` as images: a signal `[C, L]` becomes `[C, 1, L]`."""
        return self._derive(Unsqueeze, value, "unsqueeze") if len(self.shape(value)) == 2 else value

    def images(self, values: list[str]) -> list[str]:
        """Return the values, all of them as images if the network is for signals and any is an image already."""
        mixed = len(self.input_shape) == 2 and any(len(self.shape(value)) == 3 for value in values)
        return [self.image(value) for value in values] if mixed else values

    def _derive(self, kind: type[Node], value: str, name: str) -> str:
        name = self.unique(name)
        return self.emit(kind(name, (value,), name))

    def conv(
        self,
        name: str,
        x: str,
        weight: Array,
        bias: Array | None = None,
        strides: tuple[int, int] = (1, 1),
        pads: tuple[int, int, int, int] = (0, 0, 0, 0),
        dilations: tuple[int, int] = (1, 1),
        group: int = 1,
    ) -> str:
        """Add a convolution of images with the nonzeros of `weight` `[out, C / group, kh, kw]`; return its output."""
        name = self.unique(name)
        packed, shift = Csr.from_dense(weight), _bias(bias, len(weight))
        return self.emit(Conv(name, (x,), name, packed, shift, strides, pads, dilations, group))

    def linear(self, name: str, x: str, weight: Array | Csr, bias: Array | None = None) -> str:
        """Add `x @ weight.T + bias` of features, with the nonzeros of `weight` `[out, F]`; return its output."""
        name = self.unique(name)
        packed = weight if isinstance(weight, Csr) else Csr.from_dense(weight)
        return self.emit(Linear(name, (x,), name, packed, _bias(bias, packed.rows)))

    def scale(self, name: str, x: str, factors: Array, bias: Array) -> str:
        """Multiply every channel of images, or every feature, by its own factor and add its bias; return the output.

        It is folded into the layer before if nothing else reads that layer's output, otherwise it stays a layer.
        `graph` decides that, when all readers are known.
        """
        channels = len(factors)
        if len(self.shape(x)) == 1:
            out = self.linear(name, x, _diagonal(factors), bias)
        else:
            out = self.conv(name, x, factors.reshape(channels, 1, 1, 1), bias, group=channels)
        self._scales[out] = factors, bias
        return out

    def graph(self, output: str, timesteps: int, metadata: dict[str, str]) -> Graph:
        """Return the finished graph: scales are folded in float64, nodes that the output does not need are left out."""
        nodes = {node.output: node for node in _needed(self.nodes, output)}
        readers = Counter([output, *(name for node in nodes.values() for name in node.inputs)])
        renamed: dict[str, str] = {}
        for value, (factors, bias) in self._scales.items():
            source = nodes[value].inputs[0] if value in nodes else ""
            source = renamed.get(source, source)
            before = nodes.get(source)
            if isinstance(before, Conv | Linear) and readers[source] == 1:
                nodes[source] = _fold(before, factors, bias)
                del nodes[value]
                renamed[value], readers[source] = source, readers[value]
        kept = tuple(replace(n, inputs=tuple(renamed.get(i, i) for i in n.inputs)) for n in nodes.values())
        output = renamed.get(output, output)
        return Graph(INPUT, self.input_shape, kept, output, timesteps, metadata, self.timed_input)


def _fold(node: Conv | Linear, factors: Array, bias: Array) -> Conv | Linear:
    """Return the layer with its outputs scaled and shifted, computed in float64 and rounded once."""
    rows = node.weight.row_indices
    scaled = node.weight.values.astype(np.float64) * factors[rows]
    weight = replace(node.weight, values=_checked(scaled, node.name)).without_zeros()
    return replace(node, weight=weight, bias=_checked(node.bias.astype(np.float64) * factors + bias, node.name))


def _without_names(node: Node) -> Any:
    """Return what tells nodes apart except their names: the type, the inputs and the settings."""
    settings = {f.name: getattr(node, f.name) for f in fields(node) if f.name not in ("name", "output")}
    return type(node), *settings.items()


def _needed(nodes: list[Node], output: str) -> tuple[Node, ...]:
    """Return the nodes that `output` depends on, in their order."""
    read, kept = {output}, []
    for node in reversed(nodes):
        if node.output in read:
            read.update(node.inputs)
            kept.append(node)
    return tuple(reversed(kept))


def _bias(bias: Array | None, rows: int) -> NDArray[np.float32]:
    return np.zeros(rows, np.float32) if bias is None else bias.astype(np.float32)


def _diagonal(factors: Array) -> Csr:
    count = len(factors)
    columns, starts = np.arange(count, dtype=index_type(count)), np.arange(count + 1, dtype=np.int32)
    return Csr(factors.astype(np.float32), columns, starts, (count, count)).without_zeros()


def _checked(array: Array, name: str) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        rounded = array.astype(np.float32)
    if not np.isfinite(rounded).all():
        raise ModelError(f"layer {name}: NaN or infinite after folding the batch norm or scale behind it")
    return rounded
