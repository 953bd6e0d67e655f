"""The networks (docs/networks.md): which there are, building one, and what can be asked of any."""

from spiketicket.train.networks.models.network import lif_spikes, logits, prunable
from spiketicket.train.networks.models.registry import ARCHITECTURES, build, import_plugins, known, register
from spiketicket.train.networks.models.resnet import ResNet, Stage
from spiketicket.train.networks.models.vgg import Vgg

__all__ = [
    "ARCHITECTURES",
    "ResNet",
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
