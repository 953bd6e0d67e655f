"""What operations between modules become in the graph: a rule for each function or tensor method.

A rule takes the place where it stands and the operands as tracing knows them (tensors `Traced`, leading dimensions
`Size`, everything else itself), and returns the result in the same form.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from spiketicket.errors import ModelError
from spiketicket.export import module_rules
from spiketicket.export.builder import Builder
from spiketicket.export.traced import Lead, LeadError, Size, Traced
from spiketicket.graph import Add, And, Concat

_AHEAD = {Lead.BATCH: 1, Lead.TIME: 2, Lead.FOLDED: 1, Lead.ONE: 2, Lead.MEAN: 1}  # leading dimensions


@dataclass(frozen=True)
class Place:
    builder: Builder
    name: str
    timesteps: int

    def lead(self, lead: Lead) -> tuple[Size | int, ...]:
        match lead:
            case Lead.TIME:
                return self.timesteps, Size()
            case Lead.FOLDED:
                return (Size(self.timesteps),)
            case Lead.ONE:
                return 1, Size()
        return (Size(),)

    def dims(self, x: Traced) -> tuple[Any, ...]:
        """The tensor's shape in torch; what depends on the batch is a `Size`."""
        return (*self.lead(x.lead), *self.builder.torch_shape(x.value))

    def axis(self, x: Traced, dim: int) -> int:
        return dim + len(self.dims(x)) if dim < 0 else dim


Rule = Callable[..., Any]


def find(target: Any) -> Rule | None:
    """The rule for a function, or for a tensor method by name."""
    return _RULES.get(target)


def _tensor(x: Any, *leads: Lead) -> Traced:
    if not isinstance(x, Traced):
        raise ModelError(f"takes tensors of the network only, gets {x!r}")
    if x.inverted:
        raise ModelError("gets 1 - spikes, which only a product can take")
    if leads and x.lead not in leads:
        raise LeadError(f"takes {' or '.join(lead.value for lead in leads)}, gets {x}")
    return x


def _together(place: Place, tensors: Sequence[Any]) -> tuple[list[str], Lead]:
    """The values of tensors with one lead, all of them timed where one is."""
    checked = [_tensor(x) for x in tensors]
    leads = {x.lead for x in checked}
    if len(leads) != 1:
        raise ModelError(f"combines {' with '.join(map(str, checked))}")
    return place.builder.alike([x.value for x in checked]), leads.pop()


def _add(place: Place, a: Any, b: Any, *, alpha: int = 1) -> Traced:
    if alpha != 1:
        raise ModelError(f"alpha={alpha}: only plain sums can be exported")
    (left, right), lead = _together(place, (a, b))
    name = place.builder.unique(place.name)
    return Traced(place.builder.emit(Add(name, (left, right), name)), lead)


def _subtract(place: Place, a: Any, b: Any) -> Traced:
    if isinstance(a, Traced) or a != 1:
        raise ModelError("differences are exported only as 1 - spikes")
    return Traced(_tensor(b).value, b.lead, inverted=True)


def _multiply(place: Place, a: Any, b: Any) -> Traced:
    if not (isinstance(a, Traced) and isinstance(b, Traced)) or (a.inverted and b.inverted):
        raise ModelError("products are exported of spikes with spikes, or with 1 - spikes")
    first, second = (b, a) if a.inverted else (a, b)
    (left, right), lead = _together(place, (first, Traced(second.value, second.lead)))
    name = place.builder.unique(place.name)
    return Traced(place.builder.emit(And(name, (left, right), name, negated=second.inverted)), lead)


def _concatenate(place: Place, tensors: Sequence[Any], dim: int = 0) -> Traced:
    values, lead = _together(place, tensors)
    if place.axis(tensors[0], dim) != _AHEAD[lead]:
        raise ModelError(f"concatenates along dimension {dim}: only along channels, dimension {_AHEAD[lead]}")
    if len(set(values)) == len(values) == 1:
        return Traced(values[0], lead)
    name = place.builder.unique(place.name)
    return Traced(place.builder.emit(Concat(name, tuple(values), name)), lead)


