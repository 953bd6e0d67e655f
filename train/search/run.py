"""The run folder of one search, which can be resumed. The names of its files are here and in train/history/history.py.

settings.json       what the run is; another search in the same folder is refused
metrics.jsonl       what happened: a line per epoch, ticket, choice
rewind.pt           the network that later rounds go back to
early_time.json     the timesteps that Early-Time chose
checkpoint.pt       network, optimiser and place in the data, of some minutes ago at most
rounds/NN.pt        the ticket of each finished round of the search
final/NN.pt         the ticket of a round after its own training at full T, where it has one
ticket.pt           the last ticket
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from spiketicket.errors import SpikeTicketError, TicketError
from spiketicket.files import PARTIAL_SUFFIX, read_json, write_atomic
from spiketicket.train.history.events import Record, to_entry
from spiketicket.train.history.history import LOCK_FILE, LOG_FILE, SETTINGS_FILE, TICKET_FOLDERS, read_events
from spiketicket.train.history.tensorboard import TensorBoard
from spiketicket.train.loop.distributed import Group
from spiketicket.train.search.plan import Stage
from spiketicket.train.search.settings import SearchSettings
from spiketicket.train.search.ticket import Ticket, load_ticket, read_plain, save_ticket, to_bytes

CHECKPOINT_FIELDS = (
    "stage",
    "epoch",
    "batch",
    "ended",
    "tally",
    "training",
    "best",
    "early_bird",
    "seconds",
    "lines",
    "growth",
)

_REWIND = ("spiketicket.rewind", 1)  # format and version
_CHECKPOINT = ("spiketicket.checkpoint", 3)


class Run:
    """The folder of one search; use `open_run`. Of several processes, only the main one writes."""

    board: TensorBoard | None = None

    def __init__(self, folder: Path, threads: int, is_main: bool, tensorboard: bool) -> None:
        self.folder = folder
        self.threads = threads
        self.is_main = is_main
        self.tensorboard = tensorboard

    def ticket_path(self, stage: Stage) -> Path:
        return self.folder / TICKET_FOLDERS[stage.kind] / f"{stage.round:02d}.pt"

    def save_ticket(self, stage: Stage, ticket: Ticket) -> None:
        if self.is_main:
            save_ticket(self.ticket_path(stage), ticket)

    def load_ticket(self, stage: Stage) -> Ticket | None:
        """Return the ticket of a finished stage, else None."""
        path = self.ticket_path(stage)
        return load_ticket(path) if path.exists() else None

    def save_last(self, ticket: Ticket) -> None:
        """Write ticket.pt, unless it holds that ticket already."""
        path = self.folder / "ticket.pt"
        if not self.is_main:
            return
        with contextlib.suppress(TicketError):  # there is none, or it is damaged
            if load_ticket(path).fingerprint == ticket.fingerprint:
                return
        save_ticket(path, ticket)

    def save_early_time(self, chosen: int) -> None:
        if self.is_main:
            write_atomic(self.folder / "early_time.json", (json.dumps({"timesteps": chosen}) + "\n").encode())

    def load_early_time(self) -> int | None:
        """Return the timesteps that were chosen; None if nothing has been chosen yet."""
        path = self.folder / "early_time.json"
        if not path.exists():
            return None
        try:
            return int(read_json(path, "choice of Early-Time", SpikeTicketError)["timesteps"])
        except (SpikeTicketError, ValueError, KeyError, TypeError) as error:
            raise self.damaged("early_time.json", "expected the chosen timesteps") from error

    def save_rewind(self, state: dict[str, Tensor]) -> None:
        self._save("rewind.pt", _REWIND, state=state)

    def load_rewind(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self._load("rewind.pt", "rewind point", _REWIND, ("state",))["state"]
        return state

    def save_checkpoint(self, **content: object) -> None:
        self._save("checkpoint.pt", _CHECKPOINT, **content)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Return the last checkpoint, or None if there is none yet."""
        if not (self.folder / "checkpoint.pt").exists():
            return None
        return self._load("checkpoint.pt", "checkpoint", _CHECKPOINT, CHECKPOINT_FIELDS)

    def log(self, record: Record) -> None:
        """Add a line to metrics.jsonl."""
        if not self.is_main:
            return
        entry = to_entry(record)
        board = self._open_board()  # opened before the line is written, because it replays the earlier lines
        try:
            with (self.folder / LOG_FILE).open("a") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise SpikeTicketError(f"cannot write {self.folder / LOG_FILE}: {error.strerror}") from error
        if board is not None:
            board.log(entry)

    def close(self) -> None:
        if self.board is not None:
            self.board.close()

    def _open_board(self) -> TensorBoard | None:
        if self.tensorboard and self.board is None:
            past = [line for _, line in read_events(self.folder)[0]]
            self.board = TensorBoard(self.folder / "tensorboard", past)
        return self.board

    def lines(self) -> int:
        """Return how many lines the log has."""
        path = self.folder / LOG_FILE
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def restart_log(self, tickets: int) -> None:
        """Drop what an interrupted training left in the log: all lines after that many tickets (or after the plan)."""
        path = self.folder / LOG_FILE
        if not self.is_main or not path.exists():
            return
        wanted = '{"event": "ticket"' if tickets else '{"event": "plan"'
        ends = [n for n, line in enumerate(path.read_text().splitlines(), start=1) if line.startswith(wanted)]
        self.cut_log(ends[max(tickets, 1) - 1] if len(ends) >= max(tickets, 1) else self.lines())

    def cut_log(self, lines: int) -> None:
        """Drop what comes after the first `lines` lines: it will be written again."""
        path = self.folder / LOG_FILE
        if self.is_main and path.exists():
            kept = path.read_bytes().splitlines(keepends=True)[:lines]
            write_atomic(path, b"".join(kept))

    def _save(self, name: str, kind: tuple[str, int], **content: object) -> None:
        if self.is_main:
            write_atomic(self.folder / name, to_bytes({"format": kind[0], "version": kind[1], **content}))

    def _load(self, name: str, what: str, kind: tuple[str, int], fields: tuple[str, ...]) -> dict[str, Any]:
        try:
            return read_plain(self.folder / name, what, kind[0], (kind[1],), fields)
        except SpikeTicketError as error:
            raise self.damaged(name, str(error)) from error

    def damaged(self, name: str, why: str) -> SpikeTicketError:
        """Return the error that says that a file of this run cannot be used."""
        return SpikeTicketError(f"{self.folder / name}: {why}; delete the folder to start over")


