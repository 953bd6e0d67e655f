"""Rules that translate the operations between modules: one for each function or tensor method.

A rule takes a RuleContext and the operands of the operation (tensors as `Traced`, sizes that depend on the batch as
`Size`, everything else as it is), and returns the result in the same form.
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
from spiketicket.export.torch.rules.shapes import LEADING_COUNT, RuleContext, tensor
from spiketicket.export.torch.traced import LeadingDims, LeadingDimsError, Traced
from spiketicket.graph import Add, And, Concat

Rule = Callable[..., Any]


def find(target: Any) -> Rule | None:
    """Return the rule for a function, or for the name of a tensor method; None if there is none."""
    return _RULES.get(target)


# Operations that write their result into the first operand.
IN_PLACE = (operator.iadd, operator.imul, operator.itruediv, "add_", "mul_", "div_")


def _with_same_leading(context: RuleContext, tensors: Sequence[Any], *allowed: LeadingDims) -> tuple[list[str], Traced]:
    """Return the values of the tensors, and a tensor with the leading dimensions and timestep of their combination.

    If one value is timed, all returned ones are. Raises LeadingDimsError if the leading dimensions differ or are not
    among `allowed`, and ModelError if the tensors belong to different timesteps.
    """
    checked = [tensor(x) for x in tensors]
    if len({x.leading for x in checked}) != 1:
        raise LeadingDimsError(f"combines {' with '.join(map(str, checked))}")
    like = tensor(checked[0], *allowed)
    steps = {x.step for x in checked if x.step is not None}
    if len(steps) > 1:
        raise ModelError(
            "combines tensors of different timesteps: only the state of neurons is carried from one to the next"
        )
    values = context.builder.with_same_timing([x.value for x in checked])
    return values, replace(like, step=steps.pop() if steps else None)


def _add(context: RuleContext, a: Any, b: Any, *, alpha: int = 1) -> Traced:
    if alpha != 1:
        raise ModelError(f"alpha={alpha}: only sums with alpha=1 can be exported")
    for x, other in ((a, b), (b, a)):
        if not isinstance(x, Traced) and x == 0:
            return tensor(other)  # the initial value of a sum over a loop
    summed = shape_rules.accumulate(context, tensor(a), tensor(b))
    if summed is not None:
        return summed
    (left, right), like = _with_same_leading(
        context, (a, b), LeadingDims.BATCH, LeadingDims.TIME, LeadingDims.FOLDED, LeadingDims.MEAN
    )
    left, right = context.builder.images([left, right])
    name = context.builder.unique(context.name)
    return replace(like, value=context.builder.emit(Add(name, (left, right), name)))


def _subtract(context: RuleContext, a: Any, b: Any) -> Traced:
    if isinstance(a, Traced) or a != 1:
        raise ModelError("differences are exported only as 1 - spikes")
    return replace(tensor(b), inverted=True)


def _multiply(context: RuleContext, a: Any, b: Any) -> Any:
    if not (isinstance(a, Traced) and isinstance(b, Traced)) or (a.inverted and b.inverted):
        raise ModelError(
            "products are exported of spikes with spikes, or with 1 - spikes; constant factors belong "
            "into the normalisation of the input"
        )
    first, second = (b, a) if a.inverted else (a, b)
    plain = replace(second, inverted=False)
    (left, right), like = _with_same_leading(
        context, (first, plain), LeadingDims.BATCH, LeadingDims.TIME, LeadingDims.FOLDED
    )
    left, right = context.builder.images([left, right])
    name = context.builder.unique(context.name)
    return replace(like, value=context.builder.emit(And(name, (left, right), name, negated=second.inverted)))


def _concatenate(context: RuleContext, tensors: Sequence[Any], dim: int = 0) -> Traced:
    if all(isinstance(x, Traced) and x.leading is LeadingDims.ONE for x in tensors):
        return shape_rules.cat_timesteps(context, tensors, dim)
    values, like = _with_same_leading(
        context, tensors, LeadingDims.BATCH, LeadingDims.TIME, LeadingDims.FOLDED, LeadingDims.MEAN
    )
    if context.axis(tensors[0], dim) != LEADING_COUNT[like.leading]:
        raise ModelError(
            f"concatenates along dimension {dim}: only along channels, dimension {LEADING_COUNT[like.leading]}"
        )
    if len(values) == 1:
        return like
    name = context.builder.unique(context.name)
    return replace(like, value=context.builder.emit(Concat(name, tuple(context.builder.images(values)), name)))


def _same(context: RuleContext, x: Any, *_: Any, **__: Any) -> Traced:
    return tensor(x)


def _copy(context: RuleContext, x: Any, *_: Any, **__: Any) -> Traced:
    """Return the tensor, as `_same` does; but the result does not share its memory, so that it is not among VIEWS."""
    return tensor(x)


def _dropout(context: RuleContext, x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Traced:
    if training and p > 0:
        raise ModelError("drops values at random in evaluation mode, too: call it with training=self.training")
    return tensor(x)


def _as_module(kind: Callable[..., nn.Module]) -> Rule:
    """Return a rule for a functional layer, which applies the rule of the module of class `kind`."""

    def rule(context: RuleContext, x: Traced, *args: Any, **kwargs: Any) -> Traced:
        value = tensor(x, LeadingDims.BATCH, LeadingDims.FOLDED).value
        module = kind(*args, **kwargs)
        found = module_rules.find_rule(module)
        assert found is not None
        key = (repr(module), value)  # the iterations of a loop over time are one computation
        if key not in context.builder.functional_outputs:
            context.builder.functional_outputs[key] = found(context.builder, module, context.name, value)
        return replace(x, value=context.builder.functional_outputs[key])

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
        (shape_rules.mean_over_time, (torch.mean, "mean")),
        (shape_rules.sum_over_time, (torch.sum, "sum")),
        (shape_rules.getitem, (operator.getitem,)),
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

# Rules of operations whose result shares memory with their input in torch.
VIEWS = (
    _same,
    _dropout,
    shape_rules.flatten,
    shape_rules.reshape,
    shape_rules.unflatten,
    shape_rules.unsqueeze,
    shape_rules.expand,
    shape_rules.getitem,
    shape_rules.select,
)