def stack(place: Place, tensors: Sequence[Any], dim: int = 0) -> Traced:
    """The tensors of all rounds of a loop, which are one computation, as a sequence."""
    if dim != 0 or len(tensors) != place.timesteps or any(x != tensors[0] for x in tensors):
        raise ModelError(f"stacks {len(tensors)} tensors: expected one of each of the {place.timesteps} timesteps, "
                         "along dimension 0")  # fmt: skip
    return Traced(_tensor(tensors[0], Lead.BATCH).value, Lead.TIME)


def flatten(place: Place, x: Traced, start_dim: int = 0, end_dim: int = -1) -> Traced:
    """Images as features, or timesteps folded into the batch."""
    _tensor(x, Lead.BATCH, Lead.TIME, Lead.FOLDED)
    start, end, leading = place.axis(x, start_dim), place.axis(x, end_dim), _AHEAD[x.lead]
    if x.lead is Lead.TIME and (start, end) == (0, 1):
        return Traced(x.value, Lead.FOLDED)
    if start == leading and end == len(place.dims(x)) - 1:
        return Traced(module_rules.flatten(place.builder, place.name, x.value), x.lead)
    raise ModelError(
        f"flattens dimensions {start_dim} to {end_dim} of {x}: only all behind the batch, or time and batch"
    )


def _reshape(place: Place, x: Traced, *shape: Any) -> Traced:
    _tensor(x, Lead.BATCH, Lead.TIME, Lead.FOLDED)
    wanted = list(shape[0] if len(shape) == 1 and isinstance(shape[0], list | tuple) else shape)
    own = list(place.builder.torch_shape(x.value))
    for lead in (Lead.BATCH,) if x.lead is Lead.BATCH else (Lead.TIME, Lead.FOLDED):
        ahead, rest = wanted[: _AHEAD[lead]], wanted[_AHEAD[lead] :]
        fits = len(ahead) == _AHEAD[lead] and all(map(_is, ahead, place.lead(lead)))
        if not fits or sum(_is(got, -1) for got in wanted) > 1:
            continue
        if len(rest) == len(own) and all(map(_is, rest, own)):
            return Traced(x.value, lead)
        if len(rest) == 1 and _is(rest[0], prod(own)):
            return Traced(module_rules.flatten(place.builder, place.name, x.value), lead)
    raise ModelError(
        f"reshapes [{_text(place.dims(x))}] to [{_text(wanted)}]: only flattening images, and folding time into the "
        "batch, by sizes taken from a tensor's shape (numbers would fix the batch)"
    )


def _is(got: Any, dim: Any) -> bool:
    """Whether a dimension is asked for as `dim`, or left to be computed."""
    if isinstance(got, Size):
        return got.same(dim)
    return got == -1 or (not isinstance(dim, Size) and got == dim)


def _text(dims: Sequence[Any]) -> str:
    return ", ".join(map(str, dims))


def _unflatten(place: Place, x: Traced, dim: int, sizes: Sequence[Any]) -> Traced:
    return _reshape(place, x, *sizes, *place.builder.torch_shape(x.value)) if dim == 0 else _refuse_dim(dim)


def _refuse_dim(dim: int) -> Traced:
    raise ModelError(f"unflattens dimension {dim}: only dimension 0, time and batch")


def _unsqueeze(place: Place, x: Traced, dim: int) -> Traced:
    if dim != 0:
        raise ModelError(f"adds dimension {dim}: only dimension 0, time")
    return Traced(_tensor(x, Lead.BATCH).value, Lead.ONE)


