"""Neurons and batch norm for training compute what plain ones do, timestep by timestep, forward and backward."""

import math
from itertools import product
from pathlib import Path

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from timestep_loop import LoopNetwork
from torch import nn
from torch.multiprocessing import spawn
from torch.nn.functional import cross_entropy

from spiketicket.errors import InputError
from spiketicket.train import layers, neurons
from spiketicket.train.config import ModelConfig, NeuronConfig
from spiketicket.train.layers import Conv2d, Repeat, batch_norm, lay_out, lif
from spiketicket.train.models import build
from spiketicket.train.norms import FoldedBatchNorm2d, StaticBatchNorm2d, TimestepBatchNorm2d

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
        config.tau, config.decay_input, config.v_threshold, config.v_reset, surrogate.ATan(config.surrogate_alpha),
        config.detach_reset,
    )  # fmt: skip
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


def reference_norm(norm, x):
    """The definition: torch's batch norm on one timestep after the other."""
    return torch.stack([nn.BatchNorm2d.forward(norm, step) for step in x])


def pair_of_norms(kind, channels, **options):
    norms = kind(channels, **options).double(), nn.BatchNorm2d(channels, **options).double()
    for norm in norms:
        if norm.affine:
            norm.weight.data = torch.linspace(0.5, 2, channels).double()
            norm.bias.data = torch.linspace(-1, 1, channels).double()
    return norms


@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": None}, {"momentum": 0.3, "eps": 0.1}, {"affine": False}, {"track_running_stats": False}],
)
@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last])
@pytest.mark.parametrize("timesteps", [1, 4])
def test_batch_norm_equals_torch_per_timestep(options, layout, timesteps):
    torch.manual_seed(0)
    ours, theirs = pair_of_norms(TimestepBatchNorm2d, 5, **options)
    for _ in range(2):
        x = (layout(torch.randn(timesteps, 3, 5, 7, 2).double()) * 2 + 1).requires_grad_()
        by_out = torch.randn_like(x)
        results = []
        for norm, out in ((ours, ours(x)), (theirs, reference_norm(theirs, x))):
            wanted = [x, *norm.parameters()]
            results.append((out, *torch.autograd.grad(out, wanted, by_out)))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)
        assert results[0][0].stride() == x.stride()
    for a, b in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
        assert a[0] == b[0]
        torch.testing.assert_close(a[1], b[1], rtol=1e-12, atol=1e-12)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x), reference_norm(theirs, x), rtol=1e-12, atol=1e-12)


def test_batch_norm_of_one_timestep_and_of_all_folded():
    torch.manual_seed(0)
    x = torch.randn(3, 4, 5, 2, 2).double()
    ours, theirs = pair_of_norms(StaticBatchNorm2d, 5)
    torch.testing.assert_close(ours(x[0]), theirs(x[0]))
    ours, _ = pair_of_norms(FoldedBatchNorm2d, 5)
    theirs = layer.BatchNorm2d(5, step_mode="m").double()
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    kinds = {batch_norm(1, "per-timestep", timed=False), batch_norm(1, "per-timestep"), batch_norm(1, "folded")}
    assert {type(norm) for norm in kinds} == {StaticBatchNorm2d, TimestepBatchNorm2d, FoldedBatchNorm2d}


def test_batch_norm_in_bfloat16_has_float32_statistics():
    torch.manual_seed(0)
    x = (torch.randn(3, 8, 4, 6, 6) + 20).bfloat16()
    norm, wide = TimestepBatchNorm2d(4), TimestepBatchNorm2d(4)
    given = channels_last(x).requires_grad_()
    out = norm(given)
    assert out.dtype == torch.bfloat16 and out.stride() == given.stride()
    torch.testing.assert_close(out.float(), wide(x.float()), rtol=2**-7, atol=2**-7)
    torch.testing.assert_close(norm.running_mean, wide.running_mean)
    out.sum().backward()
    assert given.grad.dtype == torch.bfloat16 and norm.weight.grad.dtype == torch.float32


def test_batch_norm_refuses_other_shapes_and_single_values():
    with pytest.raises(InputError, match=r"expected \[T, N, C, H, W\], got \[2, 3, 4, 4\]"):
        TimestepBatchNorm2d(3)(torch.zeros(2, 3, 4, 4))
    with pytest.raises(InputError, match="single value per channel"):
        TimestepBatchNorm2d(3)(torch.zeros(5, 1, 3, 1, 1))


def share_of_a_batch(rank, world, folder):
    """A process: batch norm of its images, what comes out and all gradients into a file."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    try:
        torch.save(norm_results(slice(0, 3) if rank == 0 else slice(3, 5)), Path(folder) / f"{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


def norm_results(images):
    torch.manual_seed(0)
    x = torch.randn(3, 5, 4, 3, 2).double() + torch.arange(5.0)[:, None, None, None]
    by_out = torch.randn_like(x)
    norm, _ = pair_of_norms(TimestepBatchNorm2d, 4)
    given = x[:, images].clone().requires_grad_()
    out = norm(given)
    by_x, by_weight, by_bias = torch.autograd.grad(out, [given, *norm.parameters()], by_out[:, images])
    running = torch.stack([norm.running_mean, norm.running_var])
    return {"out": out.detach(), "by_x": by_x, "parameters": torch.stack([by_weight, by_bias]), "running": running}


def test_two_processes_normalise_as_one(tmp_path):
    spawn(share_of_a_batch, (2, str(tmp_path)), nprocs=2)
    shares = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    whole = norm_results(slice(0, 5))
    for name in ("out", "by_x"):
        torch.testing.assert_close(torch.cat([share[name] for share in shares], 1), whole[name], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(shares[0]["parameters"] + shares[1]["parameters"], whole["parameters"])
    for share in shares:
        torch.testing.assert_close(share["running"], whole["running"], rtol=1e-12, atol=1e-12)


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


@pytest.mark.parametrize("mixed", [False, True])
def test_layout_changes_formats_and_nothing_else(mixed, monkeypatch):
    monkeypatch.setattr(layers, "WIDE", 16)
    torch.manual_seed(0)
    network = build(ModelConfig("vgg16", 3, 32, 10, 2, width=0.04)).double()
    x, labels = torch.randn(3, 3, 32, 32).double(), torch.arange(3)
    before = loss_and_gradients(network, x, labels)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    lay_out(network, torch.device("cpu"), mixed=mixed)
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name])
    network.load_state_dict(build(ModelConfig("vgg16", 3, 32, 10, 2, width=0.04)).state_dict())
    network.load_state_dict(state)
    formats = {}
    for module in network.modules():
        if isinstance(module, Conv2d):
            module.register_forward_hook(lambda m, inputs, out: formats.update({m: out.flatten(0, -4)}))
    loss, gradients = loss_and_gradients(network, x, labels)
    torch.testing.assert_close(loss, before[0])
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, before[1][name], rtol=1e-7, atol=1e-10)
    for module, out in formats.items():
        wide = module.out_channels >= 16 and not mixed
        assert out.is_contiguous(memory_format=torch.contiguous_format if wide else torch.channels_last)
        assert module.weight.is_contiguous(memory_format=module.memory_format)
    assert {module.out_channels >= 16 for module in formats} == {False, True}
