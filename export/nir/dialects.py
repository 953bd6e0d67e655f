"""Choices that NIR leaves open: the length of a timestep, and the simulator that is followed."""

from math import isfinite
from numbers import Real

from spiketicket.errors import InputError

NIR_DT = 1e-4  # seconds per timestep; what snnTorch, Rockpool and NIR's own examples use
DIALECTS = ("nir", "snntorch", "norse")  # the simulator that is followed


def check_dt(dt: object) -> None:
    """Raise InputError if `dt` is not a positive number of seconds."""
    if not (isinstance(dt, Real) and isfinite(dt) and float(dt) > 0):
        raise InputError(f"dt must be a positive number of seconds, got {dt!r}")
