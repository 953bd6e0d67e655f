"""The networks (docs/networks.md): their registry, and functions for any of them."""

from spiketicket.train.networks.models.network import lif_spikes, logits, prunable
from spiketicket.train.networks.models.registry import ARCHITECTURES, build, import_plugins, known, register
from spiketicket.train.networks.models.resnet import ResNet, ResNetStage
from spiketicket.train.networks.models.vgg import Vgg

Stage = ResNetStage  # the old name

__all__ = [
    "ARCHITECTURES",
    "ResNet",
    "ResNetStage",
    "Stage",
    "Vgg",
    "build",
    "import_plugins",
    "known",
    "lif_spikes",
    "logits",
    "prunable",
    "register",
]