def repeat(place: Place, x: Traced, *sizes: Any) -> Traced:
    """`repeat` and `expand` over time: T copies along dimension 0, everything else once."""
    wanted = list(sizes[0] if len(sizes) == 1 and isinstance(sizes[0], list | tuple) else sizes)
    dims = place.dims(_tensor(x, Lead.BATCH, Lead.ONE))
    rest = dims[1:] if x.lead is Lead.ONE else dims
    once = len(wanted) == 1 + len(rest) and all(
        _is(size, dim) or (not isinstance(size, Size) and size == 1) for size, dim in zip(wanted[1:], rest, strict=True)
    )
    if not once or isinstance(wanted[0], Size) or wanted[0] != place.timesteps:
        raise ModelError(f"repeats by [{_text(wanted)}]: only {place.timesteps} timesteps along dimension 0")
    if place.builder.values[x.value].timed:
        raise ModelError("repeats over time what differs from timestep to timestep")
    return Traced(x.value, Lead.TIME)


def _mean(place: Place, x: Traced, dim: Any = None, *, keepdim: bool = False) -> Traced:
    if dim not in (0, [0], (0,)) or keepdim:
        raise ModelError(f"the mean over dimension {dim}: only over dimension 0, time (of images: adaptive pooling)")
    return Traced(_tensor(x, Lead.TIME).value, Lead.MEAN)


def _item(place: Place, x: Any, index: Any) -> Any:
    if not isinstance(x, Traced):
        return x[index]
    if not isinstance(index, int) or not 0 <= index < place.timesteps:
        raise ModelError(f"takes {index} of a tensor: only the tensor of one timestep")
    return Traced(_tensor(x, Lead.TIME).value, Lead.BATCH)


def _select(place: Place, x: Traced, dim: int, index: int) -> Any:
    if dim != 0:
        raise ModelError(f"selects along dimension {dim}: only dimension 0, time")
    return _item(place, x, index)


def _same(place: Place, x: Any, *_: Any, **__: Any) -> Traced:
    return _tensor(x)


def _as_module(kind: Callable[..., nn.Module]) -> Rule:
    """A functional layer by the rule of its module."""

    def rule(place: Place, x: Traced, *args: Any, **kwargs: Any) -> Traced:
        module = kind(*args, **kwargs)
        found = module_rules.find_rule(module)
        assert found is not None
        return Traced(found(place.builder, module, place.name, _tensor(x, Lead.BATCH, Lead.FOLDED).value), x.lead)

    return rule


_RULES: dict[Any, Rule] = {
    target: rule
    for rule, targets in (
        (_add, (operator.add, operator.iadd, torch.add, "add", "add_")),
        (_subtract, (operator.sub, torch.sub)),
        (_multiply, (operator.mul, torch.mul, "mul", "mul_")),
        (_concatenate, (torch.cat, torch.concat, torch.concatenate)),
        (stack, (torch.stack,)),
        (flatten, (torch.flatten, "flatten")),
        (_reshape, (torch.reshape, "reshape", "view")),
        (_unflatten, (torch.unflatten, "unflatten")),
        (_unsqueeze, (torch.unsqueeze, "unsqueeze")),
        (repeat, ("repeat", "expand")),
        (_mean, (torch.mean, "mean")),
        (_item, (operator.getitem,)),
        (_select, (torch.select, "select")),
        (_same, ("contiguous", "clone", "detach", F.dropout, F.dropout2d)),
        (_as_module(nn.MaxPool2d), (F.max_pool2d, torch.max_pool2d)),
        (_as_module(nn.MaxPool1d), (F.max_pool1d,)),
        (_as_module(nn.AvgPool2d), (F.avg_pool2d,)),
        (_as_module(nn.AvgPool1d), (F.avg_pool1d,)),
        (_as_module(nn.AdaptiveAvgPool2d), (F.adaptive_avg_pool2d,)),
        (_as_module(nn.AdaptiveAvgPool1d), (F.adaptive_avg_pool1d,)),
    )
    for target in targets
}
