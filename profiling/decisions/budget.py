"""Which timesteps fit into a time budget: the largest T of each engine and, of several models, the most accurate."""

import re
from dataclasses import dataclass
from typing import Any

from spiketicket.errors import InputError
from spiketicket.profiling.decisions.stored import accuracy_at, latencies

_UNITS = {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3}
_BUDGET = re.compile(r"([0-9]*\.?[0-9]+)\s*(ns|us|ms|s)(?:@(p50|p90|p95|p99))?")


@dataclass(frozen=True)
class Budget:
    """A time budget: `ms` milliseconds of a run, which the share `quantile` of all runs must keep."""

    ms: float
    quantile: str = "p95"

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Parse a budget: 2ms, 500us or 0.01s; 2ms@p99 for another quantile than p95. Raises InputError."""
        match = _BUDGET.fullmatch(text.strip())
        if match is None or float(match[1]) == 0:
            raise InputError(f"budget: expected a time such as 2ms, 500us or 2ms@p99, got {text!r}")
        return cls(float(match[1]) * _UNITS[match[2]], match[3] or "p95")

    def __str__(self) -> str:
        return f"{self.ms:g} ms at {self.quantile}"


@dataclass(frozen=True)
class Fit:
    """The largest T of one model, engine, batch and number of threads that keeps the budget (None: not even the
    smallest does), and `ms`, that quantile at this T (or at the smallest).
    """

    model: str
    engine: str
    batch: int
    threads: int
    timesteps: int | None
    ms: float
    accuracy: float | None  # accuracy at this T


def fits(data: dict[str, Any], budget: Budget) -> list[Fit]:
    """Return one `Fit` per model, engine, batch and number of threads of a profile, in its order."""
    models = {model["name"]: model for model in data["models"]}
    groups: dict[tuple[str, str, int, int], list[tuple[int, float]]] = {}
    for place, row in latencies(data).items():
        key = place.model, place.engine, place.batch, place.threads
        groups.setdefault(key, []).append((place.timesteps, row["ms"][budget.quantile]))
    found = []
    for (model, engine, batch, threads), rows in groups.items():
        inside = [(t, ms) for t, ms in rows if ms <= budget.ms]
        t, ms = max(inside) if inside else min(rows)
        known = accuracy_at(models[model], t) if inside else None
        accuracy = None if known is None else known["accuracy"]
        found.append(Fit(model, engine, batch, threads, t if inside else None, ms, accuracy))
    return found


def best(found: list[Fit]) -> Fit | None:
    """Return the most accurate of those that fit and, of equals, the fastest. Without accuracies, it is the one with
    the largest T. Returns None if nothing fits.
    """
    inside = [fit for fit in found if fit.timesteps is not None]
    return max(inside, key=_worth, default=None)


def _worth(fit: Fit) -> tuple[bool, float, float]:
    known = fit.accuracy is not None
    return known, (fit.accuracy if fit.accuracy is not None else fit.timesteps) or 0.0, -fit.ms
