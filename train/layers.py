"""What spiking networks need beside SpikingJelly's layers. Time-major tensors `[T, N, ...]`."""

import torch
from spikingjelly.activation_based import layer, neuron, surrogate
from torch import Tensor, nn

from spiketicket.errors import InputError
from spiketicket.train.config import NeuronConfig


class Repeat(nn.Module):
    """Static current `[N, ...]` -> the same current at each of `timesteps` steps, `[T, N, ...]`."""

    def __init__(self, timesteps: int) -> None:
        super().__init__()
        self.timesteps = timesteps

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(0).expand(self.timesteps, *x.shape)


class TimestepBatchNorm2d(nn.BatchNorm2d):
    """Batch norm of the paper: `[T, N, C, H, W]` normalised timestep by timestep.

    Every timestep has its own batch statistics, and updates the running ones: T updates per
    iteration. (SpikingJelly's multi-step BatchNorm2d folds time into the batch: one set of
    statistics over all timesteps.)
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            folded: Tensor = super().forward(x.flatten(0, 1))
            return folded.reshape(x.shape)
        return torch.stack([super(TimestepBatchNorm2d, self).forward(step) for step in x])

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() != 4:
            raise InputError(f"expected [N, C, H, W] per timestep, got {list(input.shape)}")


def lif(config: NeuronConfig) -> neuron.LIFNode:
    """SpikingJelly's multi-step LIF with arctan surrogate g'(x) = (alpha / 2) / (1 + (pi alpha x / 2)^2)."""
    return neuron.LIFNode(
        tau=config.tau,
        decay_input=config.decay_input,
        v_threshold=config.v_threshold,
        v_reset=config.v_reset,
        surrogate_function=surrogate.ATan(config.surrogate_alpha),
        detach_reset=config.detach_reset,
        step_mode="m",
    )


def conv(channels: int, out: int, kernel: int, stride: int = 1, *, bias: bool, timed: bool = True) -> nn.Module:
    """A same-size (at stride 1) convolution, on `[T, N, ...]` or, static, on `[N, ...]`."""
    mode = "m" if timed else "s"
    module: nn.Module = layer.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=bias, step_mode=mode)
    return module


def batch_norm(channels: int, kind: str, *, timed: bool = True) -> nn.Module:
    """`per-timestep` (as in the paper) or `folded` batch norm; a static layer's is plain."""
    if not timed:
        return nn.BatchNorm2d(channels)
    if kind == "per-timestep":
        return TimestepBatchNorm2d(channels)
    folded: nn.Module = layer.BatchNorm2d(channels, step_mode="m")
    return folded
