"""Phases of a training: how many timesteps the network runs, on images of which size, for how many epochs. No torch."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from spiketicket.errors import InputError

_PHASE = re.compile(r"([0-9]{1,4})x([0-9]{1,7})(?:@([0-9]{1,4}))?")


@dataclass(frozen=True)
class Phase:
    """`epochs` epochs at `timesteps` timesteps, on images of `image_size` pixels a side (None: as they are)."""

    timesteps: int
    epochs: int
    image_size: int | None = None


def parse_phases(name: str, text: str) -> tuple[Phase, ...]:
    """Read phases such as `1x8@16,1x6,5x2`: 8 epochs at T = 1 on images of 16x16 pixels, 6 at T = 1, 2 at T = 5.

    Raises InputError, which begins with `name`, for any other text.
    """
    phases = []
    for part in text.split(","):
        match = _PHASE.fullmatch(part.strip())
        numbers = [int(number) for number in match.groups() if number] if match else [0]
        if min(numbers) < 1:
            raise InputError(
                f"{name}: expected TIMESTEPSxEPOCHS or TIMESTEPSxEPOCHS@PIXELS, several with commas, as in "
                f"1x8@16,1x6,5x2; got {text!r}"
            )
        phases.append(Phase(*numbers))
    return tuple(phases)


def format_phases(phases: Sequence[Phase]) -> str:
    """Return the text that `parse_phases` reads."""
    return ",".join(f"{p.timesteps}x{p.epochs}{f'@{p.image_size}' if p.image_size else ''}" for p in phases)


def phases_from(phases: Sequence[Phase], epoch: int) -> tuple[Phase, ...]:
    """Return what is left of the phases after `epoch` epochs."""
    left = []
    for phase in phases:
        skipped = min(epoch, phase.epochs)
        epoch -= skipped
        if skipped < phase.epochs:
            left.append(replace(phase, epochs=phase.epochs - skipped))
    return tuple(left)


def count_epochs(phases: Sequence[Phase]) -> int:
    """Return how many epochs the phases have together."""
    return sum(phase.epochs for phase in phases)


def phase_at(phases: Sequence[Phase], epoch: int) -> Phase:
    """Return the phase of `epoch`, counted from 0; the last one for epochs after the end."""
    for phase in phases:
        if epoch < phase.epochs:
            return phase
        epoch -= phase.epochs
    return phases[-1]
