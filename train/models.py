"""The networks: name -> module. Shapes and parameter counts are the paper's (tests/train/test_models.py)."""

from collections.abc import Callable

import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

from spiketicket.errors import InputError
from spiketicket.train.config import ModelConfig
from spiketicket.train.layers import Repeat, batch_norm, conv, lif

POOL = "M"
VGG16 = (64, 64, POOL, 128, 128, POOL, 256, 256, 256, POOL, 512, 512, 512, POOL, 512, 512, 512, POOL)
VGG_DIGITS = (16, 16, POOL, 32, 32, POOL)


class Vgg(nn.Module):
    """Conv-BN-LIF blocks, max-pooling on spikes, one Linear. `[N, C, H, W]` -> logits `[T, N, classes]`.

    The first convolution and its batch norm run once per input (direct encoding). Convolutions have
    a bias; init is Kaiming normal (fan_out), Linear N(0, 0.01).
    """

    def __init__(self, config: ModelConfig, plan: tuple[int | str, ...]) -> None:
        super().__init__()
        first, *rest = plan
        channels = _width(first, config)
        self.stem = nn.Sequential(
            conv(config.in_channels, channels, 3, bias=True, timed=False),
            batch_norm(channels, config.batch_norm, timed=False),
        )
        self.repeat = Repeat(config.timesteps)
        blocks: list[nn.Module] = [lif(config.neuron)]
        size = config.image_size
        for item in rest:
            if item == POOL:
                blocks.append(layer.MaxPool2d(2, 2, step_mode="m"))
                size //= 2
                continue
            out = _width(item, config)
            blocks += [
                conv(channels, out, 3, bias=True),
                batch_norm(out, config.batch_norm),
                lif(config.neuron),
            ]
            channels = out
        if size < 1:
            raise InputError(f"{config.arch} needs larger images than {config.image_size}x{config.image_size}")
        self.features = nn.Sequential(*blocks)
        self.flatten = layer.Flatten(step_mode="m")
        self.classifier = layer.Linear(channels * size * size, config.num_classes, step_mode="m")
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                _zero(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                _zero(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.flatten(self.features(self.repeat(self.stem(x)))))
        return logits


class BasicBlock(nn.Module):
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

    def forward(self, x: Tensor) -> Tensor:
        spikes: Tensor = self.fire(self.residual(x) + self.shortcut(x))
        return spikes


class ResNet19(nn.Module):
    """Stem 3-64, BasicBlocks [3, 3, 2] of 128/256/512 (each stage at stride 2), average pool, two Linear."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels = _width(64, config)
        self.stem = nn.Sequential(
            conv(config.in_channels, channels, 3, bias=False, timed=False),
            batch_norm(channels, config.batch_norm, timed=False),
        )
        self.repeat = Repeat(config.timesteps)
        blocks: list[nn.Module] = [lif(config.neuron)]
        for count, width in ((3, 128), (3, 256), (2, 512)):
            for place in range(count):
                out = _width(width, config)
                blocks.append(BasicBlock(channels, out, 2 if place == 0 else 1, config))
                channels = out
        self.features = nn.Sequential(*blocks)
        size = config.image_size
        for _ in range(3):
            size = (size + 1) // 2
        self.pool = layer.AvgPool2d(size, step_mode="m")
        self.flatten = layer.Flatten(step_mode="m")
        hidden = _width(256, config)
        self.classifier = nn.Sequential(
            layer.Linear(channels, hidden, step_mode="m"),
            lif(config.neuron),
            layer.Linear(hidden, config.num_classes, step_mode="m"),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.flatten(self.pool(self.features(self.repeat(self.stem(x))))))
        return logits


ARCHITECTURES: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "vgg_digits": lambda config: Vgg(config, VGG_DIGITS),
    "vgg16": lambda config: Vgg(config, VGG16),
    "resnet19": ResNet19,
}


def build(config: ModelConfig) -> nn.Module:
    """The network of `config`, freshly initialised from torch's random state. Raises InputError."""
    if config.arch not in ARCHITECTURES:
        raise InputError(f"unknown arch {config.arch!r}: expected one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[config.arch](config)


def logits(model: nn.Module, x: Tensor) -> Tensor:
    """`[N, C, H, W]` -> `[T, N, classes]`, from resting neurons."""
    functional.reset_net(model)
    out: Tensor = model(x)
    return out


def lif_spikes(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The spikes of every LIF layer by module name, bool `[T, N, ...]`."""
    recorded: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda module, inputs, out: recorded.__setitem__(name, out > 0)

    hooks = [m.register_forward_hook(keep(n)) for n, m in model.named_modules() if isinstance(m, neuron.LIFNode)]
    try:
        with torch.no_grad():
            logits(model, x)
    finally:
        for hook in hooks:
            hook.remove()
    return recorded


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that may be pruned: all with more than one dimension (no bias, no batch norm)."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.dim() > 1}


def _width(channels: int | str, config: ModelConfig) -> int:
    return max(1, round(int(channels) * config.width))


def _zero(bias: Tensor | None) -> None:
    if bias is not None:
        nn.init.zeros_(bias)
