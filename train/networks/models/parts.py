"""What all of our networks begin with."""

from torch import nn

from spiketicket.train.networks.config import ModelConfig
from spiketicket.train.networks.layers import batch_norm, conv


def scaled(channels: int, config: ModelConfig) -> int:
    """`channels` times the width multiplier, one at least."""
    return max(1, round(channels * config.width))


def stem(channels: int, config: ModelConfig, *, bias: bool) -> nn.Module:
    """The direct encoding: a 3x3 convolution and its batch norm, once per image, `[N, C, H, W]`."""
    return nn.Sequential(
        conv(config.in_channels, channels, 3, bias=bias, timed=False),
        batch_norm(channels, config.batch_norm, timed=False),
    )
