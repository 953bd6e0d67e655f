"""Plain convolutional networks: VGG and AlexNet."""

from spikingjelly.activation_based import layer
from torch import Tensor, nn

from spiketicket.errors import InputError
from spiketicket.train.networks.config import ModelConfig
from spiketicket.train.networks.layers import Repeat, batch_norm, conv, lif
from spiketicket.train.networks.models.parts import scaled, stem

# Channels of the convolutions, stage by stage; every stage ends in max-pooling.
VGG_DIGITS = ((16, 16), (32, 32))
VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
ALEXNET = ((64,), (192,), (384, 256, 256))


class Vgg(nn.Module):
    """3x3 Conv-BN-LIF blocks, 2x2 max-pooling on spikes, one Linear. `[N, C, H, W]` -> logits `[T, N, classes]`.

    The first convolution and its batch norm run once per input (direct encoding). Convolutions have
    a bias; init is Kaiming normal (fan_out), Linear N(0, 0.01), biases 0. The last pooling is left out if its input
    has a single pixel. Raises InputError if that of an earlier pooling has.
    """

    def __init__(self, config: ModelConfig, stages: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        least, size = 2 ** (len(stages) - 1), config.image_size
        if size < least:
            raise InputError(f"{config.arch} needs images of at least {least}x{least}, got {size}x{size}")
        first, *others = stages[0]
        channels = scaled(first, config)
        self.stem = stem(channels, config, bias=True)
        self.repeat = Repeat(config.timesteps)
        blocks: list[nn.Module] = [lif(config.neuron)]
        for widths in (others, *stages[1:]):
            for width in widths:
                out = scaled(width, config)
                blocks += [conv(channels, out, 3, bias=True), batch_norm(out, config.batch_norm), lif(config.neuron)]
                channels = out
            if size > 1:
                blocks.append(layer.MaxPool2d(2, 2, step_mode="m"))
                size //= 2
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


def _zero(bias: Tensor | None) -> None:
    if bias is not None:
        nn.init.zeros_(bias)
