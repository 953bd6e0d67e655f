"""Remove the channels that pruning emptied from a sparse graph; its output stays the same up to rounding.

- A channel without weights carries a constant current, its bias. A LIF behind it may never fire: then the channel is
  removed together with all weights that read it. Or the LIF fires at every timestep: then the channel is removed, and
  its weights are added to the biases of the layers that read it. This is not possible for convolutions that pad with
  zeros, because the effect of the channel differs at the border. If the LIF does neither, the channel stays.
- A channel that no layer reads is removed, whatever its value.

Layers without weights pass channels on, and a sum connects channels of several values. Connected channels can only be
removed together. Channels of the input, of the logits and of grouped convolutions are never removed, and every value
keeps at least one channel.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import inf, prod

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from spiketicket.csr import Csr
from spiketicket.graph import Add, And, AvgPool, Concat, Conv, Flatten, Graph, Li, Lif, Linear, Node

Bools = NDArray[np.bool_]
Ints = NDArray[np.intp]
Array = NDArray[np.float64]

UNREAD, SILENT, CONSTANT = "unread", "silent", "constant"
REASONS = (UNREAD, SILENT, CONSTANT)

ROUNDING = 1e-6  # relative error of one timestep: a handful of operations in float32, 6e-8 each
MAX_TAU = 1e5  # for a larger tau, the leak of one timestep is close to float32's rounding


@dataclass(frozen=True)
class Removed:
    """The output channels that were removed from a layer, by their original indices, and the reason.

    No layer reads them (unread), they never fire (silent), or they have a constant value, mostly because they fire at
    every timestep, and were added to the biases of the layers that read them (constant).
    """

    channels: int  # number before the removal
    unread: tuple[int, ...] = ()
    silent: tuple[int, ...] = ()
    constant: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        return len(self.unread) + len(self.silent) + len(self.constant)


@dataclass(frozen=True)
class Slimmed:
    """A graph without removable channels.

    `removed` has the removed channels by name of the Conv or Linear, for those that lost any. `kept` has, by name of
    every LIF, the original indices of its remaining channels, ascending.
    """

    graph: Graph
    removed: dict[str, Removed]
    kept: dict[str, Ints]


def remove_channels(graph: Graph) -> Slimmed:
    """Return `graph` without removable channels, see the module's docstring.

    Logits and the spikes of kept channels stay the same for every T, up to the rounding of changed biases to float32.
    Raises ModelError, naming the layer, if a bias would exceed float32.
    """
    kept = {name: np.arange(value.shape[0]) for name, value in graph.values.items()}
    removed_indices: dict[str, dict[str, list[int]]] = {}
    before = {node.name: node.weight.rows for node in graph.weighted()}
    while True:  # removing channels can leave others unread or constant
        search = _ChannelSearch(graph)
        reasons = search.removable()
        if not any(codes.any() for codes in reasons.values()):
            break
        for node in graph.weighted():
            codes, indices = reasons[node.output], kept[node.output]
            for code, reason in enumerate(REASONS, 1):
                removed_indices.setdefault(node.name, {}).setdefault(reason, []).extend(indices[codes == code].tolist())
        graph = _without(graph, {name: codes == 0 for name, codes in reasons.items()}, search.constants)
        kept = {name: indices[reasons[name] == 0] for name, indices in kept.items()}
    removed = {
        name: Removed(before[name], **{reason: tuple(sorted(indices)) for reason, indices in by_reason.items()})
        for name, by_reason in removed_indices.items()
        if any(by_reason.values())
    }
    return Slimmed(graph, removed, {node.name: kept[node.output] for node in graph.nodes if isinstance(node, Lif)})


@dataclass(frozen=True)
class Constants:
    """The constant values of a value's channels.

    `value` `[channels]` is what a channel is for every input, position and timestep, or NaN if it varies. `error`
    `[channels]` bounds how far an engine's rounding may lead away from it.
    """

    value: Array
    error: Array

    @classmethod
    def of(cls, value: Array) -> "Constants":
        return cls(value, np.zeros_like(value))


@dataclass
class _ChannelSearch:
    """A search for removable channels in one graph. The channels of all values are numbered in one sequence."""

    graph: Graph
    starts: dict[str, int] = field(init=False)  # value -> the number of its first channel
    constants: dict[str, Constants] = field(init=False)

    def __post_init__(self) -> None:
        sizes = [value.shape[0] for value in self.graph.values.values()]
        self.size = sum(sizes)
        self.starts = dict(zip(self.graph.values, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))
        self.constants = {self.graph.input: Constants.of(np.full(self.graph.input_shape[0], np.nan))}
        for node in self.graph.nodes:
            inputs = [self.constants[name] for name in node.inputs]
            repeats = self.graph.values[node.output].shape[0] // max(len(inputs[0].value), 1)
            self.constants[node.output] = _propagate(node, inputs, repeats)

    def removable(self) -> dict[str, NDArray[np.int8]]:
        """Return for every value a code per channel: 0 if it stays, otherwise 1 + the index of the reason in REASONS.

        Connected channels form a group, which is removed only if no channel in it must stay.
        """
        connections = list(self.connections())
        no_connections = (np.zeros(0, int), np.zeros(0, int))
        first, second = (
            (np.concatenate(ends) for ends in zip(*connections, strict=True)) if connections else no_connections
        )
        adjacency = coo_array((np.ones(len(first)), (first, second)), (self.size, self.size))
        count, group = connected_components(adjacency, directed=False)
        stays, silent, constant = (np.bincount(group, flags, minlength=count) > 0 for flags in self.flags())
        # The removal of a group that has constant channels changes biases, so constant is the reason to report.
        code = np.where(constant, 3, np.where(silent, 2, 1)).astype(np.int8)
        code[stays] = 0
        for name in self.graph.values:
            groups = group[self.numbers(name)]
            if code[groups].all():
                code[groups[0]] = 0  # a value needs at least one channel
        return {name: code[group[self.numbers(name)]] for name in self.graph.values}

    def flags(self) -> tuple[Bools, Bools, Bools]:
        """Return three masks over all channels: must stay, read and always 0, read and always another constant.

        They look at the layers that read a channel, not at the channels that it is connected with.
        """
        stays, silent, constant = (np.zeros(self.size, dtype=bool) for _ in range(3))
        stays[self.numbers(self.graph.input)] = stays[self.numbers(self.graph.output)] = True
        for node in self.graph.weighted():
            source, value = self.numbers(node.inputs[0]), self.constants[node.inputs[0]].value
            if isinstance(node, Conv) and node.group > 1:
                stays[source] = stays[self.numbers(node.output)] = True
                continue
            reads = _occupied(node.weight)[1]
            folds = isinstance(node, Linear) or not any(node.pads)
            silent[source] |= reads & (value == 0)
            constant[source] |= reads & np.isfinite(value) & (value != 0)
            stays[source] |= reads & (value != 0) & (np.isnan(value) | (not folds))
        return stays, silent, constant

    def connections(self) -> Iterator[tuple[Ints, Ints]]:
        """Yield pairs of connected channels, which can only be removed together."""
        for node in self.graph.nodes:
            if isinstance(node, Conv | Linear):
                continue
            output, start = self.numbers(node.output), 0
            for name in node.inputs:
                channels = self.numbers(name)
                match node:
                    case Concat():
                        yield channels, output[start : start + len(channels)]
                        start += len(channels)
                    case Flatten():
                        yield np.repeat(channels, len(output) // len(channels)), output
                    case _:
                        yield channels, output

    def numbers(self, name: str) -> Ints:
        """Return the numbers of a value's channels."""
        return self.starts[name] + np.arange(self.graph.values[name].shape[0])


