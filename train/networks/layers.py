"""Layers that spiking networks need beside SpikingJelly's own. Tensors are time-major, `[T, N, ...]`."""

from enum import Enum, auto
from itertools import pairwise

import torch
from spikingjelly.activation_based import layer, surrogate
from torch import Tensor, nn

from spiketicket.errors import InputError
from spiketicket.train.networks.config import NeuronConfig
from spiketicket.train.networks.neurons import LIFNode
from spiketicket.train.networks.norms import FoldedBatchNorm2d, StaticBatchNorm2d, TimestepBatchNorm2d
from spiketicket.train.networks.taps import convolve_by_taps

__all__ = [
    "Conv2d",
    "LIFNode",
    "Repeat",
    "Residual",
    "TimestepBatchNorm2d",
    "batch_norm",
    "conv",
    "fuse",
    "lay_out",
    "lif",
]

# Of convolutions in float32 on a CPU (docs/LOG.md):
SMALL, DEEP = 4, 128  # up to so many pixels along a side and from so many channels on, taps.py is the fastest
WIDE = 512  # output channels from which oneDNN is faster in its own blocked format than in channels-last


class Repeat(nn.Module):
    """Repeats a static current `[N, ...]` at each of `timesteps` steps, `[T, N, ...]`."""

    def __init__(self, timesteps: int) -> None:
        super().__init__()
        self.timesteps = timesteps

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(0).expand(self.timesteps, *x.shape)


def lif(config: NeuronConfig) -> LIFNode:
    """Return a multi-step LIF (neurons.py) with arctan surrogate g'(x) = (alpha / 2) / (1 + (pi alpha x / 2)^2)."""
    return LIFNode(
        tau=config.tau,
        decay_input=config.decay_input,
        v_threshold=config.v_threshold,
        v_reset=config.v_reset,
        surrogate_function=surrogate.ATan(config.surrogate_alpha),
        detach_reset=config.detach_reset,
        step_mode="m",
    )


class Layout(Enum):
    """Memory format of a convolution: its input's, channels-last, or the fastest in float32 on a CPU."""

    AS_IT_COMES = auto()
    CHANNELS_LAST = auto()
    CPU = auto()


class Conv2d(layer.Conv2d):  # type: ignore[misc]  # SpikingJelly is untyped
    """SpikingJelly's Conv2d, in the layout that `lay_out` has set. Raises InputError if an input has another rank."""

    layout = Layout.AS_IT_COMES

    def forward(self, x: Tensor) -> Tensor:
        timed = self.step_mode == "m"
        if x.dim() != 4 + timed:
            expected = "[T, N, C, H, W] (Repeat adds the timesteps)" if timed else "[N, C, H, W]"
            raise InputError(f"convolution: expected {expected}, got {list(x.shape)}")
        out = self._convolve(x.flatten(0, 1) if timed else x)
        return out.unflatten(0, x.shape[:2]) if timed else out

    def _convolve(self, images: Tensor) -> Tensor:
        weight = self.weight
        if self.layout is Layout.CPU and max(images.shape[2:]) <= SMALL and self._suits_taps:
            return convolve_by_taps(images, weight, self.bias)
        if self.layout is Layout.CPU and self.out_channels >= WIDE and self.kernel_size != (1, 1):
            images, weight = images.contiguous(), weight.contiguous()
        elif self.layout is not Layout.AS_IT_COMES:
            images = images.contiguous(memory_format=torch.channels_last)
        out: Tensor = self._conv_forward(images, weight, self.bias)
        return out

    @property
    def _suits_taps(self) -> bool:
        """Whether taps.py computes such a convolution, and it has enough channels for that to pay."""
        rows, columns = self.kernel_size
        same = rows == columns and rows % 2 == 1 and self.padding == (rows // 2, rows // 2)
        plain = self.stride == self.dilation == (1, 1) and self.groups == 1 and self.padding_mode == "zeros"
        return bool(same and plain and min(self.in_channels, self.out_channels) >= DEEP)


def conv(channels: int, out: int, kernel: int, stride: int = 1, *, bias: bool, timed: bool = True) -> nn.Module:
    """Return a convolution that keeps the size at stride 1, on `[T, N, ...]` or, if not `timed`, on `[N, ...]`."""
    mode = "m" if timed else "s"
    return Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=bias, step_mode=mode)


def lay_out(network: nn.Module, device: torch.device, *, mixed: bool) -> None:
    """Set the layout of every convolution to the fastest; `mixed` says that autocast to 16 bits is on.

    Weights are channels-last, and so is the computation, except for deep and wide layers in float32 on a CPU.
    Neurons, batch norm and pooling take any format.
    """
    layout = Layout.CPU if device.type == "cpu" and not mixed else Layout.CHANNELS_LAST
    for module in network.modules():
        if isinstance(module, Conv2d):
            module.layout = layout
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)


class Residual(nn.Module):
    """A residual block: neurons, `fire`, on the sum of `residual`, which ends with batch norm, and `shortcut`."""

    residual: nn.Sequential
    shortcut: nn.Module
    fire: LIFNode

    def forward(self, x: Tensor) -> Tensor:
        spikes: Tensor
        *before, norm = self.residual
        if not isinstance(norm, TimestepBatchNorm2d) or norm.neurons is None:
            spikes = self.fire(self.residual(x) + self.shortcut(x))
            return spikes
        currents = x
        for part in before:
            currents = part(currents)
        spikes = self.fire(norm.plus(currents, self.shortcut(x)))
        return spikes


def fuse(network: nn.Module) -> None:
    """Let GPU kernels compute neurons, if possible together with the batch norm per timestep before them.

    The kernels are in cuda/fused.py. A second call changes nothing.

    From then on the network computes every call from rest. Neurons with another surrogate than arctan, or whose
    potentials are recorded, stay.
    """
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            for norm, neurons in pairwise(module):
                _fuse(norm, neurons)
        elif isinstance(module, Residual) and type(module).forward is Residual.forward:  # not a subclass's own
            _fuse(module.residual[-1], module.fire)
        elif isinstance(module, LIFNode):
            module.fused = _fusible(module)


def _fuse(norm: nn.Module, neurons: nn.Module) -> None:
    if type(norm) is TimestepBatchNorm2d and norm.affine and isinstance(neurons, LIFNode) and _fusible(neurons):
        norm.__dict__["neurons"] = neurons  # not as a child module, so that parameters keep their names


def _fusible(neurons: LIFNode) -> bool:
    plain = isinstance(neurons.surrogate_function, surrogate.ATan) and not neurons.store_v_seq
    return bool(plain and neurons.step_mode == "m")


def batch_norm(channels: int, kind: str, *, timed: bool = True) -> nn.Module:
    """Return `per-timestep` (as in the paper) or `folded` batch norm; plain batch norm if the layer is static."""
    if not timed:
        return StaticBatchNorm2d(channels)
    return TimestepBatchNorm2d(channels) if kind == "per-timestep" else FoldedBatchNorm2d(channels)
