"""What spiking networks need beside SpikingJelly's layers. Time-major tensors `[T, N, ...]`."""

import torch
from spikingjelly.activation_based import layer, surrogate
from torch import Tensor, nn

from spiketicket.train.config import NeuronConfig
from spiketicket.train.neurons import LIFNode
from spiketicket.train.norms import FoldedBatchNorm2d, StaticBatchNorm2d, TimestepBatchNorm2d

__all__ = ["Conv2d", "LIFNode", "Repeat", "TimestepBatchNorm2d", "batch_norm", "conv", "lay_out", "lif"]

WIDE = 512  # output channels


class Repeat(nn.Module):
    """Static current `[N, ...]` -> the same current at each of `timesteps` steps, `[T, N, ...]`."""

    def __init__(self, timesteps: int) -> None:
        super().__init__()
        self.timesteps = timesteps

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(0).expand(self.timesteps, *x.shape)


def lif(config: NeuronConfig) -> LIFNode:
    """A multi-step LIF (neurons.py) with arctan surrogate g'(x) = (alpha / 2) / (1 + (pi alpha x / 2)^2)."""
    return LIFNode(
        tau=config.tau,
        decay_input=config.decay_input,
        v_threshold=config.v_threshold,
        v_reset=config.v_reset,
        surrogate_function=surrogate.ATan(config.surrogate_alpha),
        detach_reset=config.detach_reset,
        step_mode="m",
    )


class Conv2d(layer.Conv2d):  # type: ignore[misc]  # SpikingJelly is untyped
    """SpikingJelly's Conv2d, whose input is brought into a memory format first where `lay_out` asks for one."""

    memory_format: torch.memory_format | None = None

    def forward(self, x: Tensor) -> Tensor:
        images = x.flatten(0, 1) if self.step_mode == "m" else x
        if self.memory_format is not None:
            images = images.contiguous(memory_format=self.memory_format)
        out: Tensor = self._conv_forward(images, self.weight, self.bias)
        return out.unflatten(0, x.shape[:2]) if self.step_mode == "m" else out


def conv(channels: int, out: int, kernel: int, stride: int = 1, *, bias: bool, timed: bool = True) -> nn.Module:
    """A same-size (at stride 1) convolution, on `[T, N, ...]` or, static, on `[N, ...]`."""
    mode = "m" if timed else "s"
    return Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=bias, step_mode=mode)


def lay_out(network: nn.Module, device: torch.device, *, mixed: bool) -> None:
    """Have every convolution compute in the memory format that is fastest for it; `mixed`: under bfloat16 autocast.

    Channels-last everywhere but in float32 on a CPU, where oneDNN computes wide layers of small images up to twice as
    fast in its own blocked format (docs/LOG.md). Neurons, batch norm and pooling take whatever format comes.
    """
    for module in network.modules():
        if isinstance(module, Conv2d):
            wide = device.type == "cpu" and not mixed and module.out_channels >= WIDE
            module.memory_format = torch.contiguous_format if wide else torch.channels_last
            module.weight.data = module.weight.data.contiguous(memory_format=module.memory_format)


def batch_norm(channels: int, kind: str, *, timed: bool = True) -> nn.Module:
    """`per-timestep` (as in the paper) or `folded` batch norm; a static layer's is plain."""
    if not timed:
        return StaticBatchNorm2d(channels)
    return TimestepBatchNorm2d(channels) if kind == "per-timestep" else FoldedBatchNorm2d(channels)
