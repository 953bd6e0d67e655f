"""What operations between modules become in the graph: a rule for each function or tensor method.

A rule takes the place where it stands and the operands as tracing knows them (tensors `Traced`, leading dimensions
`Size`, everything else itself), and returns the result in the same form.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from spiketicket.errors import ModelError
from spiketicket.export.torch.rules import modules as module_rules
from spiketicket.export.torch.rules import shapes as shape_rules
from spiketicket.export.torch.rules.shapes import AHEAD, Place, tensor
from spiketicket.export.torch.traced import LeadError, LeadingDims, Traced
from spiketicket.graph import Add, And, Concat

Rule = Callable[..., Any]


def find(target: Any) -> Rule | None:
    """The rule for a function, or for a tensor method by name."""
    return _RULES.get(target)


# The first operand becomes the result.
IN_PLACE = (operator.iadd, operator.imul, operator.itruediv, "add_", "mul_", "div_")


def _with_same_lead(place: Place, tensors: Sequence[Any], *leads: LeadingDims) -> tuple[list[str], Traced]:
    """The values of tensors with one lead, all of them timed where one is; and a tensor such as they make."""
    checked = [tensor(x) for x in tensors]
    if len({x.lead for x in checked}) != 1:
        raise LeadError(f"combines {' with '.join(map(str, checked))}")
    like = tensor(checked[0], *leads)
    steps = {x.step for x in checked if x.step is not None}
    if len(steps) > 1:
        raise ModelError("combines tensors of different timesteps: only the state of neurons goes from one to the next")
    values = place.builder.alike([x.value for x in checked])
    return values, replace(like, step=steps.pop() if steps else None)


def _add(place: Place, a: Any, b: Any, *, alpha: int = 1) -> Traced:
    if alpha != 1:
        raise ModelError(f"alpha={alpha}: only plain sums can be exported")
    for x, other in ((a, b), (b, a)):
        if not isinstance(x, Traced) and x == 0:
            return tensor(other)  # a sum begins
    summed = shape_rules.accumulate(place, tensor(a), tensor(b))
    if summed is not None:
        return summed
    (left, right), like = _with_same_lead(
        place, (a, b), LeadingDims.BATCH, LeadingDims.TIME, LeadingDims.FOLDED, LeadingDims.MEAN
    )
    left, right = place.builder.images([left, right])
    name = place.builder.unique(place.name)
    return replace(like, value=place.builder.emit(Add(name, (left, right), name)))


def _subtract(place: Place, a: Any, b: Any) -> Traced:
    if isinstance(a, Traced) or a != 1:
        raise ModelError("differences are exported only as 1 - spikes")
    return replace(tensor(b), inverted=True)


def _multiply(place: Place, a: Any, b: Any) -> Any:
    if not (isinstance(a, Traced) and isinstance(b, Traced)) or (a.inverted and b.inverted):
        raise ModelError(
            "products are exported of spikes with spikes, or with 1 - spikes; constant factors belong "
            "into the normalisation of the input"
        )
    first, second = (b, a) if a.inverted else (a, b)
    plain = replace(second, inverted=False)
    (left, right), like = _with_same_lead(
        place, (first, plain), LeadingDims.BATCH, LeadingDims.TIME, LeadingDims.FOLDED
    )
    left, right = place.builder.images([left, right])
    name = place.builder.unique(place.name)
    return replace(like, value=place.builder.emit(And(name, (left, right), name, negated=second.inverted)))


def _concatenate(place: Place, tensors: Sequence[Any], dim: int = 0) -> Traced:
    if all(isinstance(x, Traced) and x.lead is LeadingDims.ONE for x in tensors):
        return shape_rules.join(place, tensors, dim)
    values, like = _with_same_lead(
        place, tensors, LeadingDims.BATCH, LeadingDims.TIME, LeadingDims.FOLDED, LeadingDims.MEAN
    )
    if place.axis(tensors[0], dim) != AHEAD[like.lead]:
        raise ModelError(f"concatenates along dimension {dim}: only along channels, dimension {AHEAD[like.lead]}")
    if len(values) == 1:
        return like
    name = place.builder.unique(place.name)
    return replace(like, value=place.builder.emit(Concat(name, tuple(place.builder.images(values)), name)))


def _same(place: Place, x: Any, *_: Any, **__: Any) -> Traced:
    return tensor(x)


def _copy(place: Place, x: Any, *_: Any, **__: Any) -> Traced:
    """As `_same`, in memory of its own: it is none of VIEWS."""
    return tensor(x)


def _dropout(place: Place, x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Traced:
    if training and p > 0:
        raise ModelError("drops at random in evaluation mode as well: call it with training=self.training")
    return tensor(x)


def _as_module(kind: Callable[..., nn.Module]) -> Rule:
    """A functional layer by the rule of its module."""

    def rule(place: Place, x: Traced, *args: Any, **kwargs: Any) -> Traced:
        value = tensor(x, LeadingDims.BATCH, LeadingDims.FOLDED).value
        module = kind(*args, **kwargs)
        found = module_rules.find_rule(module)
        assert found is not None
        key = (repr(module), value)  # the rounds of a loop are one computation
        if key not in place.builder.made:
            place.builder.made[key] = found(place.builder, module, place.name, value)
        return replace(x, value=place.builder.made[key])

    return rule


_RULES: dict[Any, Rule] = {
    target: rule
    for rule, targets in (
        (_add, (operator.add, operator.iadd, torch.add, "add", "add_")),
        (_subtract, (operator.sub, torch.sub)),
        (_multiply, (operator.mul, operator.imul, torch.mul, "mul", "mul_")),
        (shape_rules.divide, (operator.truediv, operator.itruediv, torch.div, "div", "div_")),
        (_concatenate, (torch.cat, torch.concat, torch.concatenate)),
        (shape_rules.stack, (torch.stack,)),
        (shape_rules.flatten, (torch.flatten, "flatten")),
        (shape_rules.reshape, (torch.reshape, "reshape", "view")),
        (shape_rules.unflatten, (torch.unflatten, "unflatten")),
        (shape_rules.unsqueeze, (torch.unsqueeze, "unsqueeze")),
        (shape_rules.repeat, ("repeat",)),
        (shape_rules.expand, ("expand",)),
        (shape_rules.mean, (torch.mean, "mean")),
        (shape_rules.total, (torch.sum, "sum")),
        (shape_rules.item, (operator.getitem,)),
        (shape_rules.select, (torch.select, "select")),
        (_same, ("contiguous", "detach", "float")),
        (_copy, ("clone",)),
        (_dropout, (F.dropout, F.dropout1d, F.dropout2d)),
        (_as_module(nn.MaxPool2d), (F.max_pool2d, torch.max_pool2d)),
        (_as_module(nn.MaxPool1d), (F.max_pool1d, torch.max_pool1d)),
        (_as_module(nn.AvgPool2d), (F.avg_pool2d,)),
        (_as_module(nn.AvgPool1d), (F.avg_pool1d,)),
        (_as_module(nn.AdaptiveAvgPool2d), (F.adaptive_avg_pool2d,)),
        (_as_module(nn.AdaptiveAvgPool1d), (F.adaptive_avg_pool1d,)),
        (_as_module(nn.AdaptiveMaxPool2d), (F.adaptive_max_pool2d,)),
        (_as_module(nn.AdaptiveMaxPool1d), (F.adaptive_max_pool1d,)),
    )
    for target in targets
}

# What these return lies in the memory of what they get.
VIEWS = (
    _same,
    _dropout,
    shape_rules.flatten,
    shape_rules.reshape,
    shape_rules.unflatten,
    shape_rules.unsqueeze,
    shape_rules.expand,
    shape_rules.item,
    shape_rules.select,
)
