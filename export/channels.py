"""Channels that pruning emptied are removed from a sparse graph; what it computes stays the same up to rounding.

- A channel without weights carries a constant current, its bias. Behind a LIF it never fires, and goes with all
  weights that read it; or it fires at every timestep, and its readers take its weights into their biases, unless
  they are convolutions that pad with zeros, where its effect differs at the border; or neither: it stays.
- A channel that nobody reads goes, whatever it does.

Most layers hand a channel on as it is, and a sum ties channels of several values to each other: what is tied goes
together or not at all. Channels of the input, of the logits and of convolutions in groups stay, and at least one of
every value.
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

ROUNDING = 1e-6  # relative; float32 rounds to 6e-8, and a timestep takes a handful of operations
MAX_TAU = 1e5  # beyond, float32 hardly knows the leak


@dataclass(frozen=True)
class Removed:
    """The output channels that a layer lost, by their indices before, and why: nobody reads them, they never fire,
    or they are constant (fire at every timestep, mostly) and became part of their readers' biases."""

    channels: int  # before
    unread: tuple[int, ...] = ()
    silent: tuple[int, ...] = ()
    constant: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        return len(self.unread) + len(self.silent) + len(self.constant)


@dataclass(frozen=True)
class Slimmed:
    """A graph without the channels that do nothing. `removed`: by name of the Conv or Linear, those that lost any.
    `kept`: by name of every LIF, the indices (before) of the channels that are left, ascending."""

    graph: Graph
    removed: dict[str, Removed]
    kept: dict[str, Ints]


def remove_channels(graph: Graph) -> Slimmed:
    """Remove channels until none is left that does nothing; see the module's text.

    Logits and the spikes of kept channels stay what they were for every T, up to the rounding of a changed bias to
    float32. A graph without such channels comes back as it is. Raises ModelError, naming the layer, where a bias would
    no longer fit float32.
    """
    kept = {name: np.arange(value.shape[0]) for name, value in graph.values.items()}
    lost: dict[str, dict[str, list[int]]] = {}
    before = {node.name: node.weight.rows for node in graph.weighted()}
    while True:
        search = _Search(graph)
        reasons = search.removable()
        if not any(codes.any() for codes in reasons.values()):
            break
        for node in graph.weighted():
            codes, indices = reasons[node.output], kept[node.output]
            for code, reason in enumerate(REASONS, 1):
                lost.setdefault(node.name, {}).setdefault(reason, []).extend(indices[codes == code].tolist())
        graph = _without(graph, {name: codes == 0 for name, codes in reasons.items()}, search.steady)
        kept = {name: indices[reasons[name] == 0] for name, indices in kept.items()}
    removed = {
        name: Removed(before[name], **{reason: tuple(sorted(indices)) for reason, indices in by_reason.items()})
        for name, by_reason in lost.items()
        if any(by_reason.values())
    }
    return Slimmed(graph, removed, {node.name: kept[node.output] for node in graph.nodes if isinstance(node, Lif)})


@dataclass(frozen=True)
class _Steady:
    """Of every channel of a value: what it always is, whatever the input, everywhere and at every timestep (NaN: it
    varies), and how far an engine's rounding may lead away from that. Both `[channels]`."""

    value: Array
    slack: Array

    @classmethod
    def of(cls, value: Array) -> "_Steady":
        return cls(value, np.zeros_like(value))


@dataclass
class _Search:
    """One round: the channels of all values, numbered in one sequence, and what is known of each."""

    graph: Graph
    starts: dict[str, int] = field(init=False)  # by value: the number of its first channel
    steady: dict[str, _Steady] = field(init=False)

    def __post_init__(self) -> None:
        sizes = [value.shape[0] for value in self.graph.values.values()]
        self.size = sum(sizes)
        self.starts = dict(zip(self.graph.values, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))
        self.steady = {self.graph.input: _Steady.of(np.full(self.graph.input_shape[0], np.nan))}
        for node in self.graph.nodes:
            inputs = [self.steady[name] for name in node.inputs]
            repeats = self.graph.values[node.output].shape[0] // max(len(inputs[0].value), 1)
            self.steady[node.output] = _constants(node, inputs, repeats)

    def removable(self) -> dict[str, NDArray[np.int8]]:
        """By value, of every channel: 0 where it stays, else 1 + the place of the reason in REASONS."""
        ties = list(self.ties())
        first, second = (np.concatenate(ends) for ends in zip(*ties, strict=True)) if ties else (np.zeros(0, int),) * 2
        tied = coo_array((np.ones(len(first)), (first, second)), (self.size, self.size))
        count, group = connected_components(tied, directed=False)
        stays, silent, constant = (np.bincount(group, flags, minlength=count) > 0 for flags in self.flags())
        code = np.where(constant, 3, np.where(silent, 2, 1)).astype(np.int8)
        code[stays] = 0
        for name in self.graph.values:
            groups = group[self.numbers(name)]
            if code[groups].all():
                code[groups[0]] = 0  # a value needs a channel
        return {name: code[group[self.numbers(name)]] for name in self.graph.values}

    def flags(self) -> tuple[Bools, Bools, Bools]:
        """Channels that must stay, for their own part; that are read and always 0; read and always something else."""
        stays, silent, constant = (np.zeros(self.size, dtype=bool) for _ in range(3))
        stays[self.numbers(self.graph.input)] = stays[self.numbers(self.graph.output)] = True
        for node in self.graph.weighted():
            source, value = self.numbers(node.inputs[0]), self.steady[node.inputs[0]].value
            if isinstance(node, Conv) and node.group > 1:
                stays[source] = stays[self.numbers(node.output)] = True
                continue
            reads = _occupied(node.weight)[1]
            folds = isinstance(node, Linear) or not any(node.pads)
            silent[source] |= reads & (value == 0)
            constant[source] |= reads & np.isfinite(value) & (value != 0)
            stays[source] |= reads & (value != 0) & (np.isnan(value) | (not folds))
        return stays, silent, constant

    def ties(self) -> Iterator[tuple[Ints, Ints]]:
        """Pairs of channels that can only go together."""
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
        return self.starts[name] + np.arange(self.graph.values[name].shape[0])


