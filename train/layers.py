"""What spiking networks need beside SpikingJelly's layers. Time-major tensors `[T, N, ...]`."""

from spikingjelly.activation_based import layer, surrogate
from torch import Tensor, nn

from spiketicket.train.config import NeuronConfig
from spiketicket.train.neurons import LIFNode
from spiketicket.train.norms import FoldedBatchNorm2d, StaticBatchNorm2d, TimestepBatchNorm2d

__all__ = ["LIFNode", "Repeat", "TimestepBatchNorm2d", "batch_norm", "conv", "lif"]


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


def conv(channels: int, out: int, kernel: int, stride: int = 1, *, bias: bool, timed: bool = True) -> nn.Module:
    """A same-size (at stride 1) convolution, on `[T, N, ...]` or, static, on `[N, ...]`."""
    mode = "m" if timed else "s"
    module: nn.Module = layer.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=bias, step_mode=mode)
    return module


def batch_norm(channels: int, kind: str, *, timed: bool = True) -> nn.Module:
    """`per-timestep` (as in the paper) or `folded` batch norm; a static layer's is plain."""
    if not timed:
        return StaticBatchNorm2d(channels)
    return TimestepBatchNorm2d(channels) if kind == "per-timestep" else FoldedBatchNorm2d(channels)
