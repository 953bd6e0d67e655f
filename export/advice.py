"""What a user can do about a layer that has no place in a spiking graph."""

from spikingjelly.activation_based import base
from torch import nn

NEURONS = "only LIFNode, IFNode and ParametricLIFNode are exported"

_BY_NAME = {
    "relu": "not a spiking layer: use a neuron in its place (spikingjelly.activation_based.ann2snn converts networks)",
    "norm": "its statistics depend on the input: train with batch norm, which is folded into the layer before it",
    "upsample": "enlarging images is not exported: use strides or pooling only",
    "transpose": "transposed convolutions are not exported",
    "attention": "attention is not exported: it multiplies activations with each other",
    "softmax": "return logits: softmax does not change the class",
    "sum": "the sum over time is not exported: return the mean over dimension 0, or the logits of every timestep",
    "mul": "products are exported of spikes with spikes only; put constant factors into the normalisation of the input",
    "3d": "volumes are not exported: one- and two-dimensional layers only",
}


def advice(name: str, module: nn.Module | None = None) -> str:
    """Of a layer's class or an operation's name."""
    if isinstance(module, base.MemoryModule):
        return f"its state is not known: {NEURONS}"
    lowered = name.lower()
    return next((text for part, text in _BY_NAME.items() if part in lowered), "has no place in a spiking graph")
