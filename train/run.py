"""A run folder: one search, resumable. This file alone knows the names of the files in it.

settings.json       what the run is; another search in the same folder is refused
metrics.jsonl       one line per epoch
rewind.pt           the network after `rewind_epoch` epochs
checkpoint.pt       network and optimiser after the last finished epoch
rounds/NN.pt        the ticket of each finished round
ticket.pt           the last round's ticket
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from spiketicket.errors import SpikeTicketError
from spiketicket.files import PARTIAL_SUFFIX, write_atomic
from spiketicket.train.settings import Settings
from spiketicket.train.ticket import Ticket, load_ticket, read_plain, save_ticket, to_bytes

_REWIND = ("spiketicket.rewind", 1)
_CHECKPOINT = ("spiketicket.checkpoint", 1)


class Run:
    """The folder of one search; use `open_run`."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.folder = folder
        self.threads = threads

    @property
    def final_ticket(self) -> Path:
        return self.folder / "ticket.pt"

    def ticket_path(self, index: int) -> Path:
        return self.folder / "rounds" / f"{index:02d}.pt"

    def save_ticket(self, index: int, ticket: Ticket) -> None:
        save_ticket(self.ticket_path(index), ticket)

    def load_ticket(self, index: int) -> Ticket:
        return load_ticket(self.ticket_path(index))

    def save_rewind(self, state: dict[str, Tensor]) -> None:
        self._save("rewind.pt", _REWIND, state=state)

    def load_rewind(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self._load("rewind.pt", "rewind point", _REWIND, ("state",))["state"]
        return state

    def save_checkpoint(self, **content: object) -> None:
        self._save("checkpoint.pt", _CHECKPOINT, **content)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint, or None where no epoch has finished yet."""
        if not (self.folder / "checkpoint.pt").exists():
            return None
        fields = ("round", "epoch", "state", "optimiser", "seconds")
        return self._load("checkpoint.pt", "checkpoint", _CHECKPOINT, fields)

    def log(self, entry: dict[str, object]) -> None:
        try:
            with (self.folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise SpikeTicketError(f"cannot write {self.folder / 'metrics.jsonl'}: {error.strerror}") from error

    def rewind_log(self, index: int, epoch: int) -> None:
        """Drop the lines of epochs that will be trained again: those from (`index`, `epoch`) on."""
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return
        kept = []
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a line that a kill cut short
                entry = json.loads(line)
                if (entry["round"], entry["epoch"]) < (index, epoch):
                    kept.append(line + "\n")
        write_atomic(path, "".join(kept).encode())

    def _save(self, name: str, kind: tuple[str, int], **content: object) -> None:
        write_atomic(self.folder / name, to_bytes({"format": kind[0], "version": kind[1], **content}))

    def _load(self, name: str, what: str, kind: tuple[str, int], fields: tuple[str, ...]) -> dict[str, Any]:
        try:
            return read_plain(self.folder / name, what, *kind, fields)
        except SpikeTicketError as error:
            raise self.damaged(name, str(error)) from error

    def damaged(self, name: str, why: str) -> SpikeTicketError:
        """The error that says that a file of this run cannot be used."""
        return SpikeTicketError(f"{self.folder / name}: {why}; delete the folder to start over")


@contextlib.contextmanager
def open_run(folder: Path, settings: Settings, threads: int) -> Iterator[Run]:
    """The run in `folder`, new (with `threads` threads) or to be resumed; no other process can open it meanwhile.

    Raises SpikeTicketError where the folder cannot be written, holds another search or other files.
    """
    try:
        _refuse_foreign(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise SpikeTicketError(f"cannot write the run folder {folder}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SpikeTicketError(f"{folder} is in use by another search") from error
        run = Run(folder, _claim(folder, settings, threads))
        _remove_leftovers(folder)
        yield run
    finally:
        os.close(lock)


def _refuse_foreign(folder: Path) -> None:
    """A folder without our settings must hold nothing but what a kill at the very start leaves."""
    if not folder.exists() or (folder / "settings.json").exists():
        return
    ours = f".settings.json.*{PARTIAL_SUFFIX}"
    others = sorted(p.name for p in folder.iterdir() if p.name != ".lock" and not p.match(ours))
    if others:
        raise SpikeTicketError(f"{folder} holds other files ({others[0]}, ...): choose a new or empty folder")


def _claim(folder: Path, settings: Settings, threads: int) -> int:
    """Write what the run is, or compare with what was written; returns its number of threads."""
    path = folder / "settings.json"
    wanted = settings.to_dict()
    if not path.exists():
        write_atomic(path, (json.dumps({**wanted, "threads": threads}, indent=2) + "\n").encode())
        return threads
    try:
        stored = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SpikeTicketError(f"{path} is damaged: {error}") from error
    if not isinstance(stored, dict) or not isinstance(stored.get("threads"), int) or stored["threads"] < 1:
        raise SpikeTicketError(f"{path} is damaged: expected the settings of a search")
    changed = [name for name in wanted if stored.get(name) != wanted[name]]
    if changed:
        name = changed[0]
        raise SpikeTicketError(
            f"{folder} holds another search: its {name} is {stored.get(name)}, this one's {wanted[name]}; "
            "choose another folder"
        )
    return int(stored["threads"])


def _remove_leftovers(folder: Path) -> None:
    """Delete what a kill left half-written: the temporary files of this run, and nothing else."""
    names = ("settings.json", "metrics.jsonl", "rewind.pt", "checkpoint.pt", "ticket.pt", "rounds/[0-9]*.pt")
    for name in names:
        pattern = Path(name)
        for path in folder.glob(str(pattern.parent / f".{pattern.name}.*{PARTIAL_SUFFIX}")):
            with contextlib.suppress(OSError):
                path.unlink()
