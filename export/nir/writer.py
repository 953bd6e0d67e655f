"""Write a sparse graph as NIR (neuroir.org), for other simulators and neuromorphic chips.

docs/nir.md lists what each node becomes.

NIR stores weights densely: a pruned weight is a zero again.
"""

import io
from collections import Counter
from math import inf
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spiketicket.errors import ModelError
from spiketicket.export.nir.dialects import NIR_DT, check_dt
from spiketicket.export.nir.graph import nir, unique_name
from spiketicket.files import write_atomic
from spiketicket.graph import Add, AvgPool, Conv, Flatten, Graph, Li, Lif, Linear, Node, Repeat
from spiketicket.model.metadata import add_prefix
from spiketicket.model.names import PRODUCER, TIMESTEPS

_IMPOSSIBLE = "NIR 1.0 has no such node: replace the layer"


def write_nir(graph: Graph, path: Path, dt: float = NIR_DT) -> None:
    """Write the NIR graph of `graph`, see `to_nir`, as the file `path`.

    Raises what `to_nir` raises, and SpikeTicketError if the file cannot be written.
    """
    write_atomic(path, nir_bytes(graph, dt))


def nir_bytes(graph: Graph, dt: float = NIR_DT) -> bytes:
    """Return the NIR file of `graph` as bytes. Raises what `to_nir` raises."""
    buffer = io.BytesIO()
    nir.write(buffer, to_nir(graph, dt))
    return buffer.getvalue()


def to_nir(graph: Graph, dt: float = NIR_DT) -> nir.NIRGraph:
    """Return `graph` as a NIR graph with `dt` seconds per timestep; read_nir with that dt gives the same network back.

    NIR has no static values: what the graph computes once per image is computed at every timestep, from an input that
    does not change. The graph's metadata are stored with NIR's under a prefix. Raises ModelError, which lists every
    layer that NIR cannot express, and InputError if `dt` is not positive.
    """
    check_dt(dt)
    writer = _Writer(graph, dt)
    for node in graph.nodes:
        writer.add(node)
    writer.finish()
    writer.check_metadata()
    if writer.problems:
        raise ModelError("the network cannot be written as NIR:\n" + "\n".join(f"  {p}" for p in writer.problems))
    metadata = {"producer": PRODUCER, "dt": dt, TIMESTEPS: graph.timesteps, **add_prefix(graph.metadata)}
    return nir.NIRGraph(writer.nodes, writer.edges, metadata=metadata, type_check=False)


