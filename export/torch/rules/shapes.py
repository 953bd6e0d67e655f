"""Rules for operations on shapes and on time. The only node that they add to the graph is a Flatten.

The iterations of a loop over timesteps are one computation in the graph. Their tensors differ in `Traced.step` only;
stacked in order, they are that computation over time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from spiketicket.errors import ModelError
from spiketicket.export.torch.builder import Builder
from spiketicket.export.torch.rules import modules as module_rules
from spiketicket.export.torch.traced import LeadingDims, LeadingDimsError, Size, Traced

# The number of leading dimensions.
LEADING_COUNT = {
    LeadingDims.BATCH: 1,
    LeadingDims.TIME: 2,
    LeadingDims.FOLDED: 1,
    LeadingDims.ONE: 2,
    LeadingDims.MEAN: 1,
    LeadingDims.SUM: 1,
}


@dataclass(frozen=True)
class RuleContext:
    """What a rule needs besides its operands: the builder, the name for a new node, and T."""

    builder: Builder
    name: str
    timesteps: int

    def leading_sizes(self, leading: LeadingDims) -> tuple[Size | int, ...]:
        """Return the sizes of the dimensions before a tensor's own shape."""
        match leading:
            case LeadingDims.TIME:
                return self.timesteps, Size()
            case LeadingDims.FOLDED:
                return (Size(self.timesteps),)
            case LeadingDims.ONE:
                return 1, Size()
        return (Size(),)

    def dims(self, x: Traced) -> tuple[Any, ...]:
        """Return the tensor's shape in torch; a size that depends on the batch is a `Size`."""
        return (*self.leading_sizes(x.leading), *self.builder.torch_shape(x.value))

    def axis(self, x: Traced, dim: int) -> int:
        """Return dimension `dim` of `x`, counted from the first one if it is negative."""
        return dim + len(self.dims(x)) if dim < 0 else dim


def tensor(x: Any, *allowed: LeadingDims) -> Traced:
    """Return `x` if it is a tensor of the network whose leading dimensions are among `allowed` (none given: any).

    Raises ModelError if it is no such tensor, and LeadingDimsError if its leading dimensions are others.
    """
    if not isinstance(x, Traced):
        raise ModelError(f"expected a tensor of the network, got {x!r}")
    if x.inverted:
        raise ModelError("gets 1 - spikes, which only a product can take")
    if allowed and x.leading not in allowed:
        raise LeadingDimsError(f"takes {' or '.join(leading.value for leading in allowed)}, gets {x}")
    return x


def flatten(context: RuleContext, x: Traced, start_dim: int = 0, end_dim: int = -1) -> Traced:
    """Flatten images to features, or fold timesteps into the batch."""
    tensor(x, LeadingDims.BATCH, LeadingDims.TIME, LeadingDims.FOLDED, LeadingDims.MEAN)
    start, end, first = context.axis(x, start_dim), context.axis(x, end_dim), LEADING_COUNT[x.leading]
    if x.leading is LeadingDims.TIME and (start, end) == (0, 1):
        return replace(x, leading=LeadingDims.FOLDED)
    if start == first and end == len(context.dims(x)) - 1:
        return replace(x, value=module_rules.flatten(context.builder, context.name, x.value))
    raise LeadingDimsError(
        f"flattens dimensions {start_dim} to {end_dim} of [{_text(context.dims(x))}]: only all behind the batch, or "
        "time and batch"
    )


def reshape(context: RuleContext, x: Traced, *shape: Any) -> Traced:
    """Flatten images, fold time into the batch or split it off again."""
    tensor(x, LeadingDims.BATCH, LeadingDims.TIME, LeadingDims.FOLDED, LeadingDims.MEAN)
    wanted = list(shape[0] if len(shape) == 1 and isinstance(shape[0], list | tuple) else shape)
    own = list(context.builder.torch_shape(x.value))
    foldable = (LeadingDims.TIME, LeadingDims.FOLDED)  # either can become the other
    for leading in foldable if x.leading in foldable else (x.leading,):
        first, rest = wanted[: LEADING_COUNT[leading]], wanted[LEADING_COUNT[leading] :]
        fits = len(first) == LEADING_COUNT[leading] and all(map(_asks_for, first, context.leading_sizes(leading)))
        if not fits or sum(_asks_for(got, -1) for got in wanted) > 1:
            continue
        if len(rest) == len(own) and all(map(_asks_for, rest, own)):
            return replace(x, leading=leading)
        if len(rest) == 1 and _asks_for(rest[0], prod(own)):
            return replace(x, value=module_rules.flatten(context.builder, context.name, x.value), leading=leading)
    raise LeadingDimsError(
        f"reshapes [{_text(context.dims(x))}] to [{_text(wanted)}]: only flattening images, and folding time into the "
        "batch, by sizes taken from a tensor's shape (numbers would fix the batch)"
    )


def _asks_for(got: Any, dim: Any) -> bool:
    """Return whether the size `got` asks for the dimension `dim`, by its value or by -1."""
    if isinstance(got, Size):
        return got.same(dim)
    return got == -1 or (not isinstance(dim, Size) and got == dim)


def _text(dims: Sequence[Any]) -> str:
    return ", ".join(map(str, dims))


def unflatten(context: RuleContext, x: Traced, dim: int, sizes: Sequence[Any]) -> Traced:
    if dim != 0:
        raise ModelError(f"unflattens dimension {dim}: only dimension 0, time and batch")
    return reshape(context, x, *sizes, *context.builder.torch_shape(x.value))


def unsqueeze(context: RuleContext, x: Traced, dim: int) -> Traced:
    if dim != 0:
        raise ModelError(f"adds dimension {dim}: only dimension 0, time")
    one = replace(tensor(x, LeadingDims.BATCH), leading=LeadingDims.ONE)
    return stack(context, [x]) if context.timesteps == 1 else one


