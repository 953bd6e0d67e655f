"""A sparse graph in plain torch: dense weights, time folded into the batch, neurons as a loop over T.

This is how a trained network runs without an export.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spiketicket.export.formats.unrolled import Neuron
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


class TorchNetwork(nn.Module):
    """The network: `[N, *input_shape]`, or `[T, N, *input_shape]` for a timed input, -> logits `[T, N, classes]`."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        elsewhere = {value for node in graph.nodes if not isinstance(node, Lif | Li) for value in node.inputs}
        self.repeated = {node.output for node in graph.nodes if isinstance(node, Repeat)} - elsewhere  # kept once
        self.places = {node.name: place for place, node in enumerate(graph.weighted())}
        dense = [
            torch.from_numpy(np.ascontiguousarray(node.weight.to_dense(), np.float32)) for node in graph.weighted()
        ]
        biases = [torch.from_numpy(node.bias.copy()) for node in graph.weighted()]
        self.weights, self.biases = nn.ParameterList(dense), nn.ParameterList(biases)
        self.requires_grad_(False)

    def forward(self, x: Tensor, timesteps: int) -> Tensor:
        values = {self.graph.input: x.flatten(0, 1) if self.graph.timed_input else x}
        for node in self.graph.nodes:
            values[node.output] = self.apply_node(node, [values[name] for name in node.inputs], timesteps)
        logits: Tensor = values[self.graph.output].unflatten(0, (timesteps, -1))
        return logits

    def apply_node(self, node: Node, inputs: list[Tensor], timesteps: int) -> Tensor:
        x = inputs[0]
        match node:
            case Conv():
                top, left, bottom, right = node.pads
                if (top, left) != (bottom, right):
                    x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
                weight, bias = self._weights(node)
                return F.conv2d(x, weight, bias, node.strides, (top, left), node.dilations, node.group)
            case Linear():
                return F.linear(x, *self._weights(node))
            case Lif() | Li():
                once = node.inputs[0] in self.repeated
                currents = [x] * timesteps if once else x.chunk(timesteps)
                if isinstance(node, Li):
                    return integrate(currents, Neuron.of(node))
                return fire(currents, Neuron.of(node), soft=node.soft)
            case MaxPool():
                top, left, bottom, right = node.pads
                return F.max_pool2d(F.pad(x, (left, right, top, bottom), value=-torch.inf), node.kernel, node.strides)
            case AvgPool():
                return F.avg_pool2d(x, node.kernel, node.strides)
            case Add():
                return x + inputs[1]
            case And():
                return x * (1 - inputs[1] if node.negated else inputs[1])
            case Concat():
                return torch.cat(inputs, dim=1)
            case Unsqueeze():
                return x.unsqueeze(-2)
            case Flatten():
                return x.flatten(1)
            case Repeat():
                return x if node.output in self.repeated else x.repeat(timesteps, *[1] * (x.dim() - 1))
        raise TypeError(f"no torch form for {type(node).__name__}")

    def _weights(self, node: Conv | Linear) -> tuple[Tensor, Tensor]:
        place = self.places[node.name]
        return self.weights[place], self.biases[place]


def fire(currents: Sequence[Tensor], neuron: Neuron, *, soft: bool) -> Tensor:
    """Return the spikes `[T * N, ...]` for the currents `[N, ...]` of each timestep, as in
    `export/formats/unrolled.py`.
    """
    spikes: list[Tensor] = []
    w: Tensor | None = None
    for current in currents:
        h = current if w is None else torch.add(current, w, alpha=neuron.keep)
        fired = h >= neuron.level
        spikes.append(fired.to(current.dtype))
        w = torch.where(fired, h - neuron.drop, h) if soft else h.masked_fill(fired, 0.0)
    return torch.cat(spikes)


def integrate(currents: Sequence[Tensor], neuron: Neuron) -> Tensor:
    """Return the potentials `[T * N, ...]` for the currents `[N, ...]` of each timestep."""
    potentials: list[Tensor] = []
    w: Tensor | None = None
    for current in currents:
        w = current if w is None else torch.add(current, w, alpha=neuron.keep)
        potentials.append(neuron.gain * w)
    return torch.cat(potentials)
