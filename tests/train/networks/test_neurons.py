"""Neurons for training compute what plain ones do, timestep by timestep, forward and backward."""

import math
from itertools import product

import pytest
import torch
from spikingjelly.activation_based import functional, neuron, surrogate

from spiketicket.train.networks import neurons
from spiketicket.train.networks.config import NeuronConfig
from spiketicket.train.networks.layers import Repeat, lif

VARIANTS = [
    NeuronConfig(
        tau=tau, v_reset=reset, decay_input=decay, detach_reset=detach, v_threshold=threshold, surrogate_alpha=a
    )
    for (tau, threshold, a), reset, decay, detach in product(
        [(4 / 3, 1.0, 2.0), (2.5, 0.7, 3.5)], [0.0, -0.3, None], [True, False], [True, False]
    )
]


def channels_last(x):
    """`[T, N, C, H, W]` with the channels side by side in memory."""
    return x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])


class Step(torch.autograd.Function):
    """Heaviside; backward the numeric derivative of the stated primitive atan(pi alpha z / 2) / pi + 1/2."""

    @staticmethod
    def forward(ctx, z, alpha):
        ctx.save_for_backward(z)
        ctx.alpha = alpha
        return (z >= 0).to(z.dtype)

    @staticmethod
    def backward(ctx, grad):
        (z,) = ctx.saved_tensors
        primitive = lambda v: torch.atan(math.pi * ctx.alpha * v / 2) / math.pi + 0.5  # noqa: E731
        return grad * (primitive(z + 1e-5) - primitive(z - 1e-5)) / 2e-5, None


def plain_lif(x, config, v=None):
    """The equations in the words of METHOD.md, by autograd; -> spikes and last potential."""
    rest = config.v_reset or 0.0
    v = torch.full_like(x[0], rest) if v is None else v
    out = []
    for current in x:
        decayed = v - (v - rest) / config.tau
        h = decayed + (current / config.tau if config.decay_input else current)
        s = Step.apply(h - config.v_threshold, config.surrogate_alpha)
        out.append(s)
        reset = s.detach() if config.detach_reset else s
        v = h - reset * config.v_threshold if config.v_reset is None else (1 - reset) * h + reset * config.v_reset
    return torch.stack(out), v


@pytest.mark.parametrize(
    ("options", "current", "potentials", "spikes"),
    [
        # tau 4/3: h = v / 4 + 3 x / 4
        ({}, 1.2, [0.9, 1.125, 0.9, 1.125], [0, 1, 0, 1]),
        ({"v_reset": None}, 1.2, [0.9, 1.125, 0.93125, 1.1328125], [0, 1, 0, 1]),
        ({"v_reset": -0.4}, 1.2, [0.5, 0.725, 0.78125, 0.7953125], [0, 0, 0, 0]),
        ({"v_reset": -0.4}, 1.6, [0.8, 1.1, 0.8, 1.1], [0, 1, 0, 1]),
        # tau 2: h = v / 2 + x
        ({"tau": 2.0, "decay_input": False}, 0.6, [0.6, 0.9, 1.05, 0.6], [0, 0, 1, 0]),
        ({"tau": 2.0, "decay_input": False, "v_reset": None}, 0.75, [0.75, 1.125, 0.8125, 1.15625], [0, 1, 0, 1]),
        ({"tau": 2.0, "decay_input": False, "v_reset": 0.5}, 0.45, [0.95, 1.175, 0.95, 1.175], [0, 1, 0, 1]),
        # a potential that equals the threshold fires
        ({"tau": 2.0, "decay_input": False}, 1.0, [1.0, 1.0, 1.0, 1.0], [1, 1, 1, 1]),
    ],
)
def test_neuron_follows_the_trace_worked_out_by_hand(options, current, potentials, spikes):
    node = lif(NeuronConfig(**options))
    assert node(torch.full((4, 1), current, dtype=torch.float64))[:, 0].tolist() == spikes
    node = lif(NeuronConfig(**options))
    reset = options.get("v_reset", 0.0)
    for h, s in zip(potentials, spikes, strict=True):
        assert node(torch.full((1, 1), current, dtype=torch.float64)).item() == s
        after = h if not s else h - 1 if reset is None else reset
        assert node.v.item() == pytest.approx(after, abs=1e-12)


