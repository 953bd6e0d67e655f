"""The history of a search, read from its run folder: settings, log, and whether it is still running. No torch."""

import fcntl
import json
import os
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from spiketicket.errors import InputError
from spiketicket.files import read_json
from spiketicket.train.history.events import (
    EarlyBirdRecord,
    EarlyTimeRecord,
    EpochRecord,
    PhaseRecord,
    PlanRecord,
    StageRecord,
    StopRecord,
    TicketRecord,
    parse_event,
)

SETTINGS_FILE = "settings.json"
TICKET_FOLDERS = {"search": "rounds", "final": "final"}  # kind of ticket -> folder
LOG_FILE = "metrics.jsonl"
LOCK_FILE = ".lock"


@dataclass(frozen=True)
class Training:
    """A training of the plan with what the log says about it."""

    stage: StageRecord
    epochs: tuple[EpochRecord, ...]
    ticket: TicketRecord | None

    @property
    def epochs_left(self) -> int:
        return 0 if self.ticket else max(0, self.stage.epochs - len(self.epochs))

    @property
    def coming(self) -> list[tuple[int, int | None]]:
        """Timesteps and image size (None: the data set's) of each epoch that is left."""
        return self.stage.after(len(self.epochs)) if self.epochs_left else []

    @property
    def done(self) -> bool:
        return self.ticket is not None or 0 < self.stage.epochs <= len(self.epochs)

    @property
    def seconds(self) -> float:
        return sum(epoch.seconds for epoch in self.epochs)

    @property
    def timesteps(self) -> tuple[int, ...]:
        """The timesteps of its epochs so far, in order, and of those that are left: (5, 3) after Early-Time."""
        rest = [timesteps for timesteps, _ in self.coming]
        if not rest and not self.epochs:
            rest = [self.stage.timesteps]
        return tuple(dict.fromkeys([*(epoch.timesteps for epoch in self.epochs), *rest]))

    @property
    def validation_accuracy(self) -> float | None:
        """The ticket's accuracy, or that of the last epoch that was validated."""
        if self.ticket and self.ticket.validation_accuracy is not None:
            return self.ticket.validation_accuracy
        known = [e.validation_accuracy for e in self.epochs if e.validation_accuracy is not None]
        return known[-1] if known else None

    @property
    def sparsity(self) -> float | None:
        """The ticket's sparsity, or the planned one before it is found: N:M may prune more than was planned."""
        return self.ticket.sparsity if self.ticket else self.stage.sparsity

    @property
    def test_accuracy(self) -> float | None:
        return self.ticket.test_accuracy if self.ticket else None


@dataclass(frozen=True)
class History:
    """The content of a run folder. If a resumed search has trained an epoch twice, its last line counts."""

    folder: Path
    settings: dict[str, Any]
    running: bool
    changed: float  # when the log last grew, in seconds since 1970
    stages: tuple[StageRecord, ...]  # the last plan
    epochs: tuple[EpochRecord, ...]
    early_time: tuple[EarlyTimeRecord, ...]
    early_bird: tuple[EarlyBirdRecord, ...]
    phases: tuple[PhaseRecord, ...]
    tickets: tuple[TicketRecord, ...]
    stop: StopRecord | None  # None if the search went on after it
    damaged: tuple[str, ...]  # lines left out, and why

    @cached_property
    def trainings(self) -> tuple[Training, ...]:
        """The trainings of the plan, and those that only the log knows (if the plan is damaged)."""
        epochs: dict[tuple[int, str], list[EpochRecord]] = {(stage.round, stage.kind): [] for stage in self.stages}
        for epoch in self.epochs:
            epochs.setdefault((epoch.round, epoch.kind), []).append(epoch)
        tickets = {(ticket.round, ticket.kind): ticket for ticket in self.tickets}
        stages = {(stage.round, stage.kind): stage for stage in self.stages}
        for (index, kind), trained in epochs.items():
            if (index, kind) not in stages:
                stages[index, kind] = StageRecord(index, kind, len(trained), trained[-1].timesteps)
        return tuple(Training(stages[key], tuple(trained), tickets.get(key)) for key, trained in epochs.items())

    def ticket_files(self) -> list[tuple[str, Path]]:
        """Return kind and file of every ticket in the folder, by round; a final one comes last in its round."""
        found = [(kind, path) for kind, name in TICKET_FOLDERS.items() for path in (self.folder / name).glob("*.pt")]
        return sorted(found, key=lambda one: (one[1].stem, one[0] == "final"))

    @property
    def image_size(self) -> int | None:
        """Pixels along a side of the data set's images; None in logs of older releases."""
        return next((stage.image_size for stage in self.stages if stage.image_size), None)

    @property
    def current(self) -> Training | None:
        """The training that is running, or the one that a resumed search goes on with."""
        waiting = [training for training in self.trainings if not training.done]
        return next((training for training in waiting if training.stage.epochs), waiting[0] if waiting else None)

    @property
    def state(self) -> str:
        """running, finished, stopped (`stop` says why) or interrupted (killed, or never begun)."""
        if self.running:
            return "running"
        if self.stages and not self.current and self.stages[-1].round in {ticket.round for ticket in self.tickets}:
            return "finished"
        return "stopped" if self.stop else "interrupted"