def _propagate(node: Node, inputs: list[Constants], repeats: int) -> Constants:
    """Return the constants of a node's output, given those of its inputs.

    `repeats` is how many features a Flatten makes of one channel.
    """
    x = inputs[0]
    match node:
        case Conv() | Linear():
            return Constants.of(np.where(_occupied(node.weight)[0], np.nan, node.bias.astype(np.float64)))
        case Lif():
            return Constants.of(firing_rate(node, x))
        case Li():
            return Constants.of(np.where((x.value == 0) & (x.error == 0), 0.0, np.nan))
        case Add():
            y = inputs[1]
            rounding = ROUNDING * (np.abs(x.value) + np.abs(y.value))
            return Constants(x.value + y.value, x.error + y.error + rounding)
        case And():
            return Constants.of(_both(x.value, 1 - inputs[1].value if node.negated else inputs[1].value))
        case Concat():
            return Constants(*(np.concatenate([getattr(i, key) for i in inputs]) for key in ("value", "error")))
        case Flatten():
            return Constants(np.repeat(x.value, repeats), np.repeat(x.error, repeats))
        case AvgPool():
            return Constants(x.value, x.error + ROUNDING * np.abs(x.value))
    return x  # every window of a MaxPool holds a pixel, so that its padding has no effect


def _both(a: Array, b: Array) -> Array:
    """Return the product of spikes: 0 if one of them never fires, even if the other varies (NaN)."""
    return np.where((a == 0) | (b == 0), 0.0, a * b)


