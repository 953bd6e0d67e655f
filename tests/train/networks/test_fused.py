"""Batch norm and neurons fused for GPUs, run on the CPU by an emulator, against the modules that they replace."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from spiketicket.train.networks import norms
from spiketicket.train.networks.config import ModelConfig, NeuronConfig
from spiketicket.train.networks.cuda import fused, launching
from spiketicket.train.networks.layers import TimestepBatchNorm2d, fuse, lif
from spiketicket.train.networks.models import build, lif_spikes, logits
from spiketicket.train.networks.models.resnet import BasicBlock
from tests.support import cupy_standin
from tests.support.cuda_compiler import ARCHITECTURES, assert_compiles

NEURONS = [
    NeuronConfig(),
    NeuronConfig(tau=2.0, decay_input=False, v_reset=None, detach_reset=False),
    NeuronConfig(tau=1.5, v_threshold=0.8, v_reset=-0.3, detach_reset=False, surrogate_alpha=3.0),
    NeuronConfig(tau=3.0, v_reset=None, detach_reset=True),
]


@pytest.fixture(autouse=True)
def cupy(monkeypatch):
    for cached in (launching.cupy_module, launching.find_kernel):
        cached.cache_clear()
    yield cupy_standin.install(monkeypatch)
    for cached in (launching.cupy_module, launching.find_kernel):
        cached.cache_clear()


def both(neuron, channels):
    """The modules, and the same ones fused."""
    pairs = []
    for _ in range(2):
        torch.manual_seed(1)
        norm = TimestepBatchNorm2d(channels)
        nn.init.normal_(norm.weight, 1.5, 0.3)
        nn.init.normal_(norm.bias, 0.5, 0.3)
        pairs.append(nn.Sequential(norm, lif(neuron)))
    fuse(pairs[1])
    assert pairs[1][0].neurons is pairs[1][1] and pairs[0][0].neurons is None
    assert pairs[1].state_dict().keys() == pairs[0].state_dict().keys()
    return pairs


@pytest.mark.emulator
@pytest.mark.parametrize("neuron", NEURONS, ids=str)
@pytest.mark.parametrize("shape", [(5, 3, 7, 4, 5), (1, 2, 40, 3, 3), (8, 2, 33, 5, 1), (2, 9, 4, 12, 12)], ids=str)
def test_forward_and_backward_are_those_of_the_modules(cupy, shape, neuron):
    torch.manual_seed(0)
    x = torch.randn(shape) * 2 + 30
    towards = torch.randn(shape)
    found = []
    for network in both(neuron, shape[2]):
        currents = x.clone().requires_grad_()
        spikes = network(currents)
        spikes.backward(towards)
        norm = network[0]
        found.append((spikes, currents.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var))
    assert 0.02 < found[0][0].mean() < 0.98
    assert torch.equal(found[0][0], found[1][0])
    for plain, ours in zip(found[0][1:], found[1][1:], strict=True):
        torch.testing.assert_close(ours, plain, rtol=2e-4, atol=2e-4 * float(plain.abs().max()))
    assert {name.split("<")[0] for name, _, _ in cupy.calls} == {
        "moments",
        "statistics",
        "forward",
        "backward_sums",
        "totals",
        "backward",
    }


def test_a_large_mean_costs_no_digits(cupy):
    torch.manual_seed(0)
    x = torch.randn(1, 8, 3, 9, 9) * 2 + 3000
    norm = both(NeuronConfig(), 3)[1][0]
    norm(x)
    expected = 0.9 + 0.1 * x.double().var((0, 1, 3, 4))
    torch.testing.assert_close(norm.running_var.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.emulator
@pytest.mark.parametrize(("kind", "rounding"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_precision(cupy, kind, rounding):
    """Spikes and derivatives have 16 bits; all between is float32, so that they are the exact ones, rounded once."""
    torch.manual_seed(0)
    x, towards = torch.randn(5, 4, 6, 4, 4).to(kind), torch.randn(5, 4, 6, 4, 4).to(kind)
    plain, ours = both(NeuronConfig(), 6)
    exact, currents = x.float().requires_grad_(), x.clone().requires_grad_()
    expected, spikes = plain(exact), ours(currents)
    assert spikes.dtype == kind and torch.equal(spikes.float(), expected)
    expected.backward(towards.float())
    spikes.backward(towards)
    torch.testing.assert_close(currents.grad.float(), exact.grad, rtol=rounding, atol=1e-5)


def test_what_overflows_float16_is_infinite(cupy):
    """As a loss's scale that is too large must show."""
    x = (0.01 * torch.randn(2, 4, 3, 4, 4)).half().requires_grad_()
    both(NeuronConfig(), 3)[1](x).backward(torch.full_like(x, 6e4))
    assert not x.grad.isfinite().all()