def repeat(context: RuleContext, x: Traced, *sizes: Any) -> Traced:
    """Repeat a tensor T times along a new dimension 0, and once along all others."""
    return _repeated(context, x, sizes, lambda size, dim: not isinstance(size, Size) and size == 1)


def expand(context: RuleContext, x: Traced, *sizes: Any) -> Traced:
    """Expand a tensor to T timesteps along dimension 0; all other sizes must be its own."""
    return _repeated(context, x, sizes, _asks_for)


def _repeated(context: RuleContext, x: Traced, sizes: Sequence[Any], once: Any) -> Traced:
    wanted = list(sizes[0] if len(sizes) == 1 and isinstance(sizes[0], list | tuple) else sizes)
    dims = context.dims(tensor(x, LeadingDims.BATCH, LeadingDims.ONE))
    rest = dims[1:] if x.leading is LeadingDims.ONE else dims
    fits = len(wanted) == 1 + len(rest) and all(map(once, wanted[1:], rest))
    if not fits or isinstance(wanted[0], Size) or wanted[0] != context.timesteps:
        raise ModelError(f"repeats by [{_text(wanted)}]: only {context.timesteps} timesteps along dimension 0")
    if context.builder.values[x.value].timed:
        raise ModelError("repeats a tensor over time that differs from timestep to timestep")
    return Traced(x.value, LeadingDims.TIME)


def getitem(context: RuleContext, x: Any, index: Any) -> Any:
    """Take one timestep of a tensor, or an item of anything else; the index None adds dimension 0."""
    if not isinstance(x, Traced):
        return x[index]
    if index is None:
        return unsqueeze(context, x, 0)
    if not isinstance(index, int) or not -context.timesteps <= index < context.timesteps:
        raise ModelError(f"indexes a tensor with {index}: expected the number of a timestep")
    return replace(tensor(x, LeadingDims.TIME), leading=LeadingDims.BATCH, step=index % context.timesteps)


def select(context: RuleContext, x: Traced, dim: int, index: int) -> Any:
    if dim != 0:
        raise ModelError(f"selects along dimension {dim}: only dimension 0, time")
    return getitem(context, x, index)


def stack(context: RuleContext, tensors: Sequence[Any], dim: int = 0) -> Traced:
    """Stack the tensors `[N, ...]` of all iterations of a loop over time to `[T, N, ...]`."""
    return _as_sequence(context, [tensor(x, LeadingDims.BATCH) for x in tensors], dim)


def cat_timesteps(context: RuleContext, tensors: Sequence[Any], dim: int) -> Traced:
    """Concatenate the tensors `[1, N, ...]` of all timesteps to `[T, N, ...]`."""
    return _as_sequence(context, [tensor(x, LeadingDims.ONE) for x in tensors], dim)


def _as_sequence(context: RuleContext, tensors: list[Traced], dim: int) -> Traced:
    # A sequence is T tensors of one computation, at the timesteps 0, 1, ..., T - 1 or all static.
    first, steps = tensors[0].without_step, [x.step for x in tensors]
    once = context.timesteps == 1 and steps == [None]
    static = set(steps) == {None} and not context.builder.values[first.value].timed
    in_order = len(tensors) == context.timesteps and (once or static or steps == list(range(context.timesteps)))
    if dim != 0 or not in_order or any(x.without_step != first for x in tensors):
        raise ModelError(
            f"stacks {len(tensors)} tensors: expected one of each of the {context.timesteps} timesteps, "
            "in their order, along dimension 0"
        )
    return replace(first, leading=LeadingDims.TIME)


def mean_over_time(context: RuleContext, x: Traced, dim: Any = None, keepdim: bool = False) -> Traced:
    return replace(_over_time(x, dim, keepdim, "mean"), leading=LeadingDims.MEAN)


def sum_over_time(context: RuleContext, x: Traced, dim: Any = None, keepdim: bool = False) -> Traced:
    return replace(_over_time(x, dim, keepdim, "sum"), leading=LeadingDims.SUM, step=context.timesteps)


def _over_time(x: Traced, dim: Any, keepdim: bool, what: str) -> Traced:
    if dim not in (0, [0], (0,)) or keepdim:
        raise ModelError(
            f"the {what} over dimension {dim}: only over dimension 0, time (for images, use adaptive pooling)"
        )
    return tensor(x, LeadingDims.TIME)


def accumulate(context: RuleContext, a: Traced, b: Traced) -> Traced | None:
    """Return the sum over time that `a + b` continues, or None if it is an ordinary sum.

    It continues one if `b` is the tensor of one computation at the timestep that follows those summed up in `a`.
    """
    if a.value != b.value or b.leading is not LeadingDims.BATCH or b.step is None:
        return None
    if a.leading is LeadingDims.BATCH and (a.step, b.step) == (0, 1):
        return replace(a, leading=LeadingDims.SUM, step=2)
    return replace(a, step=b.step + 1) if a.leading is LeadingDims.SUM and a.step == b.step else None


def divide(context: RuleContext, x: Any, by: Any) -> Traced:
    """Divide the sum over all timesteps by their number, which gives the mean."""
    summed = tensor(x)
    if by == 1 == context.timesteps and not isinstance(by, Traced | Size):
        return summed
    whole = summed.leading is LeadingDims.SUM and summed.step == context.timesteps
    if not whole or isinstance(by, Traced | Size) or by != context.timesteps:
        raise ModelError(
            f"quotients are exported only as the sum of all timesteps by their number, {context.timesteps}"
        )
    return replace(summed, leading=LeadingDims.MEAN, step=None)
