"""What a model does on given images, whatever engine runs it, in NeuroBench's terms.

NeuroBench's definitions (neurobench.metrics, https://neurobench.readthedocs.io), and what they mean here:

- *Footprint*: bytes of all parameters in the type that they are stored in. Zero weights are included, as there: packing
  shows in `packed_bytes`. Batch norm is folded into the weights, and has no parameters of its own.
- *ConnectionSparsity*: zeros among the weights of all layers that have weights. Biases are no connections.
- *ActivationSparsity*: zeros among the outputs of all spiking neurons, over all layers, timesteps and images. An
  integrator that never spikes (Li) is not counted.
- *SynapticOperations*, per image: *Dense*, all of every layer with weights; *Effective_MACs* and *Effective_ACs*,
  those whose input and weight both differ from zero. They are accumulates (ACs) in a layer that reads nothing but -1, 0
  and 1, multiply-accumulates (MACs) in one that reads other numbers: images, averages, sums of spikes. Biases, pooling
  and neurons are no synaptic operations; nor is a tap of a kernel that falls in the padding, in Dense neither.

Where we differ. NeuroBench hooks into the modules of a network and counts at every call of a module: the kind of a
layer (AC or MAC) is decided anew at each call, a first layer that gets the same image at every timestep counts T
times if it is called T times, and weights are those before batch norm is folded. Here the kind of a layer is decided
once, from all that it reads, and a layer counts as often as the graph runs it: a static one once per image, which we
book on the first timestep.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spiketicket.graph import Conv, Graph, Lif, Linear, window
from spiketicket.model.names import INPUT
from spiketicket.runtime import Session
from spiketicket.runtime.engines.reference import apply

PLANES = 64  # images times timesteps that are counted at a time

Array = NDArray[Any]


@dataclass(frozen=True)
class LayerOperations:
    """The operations of one layer with weights; `effective` and `dense` are means per image, by timestep `[T]`."""

    name: str
    timed: bool  # otherwise it runs once per image
    binary: bool  # it read nothing but -1, 0 and 1, so that its operations are accumulates
    inputs: int  # per run
    input_rate: float  # share of them that were not zero
    effective: tuple[float, ...]
    dense: tuple[int, ...]

    @property
    def acs(self) -> tuple[float, ...]:
        return self.effective if self.binary else (0.0,) * len(self.effective)

    @property
    def macs(self) -> tuple[float, ...]:
        return (0.0,) * len(self.effective) if self.binary else self.effective

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "timed": self.timed,
            "input_rate": self.input_rate,
            "Effective_MACs": list(self.macs),
            "Effective_ACs": list(self.acs),
            "Dense": list(self.dense),
        }


@dataclass(frozen=True)
class Activity:
    """The spikes of one LIF layer, as means over the images by timestep `[T]`."""

    name: str
    neurons: int
    rates: tuple[float, ...]  # share of neurons that fire
    silent: tuple[float, ...]  # share that has not fired up to and at the timestep; the last: never fires

    @property
    def rate(self) -> float:
        return float(np.mean(self.rates))

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "neurons": self.neurons,
            "firing_rate": list(self.rates),
            "silent": list(self.silent),
        }


@dataclass(frozen=True)
class Workload:
    """The operations of all layers, for `images` images of `timesteps` timesteps."""

    timesteps: int
    images: int
    footprint: int  # bytes
    packed_bytes: int  # bytes of weights and biases in the file
    connection_sparsity: float
    layers: tuple[LayerOperations, ...]
    activity: tuple[Activity, ...]

    @property
    def activation_sparsity(self) -> float | None:
        """Return the share of zeros among all outputs of spiking neurons, or None for a network without them."""
        neurons = sum(layer.neurons for layer in self.activity)
        return 1 - sum(layer.rate * layer.neurons for layer in self.activity) / neurons if neurons else None

    @property
    def synaptic_operations(self) -> dict[str, float]:
        """Return the synaptic operations per image."""
        return {name: float(sum(steps)) for name, steps in self.by_timestep.items()}

    @property
    def by_timestep(self) -> dict[str, tuple[float, ...]]:
        """Return the synaptic operations of all layers per image, by timestep `[T]`."""
        sums: dict[str, tuple[float, ...]] = {}
        for name, attribute in (("Effective_MACs", "macs"), ("Effective_ACs", "acs"), ("Dense", "dense")):
            steps = [getattr(layer, attribute) for layer in self.layers]
            sums[name] = tuple(map(sum, zip(*steps, strict=True))) if steps else (0,) * self.timesteps
        return sums

    def to_dict(self) -> dict[str, Any]:
        return {
            "images": self.images,
            "timesteps": self.timesteps,
            "Footprint": self.footprint,
            "packed_bytes": self.packed_bytes,
            "ConnectionSparsity": self.connection_sparsity,
            "ActivationSparsity": self.activation_sparsity,
            "SynapticOperations": self.synaptic_operations,
            "SynapticOperations_by_timestep": {name: list(steps) for name, steps in self.by_timestep.items()},
            "layers": [layer.to_dict() for layer in self.layers],
            "neurons": [layer.to_dict() for layer in self.activity],
        }


def workload(session: Session, x: NDArray[np.float32], timesteps: int | None = None) -> Workload:
    """Run the images `x`, as `Session.run` takes them, and count. Raises InputError as `Session.run`.

    Counts are exact for the spikes of the session's engine. A weighted layer that no spiking neuron comes before is
    evaluated in float64, to see which of its outputs are zero.
    """
    graph = session.graph
    tallies = {node.name: _Tally() for node in graph.weighted()}
    firing = {node.name: _Firing() for node in graph.nodes if isinstance(node, Lif)}
    images = 0
    for part, steps in _parts(session, x, timesteps):
        spikes = session.spikes({INPUT: part}, steps)
        for node, value in _read_values(graph, part, spikes, steps):
            tallies[node.name].add(node, value, steps if graph.values[node.inputs[0]].timed else 1)
        for name, fired in spikes.items():
            firing[name].add(fired)
        images += part.shape[1 if graph.timed_input else 0]
    weights = [node.weight for node in graph.weighted()]
    biases = sum(node.bias.nbytes for node in graph.weighted())
    scales = sum(weight.scales.nbytes for weight in weights if weight.scales is not None)
    connections = sum(prod(weight.shape) for weight in weights)
    return Workload(
        timesteps=steps,
        images=images,
        footprint=sum(prod(weight.shape) * weight.values.itemsize for weight in weights) + scales + biases,
        packed_bytes=sum(weight.nbytes for weight in weights) + biases,
        connection_sparsity=1 - sum(np.count_nonzero(w.floats) for w in weights) / connections if weights else 0.0,
        layers=tuple(tallies[node.name].layer(graph, node, steps, images) for node in graph.weighted()),
        activity=tuple(tally.activity(name, images) for name, tally in firing.items()),
    )


def _parts(session: Session, x: Array, timesteps: int | None) -> Iterator[tuple[Array, int]]:
    """Yield a few images at a time, and how many timesteps they run. The session refuses wrong ones."""
    axis = 1 if session.timed_input else 0
    default = x.shape[0] if session.timed_input and x.ndim else session.timesteps
    steps = default if timesteps is None else timesteps
    at_once = session.batch or max(1, PLANES // max(1, steps))
    count = x.shape[axis] if x.ndim > axis else 0
    for first in range(0, max(count, 1), at_once):
        yield (x[:, first : first + at_once] if axis and count else x[first : first + at_once]), steps


def _read_values(
    graph: Graph, x: Array, spikes: dict[str, NDArray[np.uint8]], timesteps: int
) -> Iterator[tuple[Conv | Linear, Array]]:
    """Yield every layer with weights and the value that it reads, `[N, ...]` or timed `[T, N, ...]`, computing as few
    other values as possible.
    """
    needed = {node.inputs[0] for node in graph.weighted()}
    for node in reversed(graph.nodes):
        if node.output in needed and not isinstance(node, Lif):
            needed.update(node.inputs)
    values: dict[str, Array] = {graph.input: x}
    for node in graph.nodes:
        if isinstance(node, Conv | Linear):
            yield node, values[node.inputs[0]]
        if node.output not in needed:
            continue
        if isinstance(node, Lif):
            values[node.output] = spikes[node.name]
        else:
            computed = apply(graph, node, [values[name].astype(np.float64) for name in node.inputs], timesteps)
            values[node.output] = computed.astype(np.uint8) if graph.values[node.output].spikes else computed


@dataclass
class _Tally:
    """Sums over images of the operations of one layer with weights."""

    effective: Array = field(default_factory=lambda: np.zeros(1))  # one per run: T, or one if static
    binary: bool = True
    nonzeros: int = 0
    elements: int = 0

    def add(self, node: Conv | Linear, value: Array, runs: int) -> None:
        """Count the input `value`, `[N, ...]`, or `[T, N, ...]` of T runs."""
        nonzero = value != 0
        self.binary &= value.dtype == np.uint8 or not (nonzero & (np.abs(value) != 1)).any()
        self.nonzeros += int(np.count_nonzero(nonzero))
        self.elements += value.size
        if isinstance(node, Conv):
            samples = _effective_conv(node, nonzero.reshape(-1, *nonzero.shape[-3:]))
        else:
            samples = _effective_linear(node, nonzero.reshape(-1, nonzero.shape[-1]))
        self.effective = self.effective + samples.reshape(runs, -1).sum(axis=1)

    def layer(self, graph: Graph, node: Conv | Linear, timesteps: int, images: int) -> LayerOperations:
        timed = graph.values[node.inputs[0]].timed
        idle = 0 if timed else timesteps - 1  # a static layer runs at the first timestep only
        effective = self.effective / images
        return LayerOperations(
            node.name,
            timed,
            self.binary,
            prod(graph.values[node.inputs[0]].shape),
            self.nonzeros / self.elements,
            (*map(float, effective), *[0.0] * idle),
            (*[_dense(graph, node)] * len(effective), *[0] * idle),
        )


@dataclass
class _Firing:
    """Sums over images of the spikes of one LIF layer, by timestep."""

    fired: Array = field(default_factory=lambda: np.zeros(1))
    silent: Array = field(default_factory=lambda: np.zeros(1))
    neurons: int = 0

    def add(self, spikes: NDArray[np.uint8]) -> None:
        flat = spikes.reshape(len(spikes), -1)
        self.neurons = prod(spikes.shape[2:])
        self.fired = self.fired + np.count_nonzero(flat, axis=1)
        self.silent = self.silent + np.count_nonzero(np.maximum.accumulate(flat) == 0, axis=1)

    def activity(self, name: str, images: int) -> Activity:
        total = self.neurons * images
        return Activity(name, self.neurons, tuple((self.fired / total).tolist()), tuple((self.silent / total).tolist()))


def _effective_linear(node: Linear, nonzero: NDArray[np.bool_]) -> Array:
    """Return the operations of each input vector, `[K, F]` -> `[K]`: for every nonzero, rows with a weight for it."""
    readers = np.bincount(node.weight.without_zeros().indices, minlength=node.weight.columns)
    return nonzero @ readers.astype(np.float64)


def _effective_conv(node: Conv, nonzero: NDArray[np.bool_]) -> Array:
    """Return the operations of each input image, `[K, C, H, W]` -> `[K]`.

    For every channel and tap of the kernel, they are the nonzeros at the positions that the tap reads, times the number
    of output channels that have a weight there.
    """
    weight = node.weight.without_zeros()
    rows = weight.row_indices
    group = rows // (weight.rows // node.group)
    readers = np.bincount(group * weight.columns + weight.indices, minlength=node.group * weight.columns)
    down, across = _reads(node, nonzero.shape[-2:])
    counts = down @ (nonzero @ across.T)  # [K, C, ky, kx]
    return np.asarray(counts.reshape(len(counts), -1) @ readers)


def _reads(node: Conv, size: tuple[int, ...]) -> tuple[Array, Array]:
    """Return which taps of the kernel read which positions of the image, along each axis: ones and zeros `[taps,
    positions]`. No tap reads a position twice.
    """
    axes = []
    for axis in (0, 1):
        kernel, stride, dilation = node.weight.shape[2 + axis], node.strides[axis], node.dilations[axis]
        before, after = node.pads[axis], node.pads[axis + 2]
        steps = np.arange(window(size[axis], kernel, stride, before, after, dilation))
        positions = np.arange(kernel)[:, None] * dilation + steps * stride - before
        reads = np.zeros((kernel, size[axis]))
        tap, step = np.nonzero((positions >= 0) & (positions < size[axis]))
        reads[tap, positions[tap, step]] = 1
        axes.append(reads)
    return axes[0], axes[1]


def _dense(graph: Graph, node: Conv | Linear) -> int:
    """Return the operations of one run on one image if no input and no weight were zero."""
    if isinstance(node, Linear):
        return prod(node.weight.shape)
    down, across = _reads(node, graph.values[node.inputs[0]].shape[1:])
    return prod(node.weight.shape[:2]) * int(down.sum()) * int(across.sum())