class _Writer:
    """A translator of a sparse graph, node by node. `sources` maps each value to the NIR nodes whose sum it is."""

    def __init__(self, graph: Graph, dt: float) -> None:
        self.graph, self.dt = graph, dt
        self.problems: list[str] = []
        self.edges: list[tuple[str, str]] = []
        self.used_names = {node.name for node in graph.nodes}
        start = unique_name(self.used_names, "input")
        self.nodes: dict[str, nir.NIRNode] = {start: nir.Input(np.array(graph.input_shape))}
        self.sources: dict[str, list[str]] = {graph.input: [start]}

    def add(self, node: Node) -> None:
        """Translate one node. Add and Repeat become edges only: NIR sums up all edges into a node."""
        sources = [source for name in node.inputs for source in self.sources[name]]
        self.sources[node.output] = sources
        if isinstance(node, Add | Repeat):
            return
        try:
            if "/" in node.name:
                raise ModelError("a name with / would be a group in the HDF5 file: rename the layer")
            made = self.convert(node)
        except ModelError as error:
            shape = list(self.graph.values[node.output].shape)
            self.problems.append(f"{node.name} ({type(node).__name__} {shape}): {error}")
            return
        self.place(node.name, made, sources, node.inputs[0], node.output)
        self.sources[node.output] = [node.name]

    def finish(self) -> None:
        value = self.graph.output
        made = nir.Output(np.array(self.graph.values[value].shape))
        self.place(unique_name(self.used_names, "output"), made, self.sources[value], value, value)

    def check_metadata(self) -> None:
        """Collect metadata that HDF5 cannot hold: a / in a name means a group, and texts end at a NUL."""
        for key, text in self.graph.metadata.items():
            if "/" in key or "\0" in key + text:
                self.problems.append(f"metadata {key!r}: a NIR file holds no / in names and no NUL: {text[:40]!r}")

    def place(self, name: str, made: nir.NIRNode, sources: list[str], x: str, output: str) -> None:
        """Add a node with edges from its sources; a source that is summed up several times goes through a Scale."""
        shape = np.array(self.graph.values[x].shape)
        for source, count in Counter(sources).items():
            before = source
            if count > 1:
                before = unique_name(self.used_names, f"{source}.times{count}")
                self.nodes[before] = nir.Scale(np.full(shape, count, dtype=np.float32))
                self.edges.append((source, before))
            self.edges.append((before, name))
        made.input_type = {"input": shape}
        made.output_type = {"output": np.array(self.graph.values[output].shape)}
        self.nodes[name] = made

    def convert(self, node: Node) -> nir.NIRNode:
        """Return the NIR node of a node. Raises ModelError if there is none."""
        shape = self.graph.values[node.inputs[0]].shape
        match node:
            case Conv():
                return self.conv(node, (shape[1], shape[2]))
            case Linear():
                weight = node.weight.to_dense()
                return nir.Affine(weight, node.bias) if node.bias.any() else nir.Linear(weight)
            case Lif():
                return self.lif(node, shape)
            case Li():
                r = _full(shape, 1 / self.dt if node.tau == inf else 1.0 if node.decay_input else node.tau)
                return nir.I(r) if node.tau == inf else nir.LI(_full(shape, node.tau * self.dt), r, _full(shape, 0.0))
            case AvgPool():
                return nir.AvgPool2d(np.array(node.kernel), np.array(node.strides), np.array((0, 0)))
            case Flatten():
                return nir.Flatten({"input": np.array(shape)}, 0, -1)
        raise ModelError(_IMPOSSIBLE)

    def conv(self, node: Conv, size: tuple[int, int]) -> nir.NIRNode:
        top, left, bottom, right = node.pads
        if (top, left) != (bottom, right):
            raise ModelError(
                f"pads {node.pads} (top, left, bottom, right) differ between the sides, which NIR cannot express"
            )
        # nir.read's check assumes square kernels and one group: other files have to be read with type_check=False.
        weight = node.weight.to_dense()
        return nir.Conv2d(size, weight, node.strides, (top, left), node.dilations, node.group, node.bias)

    def lif(self, node: Lif, shape: tuple[int, ...]) -> nir.NIRNode:
        threshold = _full(shape, _below(node.v_threshold))
        if node.tau == 1 and node.rest == 0:  # nothing of the potential is kept, whatever the reset
            return nir.Threshold(threshold)
        if node.soft:
            raise ModelError("it resets by subtraction, NIR's neurons to a value: train with v_reset=0")
        reset = _full(shape, node.rest)
        if node.tau == inf:
            return nir.IF(_full(shape, 1 / self.dt), threshold, reset)
        tau, r = _full(shape, node.tau * self.dt), _full(shape, 1.0 if node.decay_input else node.tau)
        return nir.LIF(tau, r, v_leak=reset, v_threshold=threshold, v_reset=reset)


def _full(shape: tuple[int, ...], value: float) -> NDArray[np.float32]:
    """Return one value for every neuron, in float32: snnTorch computes in the type of the parameters."""
    return np.full(shape, value, dtype=np.float32)


def _below(value: float) -> float:
    """Return the largest float32 below `value`: a Lif fires at its threshold, NIR's neurons above theirs."""
    return float(np.nextafter(np.float32(value), np.float32(-inf)))
