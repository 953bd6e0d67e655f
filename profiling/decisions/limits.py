"""Limits that a profile must keep, from a TOML file: for a build that shall fail when a model gets slower.

    [[limit]]
    metric = "p95_ms"        # a quantile of latency: p50_ms, p90_ms, p95_ms, p99_ms, min_ms
    max = 2.5
    engine = "native"        # which rows: engine, timesteps, batch, threads, model; all that match must keep it
    timesteps = 5

    [[limit]]
    metric = "accuracy"      # a share, of rows chosen by timesteps and model
    min = 0.91

Further metrics: `images_per_second` (of rows of latency), `speed` (times as fast as the first engine), `file_bytes`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spiketicket.errors import InputError, extra
from spiketicket.files import read_bytes
from spiketicket.profiling.decisions.stored import latencies

_SELECTORS = {"model": str, "engine": str, "timesteps": int, "batch": int, "threads": int}
_QUANTILES = ("min_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms")
METRICS = (*_QUANTILES, "images_per_second", "speed", "accuracy", "file_bytes")


@dataclass(frozen=True)
class Limit:
    metric: str
    min: float | None
    max: float | None
    where: dict[str, Any]  # selectors

    def __str__(self) -> str:
        named = (("at least", self.min), ("at most", self.max))
        bounds = [f"{name} {bound:g}" for name, bound in named if bound is not None]
        rows = ", ".join(f"{key} {value}" for key, value in self.where.items()) or "all rows"
        return f"{self.metric} of {rows}: {' and '.join(bounds)}"


@dataclass(frozen=True)
class Verdict:
    limit: Limit
    row: str  # the row of the profile that was judged
    value: float

    @property
    def kept(self) -> bool:
        low, high = self.limit.min, self.limit.max
        return (low is None or self.value >= low) and (high is None or self.value <= high)


def read_limits(path: Path) -> list[Limit]:
    """Read the limits of a TOML file. Raises InputError for what is unknown or impossible in it."""
    content = read_bytes(path, "limits", InputError)
    try:
        parsed = _toml(content.decode())
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from error
    entries = parsed.get("limit")
    if set(parsed) != {"limit"} or not isinstance(entries, list) or not entries:
        got = ", ".join(parsed) or "nothing"
        raise InputError(f"{path}: expected one or more [[limit]] tables and nothing else, got {got}")
    return [_limit(f"{path}, limit {number}", entry) for number, entry in enumerate(entries, 1)]


def _limit(place: str, entry: Any) -> Limit:
    if not isinstance(entry, dict):
        raise InputError(f"{place}: expected a table, got {entry!r}")
    unknown = set(entry) - {"metric", "min", "max", *_SELECTORS}
    if unknown or entry.get("metric") not in METRICS:
        raise InputError(
            f"{place}: expected a metric ({', '.join(METRICS)}), min or max, and {', '.join(_SELECTORS)}, got "
            f"{', '.join(f'{key} = {value!r}' for key, value in entry.items())}"
        )
    bounds = {key: entry.get(key) for key in ("min", "max")}
    for key, value in bounds.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value != value):
            raise InputError(f"{place}: {key} must be a number, got {value!r}")
    if bounds == {"min": None, "max": None}:
        raise InputError(f"{place}: expected min or max, got neither")
    where = {key: value for key, value in entry.items() if key in _SELECTORS}
    for key, value in where.items():
        if isinstance(value, bool) or not isinstance(value, _SELECTORS[key]):
            raise InputError(f"{place}: {key} must be {_SELECTORS[key].__name__}, got {value!r}")
    return Limit(entry["metric"], bounds["min"], bounds["max"], where)


def check_limits(data: dict[str, Any], limits: list[Limit]) -> list[Verdict]:
    """Judge every row of a profile that a limit applies to. Raises InputError for a limit that applies to none, since
    it would never fail.
    """
    verdicts = []
    for limit in limits:
        found = [
            Verdict(limit, row, value)
            for row, facts, value in _rows(data, limit.metric)
            if all(facts.get(key) == wanted for key, wanted in limit.where.items())
        ]
        if not found:
            raise InputError(f"nothing was measured that this limit is about: {limit}")
        verdicts += found
    return verdicts


def _rows(data: dict[str, Any], metric: str) -> list[tuple[str, dict[str, Any], float]]:
    """Return description, selectors and value of all rows that have the metric."""
    if metric == "file_bytes":
        return [(m["name"], {"model": m["name"]}, m["file_bytes"]) for m in data["models"]]
    if metric == "accuracy":
        return [
            (f"{m['name']}, T = {row['timesteps']}", {"model": m["name"], **row}, row["accuracy"])
            for m in data["models"]
            for row in m["accuracy"]
        ]
    rows = []
    for place, row in latencies(data).items():
        value = row["ms"][metric.removesuffix("_ms")] if metric in _QUANTILES else row[metric]
        rows.append((str(place), vars(place), value["value"] if isinstance(value, dict) else value))
    return rows


def _toml(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        with extra("report", "reading TOML with Python 3.10", "tomli"):
            import tomli as tomllib
    return tomllib.loads(text)
