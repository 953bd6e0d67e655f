"""Batch norm for training computes what torch's does, timestep by timestep, in one process and in two."""

from pathlib import Path

import pytest
import torch
from spikingjelly.activation_based import layer
from torch import nn
from torch.multiprocessing import spawn

from spiketicket.errors import InputError
from spiketicket.train.networks.layers import batch_norm
from spiketicket.train.networks.norms import FoldedBatchNorm2d, StaticBatchNorm2d, TimestepBatchNorm2d


def channels_last(x):
    """`[T, N, C, H, W]` with the channels side by side in memory."""
    return x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])


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


@pytest.mark.distributed
def test_two_processes_normalise_as_one(tmp_path):
    spawn(share_of_a_batch, (2, str(tmp_path)), nprocs=2)
    shares = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    whole = norm_results(slice(0, 5))
    for name in ("out", "by_x"):
        torch.testing.assert_close(torch.cat([share[name] for share in shares], 1), whole[name], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(shares[0]["parameters"] + shares[1]["parameters"], whole["parameters"])
    for share in shares:
        torch.testing.assert_close(share["running"], whole["running"], rtol=1e-12, atol=1e-12)