def test_layout_stays_channels_last(cupy):
    x = torch.randn(2, 3, 4, 5, 6).permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    assert fused.rows_of(x).data_ptr() == x.data_ptr()
    spikes = both(NeuronConfig(), 4)[1](x)
    assert spikes.shape == x.shape and spikes[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("neuron", NEURONS, ids=str)
@pytest.mark.parametrize("form", ["as it comes", "repeated", "channels-last", "with gaps", "vectors"])
def test_neurons_alone(cupy, neuron, form):
    """As behind a linear layer, or behind the first, whose currents are the same at every timestep and read once."""
    torch.manual_seed(0)
    makers = {
        "as it comes": lambda: torch.randn(5, 3, 4, 6, 5),
        "repeated": lambda: torch.randn(3, 4, 6, 5).expand(5, 3, 4, 6, 5),
        "channels-last": lambda: torch.randn(5, 3, 6, 5, 4).permute(0, 1, 4, 2, 3),
        "with gaps": lambda: torch.randn(5, 3, 4, 6, 10)[..., ::2],
        "vectors": lambda: torch.randn(5, 3, 7),
    }
    x = 2 * makers[form]()
    towards = torch.randn(x.shape)
    found = []
    for fusing in (False, True):
        one = lif(neuron)
        if fusing:
            fuse(one)
        currents = x.detach().requires_grad_()
        spikes = one(currents)
        spikes.backward(towards)
        found.append((spikes.detach(), currents.grad))
    assert 0.02 < found[0][0].mean() < 0.98
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-4, atol=1e-5)
    assert [name for name, _, _ in cupy.calls] == ["fire<5, float>", "fire_backward<5, float>"]
    if form != "with gaps":
        assert found[1][0][0].stride() == x[0].stride()


@pytest.mark.parametrize("channels", [6, 4], ids=["1x1 convolution", "identity"])
def test_residual_blocks(cupy, channels):
    """What is added reaches the neurons as it is, and its derivatives the shortcut."""
    found = []
    for fusing in (False, True):
        torch.manual_seed(0)
        block = BasicBlock(4, channels, 1, ModelConfig("resnet19", 3, 8, 10, 5)).train()
        if fusing:
            fuse(block)
        x = (torch.rand(5, 3, 4, 6, 6) < 0.3).float().requires_grad_()
        spikes = block(x)
        spikes.backward(torch.randn(spikes.shape))
        found.append((spikes.detach(), x.grad, *(p.grad for p in block.parameters()), *block.buffers()))
    assert 0.02 < found[0][0].mean() < 0.98
    assert torch.equal(found[0][0], found[1][0])
    for plain, ours in zip(found[0][1:], found[1][1:], strict=True):
        torch.testing.assert_close(ours, plain, rtol=2e-4, atol=2e-4 * float(plain.abs().max()))
    assert sum(name.startswith("forward<") for name, _, _ in cupy.calls) == 2
    assert not any(name.startswith("fire") for name, _, _ in cupy.calls)


@pytest.mark.parametrize("added", [torch.randn(5, 4, 3, 4, 4, dtype=torch.float64), torch.randn(5, 4, 3, 1, 4)])
def test_a_residual_of_another_type_or_shape_is_added_by_torch(cupy, added):
    torch.manual_seed(0)
    plain, ours = both(NeuronConfig(), 3)
    x = torch.randn(5, 4, 3, 4, 4)
    expected = plain[1](plain[0](x) + added)
    assert torch.equal(ours[1](ours[0].plus(x, added)), expected)


def test_a_block_that_joins_its_branches_otherwise_is_left(cupy):
    class Joined(BasicBlock):
        def forward(self, x):
            return self.fire(self.residual(x) - self.shortcut(x))

    torch.manual_seed(0)
    block = Joined(4, 4, 1, ModelConfig("resnet19", 3, 8, 10, 5)).train()
    x = (torch.rand(5, 3, 4, 6, 6) < 0.3).float()
    expected = block(x)
    for module in block.modules():
        getattr(module, "reset", lambda: None)()
    fuse(block)
    assert torch.equal(block(x), expected) and set(expected.unique().tolist()) == {0.0, 1.0}


