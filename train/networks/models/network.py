"""Functions for any network: its logits, its spikes, its prunable weights."""

from collections.abc import Callable

import torch
from spikingjelly.activation_based import functional, neuron
from torch import Tensor, nn


def logits(model: nn.Module, x: Tensor) -> Tensor:
    """Return the logits `[T, N, classes]` of images `[N, C, H, W]`, from resting neurons."""
    functional.reset_net(model)
    out: Tensor = model(x)
    return out


def lif_spikes(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Return the spikes of every LIF layer by module name, bool `[T, N, ...]`."""
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
    """Return the parameters that may be pruned: all with more than one dimension (no bias, no batch norm)."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.dim() > 1}
