"""Accuracy of the tickets of several searches against sparsity and search time, seeds of one method together."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import mean, stdev
from typing import Any

from spiketicket.errors import InputError
from spiketicket.train.history.events import FINAL, SEARCH, TicketRecord
from spiketicket.train.history.history import History
from spiketicket.train.search.settings import METHODS, SearchSettings

NAMES = {"imp": "IMP", "eb": "EB", "oneshot": "one-shot"}
TARGET = ("rounds", "sparsity")  # settings that say how far a search goes
_SAID = ("seed", "sparsity", *(f.name for f in fields(SearchSettings) if f.metadata.get("early_time")))
SAME_SPARSITY = 1e-3  # a tenth of a percent: rounds end beside the sparsities that --sparsity is asked for


@dataclass(frozen=True)
class Sample:
    """One ticket of one search: accuracy as a share, seconds of the search up to it and of its final training."""

    seed: int
    accuracy: float
    search_seconds: float
    final_seconds: float


@dataclass(frozen=True)
class Point:
    """All seeds at one sparsity (of all parameters)."""

    sparsity: float
    samples: tuple[Sample, ...]

    def mean(self, name: str) -> float:
        return mean(self._values(name))

    def deviation(self, name: str) -> float | None:
        """Return the standard deviation of a sample (n - 1); None for a single seed."""
        return stdev(self._values(name)) if len(self.samples) > 1 else None

    def _values(self, name: str) -> list[float]:
        return [getattr(sample, name) for sample in self.samples]


@dataclass(frozen=True)
class Curve:
    """Searches that differ only in seed. `kind` says which tickets were tested: final, or those of the search."""

    label: str
    kind: str
    folders: tuple[str, ...]
    settings: dict[str, Any]
    points: tuple[Point, ...]

    def gain(self, point: Point) -> float | None:
        """Return the search time of this curve as a multiple of that of `point`, at the same sparsity."""
        near = [own for own in self.points if abs(own.sparsity - point.sparsity) <= SAME_SPARSITY]
        seconds = point.mean("search_seconds")
        if not near or seconds <= 0:
            return None
        return min(near, key=lambda own: abs(own.sparsity - point.sparsity)).mean("search_seconds") / seconds


def make_curves(histories: Sequence[History]) -> tuple[list[Curve], list[str]]:
    """Return a curve for searches that differ only in seed, in the order given; and folders without a tested ticket.

    Searches of a single ticket (`random` at one sparsity) form a curve over their sparsities, too. Raises InputError
    if the same search comes twice, or none has a tested ticket.
    """
    groups: dict[str, list[History]] = {}
    untested = [str(history.folder) for history in histories if not _tested(history)]
    for history in histories:
        if _tested(history):
            groups.setdefault(json.dumps(_identity(history), sort_keys=True), []).append(history)
    if not groups:
        raise InputError(f"no ticket with a test accuracy yet in {', '.join(untested)}")
    identities = [json.loads(key) for key in groups]
    return [_curve(group, label) for group, label in zip(groups.values(), _labels(identities), strict=True)], untested


def differing_settings(curves: Sequence[Curve]) -> dict[str, dict[str, Any]]:
    """Return settings of every method (and the images) that differ though no label says so: values by label.

    A comparison of methods is like for like if there are none.
    """
    shared = [
        f.name for f in fields(SearchSettings) if f.metadata.get("methods") == tuple(METHODS) and f.name not in _SAID
    ]
    differing = {}
    for name in (*shared, "data"):
        values = {curve.label: curve.settings.get(name) for curve in curves}
        is_labelled = all(v is None or _words(name, v) in label.split(", ") for label, v in values.items())
        if not is_labelled and len(set(map(str, values.values()))) > 1:
            differing[name] = values
    return differing


def _identity(history: History) -> dict[str, Any]:
    """Return the settings that decide which curve a search belongs to."""
    planned = [stage.sparsity for stage in history.stages]  # a search at work may have found one ticket so far
    sparsities = [s for s in (*planned, *(ticket.sparsity for ticket in history.tickets)) if s]
    single = bool(sparsities) and max(sparsities) - min(sparsities) <= SAME_SPARSITY
    varies = ("seed", "threads", *(TARGET if single else ()))
    return {name: value for name, value in history.settings.items() if name not in varies and value is not None}


def _tested(history: History) -> list[TicketRecord]:
    return [ticket for ticket in history.tickets if ticket.test_accuracy is not None]


def _curve(group: list[History], label: str) -> Curve:
    kind = FINAL if any(ticket.kind == FINAL for history in group for ticket in _tested(history)) else SEARCH
    samples: dict[float, dict[int, tuple[History, Sample]]] = {}
    for history in group:
        seed = history.settings.get("seed", 0)
        for ticket in _tested(history):
            if ticket.kind != kind or ticket.test_accuracy is None:
                continue
            here = samples.setdefault(round(ticket.sparsity, 4), {})
            if seed in here and here[seed][0] is not history:
                raise InputError(
                    f"{history.folder} and {here[seed][0].folder} are the same search: both have a ticket of "
                    f"sparsity {ticket.sparsity:.2%} with seed {seed}"
                )
            sample = Sample(seed, ticket.test_accuracy, ticket.search_seconds, ticket.final_seconds)
            here[seed] = history, sample
    points = (Point(sparsity, tuple(s for _, s in seeds.values())) for sparsity, seeds in sorted(samples.items()))
    return Curve(label, kind, tuple(str(h.folder) for h in group), _identity(group[0]), tuple(points))


def _labels(identities: list[dict[str, Any]]) -> list[str]:
    """Return names that distinguish the curves: method and ET; if that is not enough, the settings that differ."""
    everywhere = [name for name in ("arch", "dataset") if len({settings[name] for settings in identities}) > 1]
    short = [_short(settings, everywhere) for settings in identities]
    labels = []
    for settings, label in zip(identities, short, strict=True):
        rivals = [other for other, its_label in zip(identities, short, strict=True) if its_label == label]
        differing = [
            _words(name, settings[name])
            for name in settings
            if any(other.get(name) != settings[name] for other in rivals)
        ]
        labels.append(", ".join([label, *differing]))
    return labels


def _short(settings: dict[str, Any], everywhere: list[str]) -> str:
    name = NAMES.get(settings["method"], settings["method"]) + ("+ET" if settings.get("early_time") else "")
    return " ".join([name, *(settings[setting] for setting in everywhere)])


def _words(name: str, value: object) -> str:
    plain = name.replace("_", " ")
    if isinstance(value, bool):
        return plain if value else f"no {plain}"
    return f"{plain} {str(value)[:8] if name == 'data' else value}"  # a fingerprint
