"""Compare two profiles: which latencies differ by more than their noise."""

from dataclasses import dataclass
from math import exp, log, sqrt
from typing import Any

from spiketicket.errors import InputError
from spiketicket.profiling.decisions.stored import Place, accuracy_at, latencies
from spiketicket.profiling.measure.timing import Interval

SAME_MODEL = ("arch", "dataset")
SAME_MACHINE = ("cpu", "cores", "instruction set", "governor")


@dataclass(frozen=True)
class Change:
    """The change of one latency. `ratio` is the median before over the median after: above 1, it is faster now."""

    place: Place
    before: float  # ms
    after: float
    ratio: Interval

    @property
    def exceeds(self) -> bool:
        """Return whether the difference is more than noise, that is, whether the interval leaves out 1."""
        return not self.ratio.low <= 1 <= self.ratio.high

    @property
    def verdict(self) -> str:
        return "within noise" if not self.exceeds else "faster" if self.ratio.value > 1 else "slower"

    def to_dict(self) -> dict[str, Any]:
        return {
            **vars(self.place),
            "before_ms": self.before,
            "after_ms": self.after,
            "ratio": self.ratio.to_dict(),
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class Accuracies:
    """The accuracy of one model at one T, before and after."""

    model: str
    timesteps: int
    before: Interval
    after: Interval

    @property
    def change(self) -> float:
        return self.after.value - self.before.value

    @property
    def exceeds(self) -> bool:
        """Return whether the change is larger than that between two independent samples of as many images."""
        up = self.change > 0
        a, b = (self.before.high, self.after.low) if up else (self.before.low, self.after.high)
        return abs(self.change) > sqrt((a - self.before.value) ** 2 + (b - self.after.value) ** 2)

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "timesteps": self.timesteps,
            "before": self.before.value,
            "after": self.after.value,
            "exceeds": self.exceeds,
        }


@dataclass(frozen=True)
class Comparison:
    changes: list[Change]
    accuracies: list[Accuracies]
    alone: list[str]  # places that only one of the two has
    warnings: list[str]


def compare(before: dict[str, Any], after: dict[str, Any]) -> Comparison:
    """Compare the rows of two profiles that have the same model, engine, T, batch and threads.

    Models are matched by file name; if each profile has only one model, these are compared whatever their names. Raises
    InputError if no row has a counterpart.
    """
    if len(before["models"]) == len(after["models"]) == 1:
        model = {**after["models"][0], "name": before["models"][0]["name"]}
        after = {**after, "models": [model]}
    old, new = latencies(before), latencies(after)
    common = [place for place in old if place in new]
    if not common:
        raise InputError(
            "the two profiles have no model, engine, T, batch and number of threads in common: measure both alike"
        )
    changes = [
        Change(place, old[place]["ms"]["p50"], new[place]["ms"]["p50"], _ratio(old[place]["ms"], new[place]["ms"]))
        for place in common
    ]
    models = {model["name"]: model for model in after["models"]}
    accuracies = [
        Accuracies(model["name"], row["timesteps"], *map(_interval, (row, now)))
        for model in before["models"]
        if model["name"] in models
        for row in model["accuracy"]
        if (now := accuracy_at(models[model["name"]], row["timesteps"])) is not None
    ]
    alone = [str(place) for place in (*old, *new) if place not in common]
    return Comparison(changes, accuracies, alone, _warnings(before, after))


def _interval(row: dict[str, float]) -> Interval:
    return Interval(row["accuracy"], row["low"], row["high"])


def _ratio(before: dict[str, float], after: dict[str, float]) -> Interval:
    """Return the ratio of two independent medians; half widths of its interval add as squares of logarithms."""
    middle = log(before["p50"] / after["p50"])
    down = sqrt(log(before["p50"] / before["low"]) ** 2 + log(after["high"] / after["p50"]) ** 2)
    up = sqrt(log(before["high"] / before["p50"]) ** 2 + log(after["p50"] / after["low"]) ** 2)
    return Interval(exp(middle), exp(middle - down), exp(middle + up))


def _warnings(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    found = []
    for old in before["models"]:
        new = next((model for model in after["models"] if model["name"] == old["name"]), None)
        for key in SAME_MODEL:
            was, now = (model.get("metadata", {}).get(key) if model else None for model in (old, new))
            if new and was != now:
                found.append(f"not the same network: {key} of {old['name']} was {was}, is {now}")
    for fact in SAME_MACHINE:
        a, b = before["machine"].get(fact), after["machine"].get(fact)
        if a != b:
            found.append(f"not the same machine: {fact} was {a}, is {b}")
    for name, data in (("before", before), ("after", after)):
        found += [f"{name}: {warning}" for warning in data.get("warnings", [])]
    return found