def test_several_processes_share_statistics_and_are_left_to_batch_norm(cupy, monkeypatch):
    _, ours = both(NeuronConfig(), 3)
    x = torch.randn(5, 4, 3, 4, 4)
    assert ours[0].fuses_neurons(x, None)
    monkeypatch.setattr(norms, "_processes", lambda: 2)
    assert not ours[0].fuses_neurons(x, None)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_no_number_stays_none(cupy, kind):
    x = torch.randn(5, 4, 3, 4, 4).to(kind).requires_grad_()
    towards = torch.ones_like(x)
    towards[2, 1, 0, 2, 2] = torch.nan
    both(NeuronConfig(), 3)[1](x).backward(towards)
    assert x.grad[:, :, 0].isnan().all(2).any() and not x.grad[:, :, 1:].isnan().any()


def test_evaluation_and_long_runs_are_left_to_batch_norm(cupy):
    plain, ours = both(NeuronConfig(), 3)
    x = torch.randn(5, 4, 3, 4, 4)
    for network in (plain, ours):
        network(x)
        network.eval()
        network[1].reset()
    cupy.calls.clear()
    assert torch.equal(plain(x), ours(x))
    assert [name for name, _, _ in cupy.calls] == ["fire<5, float>"]
    assert not fused.suits(x.double()) and not fused.suits(torch.randn(9, 4, 3, 4, 4))


def test_after_an_error_neurons_compute_again(cupy, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory")

    plain, ours = both(NeuronConfig(), 3)
    x = torch.randn(5, 4, 3, 4, 4)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="out of memory"):
        patch.setattr(fused, "batch_norm_lif", fail)
        ours(x)
    assert torch.equal(plain.eval()(x), ours.eval()(x))


def test_kernels_are_launched_on_the_tensors_gpu(cupy, monkeypatch):
    """Torch's present one may be another."""
    entered = []

    class Entered(nullcontext):
        def __enter__(self):
            entered.append(self.enter_result)

    cupy.cuda.Device = lambda index=0: SimpleNamespace(compute_capability="90") if index == 0 else Entered(index)
    cupy.cuda.Stream = SimpleNamespace(from_external=lambda stream: Entered(stream.__cuda_stream__()))
    cupy.RawModule = lambda **_: SimpleNamespace(get_function=lambda name: lambda *_: entered.append("launched"))
    streams = SimpleNamespace(current_stream=lambda device: SimpleNamespace(cuda_stream=f"a stream of {device}"))
    monkeypatch.setattr(torch, "cuda", streams)
    x = SimpleNamespace(dtype=torch.float32, is_cuda=True, device=torch.device("cuda", 1))
    launching.Kernels(x).launch("forward<5, float>", (1,), (256,))
    assert entered == [1, (0, "a stream of cuda:1"), "launched"]


def test_a_compiler_that_fails_is_told(cupy):
    def broken(**_):
        raise RuntimeError("libnvrtc.so.12 is not there")

    assert launching.available()
    launching.find_kernel.cache_clear()
    cupy.RawModule = broken
    with pytest.warns(UserWarning, match="libnvrtc.so.12 is not there; training goes on without our kernels"):
        assert not launching.available()


@pytest.mark.emulator
def test_a_network_trains_the_same(cupy):
    """Spikes of every layer are seen by hooks, too."""
    found = []
    for fusing in (False, True):
        torch.manual_seed(0)
        network = build(ModelConfig("vgg_digits", 1, 8, 10, 3)).train()
        if fusing:
            fuse(network)
            fuse(network)
        out = logits(network, torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(3)))
        out.square().mean().backward()
        spikes = lif_spikes(network, torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(4)))
        found.append((out, {n: p.grad for n, p in network.named_parameters()}, spikes))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-4)
    for name, grad in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], grad, rtol=1e-3, atol=1e-5 + 1e-3 * float(grad.abs().max()))
    assert found[0][2].keys() == found[1][2].keys()
    assert all(torch.equal(found[0][2][name], found[1][2][name]) for name in found[0][2])
    assert any(name.startswith("forward") for name, _, _ in cupy.calls)


@pytest.mark.emulator
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_compile(architecture):
    names = [f"moments<{kind}>" for kind in launching.TYPES.values()]
    for steps in (5, fused.MOST_TIMESTEPS):
        names += [f"{kernel}<{steps}>" for kernel in ("statistics", "totals")]
        for kernel in ("forward", "backward_sums", "backward", "fire", "fire_backward"):
            names += [f"{kernel}<{steps}, {kind}>" for kind in launching.TYPES.values()]
    assert_compiles(architecture, launching.SOURCE.read_text(), names)
