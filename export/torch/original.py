"""Prepare the torch network that is exported, and run it for the spikes and logits that the file has to reproduce."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from spikingjelly.activation_based import functional
from torch import Tensor, fx, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from spiketicket.errors import InputError, ModelError
from spiketicket.export.torch.rules.modules import is_neuron
from spiketicket.export.torch.traced import LeadingDims
from spiketicket.export.torch.tracer import RecordedCalls
from spiketicket.runtime.engine import Trace

Masks = Mapping[str, Tensor | NDArray[np.generic]]

# Hooks of torch that compute a weight before a forward pass.
_WEIGHT_HOOKS = (BasePruningMethod, WeightNorm, SpectralNorm)


def refuse_unfit(network: nn.Module) -> None:
    """Raise ModelError, listing all, if modules have properties that prevent an export.

    These are values that are not float32, code that a trace of the forward pass does not see, and neurons that keep the
    state of an earlier run.
    """
    tensors = [*network.named_parameters(), *network.named_buffers()]
    floats = [(n, t) for n, t in tensors if t.is_floating_point() and t.dtype != torch.float32]
    modules = list(network.named_modules())
    found = {
        "without values yet: run the network once": [n for n, t in tensors if is_lazy(t) or t.is_meta],
        "not float32: call network.float()": [f"{n} ({str(t.dtype).removeprefix('torch.')})" for n, t in floats],
        "compiled: export the network as it was before (of torch.compile, network._orig_mod)": [
            _named(n, m) for n, m in modules if _compiled(m)
        ],
        "its forward is replaced on the instance, which cannot be traced: define it in the class": [
            _named(n, m) for n, m in modules if "forward" in vars(m) and not _compiled(m)
        ],
        "forward hooks may change values and cannot be traced: remove them, or compute in forward what they do": [
            _named(n, m) for n, m in modules if _hooked(m)
        ],
        "the neurons keep the state of an earlier run: call "
        "spikingjelly.activation_based.functional.reset_net(network)": [
            _named(n, m) for n, m in modules if is_neuron(m) and not _at_rest(m)
        ],
    }
    problems = [f"{_list(names)}: {why}" for why, names in found.items() if names]
    if problems:
        raise ModelError("\n  ".join(["the network cannot be exported:", *problems]))


def refuse_kept_tensors(network: nn.Module) -> None:
    """Raise ModelError, naming module and attribute, if the traced forward pass has stored its tensors in modules.

    A later call could read them, which the graph does not express.
    """
    kept = [
        f"{name or 'the network'}.{attribute}"
        for name, module in network.named_modules()
        for attribute, value in vars(module).items()
        if any(isinstance(item, fx.Proxy) for item in _contents(value))
    ]
    if kept:
        raise ModelError(
            f"the network keeps tensors of a forward pass, in {_list(kept)}: return them, or keep them in "
            "local variables"
        )


@contextmanager
def prepared(network: nn.Module, masks: Masks | None) -> Iterator[None]:
    """Put the network into evaluation mode with masked weights; restore it afterwards, its neurons reset.

    `masks` are zeros and ones by parameter name, each in the shape of its parameter. Raises InputError if one does not
    fit.
    """
    saved = [(value, _copy(value)) for module in network.modules() for value in _contents(vars(module))]
    data: dict[nn.Parameter, Tensor] = {}
    try:
        for name, mask in (masks or {}).items():
            parameter = _parameter(network, name)
            fitting = _mask(name, mask, parameter)
            data.setdefault(parameter, parameter.data)
            parameter.data = parameter.data * fitting
        network.eval()
        for module in network.modules():
            for hook in module._forward_pre_hooks.values():
                if isinstance(hook, _WEIGHT_HOOKS):
                    hook(module, ())  # otherwise its weight would be the one without masks
        yield
    finally:
        for parameter, before in data.items():
            parameter.data = before
        for value, before in saved:
            _restore(value, before)
        functional.reset_net(network)


def _hooked(module: nn.Module) -> bool:
    before = [hook for hook in module._forward_pre_hooks.values() if not isinstance(hook, _WEIGHT_HOOKS)]
    return bool(module._forward_hooks or before) and not isinstance(module, LazyModuleMixin)


def _compiled(module: nn.Module) -> bool:
    called = module._compiled_call_impl is not None  # by module.compile()
    return called or "_orig_mod" in module._modules or isinstance(module, torch.jit.ScriptModule)


def _at_rest(neuron: Any) -> bool:
    memories = ((value, neuron._memories_rv[name]) for name, value in neuron._memories.items())
    return all(
        not isinstance(value, Tensor) and (value is rest or (not isinstance(rest, Tensor) and value == rest))
        for value, rest in memories
    )


def _named(name: str, module: nn.Module) -> str:
    return f"{name or 'the network'} ({type(module).__name__})"


def _list(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _contents(value: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """Yield `value` and, if it is a container, everything in it, each object once."""
    seen = set() if seen is None else seen
    if id(value) not in seen:
        seen.add(id(value))
        yield value
        if isinstance(value, dict | list | tuple | set):
            for item in list(value.values() if isinstance(value, dict) else value):
                yield from _contents(item, seen)


def _copy(value: Any) -> Any:
    """Return a copy of a value that a forward pass may change, for `_restore`; None for anything else."""
    if isinstance(value, Tensor):
        return None if isinstance(value, nn.Parameter) else value.detach().clone()
    return value.copy() if isinstance(value, dict | list | set) else None


def _restore(value: Any, before: Any) -> None:
    if before is None:
        return
    if isinstance(value, Tensor):
        if not torch.equal(value, before):
            with torch.no_grad():
                value.copy_(before)
    elif isinstance(value, list):
        value[:] = before
    else:
        value.clear()
        value.update(before)


def _parameter(network: nn.Module, name: str) -> nn.Parameter:
    parameters = dict(network.named_parameters(remove_duplicate=False))
    if name in parameters:
        return parameters[name]
    owner, dot, own = str(name).rpartition(".")
    computed = f"{owner}{dot}parametrizations.{own}."
    sources = [n for n in parameters if n.startswith(computed) or n in (f"{name}_orig", f"{name}_v", f"{name}_g")]
    raise InputError(
        f"mask {name!r}: this parameter is computed from {' and '.join(sources)}: give a mask for one of these"
        if sources
        else f"mask {name!r}: the network has no such parameter"
    )


def _mask(name: str, mask: object, parameter: nn.Parameter) -> Tensor:
    try:
        if isinstance(mask, Tensor) and mask.layout is not torch.strided:
            raise TypeError(f"got a tensor in the layout {mask.layout}")
        tensor = mask.detach().cpu() if isinstance(mask, Tensor) else torch.as_tensor(np.asarray(mask))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"mask {name!r}: expected zeros and ones in a dense array: {error}") from error
    if tensor.shape != parameter.shape:
        raise InputError(f"mask {name!r} has shape {list(tensor.shape)}, its parameter {list(parameter.shape)}")
    if not ((tensor == 0) | (tensor == 1)).all():
        raise InputError(f"mask {name!r} must hold zeros and ones only")
    return tensor.to(parameter)


def run_torch(network: nn.Module, calls: RecordedCalls, x: NDArray[np.float32], timesteps: int, timed: bool) -> Trace:
    """Return the spikes of every neuron layer and the logits of the network, starting from neurons at rest.

    `x` is float32 `[N, ...]`, or `[T, N, ...]` if `timed`. The logits are `[T, N, classes]`, or `[1, N, classes]` if
    the network returns their mean only.
    """
    parameter = next(network.parameters(), torch.empty(0))
    images = torch.from_numpy(x).to(parameter.device)
    if calls.repeated:
        images = images.expand(timesteps, *images.shape)
    recorded: dict[str, list[Tensor]] = {}
    hooks = [
        module.register_forward_hook(_recorder(recorded, name or "layer"))
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
    if calls.output is LeadingDims.MEAN:
        logits = logits[None]
    spikes = {name: torch.cat(steps).numpy() for name, steps in recorded.items()}
    return Trace(spikes, logits.cpu().numpy())


def _recorder(recorded: dict[str, list[Tensor]], name: str) -> Callable[[Any, object, Tensor], None]:
    """Return a forward hook that appends a neuron's spikes, `[T, N, ...]` or `[1, N, ...]`, to `recorded[name]`."""

    def record(module: Any, inputs: object, out: Tensor) -> None:
        fired = (out > 0).cpu()
        recorded.setdefault(name, []).append(fired if module.step_mode == "m" else fired[None])

    return record
