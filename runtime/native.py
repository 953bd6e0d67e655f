"""The native engine: lowers the sparse graph to the C++ network of `csrc/`."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from spiketicket.errors import InputError, ModelError
from spiketicket.graph import Add, AvgPool, Conv, Flatten, Graph, Lif, Linear, MaxPool, Node, Repeat
from spiketicket.runtime.engine import Engine, Floats, Model, Plan, Spikes, lif_names

if TYPE_CHECKING:
    from typing import Any

    _native: Any
else:
    try:
        from spiketicket.runtime import _native
    except ImportError as error:
        raise ImportError("spiketicket's native engine is not built: reinstall with pip install spiketicket") from error

MAX_SIDE = 2**24  # the engine's window arithmetic is 32 bit


def build_info() -> dict[str, str]:
    """Compiler, sanitizers and instruction set of the native engine."""
    return dict(_native.build_info())


class NativeEngine(Engine):
    def __init__(self, model: Model, threads: int) -> None:
        self.graph = model.graph
        try:
            self.lowered = _Lowered(model.graph, threads)
        except ValueError as error:
            raise InputError(str(error)) from error
        except RuntimeError as error:
            raise InputError(f"cannot start {threads} threads: {error}") from error

    def run(self, x: Floats, timesteps: int) -> Floats:
        return self._run(x, timesteps, [])

    def spikes(self, x: Floats, timesteps: int) -> dict[str, Spikes]:
        arrays = {}
        recordings = []
        for value, name in lif_names(self.graph).items():
            shape = self.graph.values[value].shape
            arrays[name] = np.empty((timesteps, len(x), *shape), dtype=np.uint8)
            recordings.append((self.lowered.ids[value], arrays[name]))
        self._run(x, timesteps, recordings)
        return arrays

    def steps(self, x: Floats, timesteps: int) -> Iterator[Floats]:
        stepper = self.lowered.network.begin(x, len(x))  # now: the caller may change x before asking for a step
        shape = (len(x), self.graph.classes)

        def step() -> Floats:
            logits = np.empty(shape, dtype=np.float32)
            stepper.step(logits)
            return logits

        return (step() for _ in range(timesteps))

    def plan(self) -> dict[str, Plan]:
        return self.lowered.plan

    def _run(self, x: Floats, timesteps: int, recordings: list[tuple[int, Spikes]]) -> Floats:
        logits = np.empty((timesteps, len(x), self.graph.classes), dtype=np.float32)
        self.lowered.network.run(x, len(x), timesteps, logits, recordings)
        return logits


class _Lowered:
    """The graph as a C++ network: value ids, and how each layer runs.

    Images keep their `[C, H, W]` shape through a Flatten; the Linear after it becomes a convolution
    whose kernel is the whole image.
    """

    def __init__(self, graph: Graph, threads: int) -> None:
        self.graph = graph
        self.network = _native.Network(threads)
        self.isa: str = self.network.isa
        self.plan: dict[str, Plan] = {}
        self.images: dict[str, tuple[int, int, int]] = {graph.input: _image(graph.input_shape)}
        self.ids: dict[str, int] = {graph.input: self.network.input(*self.images[graph.input])}
        self.readers = Counter([graph.output, *(name for node in graph.nodes for name in node.inputs)])
        pairs = list(self._fusible())
        self.fused = {id(lif): conv for conv, lif in pairs}
        self.lifs = {id(conv): lif for conv, lif in pairs}
        for node in graph.nodes:
            self.lower(node)
        self.network.finish(self.ids[graph.output])

    def _fusible(self) -> Iterator[tuple[Conv | Linear, Lif]]:
        """Pairs of a timed layer and the LIF that alone reads it."""
        layers = {node.output: node for node in self.graph.weighted() if self.graph.values[node.output].timed}
        for node in self.graph.nodes:
            if isinstance(node, Lif) and node.inputs[0] in layers and self.readers[node.inputs[0]] == 1:
                yield layers[node.inputs[0]], node

    def lower(self, node: Node) -> None:
        x = self.ids[node.inputs[0]]
        image = self.images[node.inputs[0]]
        if max(image) > MAX_SIDE:
            raise ModelError(f"layer {node.name}: the native engine's sizes end at {MAX_SIDE}, got {list(image)}")
        out = self.graph.values[node.output].shape
        self.images[node.output] = _image(out)
        match node:
            case Conv():
                geometry = _native.Geometry(node.weight.shape[2:], node.strides, node.pads, node.dilations)
                self.weighted(node, x, geometry, node.group)
            case Linear():
                self.weighted(node, x, _native.Geometry(image[1:]), 1)
            case Lif() if id(node) in self.fused:
                self.alias(node, x, f"fused into {self.fused[id(node)].name}")
                self.images[node.output] = image
            case Lif():
                self.define(
                    node,
                    self.network.lif(x, lif_parameters(node)),
                    "lif",
                    "its input is no single timed layer",
                )
                self.images[node.output] = image
            case MaxPool():
                pool = self.network.max_pool(x, _native.Geometry(node.kernel, node.strides, node.pads))
                spikes = self.graph.values[node.inputs[0]].spikes
                why = "spikes: the maximum is a bitwise or" if spikes else "real-valued input"
                self.define(node, pool, "max", why)
            case AvgPool():
                pool = self.network.avg_pool(x, _native.Geometry(node.kernel, node.strides))
                self.define(node, pool, "average", "sums of spikes are real-valued")
            case Add():
                if image != self.images[node.inputs[1]]:
                    raise ModelError(f"layer {node.name}: the native engine cannot add a flattened image to a vector")
                self.define(node, self.network.add(x, self.ids[node.inputs[1]]), "add", "residual")
                self.images[node.output] = image
            case Flatten():
                self.alias(node, x, "the next layer reads the image as it lies")
                self.images[node.output] = image
            case Repeat():
                self.define(node, self.network.repeat(x), "none", "every timestep reads the one static value")
                self.images[node.output] = image

    def weighted(self, node: Conv | Linear, x: int, geometry: object, groups: int) -> None:
        lif = self.lifs.get(id(node))
        value = self.graph.values[node.inputs[0]]
        weight = node.weight
        output = self.network.conv(
            x,
            geometry,
            groups,
            weight.rows,
            weight.values.astype(np.float32),
            weight.indices.astype(np.uint32),
            weight.indptr,
            node.bias,
            lif_parameters(lif) if lif else None,
        )
        fused = " + lif" if lif else ""
        if value.spikes:
            self.define(node, output, f"table/{self.isa}{fused}", "packed spikes: 4 channels per look-up")
        else:
            self.define(node, output, f"axpy/{self.isa}{fused}", "real-valued input")

    def define(self, node: Node, output: int, kernel: str, why: str) -> None:
        self.ids[node.output] = output
        self.plan[node.name] = Plan(kernel, why)

    def alias(self, node: Node, x: int, why: str) -> None:
        self.define(node, x, "none", why)


def lif_parameters(node: Lif) -> object:
    """The engine's form of the neuron, rounded as the operator's ONNX body rounds (potentials above rest)."""
    one, tau = np.float32(1), np.float32(node.tau)
    rate = one / tau
    rest = np.float32(0 if node.v_reset is None else node.v_reset)
    level = np.float32(node.v_threshold) - rest
    gain = rate if node.decay_input else one
    return _native.Lif(float(one - rate), float(gain), float(level), node.v_reset is None)


def _image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    return (shape[0], 1, 1) if len(shape) == 1 else (shape[0], shape[1], shape[2])