@contextlib.contextmanager
def open_run(
    folder: Path,
    settings: SearchSettings,
    threads: int,
    identity: dict[str, Any],
    group: Group,
    tensorboard: bool = False,
) -> Iterator[Run]:
    """Open the run in `folder`, new (with `threads` threads) or to be resumed; no other search can open it meanwhile.

    `identity` holds what a search depends on besides its settings, such as the fingerprint of its images. Raises
    SpikeTicketError if the folder cannot be written, or holds another search or other files.
    """
    locks: list[int] = []
    run = None
    try:
        stored = group.share(lambda: _open(folder, settings, threads, identity, locks))
        run = Run(folder, stored, group.is_main, tensorboard)
        yield run
    finally:
        if run is not None:
            run.close()
        for lock in locks:
            os.close(lock)


def _open(folder: Path, settings: SearchSettings, threads: int, identity: dict[str, Any], locks: list[int]) -> int:
    """Lock and claim the folder; return the number of threads of the run."""
    try:
        _refuse_foreign(folder)
        folder.mkdir(parents=True, exist_ok=True)
        locks.append(os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT))
    except OSError as error:
        raise SpikeTicketError(f"cannot write the run folder {folder}: {error.strerror}") from error
    if not _locked(locks[0]):
        raise SpikeTicketError(f"{folder} is in use by another search")
    claimed = _claim(folder, settings, threads, identity)
    _remove_leftovers(folder)
    return claimed


def _locked(lock: int, tries: int = 3) -> bool:
    for _ in range(tries):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            time.sleep(0.05)  # `snn-search status` holds it for an instant
    return False


def _refuse_foreign(folder: Path) -> None:
    """Raise SpikeTicketError if a folder without settings.json holds more than a kill at the very start leaves."""
    if not folder.exists() or (folder / SETTINGS_FILE).exists():
        return
    ours = f".{SETTINGS_FILE}.*{PARTIAL_SUFFIX}"
    others = sorted(p.name for p in folder.iterdir() if p.name != LOCK_FILE and not p.match(ours))
    if others:
        raise SpikeTicketError(f"{folder} holds other files ({others[0]}, ...): choose a new or empty folder")


def _claim(folder: Path, settings: SearchSettings, threads: int, identity: dict[str, Any]) -> int:
    """Write settings.json of a new run, or compare it with `settings`; return the run's number of threads."""
    path = folder / SETTINGS_FILE
    wanted = {**settings.to_dict(), **identity}
    if not path.exists():
        write_atomic(path, (json.dumps({**wanted, "threads": threads}, indent=2) + "\n").encode())
        return threads
    stored = read_json(path, "settings of a search", SpikeTicketError)
    if not isinstance(stored.get("threads"), int) or stored["threads"] < 1:
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
    """Delete what a kill left half-written: temporary files of this run, and a line of its log that is cut short."""
    log = folder / LOG_FILE
    if log.exists() and not (text := log.read_bytes()).endswith(b"\n"):
        write_atomic(log, text[: text.rfind(b"\n") + 1])
    names = ("settings.json", "metrics.jsonl", "rewind.pt", "early_time.json", "checkpoint.pt", "ticket.pt")
    tickets = (f"{folder}/[0-9]*.pt" for folder in TICKET_FOLDERS.values())
    for name in (*names, *tickets):
        pattern = Path(name)
        for path in folder.glob(str(pattern.parent / f".{pattern.name}.*{PARTIAL_SUFFIX}")):
            with contextlib.suppress(OSError):
                path.unlink()
