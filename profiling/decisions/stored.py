"""Read profiles that were written as JSON."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spiketicket.errors import InputError
from spiketicket.files import read_json

FORMAT, VERSION = "spiketicket.profile", 1


@dataclass(frozen=True)
class Place:
    """The model, engine and settings of a latency. Rows of two profiles with equal ones can be compared."""

    model: str
    engine: str
    timesteps: int
    batch: int
    threads: int

    def __str__(self) -> str:
        return f"{self.model}, {self.engine}, T = {self.timesteps}, batch {self.batch}, threads {self.threads}"


def read_profile(path: Path) -> dict[str, Any]:
    """Read an inference profile of `snn-profile -x`. Raises InputError, which says what is wrong with the file."""
    data = read_json(path, "profile of snn-profile -x", InputError)
    if data.get("format") != FORMAT:
        raise InputError(f"{path} is no profile: expected the JSON that snn-profile -x writes")
    if data.get("version") != VERSION or data.get("kind") != "inference":
        raise InputError(
            f"{path}: expected an inference profile of version {VERSION}, got {data.get('kind')!r} of version "
            f"{data.get('version')!r}"
        )
    try:
        latencies(data)
        for model in data["models"]:
            for row in model["accuracy"]:
                float(row["accuracy"]) + int(row["timesteps"])
        dict(data["machine"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged: {type(error).__name__} {error}") from error
    return data


def latencies(data: dict[str, Any]) -> dict[Place, dict[str, Any]]:
    """Return the rows of latencies by their place; `ms` of a row has the figures in milliseconds per run."""
    found = {}
    for model in data["models"]:
        for row in model["latency"]:
            place = Place(model["name"], row["engine"], row["timesteps"], row["batch"], row["threads"])
            if not all(isinstance(row["ms"][key], int | float) for key in ("p50", "low", "high", "n")):
                raise TypeError(f"ms of {place}")
            found[place] = row
    return found


def accuracy_at(model: dict[str, Any], timesteps: int) -> dict[str, Any] | None:
    """Return the row of accuracy at T of one of a profile's models, or None if it was not measured."""
    rows: list[dict[str, Any]] = model["accuracy"]
    return next((row for row in rows if row["timesteps"] == timesteps), None)
