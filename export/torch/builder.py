"""Builds a sparse graph node by node, and knows the shape of every value as it goes."""

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

INPUT = ":input"  # no layer is called so


class Builder:
    """Nodes in order of execution. Whoever adds one gives names and weights; shapes follow from graph.py's rules."""

    def __init__(self, input_shape: tuple[int, ...], timed_input: bool, reserved: Iterable[str] = ()) -> None:
        """`reserved`: names that only their owners may have, once they are taken out of it."""
        self.reserved = set(reserved)
        self.input_shape, self.timed_input = input_shape, timed_input
        self.values = {INPUT: Value(input_shape, timed_input, spikes=False)}
        self.nodes: list[Node] = []
        self._scales: dict[str, tuple[Array, Array]] = {}  # by the value of a scale: factors and bias in float64
        self._same: dict[Any, str] = {}  # what computes without weights and state -> its value
        self.made: dict[tuple[str, str], str] = {}  # a functional layer and its input -> its value
        self._seen_as: dict[str, tuple[int, ...]] = {}  # the shape in torch, where it is another

    def shape(self, value: str) -> tuple[int, ...]:
        return self.values[value].shape

    def torch_shape(self, value: str) -> tuple[int, ...]:
        """The shape in torch, which knows nothing of a signal's one row."""
        shape = self._seen_as.get(value, self.shape(value))
        return (shape[0], shape[2]) if len(self.input_shape) == 2 and len(shape) == 3 else shape

    def view(self, value: str, shape: tuple[int, ...]) -> str:
        self._seen_as[value] = shape
        return value

    def unknown(self, shape: tuple[int, ...], like: str) -> str:
        """A value that no node computes, of a graph that will never be finished."""
        name = self.unique("unknown")
        self.values[name] = Value(shape, self.values[like].timed, spikes=False)
        return name

    def unique(self, name: str) -> str:
        """`name`, or with a number behind it where a layer or value is called so already."""
        candidate, count = name, 1
        while candidate in self.values or candidate in self.reserved:
            candidate, count = f"{name}.{count}", count + 1
        return candidate

    def emit(self, node: Node) -> str:
        """Append `node`, whose name and output are free; returns its output. Raises ModelError where it misfits."""
        value = infer(node, [self.values[name] for name in node.inputs])
        key = None if isinstance(node, Conv | Linear | Lif | Li) else _without_names(node)
        if key is not None and key in self._same:
            return self._same[key]
        self.values[node.output] = value
        self.nodes.append(node)
        if key is not None:
            self._same[key] = node.output
        return node.output

    def timed(self, value: str) -> str:
        """`value` at every timestep: what is computed once per input is repeated."""
        return value if self.values[value].timed else self._derive(Repeat, value, "repeat")

    def alike(self, values: list[str]) -> list[str]:
        """All of them timed, if any is."""
        return [self.timed(v) for v in values] if any(self.values[v].timed for v in values) else values

    def image(self, value: str) -> str:
        """`value` as images: a signal `[C, L]` as `[C, 1, L]`."""
        return self._derive(Unsqueeze, value, "unsqueeze") if len(self.shape(value)) == 2 else value

    def images(self, values: list[str]) -> list[str]:
        """All of them as images, if any of a network for signals is."""
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
        """A convolution of images with the nonzeros of `weight` `[out, C / group, kh, kw]`."""
        name = self.unique(name)
        packed, shift = Csr.from_dense(weight), _bias(bias, len(weight))
        return self.emit(Conv(name, (x,), name, packed, shift, strides, pads, dilations, group))

    def linear(self, name: str, x: str, weight: Array | Csr, bias: Array | None = None) -> str:
        """`x @ weight.T + bias` of features, with the nonzeros of `weight` `[out, F]`."""
        name = self.unique(name)
        packed = weight if isinstance(weight, Csr) else Csr.from_dense(weight)
        return self.emit(Linear(name, (x,), name, packed, _bias(bias, packed.rows)))

    def scale(self, name: str, x: str, factors: Array, bias: Array) -> str:
        """Every channel of images, or every feature, by a factor of its own, plus a bias.

        It becomes part of the layer before, where nothing else reads that, and a layer of its own otherwise."""
        channels = len(factors)
        if len(self.shape(x)) == 1:
            out = self.linear(name, x, _diagonal(factors), bias)
        else:
            out = self.conv(name, x, factors.reshape(channels, 1, 1, 1), bias, group=channels)
        self._scales[out] = factors, bias
        return out

    def graph(self, output: str, timesteps: int, metadata: dict[str, str]) -> Graph:
        """The finished graph, scales folded in float64; nodes that nothing reads are left out."""
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
    """The layer with its outputs scaled and shifted: in float64, rounded once."""
    rows = node.weight.row_indices
    scaled = node.weight.values.astype(np.float64) * factors[rows]
    weight = replace(node.weight, values=_checked(scaled, node.name)).without_zeros()
    return replace(node, weight=weight, bias=_checked(node.bias.astype(np.float64) * factors + bias, node.name))


def _without_names(node: Node) -> Any:
    settings = {f.name: getattr(node, f.name) for f in fields(node) if f.name not in ("name", "output")}
    return type(node), *settings.items()


def _needed(nodes: list[Node], output: str) -> tuple[Node, ...]:
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