def firing_rate(node: Lif, current: Constants) -> Array:
    """Return the firing rate of neurons on a constant current: 0 (never), 1 (at every timestep) or NaN (unknown).

    With u the potential above rest, h = keep u + drive, where keep = 1 - 1 / tau. Without spikes, h moves from drive
    towards tau drive and never beyond. After a spike with a hard reset, h is drive again. With a soft reset,
    h = keep (h - drop) + drive: while the neuron fires at every timestep, h moves from drive towards
    tau (drive - keep drop), and stays at or above drive if drive >= drop, even with rounding. `step_error` and
    `total_error` bound the rounding of h in one timestep, and over any number of them.
    """
    level, keep, gain, leaks = node.level, node.keep, node.gain, node.tau <= MAX_TAU
    drive = gain * current.value
    scale = ROUNDING * (abs(node.v_threshold) + abs(node.rest) + abs(node.drop))
    step_error = scale + ROUNDING * np.abs(drive) + gain * current.error
    tau = node.tau if leaks else 1.0  # without a leak, total_error is infinite and tau does not matter
    total_error = tau * (step_error + ROUNDING * tau * np.abs(drive)) if leaks else np.full_like(drive, inf)
    silent = np.where(current.value + current.error <= 0, level > scale, tau * drive + total_error < level)
    always = drive >= level + step_error
    if node.soft:
        lasting = tau * (drive - keep * node.drop) >= level + total_error + ROUNDING * tau * tau * abs(node.drop)
        always &= (drive >= node.drop + step_error) | lasting
    return np.where(silent, 0.0, np.where(always, 1.0, np.nan))


def _occupied(weight: Csr) -> tuple[Bools, Bools]:
    """Return masks of the outputs and of the input channels that have a weight other than zero."""
    nonzero = weight.values != 0
    rows = weight.row_indices[nonzero]
    channels = weight.indices[nonzero] // prod(weight.shape[2:])
    return np.bincount(rows, minlength=weight.rows) > 0, np.bincount(channels, minlength=weight.shape[1]) > 0


def _without(graph: Graph, keep: dict[str, Bools], constants: dict[str, Constants]) -> Graph:
    """Return the graph with the channels of the masks `keep`; constant channels are added to biases."""
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node, Conv | Linear) and not (isinstance(node, Conv) and node.group > 1):
            rows, channels = keep[node.output], keep[node.inputs[0]]
            constant = np.where(channels, 0.0, np.nan_to_num(constants[node.inputs[0]].value))
            weight, bias = node.weight, node.bias
            if constant.any():
                effect = weight.to_scipy("float64") @ np.repeat(constant, prod(weight.shape[2:]))
                bias = (bias + effect).astype(np.float32)
            node = replace(node, weight=weight.select(rows, channels), bias=bias[rows])
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))