def read_history(folder: Path) -> History:
    """Read a run folder, also of a search that is running. Raises InputError if the folder is no run.

    A last line that is cut short is one that is being written, or was when the search was killed; it is ignored.
    Other lines that cannot be read are named in `damaged`.
    """
    settings = _read_settings(folder)
    # Asked before the log is read: a search that ends in between is then finished, and not interrupted.
    running = is_locked(folder)
    lines, damaged = read_events(folder)
    kinds = (EpochRecord, EarlyTimeRecord, EarlyBirdRecord, TicketRecord, PhaseRecord)
    kept: dict[type, dict[Hashable, Any]] = {kind: {} for kind in kinds}
    stages: tuple[StageRecord, ...] = ()
    stop = None
    for number, entry in lines:
        try:
            event = parse_event(entry)
        except (ValueError, OverflowError) as error:
            damaged.append((number, f"{entry['event']}: {error}"))
            continue
        stop = event if isinstance(event, StopRecord) else None
        if isinstance(event, PlanRecord):
            stages = event.stages
        elif isinstance(event, kinds):  # replaces an older line on the same epoch, which was trained again
            kept[type(event)][event.round, event.kind, getattr(event, "epoch", 0)] = event
    return History(
        folder=folder,
        settings=settings,
        running=running,
        changed=_changed(folder),
        stages=stages,
        epochs=tuple(kept[EpochRecord].values()),
        early_time=tuple(kept[EarlyTimeRecord].values()),
        early_bird=tuple(kept[EarlyBirdRecord].values()),
        phases=tuple(kept[PhaseRecord].values()),
        tickets=tuple(kept[TicketRecord].values()),
        stop=stop,
        damaged=tuple(f"{folder / LOG_FILE}, line {number}: {why}" for number, why in sorted(damaged)),
    )


def read_events(folder: Path) -> tuple[list[tuple[int, dict[str, Any]]], list[tuple[int, str]]]:
    """Return the events of the log as dictionaries, and its damaged lines with the reason, both by line number."""
    try:
        text = (folder / LOG_FILE).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:  # a search that has just begun
        return [], []
    except OSError as error:
        raise InputError(f"cannot read {folder / LOG_FILE}: {error.strerror or error}") from error
    events, damaged = [], []
    *lines, unfinished = text.split("\n")
    for number, line in enumerate([*lines, unfinished], start=1):
        try:
            # NaN and infinity are no JSON: a loss that is not a number reads as null.
            entry = json.loads(line, parse_constant=lambda _: None)
        except (ValueError, RecursionError):
            if line.strip() and number <= len(lines):
                damaged.append((number, "not JSON"))
            continue
        if isinstance(entry, dict) and isinstance(entry.get("event"), str):
            events.append((number, entry))
        else:
            damaged.append((number, 'expected an object with an "event"'))
    return events, damaged


def is_locked(folder: Path) -> bool:
    """Tell whether a search is running in `folder`: it holds the lock, which this asks for without waiting."""
    try:
        lock = os.open(folder / LOCK_FILE, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InputError(f"cannot read {folder / LOCK_FILE}: {error.strerror or error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _changed(folder: Path) -> float:
    path = folder / LOG_FILE
    return path.stat().st_mtime if path.exists() else 0.0


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS_FILE
    if not path.is_file():
        what = "it does not exist" if not folder.exists() else f"it has no {SETTINGS_FILE}"
        raise InputError(f"{folder} is no run folder of snn-search: {what}")
    settings = read_json(path, "settings of a search", InputError)
    if not all(isinstance(settings.get(name), str) for name in ("method", "arch", "dataset")):
        raise InputError(f"{path}: expected the settings of a search, with method, arch and dataset")
    return settings
