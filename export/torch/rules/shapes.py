"""Operations that change how a tensor is held, and nothing in the graph but a Flatten: shapes, and time.

The rounds of a loop over timesteps are one computation. Their tensors differ in `Traced.step`; collected in order,
they are a sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from spiketicket.errors import ModelError
from spiketicket.export.torch.builder import Builder
from spiketicket.export.torch.rules import modules as module_rules
from spiketicket.export.torch.traced import LeadError, LeadingDims, Size, Traced

AHEAD = {
    LeadingDims.BATCH: 1,
    LeadingDims.TIME: 2,
    LeadingDims.FOLDED: 1,
    LeadingDims.ONE: 2,
    LeadingDims.MEAN: 1,
    LeadingDims.SUM: 1,
}  # leading dimensions


@dataclass(frozen=True)
class Place:
    """Where an operation stands."""

    builder: Builder
    name: str
    timesteps: int

    def lead(self, lead: LeadingDims) -> tuple[Size | int, ...]:
        match lead:
            case LeadingDims.TIME:
                return self.timesteps, Size()
            case LeadingDims.FOLDED:
                return (Size(self.timesteps),)
            case LeadingDims.ONE:
                return 1, Size()
        return (Size(),)

    def dims(self, x: Traced) -> tuple[Any, ...]:
        """The tensor's shape in torch; what depends on the batch is a `Size`."""
        return (*self.lead(x.lead), *self.builder.torch_shape(x.value))

    def axis(self, x: Traced, dim: int) -> int:
        return dim + len(self.dims(x)) if dim < 0 else dim


def tensor(x: Any, *leads: LeadingDims) -> Traced:
    """`x` as a tensor of the network with one of the leads."""
    if not isinstance(x, Traced):
        raise ModelError(f"takes tensors of the network only, gets {x!r}")
    if x.inverted:
        raise ModelError("gets 1 - spikes, which only a product can take")
    if leads and x.lead not in leads:
        raise LeadError(f"takes {' or '.join(lead.value for lead in leads)}, gets {x}")
    return x


def flatten(place: Place, x: Traced, start_dim: int = 0, end_dim: int = -1) -> Traced:
    """Images as features, or timesteps folded into the batch."""
    tensor(x, LeadingDims.BATCH, LeadingDims.TIME, LeadingDims.FOLDED, LeadingDims.MEAN)
    start, end, leading = place.axis(x, start_dim), place.axis(x, end_dim), AHEAD[x.lead]
    if x.lead is LeadingDims.TIME and (start, end) == (0, 1):
        return replace(x, lead=LeadingDims.FOLDED)
    if start == leading and end == len(place.dims(x)) - 1:
        return replace(x, value=module_rules.flatten(place.builder, place.name, x.value))
    raise LeadError(
        f"flattens dimensions {start_dim} to {end_dim} of [{_text(place.dims(x))}]: only all behind the batch, or time "
        "and batch"
    )


