"""Residual networks: ResNet-19 as in the paper, and ResNet-34."""

from typing import NamedTuple

from spikingjelly.activation_based import layer
from torch import Tensor, nn

from spiketicket.train.networks.config import ModelConfig
from spiketicket.train.networks.layers import Repeat, Residual, batch_norm, conv, lif
from spiketicket.train.networks.models.parts import scaled, stem

STEM = 64  # channels


class ResNetStage(NamedTuple):
    """`blocks` BasicBlocks of `channels` channels; the first one has the `stride`."""

    blocks: int
    channels: int
    stride: int


RESNET19 = (ResNetStage(3, 128, 2), ResNetStage(3, 256, 2), ResNetStage(2, 512, 2))
RESNET19_HIDDEN = 256
RESNET34 = (ResNetStage(3, 64, 1), ResNetStage(4, 128, 2), ResNetStage(6, 256, 2), ResNetStage(3, 512, 2))


class BasicBlock(Residual):
    """LIF(BN(conv)), BN(conv) + shortcut, LIF. The shortcut is a 1x1 convolution where the shape changes."""

    def __init__(self, channels: int, out: int, stride: int, config: ModelConfig) -> None:
        super().__init__()
        kind = config.batch_norm
        self.residual = nn.Sequential(
            conv(channels, out, 3, stride, bias=False),
            batch_norm(out, kind),
            lif(config.neuron),
            conv(out, out, 3, bias=False),
            batch_norm(out, kind),
        )
        same = stride == 1 and channels == out
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(conv(channels, out, 1, stride, bias=False), batch_norm(out, kind))
        )
        self.fire = lif(config.neuron)


class ResNet(nn.Module):
    """3x3 stem at stride 1, `stages` of BasicBlocks, global average pool, Linear. `[N, C, H, W]` -> `[T, N, classes]`.

    With `hidden`, Linear(`hidden`) and LIF come before the last Linear. The stem runs once per input (direct
    encoding). Convolutions have no bias; init is torch's default.
    """

    def __init__(self, config: ModelConfig, stages: tuple[ResNetStage, ...], hidden: int | None = None) -> None:
        super().__init__()
        channels, size = scaled(STEM, config), config.image_size
        self.stem = stem(channels, config, bias=False)
        self.repeat = Repeat(config.timesteps)
        blocks: list[nn.Module] = [lif(config.neuron)]
        for stage in stages:
            out = scaled(stage.channels, config)
            for place in range(stage.blocks):
                blocks.append(BasicBlock(channels, out, stage.stride if place == 0 else 1, config))
                channels = out
            size = -(-size // stage.stride)
        self.features = nn.Sequential(*blocks)
        self.pool = layer.AvgPool2d(size, step_mode="m")
        self.flatten = layer.Flatten(step_mode="m")
        self.classifier = _head(channels, None if hidden is None else scaled(hidden, config), config)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.flatten(self.pool(self.features(self.repeat(self.stem(x))))))
        return logits


def _head(channels: int, hidden: int | None, config: ModelConfig) -> nn.Module:
    if hidden is None:
        single: nn.Module = layer.Linear(channels, config.num_classes, step_mode="m")
        return single
    return nn.Sequential(
        layer.Linear(channels, hidden, step_mode="m"),
        lif(config.neuron),
        layer.Linear(hidden, config.num_classes, step_mode="m"),
    )
