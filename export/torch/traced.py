"""Symbolic tensors, sizes and timesteps: what a trace knows about the tensors of a forward pass."""

from dataclasses import dataclass, replace
from enum import Enum
from typing import NoReturn

from spiketicket.errors import ModelError


class LeadingDims(Enum):
    """The dimensions before a tensor's own shape: batch N, timesteps T."""

    BATCH = "[N, ...]"  # one timestep, or a tensor that is the same at all of them
    TIME = "[T, N, ...]"
    FOLDED = "[T * N, ...]"
    ONE = "[1, N, ...]"  # about to be repeated over time
    MEAN = "the mean over T, [N, ...]"
    SUM = "the sum over timesteps, [N, ...]"


@dataclass(frozen=True)
class Traced:
    """A tensor of the network: the value of the graph that it is, and the layout that it has in torch."""

    value: str
    leading: LeadingDims
    inverted: bool = False  # the tensor is 1 - value
    step: int | None = None  # in a loop, the timestep; for a SUM, how many timesteps are in it

    @property
    def without_step(self) -> "Traced":
        """This tensor without its timestep: equal for all iterations of a loop over time."""
        return replace(self, step=None)

    def __str__(self) -> str:
        return self.leading.value


class Steps(int):
    """The number of timesteps as a forward pass sees it.

    It records the numbers that it is compared with. If there are any, the network may differ for another T.
    """

    compared_with: list[str]

    def _compared(self, other: object) -> None:
        self.compared_with.append(str(other))

    def __eq__(self, other: object) -> bool:
        self._compared(other)
        return int(self) == other

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __lt__(self, other: int) -> bool:
        self._compared(other)
        return int(self) < other

    def __le__(self, other: int) -> bool:
        self._compared(other)
        return int(self) <= other

    def __gt__(self, other: int) -> bool:
        return not self <= other

    def __ge__(self, other: int) -> bool:
        return not self < other

    def __hash__(self) -> int:
        return hash(int(self))


@dataclass(frozen=True, eq=False)
class Size:
    """A size that depends on the batch: N, or T * N if `timesteps` is T.

    The batch size is unknown during the trace, so comparing or computing with it raises ModelError, except for folding
    time into the batch and splitting it off again.
    """

    timesteps: int | None = None

    def same(self, other: object) -> bool:
        return isinstance(other, Size) and self.timesteps == other.timesteps

    def __mul__(self, other: object) -> "Size":
        if self.timesteps is None and isinstance(other, int):
            return Size(int(other))
        return self._refuse()

    __rmul__ = __mul__

    def __floordiv__(self, other: object) -> "Size | int":
        if self.timesteps is not None and other == self.timesteps:
            return Size()
        if self.timesteps is not None and isinstance(other, Size) and other.timesteps is None:
            return self.timesteps
        return self._refuse()

    def __hash__(self) -> int:
        return hash(self.timesteps)

    def __str__(self) -> str:
        return "N" if self.timesteps is None else f"{self.timesteps} * N"

    def __eq__(self, other: object) -> bool:
        return self.same(other) if isinstance(other, Size) else self._refuse()

    def _refuse(self, *_: object) -> NoReturn:
        raise ModelError("it computes with the batch size, which the graph leaves free")

    __bool__ = __int__ = __index__ = __float__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __truediv__ = __mod__ = _refuse


class LeadingDimsError(ModelError):
    """A tensor has other leading dimensions than expected; the network may be meant for an input with others."""


class UnknownError(Exception):
    """A tensor comes from a layer that could not be exported, so what uses it cannot be checked."""
