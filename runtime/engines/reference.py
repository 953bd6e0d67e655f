"""The oracle: NumPy in float64, one line per equation. It is slow on purpose; all other engines are compared to it."""

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from spiketicket.graph import (
    Add,
    And,
    AvgPool,
    Concat,
    Conv,
    Flatten,
    Graph,
    Li,
    Lif,
    Linear,
    MaxPool,
    Node,
    Repeat,
    Unsqueeze,
)
from spiketicket.runtime.engine import Engine, Floats, KernelChoice, Model, Options, Trace, names_by_lif_output

Array = NDArray[np.float64]


class ReferenceEngine(Engine):
    name = "reference"

    def __init__(self, model: Model, options: Options) -> None:
        self.graph = model.graph
        self.weights: dict[str, Array] = {
            node.name: node.weight.to_dense().astype(np.float64) for node in self.graph.weighted()
        }

    def run(self, x: Floats, timesteps: int) -> Floats:
        return self.compute_values(x, timesteps)[self.graph.output].astype(np.float32)

    def trace(self, x: Floats, timesteps: int) -> Trace:
        values = self.compute_values(x, timesteps)
        spikes = {name: values[value].astype(np.uint8) for value, name in names_by_lif_output(self.graph).items()}
        return Trace(spikes, values[self.graph.output].astype(np.float32))

    def steps(self, x: Floats, timesteps: int) -> Iterator[Floats]:
        return iter(self.run(x, timesteps))

    def plan(self) -> dict[str, KernelChoice]:
        return {node.name: KernelChoice("numpy", "float64 oracle") for node in self.graph.nodes}

    def compute_values(self, x: Floats, timesteps: int) -> dict[str, Array]:
        values = {self.graph.input: x.astype(np.float64)}
        for node in self.graph.nodes:
            values[node.output] = apply(
                self.graph, node, [values[name] for name in node.inputs], timesteps, self.weights.get(node.name)
            )
        return values


def apply(graph: Graph, node: Node, inputs: list[Array], timesteps: int, weight: Array | None = None) -> Array:
    """Return the output of `node` for its inputs, `[N, ...]` or timed `[T, N, ...]`.

    `weight` is the node's dense weight, if the caller has it already.
    """
    x = inputs[0]
    match node:
        case Conv():
            return convolve(node, _dense(node, weight), x)
        case Linear():
            return x @ _dense(node, weight).T + node.bias
        case Lif():
            return fire(node, x)
        case Li():
            return integrate(node, x)
        case MaxPool():
            top, left, bottom, right = node.pads
            padded = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(top, bottom), (left, right)], constant_values=-np.inf)
            highest: Array = _windows(padded, node.kernel, node.strides).max(axis=(-2, -1))
            return highest
        case AvgPool():
            mean: Array = _windows(x, node.kernel, node.strides).mean(axis=(-2, -1))
            return mean
        case Add():
            return x + inputs[1]
        case And():
            return x * (1 - inputs[1] if node.negated else inputs[1])
        case Concat():
            return np.concatenate(inputs, axis=-len(graph.values[node.output].shape))
        case Unsqueeze():
            return x[..., None, :]
        case Flatten():
            return x.reshape(*x.shape[:-3], -1)
        case Repeat():
            return np.repeat(x[None], timesteps, axis=0)
    raise TypeError(f"no rule for {type(node).__name__}")


def _dense(node: Conv | Linear, weight: Array | None) -> Array:
    return node.weight.to_dense().astype(np.float64) if weight is None else weight


def convolve(node: Conv, weight: Array, x: Array) -> Array:
    """Convolve `x` `[..., C, H, W]` with `weight` `[O, C / group, kh, kw]` to `[..., O, H', W']`."""
    top, left, bottom, right = node.pads
    padded = np.pad(x.reshape(-1, *x.shape[-3:]), [(0, 0), (0, 0), (top, bottom), (left, right)])
    patches = _windows(padded, (weight.shape[2], weight.shape[3]), node.strides, node.dilations)
    groups = [
        np.tensordot(part, kernels, axes=([1, 4, 5], [1, 2, 3])).transpose(0, 3, 1, 2)
        for part, kernels in zip(
            np.split(patches, node.group, axis=1), np.split(weight, node.group, axis=0), strict=True
        )
    ]
    out = np.concatenate(groups, axis=1) + node.bias[:, None, None]
    return out.reshape(*x.shape[:-3], *out.shape[1:])


def fire(node: Lif, x: Array) -> Array:
    """Return the spikes of a LIF layer for currents `x` `[T, N, ...]`, by the equations of spiketicket.graph.Lif."""
    rest = node.rest
    v = np.full(x.shape[1:], rest)
    spikes = np.empty_like(x)
    for t, current in enumerate(x):
        h = v + (current - (v - rest)) / node.tau if node.decay_input else v - (v - rest) / node.tau + current
        spikes[t] = h >= node.v_threshold
        v = h - node.drop * spikes[t] if node.soft else np.where(spikes[t] > 0, rest, h)
    return spikes


def integrate(node: Li, x: Array) -> Array:
    """Return the potentials of a leaky integrator for the currents `x` `[T, N, ...]`, by the equations of
    spiketicket.graph.Li.
    """
    v = np.zeros(x.shape[1:])
    potentials = np.empty_like(x)
    for t, current in enumerate(x):
        v = v + (current - v) / node.tau if node.decay_input else v - v / node.tau + current
        potentials[t] = v
    return potentials


def _windows(x: Array, kernel: tuple[int, int], strides: tuple[int, int], dilations: tuple[int, int] = (1, 1)) -> Array:
    """Return all windows of the last two axes, `[..., H', W', kh, kw]`, as a view."""
    spans = tuple(dilation * (size - 1) + 1 for dilation, size in zip(dilations, kernel, strict=True))
    windows = sliding_window_view(x, spans, axis=(-2, -1))
    return windows[..., :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
