"""Read a NIR graph (neuroir.org) as a sparse graph, without torch. docs/nir.md lists what each node becomes."""

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spiketicket.errors import InputError, ModelError
from spiketicket.export.nir.dialects import DIALECTS, NIR_DT, check_dt
from spiketicket.export.nir.graph import FlatGraph, describe, flatten, load, nir, numbers, unique_name
from spiketicket.export.nir.layers import LAYERS, Layer, diagonal, per_channel, read_layer
from spiketicket.export.nir.neurons import NeuronReader
from spiketicket.graph import Add, Flatten, Graph, Node, Unsqueeze

Array = NDArray[np.float64]

_KNOWN = (
    *LAYERS,
    nir.Input,
    nir.Output,
    nir.Flatten,
    nir.Scale,
    nir.LIF,
    nir.IF,
    nir.LI,
    nir.I,
    nir.CubaLIF,
    nir.CubaLI,
    nir.Threshold,
)
_ADVICE = {nir.Delay: "delays cannot be expressed: remove it, or shift the input"}


def read_nir(source: Path | str | nir.NIRGraph, timesteps: int, dt: float = NIR_DT, dialect: str = "nir") -> Graph:
    """Return the sparse graph of a NIR file, or of a NIRGraph in memory; its input is timed, `[T, N, *shape]`.

    `timesteps` is the default T of the graph, `dt` the seconds per timestep. `dialect` is the simulator that the graph
    follows where NIR leaves a choice: "nir" (its equations by forward Euler), "snntorch" (its default reset by
    subtraction, one step late) or "norse"; see docs/nir.md. Raises ModelError, which lists by node everything that the
    graph cannot express, and InputError if `dt` is not positive or `dialect` is unknown.
    """
    if dialect not in DIALECTS:
        raise InputError(f"dialect: expected one of {', '.join(DIALECTS)}, got {dialect!r}")
    check_dt(dt)
    in_memory = isinstance(source, nir.NIRGraph)
    what = "NIR graph" if in_memory else str(source)
    flat = flatten(source if in_memory else load(Path(source)))
    reader = _Reader(flat, dt, dialect)
    problems = flat.problems + reader.problems
    if problems:
        raise ModelError(f"{what} cannot be expressed as a sparse graph:\n" + "\n".join(f"  {p}" for p in problems))
    metadata = {"source": "nir", "dt": repr(dt), "dialect": dialect}
    try:
        return reader.graph(timesteps, metadata)
    except ModelError as error:
        raise ModelError(f"{what}: {error}") from error


@dataclass(frozen=True)
class _Signal:
    """A value of the graph under construction."""

    name: str
    shape: tuple[int, ...]  # the shape in NIR; a signal [C, L] is [C, 1, L] in the graph
    single_reader: bool = True  # only one node reads it, so that node may be folded into the layer that computes it

    @property
    def graph_shape(self) -> tuple[int, ...]:
        return (self.shape[0], 1, self.shape[1]) if len(self.shape) == 2 else self.shape


