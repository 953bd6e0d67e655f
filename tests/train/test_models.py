"""Networks have the paper's shapes and counts; neurons and batch norm do what their texts say."""

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import surrogate

from spiketicket.errors import InputError
from spiketicket.export.trace import trace
from spiketicket.train.config import ModelConfig, NeuronConfig
from spiketicket.train.layers import TimestepBatchNorm2d, lif
from spiketicket.train.models import build, lif_spikes, logits, prunable


def config(arch, classes=10, **options):
    return ModelConfig(arch, 3, 32, classes, **options)


@pytest.mark.parametrize(
    ("arch", "parameters", "weights", "tensors", "once", "per_step", "neurons"),
    [
        ("vgg16", 14_728_266, 14_715_584, 14, 1_769_472, 311_432_192, 276_480),
        ("resnet19", 12_630_858, 12_619_968, 22, 1_769_472, 553_781_760, 393_472),
    ],
)
def test_counts_of_the_paper(arch, parameters, weights, tensors, once, per_step, neurons):
    model = build(config(arch)).eval()
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(p.numel() for p in prunable(model).values()) == weights
    assert len(prunable(model)) == tensors
    graph = trace(model, (3, 32, 32), {})
    macs = {True: 0, False: 0}
    for node in graph.weighted():
        macs[graph.values[node.output].timed] += graph.macs(node, dense=True)
    assert macs == {False: once, True: per_step}
    spikes = lif_spikes(model, torch.zeros(1, 3, 32, 32))
    assert sum(s[0, 0].numel() for s in spikes.values()) == neurons


def test_digits_network():
    model = build(ModelConfig("vgg_digits", 1, 8, 10))
    assert logits(model, torch.zeros(3, 1, 8, 8)).shape == (5, 3, 10)


@pytest.mark.parametrize("arch", ["vgg16", "resnet19"])
def test_width_multiplies_hidden_channels(arch):
    model = build(config(arch, width=0.25))
    assert prunable(model)["stem.0.weight"].shape == (16, 3, 3, 3)


def test_unknown_arch_and_small_images():
    with pytest.raises(InputError, match="unknown arch 'lenet': expected one of vgg_digits, vgg16, resnet19"):
        build(config("lenet"))
    with pytest.raises(InputError, match="vgg16 needs larger images than 8x8"):
        build(ModelConfig("vgg16", 3, 8, 10))


@pytest.mark.parametrize(
    ("current", "spikes"),
    [(4 / 3 + 1e-6, [1, 1, 1, 1]), (1.2, [0, 1, 0, 1]), (1.02, [0, 0, 1, 0]), (0.99, [0, 0, 0, 0])],
)
def test_neuron_fires_as_worked_out_by_hand(current, spikes):
    neuron = lif(NeuronConfig())
    assert neuron(torch.full((4, 1), current))[:, 0].tolist() == spikes


def test_surrogate_is_the_derivative_of_its_primitive():
    """g(x) = atan(pi alpha x / 2) / pi + 1/2 with alpha = 2; the supplementary prints g where it says g'."""
    x = torch.linspace(-2, 2, 41, dtype=torch.float64, requires_grad=True)
    surrogate.ATan(2.0)(x).sum().backward()
    step = 1e-6
    points = x.detach().numpy()
    primitive = lambda v: np.arctan(np.pi * v) / np.pi + 0.5  # noqa: E731
    numeric = (primitive(points + step) - primitive(points - step)) / (2 * step)
    assert np.allclose(x.grad.numpy(), numeric, atol=1e-8)
    assert np.allclose(x.grad.numpy(), 1 / (1 + (np.pi * points) ** 2), atol=1e-12)


def test_batch_norm_per_timestep_has_statistics_of_each_timestep():
    torch.manual_seed(0)
    x = torch.randn(3, 6, 4, 5, 5) * torch.tensor([1.0, 2.0, 3.0])[:, None, None, None, None] + 1
    norm = TimestepBatchNorm2d(4)
    out = norm(x)
    for step in out:
        assert torch.allclose(step.mean((0, 2, 3)), torch.zeros(4), atol=1e-5)
        assert torch.allclose(step.var((0, 2, 3), unbiased=False), torch.ones(4), atol=1e-3)
    running = torch.zeros(4)
    for step in x:
        running = 0.9 * running + 0.1 * step.mean((0, 2, 3))
    assert torch.allclose(norm.running_mean, running, atol=1e-6)
    assert norm.num_batches_tracked == 3


def test_folded_batch_norm_differs_in_training_only():
    torch.manual_seed(0)
    x = torch.randn(5, 4, 3, 32, 32)[0]
    models = {}
    for kind in ("per-timestep", "folded"):
        torch.manual_seed(1)
        models[kind] = build(config("vgg16", width=0.1, batch_norm=kind))
    with torch.no_grad():
        evaluated = [logits(model.eval(), x) for model in models.values()]
        trained = [logits(model.train(), x) for model in models.values()]
    assert torch.equal(*evaluated)
    assert not torch.allclose(*trained)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("timesteps", 0),
        ("timesteps", True),
        ("width", -1.0),
        ("batch_norm", "none"),
        ("num_classes", "10"),
        ("arch", 3),
    ],
)
def test_bad_configurations(field, value):
    with pytest.raises(InputError, match=f"bad {field} for a network"):
        ModelConfig(**{"arch": "vgg16", "in_channels": 3, "image_size": 32, "num_classes": 10, field: value})
