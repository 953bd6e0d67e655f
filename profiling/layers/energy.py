"""Estimate energy: operations times the published energy of one operation.

This is an estimate of the arithmetic on a chip. It is not a measurement, and leaves out control, and also memory unless
a table says what a byte costs.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spiketicket.errors import InputError
from spiketicket.files import read_json


@dataclass(frozen=True)
class EnergyTable:
    """Picojoules per multiply-accumulate, per accumulate and, if given, per byte of memory traffic."""

    name: str
    source: str
    mac_pj: float
    ac_pj: float
    byte_pj: float | None = None

    def estimate(self, macs: float, acs: float, nbytes: float = 0) -> float:
        """Return the estimated picojoules of so many operations and bytes."""
        return macs * self.mac_pj + acs * self.ac_pj + nbytes * (self.byte_pj or 0.0)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


CMOS_45NM = EnergyTable(
    "45 nm, 32-bit float",
    "M. Horowitz, Computing's energy problem (and what we can do about it), ISSCC 2014: "
    "multiplication 3.7 pJ, addition 0.9 pJ",
    mac_pj=4.6,
    ac_pj=0.9,
)


def load_energy_table(path: Path) -> EnergyTable:
    """Read the table in a JSON file: an object with the texts `name` and `source` and the numbers `mac_pj`, `ac_pj`
    and, if memory is to count, `byte_pj`. Raises InputError.
    """
    fields = read_json(path, "energy table", InputError)
    required, optional = {"name", "source", "mac_pj", "ac_pj"}, {"byte_pj"}
    if not required <= set(fields) <= required | optional:
        raise InputError(
            f"{path}: expected the fields name, source, mac_pj, ac_pj and perhaps byte_pj, got {', '.join(fields)}"
        )
    for key, value in fields.items():
        if key in ("name", "source"):
            if not isinstance(value, str) or not value.strip():
                raise InputError(f"{path}: {key} must be a text, got {value!r}")
        elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise InputError(f"{path}: {key} must be picojoules from 0, got {value!r}")
    return EnergyTable(**fields)
