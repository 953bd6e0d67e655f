"""The network in plain torch, not SpikingJelly: batch norm folded, time folded into the batch, LIF a loop over T."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spiketicket.export.unrolled import Neuron
from spiketicket.graph import Add, AvgPool, Conv, Flatten, Graph, Lif, Linear, MaxPool, Node, Repeat


class TorchNetwork(nn.Module):
    """`[N, C, H, W]` -> logits `[T, N, classes]`; dense weights."""

    def __init__(self, graph: Graph, timesteps: int) -> None:
        super().__init__()
        self.graph, self.timesteps = graph, timesteps
        elsewhere = {value for node in graph.nodes if not isinstance(node, Lif) for value in node.inputs}
        self.repeated = {node.output for node in graph.nodes if isinstance(node, Repeat)} - elsewhere  # kept once
        self.places = {node.name: place for place, node in enumerate(graph.weighted())}
        dense = [
            torch.from_numpy(np.ascontiguousarray(node.weight.to_dense(), np.float32)) for node in graph.weighted()
        ]
        biases = [torch.from_numpy(node.bias.copy()) for node in graph.weighted()]
        self.weights, self.biases = nn.ParameterList(dense), nn.ParameterList(biases)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        values = {self.graph.input: x}
        for node in self.graph.nodes:
            values[node.output] = self.apply_node(node, [values[name] for name in node.inputs])
        logits: Tensor = values[self.graph.output].unflatten(0, (self.timesteps, -1))
        return logits

    def apply_node(self, node: Node, inputs: list[Tensor]) -> Tensor:
        x = inputs[0]
        match node:
            case Conv():
                top, left, bottom, right = node.pads
                if (top, left) != (bottom, right):
                    x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
                place = self.places[node.name]
                return F.conv2d(
                    x, self.weights[place], self.biases[place], node.strides, (top, left), node.dilations, node.group
                )
            case Linear():
                place = self.places[node.name]
                return F.linear(x, self.weights[place], self.biases[place])
            case Lif():
                once = node.inputs[0] in self.repeated
                currents = [x] * self.timesteps if once else x.chunk(self.timesteps)
                return fire(currents, Neuron.of(node), soft=node.v_reset is None)
            case MaxPool():
                top, left, bottom, right = node.pads
                return F.max_pool2d(F.pad(x, (left, right, top, bottom), value=-torch.inf), node.kernel, node.strides)
            case AvgPool():
                return F.avg_pool2d(x, node.kernel, node.strides)
            case Add():
                return x + inputs[1]
            case Flatten():
                return x.flatten(1)
            case Repeat():
                return x if node.output in self.repeated else x.repeat(self.timesteps, *[1] * (x.dim() - 1))
        raise TypeError(f"no torch form for {type(node).__name__}")


def fire(currents: Sequence[Tensor], neuron: Neuron, *, soft: bool) -> Tensor:
    """The currents of each timestep, `[N, ...]`, -> spikes `[T * N, ...]`; the equations of `export/unrolled.py`."""
    spikes: list[Tensor] = []
    w: Tensor | None = None
    for current in currents:
        h = current if w is None else torch.add(current, w, alpha=neuron.keep)
        fired = h >= neuron.level
        spikes.append(fired.to(current.dtype))
        w = torch.where(fired, h - neuron.drop, h) if soft else h.masked_fill(fired, 0.0)
    return torch.cat(spikes)
