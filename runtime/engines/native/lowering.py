"""Lower the sparse graph to the C++ network of `csrc/` (docs/engine.md)."""

from collections import Counter
from math import prod

import numpy as np

from spiketicket.errors import InputError, ModelError
from spiketicket.graph import (
    Add,
    And,
    AvgPool,
    Concat,
    Conv,
    Flatten,
    Li,
    Lif,
    Linear,
    MaxPool,
    Node,
    Repeat,
    Unsqueeze,
)
from spiketicket.runtime.engine import Floats, KernelChoice, Model, Options, image_shape
from spiketicket.runtime.engines.native.planner import decide
from spiketicket.runtime.engines.rates import rates

try:
    from spiketicket.runtime.engines.native import _native as _native  # engine.py imports it from here
except ImportError as error:
    raise ImportError("spiketicket's native engine is not built: reinstall with pip install spiketicket") from error

MAX_SIDE = 2**24  # the engine computes windows in 32 bits


class Lowered:
    """The graph as a C++ network: the ids of its values, and how each layer runs.

    Images keep their `[C, H, W]` shape through a Flatten; the Linear after it becomes a convolution whose kernel is the
    whole image. It is flattened only where it is combined with values of other shapes. A Repeat needs no operation: a
    value that is the same at every timestep is computed once. A LIF is computed together with the weighted layers whose
    currents only it reads.
    """

    def __init__(self, model: Model, options: Options) -> None:
        self.graph = graph = model.graph
        self.network = _network(options)
        self.isa = self.network.isa
        self.plan: dict[str, KernelChoice] = {}
        self.images: dict[str, tuple[int, int, int]] = {graph.input: image_shape(graph.input_shape)}
        self.ids: dict[str, int] = {graph.input: self.network.input(*self.images[graph.input], graph.timed_input)}
        self.varying = {graph.input: graph.timed_input}  # whether a value differs from timestep to timestep
        self.readers = Counter([graph.output, *(name for node in graph.nodes for name in node.inputs)])
        self.makers = {node.output: node for node in graph.nodes}
        self.layers: dict[str, int] = {}  # name of the first weights -> value that the kernel computes
        self.arrays: list[object] = []  # kept alive: the C++ side reads them until it is planned
        for node in graph.nodes:
            self.images[node.output] = self.image(node)
            self.varying[node.output] = isinstance(node, Lif | Li) or any(self.varying[name] for name in node.inputs)
        self.terms = {id(lif): terms for lif in graph.nodes if isinstance(lif, Lif) and (terms := self._terms(lif))}
        self.absorbed = {id(node): terms for terms in self.terms.values() for node in terms[2]}
        for node in graph.nodes:
            self.lower(node)
        self.network.finish(self.ids[graph.output])
        chosen = decide(self.network, self.layers, model, options)
        for name, choice in chosen.items():
            nbytes = self.network.weight_bytes(self.layers[name])
            self.plan[name] = KernelChoice(f"{choice.kernel} ({self.isa})", choice.why, nbytes=nbytes)
        self.operations = self.named_operations()
        self.arrays.clear()

    def _terms(self, lif: Lif) -> "tuple[list[Conv | Linear], list[str], list[Node]] | None":
        """Return the terms of a LIF's current, if one kernel can compute their sum, else None: weighted layers, spikes
        that are added as they are, and all nodes that the kernel replaces."""
        shapes = set()  # an image added to a vector is left to the Add, which flattens it
        layers: list[Conv | Linear] = []
        residuals: list[str] = []
        nodes: list[Node] = []
        values = [lif.inputs[0]]
        while values:
            value = values.pop(0)
            maker = self.makers.get(value)
            alone = self.readers[value] == 1 and self.varying[value]
            if isinstance(maker, Add) and alone:
                values += maker.inputs
                nodes.append(maker)
            elif isinstance(maker, Conv | Linear) and alone:
                layers.append(maker)
                nodes.append(maker)
                shapes.add(self.images[value])
            elif self.graph.values[value].spikes:
                residuals.append(value)
                shapes.add(self.images[value])
            else:
                return None
        spikes = [self.graph.values[layer.inputs[0]].spikes for layer in layers]
        fits = len(layers) == 1 or all(spikes)
        return (layers, residuals, nodes) if layers and fits and len(shapes) == 1 else None

    def image(self, node: Node) -> tuple[int, int, int]:
        """Return the image shape of a node's output, which nodes that keep images as they are have from their input."""
        first = self.images[node.inputs[0]]
        shape = self.graph.values[node.output].shape
        match node:
            case Flatten() | Repeat() | Lif() | Li() | Unsqueeze():
                return first
            case Add() | And() | Concat() if self.same_order(node):
                # Flattened images of one size, side by side, are one flattened image of all channels.
                return (prod(shape) // prod(first[1:]), *first[1:])
        return image_shape(shape)

    def same_order(self, node: Node) -> bool:
        """Return whether the inputs of a node that combines them have the same order, that is, images of one size."""
        return len({self.images[name][1:] for name in node.inputs}) == 1

    def combined(self, node: Node) -> list[int]:
        """Return the inputs of a node that combines them; as vectors if their images differ in size."""
        ids = [self.ids[name] for name in node.inputs]
        return ids if self.same_order(node) else [self.network.flat(value) for value in ids]

    def lower(self, node: Node) -> None:
        image = self.images[node.inputs[0]]
        if max(image) > MAX_SIDE:
            raise ModelError(f"layer {node.name}: the native engine's sizes end at {MAX_SIDE}, got {list(image)}")
        if id(node) in self.absorbed:
            self.plan[node.name] = _part_of(self.absorbed[id(node)][0][0])
            return
        match node:
            case Conv() | Linear():
                self.define(node, self.layer([node], [], node.bias, None))
            case Lif() if id(node) in self.terms:
                layers, residuals, _ = self.terms[id(node)]
                bias = np.asarray(sum(layer.bias for layer in layers), dtype=np.float32)
                self.define(node, self.layer(layers, residuals, bias, lif_parameters(node)))
                self.plan[node.name] = _part_of(layers[0])
            case Lif():
                self.define(node, self.network.neurons(self.ids[node.inputs[0]], lif_parameters(node)))
                self.plan[node.name] = KernelChoice(
                    f"lif ({self.isa})", "its current is no sum of layers that only it reads"
                )
            case MaxPool():
                pool = self.network.max_pool(
                    self.ids[node.inputs[0]], _native.Geometry(node.kernel, node.strides, node.pads)
                )
                self.define(node, pool)
                spikes = self.graph.values[node.inputs[0]].spikes
                self.plan[node.name] = KernelChoice("max", "spikes: a bitwise or" if spikes else "real-valued input")
            case AvgPool():
                self.define(
                    node, self.network.avg_pool(self.ids[node.inputs[0]], _native.Geometry(node.kernel, node.strides))
                )
                self.plan[node.name] = KernelChoice("average", "sums of spikes are real-valued")
            case Li():
                self.define(node, self.network.integrators(self.ids[node.inputs[0]], leak(node)))
                self.plan[node.name] = KernelChoice("integrate", "potentials are real-valued")
            case Add():
                self.define(node, self.network.add(*self.combined(node)))
                self.plan[node.name] = KernelChoice("add", "residual")
            case And():
                a, b = self.combined(node)
                self.define(node, self.network.conjunction(a, b, node.negated))
                self.plan[node.name] = KernelChoice("and not" if node.negated else "and", "spikes: a bitwise operation")
            case Concat():
                self.define(node, self.network.concatenation(self.combined(node)))
                spikes = self.graph.values[node.output].spikes
                self.plan[node.name] = KernelChoice(
                    "concatenate", "spikes: shifted words" if spikes else "real-valued inputs"
                )
            case Flatten() | Repeat() | Unsqueeze():
                self.define(node, self.ids[node.inputs[0]])
                why = "the next layer reads the image without a copy"
                if isinstance(node, Repeat):
                    why = "what is the same at every timestep is computed once"
                self.plan[node.name] = KernelChoice("none", why)
            case _:
                raise TypeError(f"no native form for {type(node).__name__}")

    def layer(self, layers: "list[Conv | Linear]", residuals: list[str], bias: Floats, lif: _native.Lif | None) -> int:
        sources = [self.source(layer) for layer in layers]
        output = self.network.layer(sources, [self.ids[name] for name in residuals], bias, lif)
        self.layers[layers[0].name] = output
        return output

    def source(self, layer: "Conv | Linear") -> _native.Source:
        if isinstance(layer, Conv):
            ky, kx = layer.weight.shape[2:]
            geometry = _native.Geometry((ky, kx), layer.strides, layer.pads, layer.dilations)
            groups = layer.group
        else:
            geometry, groups = _native.Geometry(self.images[layer.inputs[0]][1:]), 1
        weight = layer.weight
        arrays = weight.floats, weight.indices.astype(np.uint32), weight.indptr
        self.arrays.append(arrays)
        return _native.Source.of(self.ids[layer.inputs[0]], geometry, groups, *arrays)

    def named_operations(self) -> list[tuple[int, str]]:
        """Return (number of operations, name) of each layer in order: after so many operations, its time ends."""
        names: dict[int, str] = {}
        for node in self.graph.nodes:
            if node.output in self.ids:
                operation = self.network.operation_of(self.ids[node.output])
                names.setdefault(operation, self.plan[node.name].part_of or node.name)
        return [(operation + 1, name) for operation, name in sorted(names.items()) if operation >= 0]

    def define(self, node: Node, output: int) -> None:
        self.ids[node.output] = output


def _network(options: Options) -> _native.Network:
    try:
        return _native.Network(options.threads, options.values == "int16")
    except RuntimeError as error:
        raise InputError(f"cannot start {options.threads} threads: {error}") from error


def lif_parameters(node: Lif) -> _native.Lif:
    """Return the neuron's constants in the engine's form."""
    return _native.Lif(*rates(node), node.soft)


def leak(node: Li) -> _native.Leak:
    """Return the integrator's constants in the engine's form."""
    return _native.Leak(*rates(node)[:2])


def _part_of(layer: Conv | Linear) -> KernelChoice:
    return KernelChoice("none", f"part of {layer.name}", part_of=layer.name)
