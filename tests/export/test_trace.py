"""Torch network -> graph: folded batch norm computes the same, what has no place is refused."""

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

from spiketicket.errors import ModelError
from spiketicket.export.trace import trace
from spiketicket.graph import Add, Conv, Lif
from spiketicket.train.config import ModelConfig, NeuronConfig
from spiketicket.train.layers import Repeat, conv, lif
from spiketicket.train.models import build


def network(*modules, repeat=True):
    return nn.Sequential(*([Repeat(3)] if repeat else []), *modules).eval()


READOUT = (layer.Flatten(step_mode="m"), layer.Linear(32, 3, step_mode="m"))


def test_batch_norm_folds_into_weight_and_bias():
    torch.manual_seed(0)
    norm = layer.BatchNorm2d(4, step_mode="m")
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.normal_()
        norm.running_var.uniform_(0.1, 2)
    module = network(
        conv(2, 4, 3, bias=True),
        norm,
        lif(NeuronConfig()),
        layer.Flatten(step_mode="m"),
        layer.Linear(64, 3, step_mode="m"),
    )
    graph = trace(module, (2, 4, 4), {})
    folded = graph.nodes[1]
    x = torch.randn(5, 2, 4, 4)
    with torch.no_grad():
        expected = module[2](module[1](x[None]))[0]
        got = torch.conv2d(x, torch.from_numpy(folded.weight.to_dense()), torch.from_numpy(folded.bias), padding=1)
    assert torch.allclose(got, expected, atol=1e-5)


def test_pruned_weights_are_not_stored():
    model = build(ModelConfig("vgg16", 3, 32, 10, width=0.1)).eval()
    with torch.no_grad():
        model.features[1].weight[:, 1:] = 0
    first = next(node for node in trace(model, (3, 32, 32), {}).nodes if node.name == "features.1")
    assert first.weight.nnz == model.features[1].weight[:, :1].numel()


def test_residual_network():
    graph = trace(build(ModelConfig("resnet19", 3, 32, 10, width=0.1, timesteps=4)).eval(), (3, 32, 32), {"k": "v"})
    kinds = [type(node) for node in graph.nodes]
    assert kinds.count(Add) == 8 and kinds.count(Conv) == 20 and kinds.count(Lif) == 18
    assert graph.timesteps == 4 and graph.classes == 10 and graph.metadata == {"k": "v"}


def test_neurons_keep_their_settings():
    module = network(neuron.LIFNode(3.0, False, 0.7, None, step_mode="m"), *READOUT)
    (node,) = (n for n in trace(module, (2, 4, 4), {}).nodes if isinstance(n, Lif))
    assert (node.tau, node.v_threshold, node.v_reset, node.decay_input) == (3.0, 0.7, None, False)


BAD_NETWORKS = [
    (lambda: network(*READOUT).train(), "needs the network in evaluation mode"),
    (lambda: network(lif(NeuronConfig()), *READOUT, repeat=False), "never repeats its input over time"),
    (lambda: network(nn.ReLU(), *READOUT), "layer 1: a ReLU has no place"),
    (lambda: network(neuron.IFNode(step_mode="m"), *READOUT), "layer 1: a IFNode has no place"),
    (
        lambda: network(lif(NeuronConfig()), layer.BatchNorm2d(2, step_mode="m"), *READOUT),
        "can only follow a convolution",
    ),
    (
        lambda: network(layer.Conv2d(2, 2, 3, padding="same", step_mode="m"), *READOUT),
        "only numeric zero padding",
    ),
    (
        lambda: network(layer.Conv2d(2, 2, 3, padding=1, padding_mode="circular", step_mode="m"), *READOUT),
        "only numeric",
    ),
    (
        lambda: network(layer.MaxPool2d(2, ceil_mode=True, step_mode="m"), *READOUT),
        "ceil_mode cannot be exported",
    ),
    (lambda: network(layer.AvgPool2d(2, padding=1, step_mode="m"), *READOUT), "average pooling with padding"),
    (lambda: network(layer.Flatten(2, step_mode="m"), *READOUT), "Flatten must start at dimension 1"),
]


@pytest.mark.parametrize(("make", "message"), BAD_NETWORKS)
def test_refusals(make, message):
    with pytest.raises(ModelError, match=message):
        trace(make(), (2, 4, 4), {})


def test_operations_that_have_no_place():
    class Doubling(nn.Module):
        def __init__(self):
            super().__init__()
            self.repeat = Repeat(2)

        def forward(self, x):
            return self.repeat(x) * 2

    with pytest.raises(ModelError, match="operation .*mul.* has no place"):
        trace(Doubling().eval(), (2, 4, 4), {})


def test_weights_in_float16_are_rounded_before_packing():
    model = build(ModelConfig("vgg_digits", 1, 8, 10)).eval()
    for node in trace(model, (1, 8, 8), {}, "float16").weighted():
        assert node.weight.values.dtype == np.float16


def test_float16_weights_round_once_and_after_folding():
    """Weights of 1e-8 before a batch norm that scales them up would vanish if they were rounded first."""
    torch.manual_seed(0)
    norm = layer.BatchNorm2d(4, step_mode="m")
    norm.running_var.fill_(1e-12)
    first = conv(2, 4, 3, bias=False)
    with torch.no_grad():
        first.weight.mul_(1e-6)
    module = network(first, norm, lif(NeuronConfig()), layer.Flatten(step_mode="m"), layer.Linear(64, 3, step_mode="m"))
    full, half = (trace(module, (2, 4, 4), {}, values).nodes[1].weight.to_dense() for values in ("float32", "float16"))
    assert np.abs(full).max() > 1e-5
    assert np.array_equal(half, full.astype(np.float16).astype(np.float32))