def reshape(place: Place, x: Traced, *shape: Any) -> Traced:
    tensor(x, LeadingDims.BATCH, LeadingDims.TIME, LeadingDims.FOLDED, LeadingDims.MEAN)
    wanted = list(shape[0] if len(shape) == 1 and isinstance(shape[0], list | tuple) else shape)
    own = list(place.builder.torch_shape(x.value))
    for lead in (
        (LeadingDims.TIME, LeadingDims.FOLDED) if x.lead in (LeadingDims.TIME, LeadingDims.FOLDED) else (x.lead,)
    ):
        ahead, rest = wanted[: AHEAD[lead]], wanted[AHEAD[lead] :]
        fits = len(ahead) == AHEAD[lead] and all(map(_is, ahead, place.lead(lead)))
        if not fits or sum(_is(got, -1) for got in wanted) > 1:
            continue
        if len(rest) == len(own) and all(map(_is, rest, own)):
            return replace(x, lead=lead)
        if len(rest) == 1 and _is(rest[0], prod(own)):
            return replace(x, value=module_rules.flatten(place.builder, place.name, x.value), lead=lead)
    raise LeadError(
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


def unflatten(place: Place, x: Traced, dim: int, sizes: Sequence[Any]) -> Traced:
    if dim != 0:
        raise ModelError(f"unflattens dimension {dim}: only dimension 0, time and batch")
    return reshape(place, x, *sizes, *place.builder.torch_shape(x.value))


def unsqueeze(place: Place, x: Traced, dim: int) -> Traced:
    if dim != 0:
        raise ModelError(f"adds dimension {dim}: only dimension 0, time")
    one = replace(tensor(x, LeadingDims.BATCH), lead=LeadingDims.ONE)
    return stack(place, [x]) if place.timesteps == 1 else one


def repeat(place: Place, x: Traced, *sizes: Any) -> Traced:
    """T copies along dimension 0, everything else once."""
    return _repeated(place, x, sizes, lambda size, dim: not isinstance(size, Size) and size == 1)


def expand(place: Place, x: Traced, *sizes: Any) -> Traced:
    return _repeated(place, x, sizes, _is)


def _repeated(place: Place, x: Traced, sizes: Sequence[Any], once: Any) -> Traced:
    wanted = list(sizes[0] if len(sizes) == 1 and isinstance(sizes[0], list | tuple) else sizes)
    dims = place.dims(tensor(x, LeadingDims.BATCH, LeadingDims.ONE))
    rest = dims[1:] if x.lead is LeadingDims.ONE else dims
    fits = len(wanted) == 1 + len(rest) and all(map(once, wanted[1:], rest))
    if not fits or isinstance(wanted[0], Size) or wanted[0] != place.timesteps:
        raise ModelError(f"repeats by [{_text(wanted)}]: only {place.timesteps} timesteps along dimension 0")
    if place.builder.values[x.value].timed:
        raise ModelError("repeats over time what differs from timestep to timestep")
    return Traced(x.value, LeadingDims.TIME)


def item(place: Place, x: Any, index: Any) -> Any:
    if not isinstance(x, Traced):
        return x[index]
    if index is None:
        return unsqueeze(place, x, 0)
    if not isinstance(index, int) or not -place.timesteps <= index < place.timesteps:
        raise ModelError(f"takes {index} of a tensor: only the tensor of one timestep")
    return replace(tensor(x, LeadingDims.TIME), lead=LeadingDims.BATCH, step=index % place.timesteps)


def select(place: Place, x: Traced, dim: int, index: int) -> Any:
    if dim != 0:
        raise ModelError(f"selects along dimension {dim}: only dimension 0, time")
    return item(place, x, index)


def stack(place: Place, tensors: Sequence[Any], dim: int = 0) -> Traced:
    """The tensors of all rounds of a loop, which are one computation, as a sequence."""
    return _collected(place, [tensor(x, LeadingDims.BATCH) for x in tensors], dim)


def join(place: Place, tensors: Sequence[Any], dim: int) -> Traced:
    """`torch.cat` of tensors `[1, N, ...]`."""
    return _collected(place, [tensor(x, LeadingDims.ONE) for x in tensors], dim)


def _collected(place: Place, tensors: list[Traced], dim: int) -> Traced:
    first, steps = tensors[0].anytime, [x.step for x in tensors]
    once = place.timesteps == 1 and steps == [None]
    static = set(steps) == {None} and not place.builder.values[first.value].timed
    in_order = len(tensors) == place.timesteps and (once or static or steps == list(range(place.timesteps)))
    if dim != 0 or not in_order or any(x.anytime != first for x in tensors):
        raise ModelError(
            f"collects {len(tensors)} tensors: expected one of each of the {place.timesteps} timesteps, "
            "in their order, along dimension 0"
        )
    return replace(first, lead=LeadingDims.TIME)


def mean(place: Place, x: Traced, dim: Any = None, keepdim: bool = False) -> Traced:
    return replace(_over_time(x, dim, keepdim, "mean"), lead=LeadingDims.MEAN)


def total(place: Place, x: Traced, dim: Any = None, keepdim: bool = False) -> Traced:
    return replace(_over_time(x, dim, keepdim, "sum"), lead=LeadingDims.SUM, step=place.timesteps)


def _over_time(x: Traced, dim: Any, keepdim: bool, what: str) -> Traced:
    if dim not in (0, [0], (0,)) or keepdim:
        raise ModelError(f"the {what} over dimension {dim}: only over dimension 0, time (of images: adaptive pooling)")
    return tensor(x, LeadingDims.TIME)


def accumulate(place: Place, a: Traced, b: Traced) -> Traced | None:
    """The sum of one computation's tensors at two timesteps or more, in their order; None: it is another sum."""
    if a.value != b.value or b.lead is not LeadingDims.BATCH or b.step is None:
        return None
    if a.lead is LeadingDims.BATCH and (a.step, b.step) == (0, 1):
        return replace(a, lead=LeadingDims.SUM, step=2)
    return replace(a, step=b.step + 1) if a.lead is LeadingDims.SUM and a.step == b.step else None


def divide(place: Place, x: Any, by: Any) -> Traced:
    summed = tensor(x)
    if by == 1 == place.timesteps and not isinstance(by, Traced | Size):
        return summed
    whole = summed.lead is LeadingDims.SUM and summed.step == place.timesteps
    if not whole or isinstance(by, Traced | Size) or by != place.timesteps:
        raise ModelError(f"quotients are exported only as the sum of all timesteps by their number, {place.timesteps}")
    return replace(summed, lead=LeadingDims.MEAN, step=None)
