"""Running the torch network that is exported, as a user would: what the model file has to reproduce."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from spiketicket.errors import InputError
from spiketicket.export.module_rules import is_neuron
from spiketicket.export.reading import Calls
from spiketicket.export.traced import Lead
from spiketicket.export.verify import Trace

Masks = Mapping[str, Tensor | NDArray[np.generic]]


@contextmanager
def prepared(network: nn.Module, masks: Masks | None) -> Iterator[None]:
    """The network in evaluation mode, its weights masked; afterwards as it was, its neurons at rest.

    `masks`: zeros and ones in the shape of the parameter, by its name. Raises InputError where one does not fit.
    """
    training = {module: module.training for module in network.modules()}
    before = {}
    try:
        for name, mask in (masks or {}).items():
            parameter = _parameter(network, name)
            before[name] = parameter.data
            parameter.data = parameter.data * _mask(name, mask, parameter)
        network.eval()
        yield
    finally:
        for name, data in before.items():
            _parameter(network, name).data = data
        for module, mode in training.items():
            module.training = mode
        functional.reset_net(network)


def _parameter(network: nn.Module, name: str) -> nn.Parameter:
    try:
        return network.get_parameter(name)
    except AttributeError as error:
        raise InputError(f"mask {name!r}: the network has no such parameter") from error


def _mask(name: str, mask: Tensor | NDArray[np.generic], parameter: nn.Parameter) -> Tensor:
    tensor = torch.as_tensor(np.asarray(mask))
    if tensor.shape != parameter.shape:
        raise InputError(f"mask {name!r} has shape {list(tensor.shape)}, its parameter {list(parameter.shape)}")
    if not ((tensor == 0) | (tensor == 1)).all():
        raise InputError(f"mask {name!r} holds something else than zeros and ones")
    return tensor.to(parameter)


def run_torch(network: nn.Module, calls: Calls, x: NDArray[np.float32], timesteps: int, timed: bool) -> Trace:
    """Spikes of every neuron layer and logits `[T, N, classes]` (`[1, N, classes]`: their mean) of the network on
    `x` `[N, ...]`, or `[T, N, ...]` if `timed`, from resting neurons."""
    parameter = next(network.parameters(), torch.empty(0))
    images = torch.from_numpy(x).to(parameter.device)
    if calls.repeated:
        images = images.expand(timesteps, *images.shape)
    recorded: dict[str, list[Tensor]] = {}
    hooks = [
        module.register_forward_hook(_keep(recorded, name or "layer"))
        for name, module in network.named_modules()
        if is_neuron(module)
    ]
    try:
        functional.reset_net(network)
        with torch.no_grad():
            if calls.per_step:
                out = [network(images[t] if timed else images) for t in range(timesteps)]
            else:
                out = network(images)
    finally:
        for hook in hooks:
            hook.remove()
        functional.reset_net(network)
    logits = torch.stack(list(out)) if isinstance(out, list | tuple) else out
    if calls.output is Lead.MEAN:
        logits = logits[None]
    spikes = {name: torch.cat(steps).numpy() for name, steps in recorded.items()}
    return Trace(spikes, logits.cpu().numpy())


def _keep(recorded: dict[str, list[Tensor]], name: str) -> Callable[[Any, object, Tensor], None]:
    def keep(module: Any, inputs: object, out: Tensor) -> None:
        fired = (out > 0).cpu()
        recorded.setdefault(name, []).append(fired if module.step_mode == "m" else fired[None])

    return keep
