"""The parts that all networks here share: channels times width, and the first layer."""

from torch import nn

from spiketicket.train.networks.config import ModelConfig
from spiketicket.train.networks.layers import batch_norm, conv


def scaled(channels: int, config: ModelConfig) -> int:
    """Return `channels` times the width multiplier, at least one."""
    return max(1, round(channels * config.width))


def stem(channels: int, config: ModelConfig, *, bias: bool) -> nn.Module:
    """Return the direct encoding: a 3x3 convolution and its batch norm, once per image, `[N, C, H, W]`."""
    return nn.Sequential(
        conv(config.in_channels, channels, 3, bias=bias, timed=False),
        batch_norm(channels, config.batch_norm, timed=False),
    )
