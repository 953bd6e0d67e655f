"""Phases of a training: how many timesteps the network runs, for how many epochs. No torch."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from spiketicket.errors import InputError

_PHASE = re.compile(r"([0-9]{1,4})x([0-9]{1,7})")


@dataclass(frozen=True)
class Phase:
    """`epochs` epochs at `timesteps` timesteps."""

    timesteps: int
    epochs: int


def parse_phases(name: str, text: str) -> tuple[Phase, ...]:
    """Read phases such as `1x12,2x3,5x2`: 12 epochs at T = 1, then 3 at T = 2, then 2 at T = 5.

    Raises InputError, which begins with `name`, for any other text.
    """
    phases = []
    for part in text.split(","):
        match = _PHASE.fullmatch(part.strip())
        if not match or min(int(number) for number in match.groups()) < 1:
            raise InputError(
                f"{name}: expected TIMESTEPSxEPOCHS, several with commas, as in 1x12,2x3,5x2; got {text!r}"
            )
        phases.append(Phase(*map(int, match.groups())))
    return tuple(phases)


def format_phases(phases: Sequence[Phase]) -> str:
    """Return the text that `parse_phases` reads."""
    return ",".join(f"{phase.timesteps}x{phase.epochs}" for phase in phases)


def phases_from(phases: Sequence[Phase], epoch: int) -> tuple[Phase, ...]:
    """Return what is left of the phases after `epoch` epochs."""
    left = []
    for phase in phases:
        skipped = min(epoch, phase.epochs)
        epoch -= skipped
        if skipped < phase.epochs:
            left.append(Phase(phase.timesteps, phase.epochs - skipped))
    return tuple(left)


def count_epochs(phases: Sequence[Phase]) -> int:
    """Return how many epochs the phases have together."""
    return sum(phase.epochs for phase in phases)


def timesteps_at(phases: Sequence[Phase], epoch: int) -> int:
    """Return the timesteps of `epoch`, counted from 0; those of the last phase for epochs after the end."""
    for phase in phases:
        if epoch < phase.epochs:
            return phase.timesteps
        epoch -= phase.epochs
    return phases[-1].timesteps
