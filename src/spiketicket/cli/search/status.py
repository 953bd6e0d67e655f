"""The state of a search, as text for people and as a dictionary for programs."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from rich.table import Table

from spiketicket.cli.console import out, say
from spiketicket.train.history.events import SEARCH, EarlyBirdRecord, EarlyTimeRecord, PhaseRecord
from spiketicket.train.history.forecast import Forecast
from spiketicket.train.history.history import History
from spiketicket.train.search.settings import METHODS, SearchSettings

BARS = "▁▂▃▄▅▆▇█"
EPOCHS_SHOWN = 40  # at most, as bars
_SOURCES = {"measured": "measured", "fitted": "fitted to other T", "scaled": "in proportion to T"}


def status_dict(history: History, expected: Forecast | None) -> dict[str, Any]:
    """Return everything that `snn-search status` knows, for JSON."""
    return {
        "folder": str(history.folder),
        "state": history.state,
        "reason": history.stop.reason if history.stop else None,
        "settings": history.settings,
        "trainings": [
            {
                **asdict(training.stage),
                "sparsity": training.sparsity,
                "epochs_done": len(training.epochs),
                "done": training.done,
                "timesteps_used": training.timesteps,
                "validation_accuracy": training.validation_accuracy,
                "test_accuracy": training.test_accuracy,
                "seconds": training.seconds,
            }
            for training in history.trainings
        ],
        "early_time": [asdict(event) for event in history.early_time],
        "early_bird": [asdict(event) for event in history.early_bird],
        "phases": [asdict(event) for event in history.phases],
        "tickets": [asdict(ticket) for ticket in history.tickets],
        "forecast": expected and {**asdict(expected), "ends": _clock(expected.ends).isoformat(timespec="seconds")},
        "damaged_lines": list(history.damaged),
    }


def print_status(history: History, expected: Forecast | None) -> None:
    """Print the state of a search: plan, tickets, changes of timesteps, time left."""
    s = history.settings
    say(f"{history.folder}: {s['method']}, {s['arch']} on {s['dataset']}")
    _print(_state(history))
    _print(f"settings: {', '.join(f'{name} {value}' for name, value in s.items() if _matters(name, value, s))}")
    if history.trainings:
        out.print(_table(history))
    for phase in history.phases:
        _print(_phase(phase))
    for event in history.early_time:
        _print(_early_time(event))
    for index in dict.fromkeys(event.round for event in history.early_bird):
        done = any(t.done for t in history.trainings if (t.stage.round, t.stage.kind) == (index, SEARCH))
        _print(_early_bird([event for event in history.early_bird if event.round == index], done))
    if history.state != "finished":
        _print(_time_left(history, expected))


def _matters(name: str, value: object, settings: dict[str, Any]) -> bool:
    """Tell whether a setting is worth printing: it is set, the method knows it, and it is not printed elsewhere."""
    if name in ("method", "arch", "dataset", "data") or value in (None, [], False):
        return False
    about: Mapping[str, Any] = {f.name: f.metadata for f in fields(SearchSettings)}.get(name, {})
    known = settings["method"] in about.get("methods", METHODS)
    return known and (bool(settings.get("early_time")) or not about.get("early_time"))


def _state(history: History) -> str:
    text = history.state
    if text == "stopped" and history.stop:
        text += f": {history.stop.reason}; the same command goes on"
    elif text == "interrupted":
        text += ": the plan is not done, and no search is running here; the same command goes on"
    current = history.current
    if current:
        number = history.trainings.index(current) + 1
        stage = current.stage
        text += (
            f"\nround {stage.round} ({stage.kind}), {len(current.epochs)} of {stage.epochs} epochs done; "
            f"training {number} of {len(history.trainings)}"
        )
    return text


def _table(history: History) -> Table:
    table = Table(caption="sparsity of all parameters")
    for column in ("round", "for", "sparsity", "T", "epochs", "validation", "test", "time"):
        table.add_column(column, justify="left" if column == "for" else "right")
    for training in history.trainings:
        stage = training.stage
        table.add_row(
            str(stage.round),
            stage.kind,
            percent(training.sparsity),
            "→".join(map(str, training.timesteps)),
            f"{len(training.epochs)}/{stage.epochs}" if stage.epochs else "-",
            percent(training.validation_accuracy),
            percent(training.test_accuracy),
            compact(training.seconds) if training.epochs else "-",
            style="bold" if history.running and training is history.current else None,
        )
    return table


def _phase(event: PhaseRecord) -> str:
    found = event.validation_accuracy
    calibrated = "" if found is None else f"; validation {percent(found)} with batch norm calibrated there"
    place = _place(event.timesteps, event.image_size)
    return f"round {event.round} ({event.kind}), epoch {event.epoch}: on to {place}{calibrated}"


def _place(timesteps: int, image_size: int | None) -> str:
    return f"T = {timesteps}" + (f" on {image_size}x{image_size} pixels" if image_size else "")


def _early_time(event: EarlyTimeRecord) -> str:
    kind = f" ({event.divergence})" if event.divergence else ""
    below = "" if event.threshold is None else f", where the divergence is first below {event.threshold:g}"
    return (
        f"Early-Time after {event.epoch} epochs: T = {event.chosen}{below}\n"
        f"  divergence{kind}, t = 1..{len(event.normalised)}: {bars(event.normalised)} {_numbers(event.normalised)}"
    )


def _early_bird(events: Sequence[EarlyBirdRecord], done: bool) -> str:
    """Return the distances of the last epoch, and how the largest one changed from epoch to epoch."""
    last = events[-1]
    state = "the mask has settled" if last.stop else "the mask did not settle" if done else "goes on"
    text = f"Early-Bird, round {last.round}, after {last.epoch + 1} epochs: {state}"
    if last.hamming is not None and last.overlap is not None:
        common = f"{percent(last.overlap)} of the survivors in common at least"
        text += f"\n  with the masks before it: distance {last.hamming:.3g} at most, {common}"
    largest = [event.hamming for event in events if event.hamming is not None]
    return text + (f"\n  largest distance by epoch: {bars(largest[-EPOCHS_SHOWN:])}" if largest else "")


def _time_left(history: History, expected: Forecast | None) -> str:
    if expected is None:
        return "time left: no forecast before the first epoch has finished" if history.current else "time left: none"
    ends = _clock(expected.ends)
    on = "" if ends.date() == datetime.datetime.now().astimezone().date() else f"{ends:%a %d %b} "
    most = "at most " if expected.at_most else "about "
    condition = "" if history.running else " if it goes on now"
    paces = ", ".join(
        f"{duration(pace.seconds)} at {_place(pace.timesteps, pace.image_size)} ({_SOURCES[pace.source]})"
        for pace in expected.paces
    )
    return (
        f"time left: {most}{duration(expected.seconds_left)}, until {on}{ends:%H:%M}{condition}\n"
        f"  an epoch takes {paces}"
    )


def bars(values: Sequence[float | None]) -> str:
    """Return numbers of 0 or more as a line of bars; the largest is full, an unknown one is blank."""
    largest = max((value for value in values if value is not None), default=0.0) or 1.0
    return "".join(" " if v is None else BARS[min(7, max(0, round(7 * v / largest)))] for v in values)


def _numbers(values: Sequence[float | None]) -> str:
    return " ".join("?" if value is None else f"{value:.3g}" for value in values)


def percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


def duration(seconds: float) -> str:
    """Return seconds as text: 4.2 s, 3 min 20 s, 2 h 05 min, 3 d 4 h."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def compact(seconds: float) -> str:
    """Return seconds in one unit, for columns: 4.2 s, 3.33 min, 2.08 h, 3.17 d."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _clock(timestamp: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(timestamp).astimezone()


def _print(text: str) -> None:
    """Print plain text, broken between words."""
    out.print(text, markup=False, highlight=False)