class _Reader:
    """A translator of a NIR graph, node by node.

    What cannot be expressed is collected in `problems`; nodes behind such a node are still read for their own problems.
    """

    def __init__(self, flat: FlatGraph, dt: float, dialect: str) -> None:
        self.flat, self.dt, self.dialect = flat, dt, dialect
        self.problems: list[str] = []
        self.parts: list[Node | Layer] = []
        self.signals: dict[str, _Signal] = {}  # NIR node -> its output
        self.readers = flat.readers()
        self.used_names = set(flat.nodes)
        for name, node in flat.nodes.items():
            try:
                self.check_kind(node)
                x = self.sum(name, node)
                if x is not None:
                    self.signals[name] = self.read(name, node, x)
            except ModelError as error:
                self.problems.append(f"{describe(name, node)}: {error}")

    def graph(self, timesteps: int, metadata: dict[str, str]) -> Graph:
        """Return the graph; only if there are no problems."""
        shape = _sizes(self.flat.nodes[self.flat.input])
        nodes = tuple(part.build() if isinstance(part, Layer) else part for part in self.parts)
        output = self.signals[self.flat.output].name
        return Graph(self.flat.input, shape, nodes, output, timesteps, metadata, timed_input=True)

    def check_kind(self, node: nir.NIRNode) -> None:
        if not isinstance(node, _KNOWN):
            raise ModelError(_ADVICE.get(type(node), "this kind of node cannot be expressed: remove it"))

    def sum(self, name: str, node: nir.NIRNode) -> _Signal | None:
        """Return the input of a node: the sum of its sources.

        If a source could not be read, return a placeholder of the shape that the node declares, or None if it declares
        none.
        """
        sources = self.flat.sources[name]
        if not sources or any(source not in self.signals for source in sources):
            declared = (node.input_type or {}).get("input")
            return None if declared is None or isinstance(node, nir.Output) else _Signal(name, _sizes(node))
        first, *others = (self.signals[source] for source in sources)
        if not others:
            return replace(first, single_reader=first.single_reader and self.readers[sources[0]] == 1)
        for other in others:
            if other.shape != first.shape:
                raise ModelError(f"sums up values of the shapes {list(first.shape)} and {list(other.shape)}")
            out = unique_name(self.used_names, f"{name}.sum")
            self.parts.append(Add(out, (first.name, other.name), out))
            first = _Signal(out, first.shape)
        return first

    def read(self, name: str, node: nir.NIRNode, x: _Signal) -> _Signal:
        """Translate one node with the input `x`, and return its output."""
        match node:
            case nir.Input():
                return self.read_input(x)
            case nir.Output():
                return self.read_output(node, x)
            case nir.Flatten():
                return self.flatten(name, node, x)
            case nir.Scale():
                neuron = NeuronReader(node, x.shape, self.dt, self.dialect)
                return self.affine(x, neuron.parameter("scale"), neuron.zeros(), name)
        if isinstance(node, LAYERS):
            part, shape = read_layer(node, name, x.name, x.shape)
            self.parts.append(part)
            return _Signal(name, shape)
        steps = NeuronReader(node, x.shape, self.dt, self.dialect).neuron_steps()
        for step in steps:
            out = name if step is steps[-1] else unique_name(self.used_names, name + step.suffix)
            x = self.affine(x, step.scale, step.shift, f"{out}.scale")
            self.parts.append(step.make(out, x.name, out))
            x = _Signal(out, x.shape)
        return x

    def read_input(self, x: _Signal) -> _Signal:
        if len(x.shape) != 2:
            return x
        row = unique_name(self.used_names, f"{x.name}.row")
        self.parts.append(Unsqueeze(row, (x.name,), row))
        return _Signal(row, x.shape)

    def read_output(self, node: nir.NIRNode, x: _Signal) -> _Signal:
        if len(x.shape) != 1:
            raise ModelError(f"must get one value per class, [F], gets {list(x.shape)}: put a Flatten before it")
        if x.shape != (prod(_sizes(node)),):
            raise ModelError(f"declares the shape {list(_sizes(node))}, gets {list(x.shape)}")
        if not self.parts:
            raise ModelError("there is no layer between input and output")
        return x

    def affine(self, x: _Signal, scale: Array, shift: Array, name: str) -> _Signal:
        """Return `scale * x + shift`.

        It is folded into the layer that computes `x` if nothing else reads that, and is a layer of its own otherwise.
        """
        if (scale == 1).all() and not shift.any():
            return x
        scale, shift = per_channel(scale), per_channel(shift)
        maker = next((part for part in self.parts if part.output == x.name), None)
        if x.single_reader and isinstance(maker, Layer):
            maker.fold(scale, shift)
            return x
        name = unique_name(self.used_names, name) if name not in self.flat.nodes else name
        self.parts.append(diagonal(name, x.name, name, x.graph_shape, scale, shift))
        return _Signal(name, x.shape)

    def flatten(self, name: str, node: nir.NIRNode, x: _Signal) -> _Signal:
        rank = len(x.shape)
        start, end = int(numbers(node, "start_dim")), int(numbers(node, "end_dim"))
        if rank == 1:
            return x
        if start % rank or end % rank != rank - 1:
            raise ModelError(
                f"flattens dimensions {start} to {end} of {list(x.shape)} (NIR counts without the batch); "
                f"only all of them can be flattened: start_dim 0, end_dim -1"
            )
        self.parts.append(Flatten(name, (x.name,), name))
        return _Signal(name, (prod(x.shape),))


def _sizes(node: nir.NIRNode) -> tuple[int, ...]:
    """Return the shape that a node declares for its input. Raises ModelError if it has more than three dimensions."""
    sizes = tuple(int(size) for size in np.ravel(node.input_type["input"])) or (1,)
    if len(sizes) > 3 or min(sizes) < 1:
        raise ModelError(f"its shape must be [F], [C, L] or [C, H, W], got {list(sizes)}")
    return sizes
