"""Batch norm of spiking networks: each timestep has batch statistics of its own, as in the paper, or all share them.

If torch.distributed runs several processes, batch statistics are those of all their images together, so that they
compute what one process would. The gradients of weight and bias are each process's own share: their sum is the whole.

The forward and backward passes are written by hand, not composed of torch's modules, for two reasons. A loop over
BatchNorm2d makes a tensor per timestep and stacks them, one more pass over memory than writing each timestep where it
belongs. And torch's SyncBatchNorm knows no timesteps, and does not run on CPUs.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable

from spiketicket.errors import InputError
from spiketicket.train.networks.cuda import fused
from spiketicket.train.networks.neurons import LIFNode

OVER = (1, 3, 4)  # the dimensions of [T, N, C, H, W] that batch statistics run over


class TimestepBatchNorm2d(nn.BatchNorm2d):
    """Batch norm of the paper: `[T, N, C, H, W]` normalised timestep by timestep.

    Every timestep has its own batch statistics, and updates the running ones: T updates per
    iteration. (SpikingJelly's multi-step BatchNorm2d folds time into the batch: one set of
    statistics over all timesteps.) Type and memory format stay, statistics are float32 at least.
    Raises InputError if the shape is another or, in training, if there is a single value per channel.

    With `neurons` (layers.py, `fuse`) it computes these too, in training, and returns spikes.
    """

    neurons: "LIFNode | None" = None

    def forward(self, x: Tensor) -> Tensor:
        return self.plus(x, None)

    def plus(self, x: Tensor, added: Tensor | None) -> Tensor:
        """Return the normalised `x` plus `added`, of the same shape; neurons, if any, come after the sum."""
        if x.dim() != 5:
            raise InputError(f"expected [T, N, C, H, W], got {list(x.shape)}")
        out: Tensor
        if self.neurons is not None and self.fuses_neurons(x, added):
            out = fused.batch_norm_lif(x, self, self._statistics(len(x)).momenta, self.neurons.numbers, added)
            self.neurons.fired = True  # set last: after an error, the neurons would take the next currents for spikes
            return out
        out = self._normalised(x)
        return out if added is None else out + added

    def fuses_neurons(self, x: Tensor, added: Tensor | None) -> bool:
        """Return whether one GPU kernel can compute batch norm and neurons for `x`."""
        several = x[0, :, 0].numel() > 1
        soft = self.neurons is not None and self.neurons.softness > 0
        return self.training and _processes() == 1 and several and not soft and fused.suits(x, added)

    def _normalised(self, x: Tensor) -> Tensor:
        out: Tensor
        if not self.training and self.running_mean is not None:
            out = super().forward(x.flatten(0, 1))
            return out.reshape(x.shape)
        function: Any = _OneProcess if _processes() == 1 else _AllProcesses
        out = function.apply(x, self.weight, self.bias, self._statistics(len(x)))
        return out

    def _statistics(self, updates: int) -> "_Statistics":
        """Return the running statistics and their momentum for each update.

        As in torch, momentum None asks for the plain mean over all updates.
        """
        momenta = [self.momentum] * updates
        if self.num_batches_tracked is not None:
            if self.momentum is None:
                before = int(self.num_batches_tracked)
                momenta = [1 / (before + update) for update in range(1, updates + 1)]
            self.num_batches_tracked += updates
        return _Statistics(self.running_mean, self.running_var, [momentum or 0.0 for momentum in momenta], self.eps)


class FoldedBatchNorm2d(TimestepBatchNorm2d):
    """One set of batch statistics over all timesteps of `[T, N, C, H, W]`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1).unsqueeze(0)).reshape(x.shape)


