"""Advice goes by the whole name of an operation, and by the classes that a layer is derived from."""

import pytest
from spikingjelly.activation_based import layer, neuron
from torch import nn

from spiketicket.export.torch.advice import advice


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("transpose", "dimensions keep their order"),
        ("conv_transpose2d", "transposed convolutions"),
        ("einsum", "matrix products"),
        ("matmul", "matrix products"),
        ("sum", "the sum over time"),
        ("mul", "products are exported"),
        ("relu_", "not a spiking layer"),
        ("log_softmax", "return logits"),
        ("interpolate", "enlarging images"),
        ("layer_norm", "its statistics"),
        ("masked_fill_", "a choice by value"),
        ("exp", "functions of single values"),
        ("sumptuous", "a spiking graph has no such operation"),
        ("ReLU", "a spiking graph has no such operation"),
    ],
)
def test_operations(name, text):
    assert advice(name).startswith(text)


class OwnNorm(nn.LayerNorm):
    pass


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (nn.SyncBatchNorm(2), "batch norm over processes: convert it to BatchNorm2d"),
        (OwnNorm(2), "its statistics"),
        (layer.GroupNorm(1, 2), "its statistics"),
        (nn.ConvTranspose2d(1, 1, 1), "transposed convolutions"),
        (nn.Conv3d(1, 1, 1), "volumes"),
        (nn.LeakyReLU(), "not a spiking layer"),
        (nn.Embedding(1, 1), "a spiking graph has no such operation"),
        (neuron.ILIFNode(), "its state cannot be exported"),
    ],
)
def test_layers(module, text):
    assert advice(type(module).__name__, module).startswith(text)