def _constants(node: Node, inputs: list[_Steady], repeats: int) -> _Steady:
    """What the channels of a node's output always are, from what those of its inputs always are."""
    x = inputs[0]
    match node:
        case Conv() | Linear():
            return _Steady.of(np.where(_occupied(node.weight)[0], np.nan, node.bias.astype(np.float64)))
        case Lif():
            return _Steady.of(_firing_rate(node, x))
        case Li():
            return _Steady.of(np.where((x.value == 0) & (x.slack == 0), 0.0, np.nan))
        case Add():
            y = inputs[1]
            rounding = ROUNDING * (np.abs(x.value) + np.abs(y.value))
            return _Steady(x.value + y.value, x.slack + y.slack + rounding)
        case And():
            return _Steady.of(_both(x.value, 1 - inputs[1].value if node.negated else inputs[1].value))
        case Concat():
            return _Steady(*(np.concatenate([getattr(i, key) for i in inputs]) for key in ("value", "slack")))
        case Flatten():
            return _Steady(np.repeat(x.value, repeats), np.repeat(x.slack, repeats))
        case AvgPool():
            return _Steady(x.value, x.slack + ROUNDING * np.abs(x.value))
    return x  # a MaxPool's window always holds a pixel: its padding never shows


def _both(a: Array, b: Array) -> Array:
    """The product of spikes: 0 where one of them never fires, even if nothing is known of the other."""
    return np.where((a == 0) | (b == 0), 0.0, a * b)


def _firing_rate(node: Lif, current: _Steady) -> Array:
    """Return the firing rate of neurons on a constant current: 0 (never), 1 (at every timestep) or NaN (unknown).

    With u the potential above rest: h = keep u + drive, where keep = 1 - 1 / tau. Without a spike, h moves from drive
    towards tau drive and never beyond. After a spike a hard reset starts anew, so that h is drive again. After a soft
    one, h = keep (h - drop) + drive: while all fire, h moves from drive towards tau (drive - keep drop), and
    never below drive if drive >= drop, even if rounded. `step` and `run` bound what rounding does to h within one
    timestep, and within any number of them.
    """
    level, keep, gain, leaks = node.level, node.keep, node.gain, node.tau <= MAX_TAU
    drive = gain * current.value
    scale = ROUNDING * (abs(node.v_threshold) + abs(node.rest) + abs(node.drop))
    step = scale + ROUNDING * np.abs(drive) + gain * current.slack
    tau = node.tau if leaks else 1.0  # a stand-in where it is not used
    run = tau * (step + ROUNDING * tau * np.abs(drive)) if leaks else np.full_like(drive, inf)
    silent = np.where(current.value + current.slack <= 0, level > scale, tau * drive + run < level)
    every = drive >= level + step
    if node.soft:
        lasting = tau * (drive - keep * node.drop) >= level + run + ROUNDING * tau * tau * abs(node.drop)
        every &= (drive >= node.drop + step) | lasting
    return np.where(silent, 0.0, np.where(every, 1.0, np.nan))


def _occupied(weight: Csr) -> tuple[Bools, Bools]:
    """The outputs, and the input channels, that have a weight other than zero."""
    nonzero = weight.values != 0
    rows = weight.row_indices[nonzero]
    channels = weight.indices[nonzero] // prod(weight.shape[2:])
    return np.bincount(rows, minlength=weight.rows) > 0, np.bincount(channels, minlength=weight.shape[1]) > 0


def _without(graph: Graph, keep: dict[str, Bools], steady: dict[str, _Steady]) -> Graph:
    """The graph with the channels that `keep` says, by value; what is constant moves from weights into biases."""
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node, Conv | Linear) and not (isinstance(node, Conv) and node.group > 1):
            rows, channels = keep[node.output], keep[node.inputs[0]]
            constant = np.where(channels, 0.0, np.nan_to_num(steady[node.inputs[0]].value))
            weight, bias = node.weight, node.bias
            if constant.any():
                effect = weight.to_scipy("float64") @ np.repeat(constant, prod(weight.shape[2:]))
                bias = (bias + effect).astype(np.float32)
            node = replace(node, weight=weight.select(rows, channels), bias=bias[rows])
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))