class StaticBatchNorm2d(TimestepBatchNorm2d):
    """Plain batch norm, of `[N, C, H, W]`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.unsqueeze(0)).squeeze(0)


@dataclass(frozen=True)
class _Statistics:
    mean: Tensor | None  # running
    var: Tensor | None
    momenta: list[float]  # momentum of each timestep's update
    eps: float


class _OneProcess(torch.autograd.Function):
    """Torch's batch norm timestep by timestep, so that a timestep stays in the cache, written where it belongs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, statistics: _Statistics) -> Tensor:
        _check_count(x[0, :, 0].numel())
        out = torch.empty_like(x)
        kind = torch.promote_types(x.dtype, torch.float32)
        mean, scale = (torch.empty(len(x), x.shape[2], dtype=kind, device=x.device) for _ in range(2))
        for t, momentum in enumerate(statistics.momenta):
            torch.native_batch_norm(
                x[t],
                weight,
                bias,
                statistics.mean,
                statistics.var,
                True,
                momentum,
                statistics.eps,
                out=(out[t], mean[t], scale[t]),
            )
        ctx.eps = statistics.eps
        ctx.save_for_backward(x, weight, mean, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_out: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, weight, mean, scale = ctx.saved_tensors
        by_x, by_weight, by_bias = torch.empty_like(x), torch.zeros_like(mean[0]), torch.zeros_like(mean[0])
        for t in range(len(x)):
            by_x[t], step_weight, step_bias = torch.ops.aten.native_batch_norm_backward(
                by_out[t], x[t], weight, None, None, mean[t], scale[t], True, ctx.eps, [True, True, True]
            )
            by_weight += step_weight
            by_bias += step_bias
        return by_x, None if weight is None else by_weight, None if weight is None else by_bias, None


class _AllProcesses(torch.autograd.Function):
    """The same over the images of all processes, which may hold different numbers of them.

    With n values per channel in all, and Y and X the loss's derivatives by out and x:
    mean = sum x / n, var = sum (x - mean)^2 / n, z = (x - mean) / sqrt(var + eps), out = weight z + bias;
    X = weight / sqrt(var + eps) (Y - sum Y / n - z sum (Y z) / n).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, statistics: _Statistics) -> Tensor:
        kind = torch.promote_types(x.dtype, torch.float32)
        mean, var, count = _gather(*_mean_and_var(x.to(kind)), x[0, :, 0].numel())
        _check_count(count)
        scale = (var + statistics.eps).rsqrt()
        z = (x.to(kind) - _spread(mean)) * _spread(scale)
        out = z if weight is None or bias is None else z * _spread(weight[None]) + _spread(bias[None])
        if statistics.mean is not None and statistics.var is not None:
            for t, momentum in enumerate(statistics.momenta):
                statistics.mean.mul_(1 - momentum).add_(mean[t], alpha=momentum)
                statistics.var.mul_(1 - momentum).add_(var[t], alpha=momentum * count / (count - 1))
        ctx.count = count
        ctx.save_for_backward(x, weight, mean, scale)
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_out: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, weight, mean, scale = ctx.saved_tensors
        z = (x.to(mean.dtype) - _spread(mean)) * _spread(scale)
        by_out = by_out.to(mean.dtype)
        sums = torch.stack([by_out.sum(OVER), (by_out * z).sum(OVER)])
        by_bias, by_weight = sums.sum(1)
        distributed.all_reduce(sums)
        by_z = by_out - _spread(sums[0] / ctx.count) - z * _spread(sums[1] / ctx.count)
        by_x = by_z * _spread(scale if weight is None else scale * weight)
        return by_x.to(x.dtype), None if weight is None else by_weight, None if weight is None else by_bias, None


def _gather(mean: Tensor, var: Tensor, count: int) -> tuple[Tensor, Tensor, int]:
    """Return mean and variance `[T, C]` over all processes from each one's own, and the number of values in all."""
    own = torch.stack([mean, var, torch.full_like(mean, count)])
    everyone = [torch.empty_like(own) for _ in range(_processes())]
    distributed.all_gather(everyone, own)
    means, variances, counts = torch.stack(everyone).unbind(1)
    share = counts / counts.sum(0)
    whole = (share * means).sum(0)
    return whole, (share * (variances + (means - whole) ** 2)).sum(0), int(counts[:, 0, 0].double().sum())


def _mean_and_var(x: Tensor) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(x, OVER, correction=0)
    return mean, var


def _spread(values: Tensor) -> Tensor:
    """Return `[T, C]` as `[T, 1, C, 1, 1]`."""
    return values[:, None, :, None, None]


def _check_count(count: int) -> None:
    if count < 2:
        raise InputError("batch norm has no statistics of a single value per channel: train on larger batches")


def _processes() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