@pytest.mark.parametrize("config", VARIANTS, ids=str)
def test_neuron_equals_the_plain_loop_and_spikingjelly_in_float64(config):
    torch.manual_seed(0)
    node = lif(config)
    theirs = neuron.LIFNode(
        config.tau,
        config.decay_input,
        config.v_threshold,
        config.v_reset,
        surrogate.ATan(config.surrogate_alpha),
        config.detach_reset,
    )
    for timesteps in range(1, 7):
        x = (1.5 * torch.randn(timesteps, 3, 2, 5, 7, dtype=torch.float64) + 0.5).requires_grad_()
        by_out, by_v = torch.randn_like(x), torch.randn_like(x[0])
        results = {}
        for name, run in {
            "ours": node,
            "channels last": lambda x: node(channels_last(x)),
            "plain": lambda x: plain_lif(x, config),
            "theirs": lambda x: torch.stack([theirs(step) for step in x]),
        }.items():
            functional.reset_net(node)
            functional.reset_net(theirs)
            out = run(x)
            out, v = out if isinstance(out, tuple) else (out, theirs.v if name == "theirs" else node.v)
            (grad,) = torch.autograd.grad((out * by_out).sum() + (v * by_v).sum(), x)
            results[name] = out.detach(), v.detach(), grad
        assert 0.05 < results["ours"][0].mean() < 0.95
        for name in ("ours", "channels last"):
            assert torch.equal(results[name][0], results["plain"][0])
            for place in (0, 1, 2):
                torch.testing.assert_close(results[name][place], results["plain"][place], rtol=1e-7, atol=1e-8)
                torch.testing.assert_close(results[name][place], results["theirs"][place], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("config", VARIANTS[:3], ids=str)
def test_neuron_goes_on_where_it_stopped(config):
    torch.manual_seed(0)
    x = torch.randn(5, 4, 3, dtype=torch.float64, requires_grad=True)
    by_out = torch.randn_like(x)
    node = lif(config)
    whole = torch.autograd.grad((node(x) * by_out).sum(), x)[0]
    functional.reset_net(node)
    parts = torch.cat([node(x[:2]), node(x[2:])])
    torch.testing.assert_close(torch.autograd.grad((parts * by_out).sum(), x)[0], whole)


def test_neuron_computes_in_parts(monkeypatch):
    torch.manual_seed(0)
    x = torch.randn(3, 5, 7, 3, requires_grad=True)
    by_out = torch.randn_like(x)
    results = []
    for part in (neurons.PART, 4):
        monkeypatch.setattr(neurons, "PART", part)
        out = lif(NeuronConfig())(x)
        results.append((out.detach(), *torch.autograd.grad((out * by_out).sum(), x)))
    for whole, parts in zip(*results, strict=True):
        assert torch.equal(whole, parts)


def test_neuron_reads_inputs_of_any_layout():
    torch.manual_seed(0)
    still = torch.randn(2, 3, 4, 6, requires_grad=True)
    node = lif(NeuronConfig())
    for view in (
        Repeat(3)(still),
        still.transpose(0, 2).expand(3, 4, 3, 2, 6),
        channels_last(still.expand(3, *still.shape)),
        still[..., ::2].expand(2, 2, 3, 4, 3),
    ):
        by_out = torch.randn(view.shape)
        results = []
        for x in (view, view.contiguous()):
            functional.reset_net(node)
            out = node(x)
            results.append((out.detach(), *torch.autograd.grad((out * by_out).sum(), still, retain_graph=True)))
        assert torch.equal(results[0][0], results[1][0])
        torch.testing.assert_close(results[0][1], results[1][1])


def test_neuron_in_bfloat16_keeps_float32_potentials():
    torch.manual_seed(0)
    x = torch.randn(5, 4, 6, 8, 8).bfloat16()
    by_out = torch.randn_like(x)
    node, grads, outs = lif(NeuronConfig()), [], []
    for dtype in (torch.bfloat16, torch.float32):
        functional.reset_net(node)
        given = channels_last(x.to(dtype)).requires_grad_()
        out = node(given)
        assert out.dtype == dtype and node.v.dtype == torch.float32 and out.stride() == given.stride()
        outs.append(out.detach().float())
        grads.append(torch.autograd.grad(out, given, by_out.to(dtype))[0].float())
    assert torch.equal(*outs)  # the inputs are the same numbers, and so is every potential
    torch.testing.assert_close(grads[0], grads[1], rtol=2**-6, atol=2**-8)


def soft_lif(x, config, softness):
    """The equations with a step that lies between spikes and the surrogate's primitive, by autograd."""
    rest, alpha, out = config.v_reset or 0.0, config.surrogate_alpha, []
    v = torch.full_like(x[0], rest)
    for current in x:
        h = v - (v - rest) / config.tau + (current / config.tau if config.decay_input else current)
        z = h - config.v_threshold
        primitive = torch.atan(math.pi * alpha * z / 2) / math.pi + 0.5
        s = primitive + (1 - softness) * ((z >= 0).to(z.dtype) - primitive).detach()
        out.append(s)
        reset = s.detach() if config.detach_reset else s
        v = h - reset * config.v_threshold if config.v_reset is None else (1 - reset) * h + reset * config.v_reset
    return torch.stack(out)


@pytest.mark.parametrize("softness", [1.0, 0.3])
@pytest.mark.parametrize("config", VARIANTS, ids=str)
def test_soft_neurons(config, softness):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 7, dtype=torch.float64, generator=generator).requires_grad_()
    by_out = torch.randn(4, 3, 7, dtype=torch.float64, generator=generator)
    node = lif(config)
    node.softness = softness
    outs = node(x), soft_lif(x, config, softness)
    assert torch.allclose(*outs, rtol=0, atol=1e-14) and outs[0].detach().unique().numel() > 20, "no mere spikes"
    grads = [torch.autograd.grad((out * by_out).sum(), x)[0] for out in outs]
    assert torch.allclose(*grads, rtol=0, atol=1e-13) and float(grads[0].abs().max()) > 0.1


def test_soft_neurons_begin_every_call_at_rest():
    node = lif(NeuronConfig())
    node.softness = 1.0
    x = torch.randn(3, 5)
    assert torch.equal(node(x), node(x))
