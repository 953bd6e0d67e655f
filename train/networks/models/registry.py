"""The registry of networks: name -> factory. docs/networks.md shows how to add one from outside.

Besides the project's own, a name comes from `register`, or from an installed package's entry point in the
group `spiketicket.architectures`, which is loaded when its name is asked for and not before. Only these names
build, so a ticket, which holds a name, can never choose what is imported.
"""

import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from torch import nn

from spiketicket.errors import InputError
from spiketicket.train.networks.config import ModelConfig
from spiketicket.train.networks.models.resnet import RESNET19, RESNET19_HIDDEN, RESNET34, ResNet
from spiketicket.train.networks.models.vgg import ALEXNET, VGG16, VGG_DIGITS, Vgg

GROUP = "spiketicket.architectures"

Factory = Callable[[ModelConfig], nn.Module]

# Our own networks and the registered ones; those of entry points come on top.
ARCHITECTURES: dict[str, Factory] = {
    "vgg_digits": partial(Vgg, stages=VGG_DIGITS),
    "vgg16": partial(Vgg, stages=VGG16),
    "resnet19": partial(ResNet, stages=RESNET19, hidden=RESNET19_HIDDEN),
    "alexnet": partial(Vgg, stages=ALEXNET),
    "resnet34": partial(ResNet, stages=RESNET34),
}


def register(name: str, factory: Factory) -> None:
    """Register `factory` as the network `name`. Raises InputError if the name is taken.

    The factory takes a ModelConfig and returns a module that maps `[N, C, H, W]` to logits `[T, N, classes]`.
    """
    if not isinstance(name, str) or not name.isprintable() or not name.strip() or not callable(factory):
        raise InputError(f"register needs a name and a function ModelConfig -> module, got {name!r} and {factory!r}")
    if name in known():
        raise InputError(f"the network name {name!r} is taken: choose another")
    ARCHITECTURES[name] = factory


def known() -> list[str]:
    """Return all names that `build` takes. Loads nothing."""
    return list(dict.fromkeys([*ARCHITECTURES, *(point.name for point in entry_points(group=GROUP))]))


def build(config: ModelConfig) -> nn.Module:
    """Return the network of `config`, initialised from torch's random state.

    Raises InputError if its name is unknown or does not load, or its factory returns no module.
    """
    network: Any = _factory(config.arch)(config)
    if not isinstance(network, nn.Module):
        raise InputError(f"network {config.arch!r}: its factory must return a torch module, got {network!r}")
    return network


def import_plugins(modules: list[str]) -> None:
    """Import `modules` by name, also from the working folder, for what they `register`.

    Raises InputError if one cannot be imported. An error inside a module keeps its traceback.
    """
    if modules and (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # a command's path does not hold it; last, so that it hides nothing
    for name in modules:
        if not all(part.isidentifier() for part in name.split(".")):
            raise InputError(f"expected the name of a Python module (my_networks, package.module), got {name!r}")
        try:
            import_module(name)
        except ImportError as error:
            raise InputError(f"cannot import {name}: {error}") from error


def _factory(name: str) -> Factory:
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    points = list(entry_points(group=GROUP, name=name))
    if not points:
        names = ", ".join(known())
        raise InputError(
            f"unknown arch {name!r}: expected one of {names}; register others first (snn-search: --import their module)"
        )
    if len({point.value for point in points}) > 1:
        raise InputError(f"network {name!r} comes from several packages: {', '.join(map(_origin, points))}")
    try:
        factory: Any = points[0].load()
    except (ImportError, AttributeError) as error:
        raise InputError(f"network {name!r} of {_origin(points[0])} does not load: {error}") from error
    if not callable(factory):
        raise InputError(f"network {name!r} of {_origin(points[0])} is no function ModelConfig -> module")
    loaded: Factory = factory
    return loaded


def _origin(point: EntryPoint) -> str:
    package = point.dist.name if point.dist else "an unnamed package"
    return f"{package} ({point.value})"
