"""Whole networks train as the loop over timesteps does, in any memory format."""

import pytest
import torch
from benchmarks.rivals.timestep_loop import LoopNetwork
from spikingjelly.activation_based import functional
from torch.nn.functional import cross_entropy

from spiketicket.errors import InputError
from spiketicket.train.networks import layers
from spiketicket.train.networks.config import ModelConfig
from spiketicket.train.networks.layers import SMALL, Conv2d, conv, lay_out
from spiketicket.train.networks.models import build


def loss_and_gradients(model, x, labels):
    model.zero_grad()
    functional.reset_net(model)
    out = model(x)
    loss = cross_entropy(out.flatten(0, 1), labels.repeat(len(out)))
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("arch", ["vgg16", "resnet19"])
@pytest.mark.parametrize("timesteps", [1, 4])
def test_network_trains_as_the_loop_over_timesteps(arch, timesteps):
    torch.manual_seed(0)
    ours = build(ModelConfig(arch, 3, 32, 10, timesteps, width=0.06)).double()
    theirs = LoopNetwork(ours)
    x, labels = torch.randn(3, 3, 32, 32).double(), torch.arange(3)
    (loss, gradients), (expected_loss, expected) = (loss_and_gradients(m, x, labels) for m in (ours, theirs))
    torch.testing.assert_close(loss, expected_loss, rtol=1e-10, atol=0)
    assert gradients.keys() == expected.keys()
    for name in gradients:
        torch.testing.assert_close(gradients[name], expected[name], rtol=1e-7, atol=1e-10, msg=name)
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[name], rtol=1e-10, atol=1e-12)


def test_small_network_trains_as_the_loop_in_float32():
    """So few neurons that none comes near enough to its threshold for rounding to matter."""
    torch.manual_seed(0)
    ours = build(ModelConfig("vgg_digits", 1, 8, 10, 5, width=0.25))
    theirs = LoopNetwork(ours)
    x, labels = torch.randn(4, 1, 8, 8), torch.arange(4)
    (loss, gradients), (expected_loss, expected) = (loss_and_gradients(m, x, labels) for m in (ours, theirs))
    torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=0)
    for name in gradients:
        torch.testing.assert_close(gradients[name], expected[name], rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("arch", ["vgg16", "resnet19"])
@pytest.mark.parametrize("mixed", [False, True])
def test_layout_changes_formats_and_nothing_else(arch, mixed, monkeypatch):
    monkeypatch.setattr(layers, "WIDE", 8)
    monkeypatch.setattr(layers, "DEEP", 8)
    torch.manual_seed(0)
    config = ModelConfig(arch, 3, 32, 10, 2, width=0.04)
    network = build(config).double()
    x, labels = torch.randn(3, 3, 32, 32).double(), torch.arange(3)
    before = loss_and_gradients(network, x, labels)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    lay_out(network, torch.device("cpu"), mixed=mixed)
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name])
    network.load_state_dict(build(config).state_dict())
    network.load_state_dict(state)
    images = {}
    for module in network.modules():
        if isinstance(module, Conv2d):
            module.register_forward_hook(lambda m, inputs, out: images.update({m: out.flatten(0, -4)}))
    loss, gradients = loss_and_gradients(network, x, labels)
    torch.testing.assert_close(loss, before[0])
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, before[1][name], rtol=1e-7, atol=1e-10)
    for module, out in images.items():
        by_taps = out.shape[-1] <= SMALL and module.kernel_size == (3, 3) and module.stride == (1, 1)
        blocked = not mixed and module.out_channels >= 8 and not by_taps and module.kernel_size == (3, 3)
        assert out.is_contiguous(memory_format=torch.contiguous_format if blocked else torch.channels_last)
        assert module.weight.is_contiguous(memory_format=torch.channels_last)
    kinds = {(module.out_channels >= 8, out.shape[-1] > SMALL) for module, out in images.items()}
    assert kinds >= {(False, True), (True, False), (True, True)}, "else the test sees nothing"


@pytest.mark.parametrize(("mode", "shape"), [("m", (2, 4, 8, 8)), ("m", (4, 8, 8)), ("s", (2, 3, 4, 8, 8))])
def test_inputs_of_another_rank_are_refused(mode, shape):
    """SpikingJelly's own checks this; folding time into the batch would take [N, C, H, W] for unbatched images."""
    with pytest.raises(InputError, match=r"convolution: expected \[.*N, C, H, W\].*, got \["):
        conv(4, 4, 3, bias=False, timed=mode == "m")(torch.zeros(shape))


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2},
        {"dilation": 2},
        {"groups": 2},
        {"padding": 0},
        {"padding": "same"},
        {"padding_mode": "circular"},
        {"kernel_size": 2},
        {"kernel_size": (3, 1)},
    ],
)
def test_layout_leaves_other_convolutions_right(options, monkeypatch):
    """Those that taps.py does not know, on images that are small enough for it."""
    monkeypatch.setattr(layers, "DEEP", 1)
    torch.manual_seed(0)
    network = Conv2d(4, 6, **{"kernel_size": 3, "padding": 1, "step_mode": "m", **options}).double()
    x = torch.randn(2, 3, 4, 4, 4).double()
    expected = network(x)
    lay_out(network, torch.device("cpu"), mixed=False)
    torch.testing.assert_close(network(x), expected, rtol=1e-12, atol=1e-12)
