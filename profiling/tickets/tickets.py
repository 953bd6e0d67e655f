"""Measure all tickets of searches: their sparsity, accuracy, size, latency, operations and energy.

Every ticket is exported to a temporary model file and run by the native engine, all of them in turns.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spiketicket.data import load_dataset
from spiketicket.errors import DataError, InputError, MissingExtraError, extra
from spiketicket.model.names import INPUT
from spiketicket.profiling.layers.energy import CMOS_45NM, EnergyTable
from spiketicket.profiling.layers.operations import Workload, workload
from spiketicket.profiling.measure.clock import measure
from spiketicket.profiling.measure.noise import Noise
from spiketicket.profiling.measure.timing import Timing
from spiketicket.profiling.search.cost import check_threads
from spiketicket.profiling.search.measured import method_name, read_runs
from spiketicket.profiling.tickets.balance import TicketBalance, ticket_balance
from spiketicket.runtime import Session
from spiketicket.train.history.history import History

if TYPE_CHECKING:
    from spiketicket.train.search.ticket import Ticket

ENGINE = "native"
IMAGES = 32  # on which operations are counted, and which are run one after another


@dataclass(frozen=True)
class TicketRow:
    """The figures of one ticket. `sparsity` is that of all parameters (the paper's p), `sparsity_prunable` that of
    prunable weights; `latency` is in seconds of one image at the ticket's own T; `input` says what images were run.
    """

    run: str
    method: str
    round: int
    kind: str
    timesteps: int
    sparsity: float
    sparsity_prunable: float
    accuracy: float | None  # test accuracy when the ticket was found
    nbytes: int
    latency: Timing
    work: Workload
    balance: TicketBalance
    fingerprint: str
    input: str

    @property
    def name(self) -> str:
        return f"{self.run} {self.round}{' final' if self.kind == 'final' else ''}"

    @property
    def operations(self) -> float:
        """Return effective synaptic operations per image."""
        done = self.work.synaptic_operations
        return done["Effective_ACs"] + done["Effective_MACs"]

    def energy(self, table: EnergyTable) -> float:
        """Return the estimated picojoules per image."""
        done = self.work.synaptic_operations
        return table.estimate(done["Effective_MACs"], done["Effective_ACs"])

    def to_dict(self, table: EnergyTable) -> dict[str, Any]:
        return {
            "run": self.run,
            "method": self.method,
            "round": self.round,
            "kind": self.kind,
            "timesteps": self.timesteps,
            "sparsity": self.sparsity,
            "sparsity_prunable": self.sparsity_prunable,
            "test_accuracy": self.accuracy,
            "bytes": self.nbytes,
            "ms_per_image": self.latency.to_dict(1e3),
            **self.work.to_dict(),
            "energy_estimate_pj": self.energy(table),
            "balance": {"by_channel": self.balance.by_channel, "layers": [b.to_dict() for b in self.balance.layers]},
            "fingerprint": self.fingerprint,
            "input": self.input,
        }


@dataclass(frozen=True)
class TicketTable:
    rows: tuple[TicketRow, ...]
    threads: int
    energy: EnergyTable
    noise: Noise


def measure_tickets(
    folders: Iterable[Path],
    *,
    data: Path | None = None,
    threads: int | None = None,
    iterations: int | None = None,
    duration: float = 1.0,
    energy: EnergyTable = CMOS_45NM,
    report: Callable[[str], None] = lambda _: None,
) -> TicketTable:
    """Export every ticket of the run folders, without a check, and measure it.

    `data` is the folder of the data sets' files; without a run's files, noise is run, which the rows say. `duration` is
    the seconds per ticket, unless `iterations` are given. Raises InputError for a folder that is no run, comes twice or
    has no ticket yet; TicketError for a damaged one; MissingExtraError without torch.
    """
    threads = check_threads(threads)
    histories = read_runs(folders)
    with extra("train", "snn-profile tickets"):
        from spiketicket.export.ticket import export_ticket
        from spiketicket.train.search.ticket import load_ticket
    names = _names(histories)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        rows: list[Callable[..., TicketRow]] = []  # functions that make a row from its latency
        runs: dict[int, Callable[[], object]] = {}
        pictures = TicketImages(data)
        for history, kind, source in ((h, *found) for h in histories for found in _sources(h)):
            report(f"exporting {source} ...")
            ticket = load_ticket(source)
            path = Path(folder) / f"{len(rows)}.onnx"
            nbytes = export_ticket(ticket, path).nbytes
            session = stack.enter_context(Session(path, engine=ENGINE, threads=threads))
            x, description = pictures.of(ticket)
            runs[len(rows)] = partial(_next, session, cycle(x[:, None]))
            rows.append(
                partial(
                    TicketRow,
                    run=names[history.folder],
                    method=method_name(history),
                    round=ticket.search["round"],
                    kind=kind,
                    timesteps=ticket.model.timesteps,
                    sparsity=ticket.sparsity,
                    sparsity_prunable=ticket.sparsity_prunable,
                    accuracy=ticket.search["test_accuracy"],
                    nbytes=nbytes,
                    work=workload(session, x),
                    balance=ticket_balance(ticket.masks),
                    fingerprint=ticket.fingerprint,
                    input=description,
                )
            )
        report(f"timing {len(rows)} tickets in turns ...")
        found = measure(runs, duration=duration, iterations=iterations)
    timed = tuple(row(latency=found.timings[number]) for number, row in enumerate(rows))
    return TicketTable(timed, threads, energy, found.noise)


class TicketImages:
    """Test images of the tickets' data sets, or noise, each made once."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.test: dict[str, NDArray[np.uint8] | None] = {}

    def of(self, ticket: "Ticket") -> tuple[NDArray[np.float32], str]:
        """Return images normalised as the ticket wants them, float32 `[N, C, H, W]`, and a text that says what they
        are.
        """
        name = ticket.search["dataset"]
        if name not in self.test:
            self.test[name] = self.load(name)
        pixels, model = self.test[name], ticket.model
        size = (model.in_channels, model.image_size, model.image_size)
        if pixels is None or pixels.shape[1:] != size:
            noise = np.random.default_rng(0).standard_normal((IMAGES, *size), dtype=np.float32)
            return noise, f"standard normal noise: {name} is not available"
        return ticket.normalisation(pixels), f"the first {len(pixels)} test images of {name}"

    def load(self, name: str) -> NDArray[np.uint8] | None:
        """Return the first test images of a data set, or None if it cannot be read."""
        try:
            return load_dataset(name, self.folder).test.images[:IMAGES]
        except (DataError, MissingExtraError):
            if self.folder is not None:
                raise
            return None


def _sources(history: History) -> list[tuple[str, Path]]:
    """Return kind and file of every ticket, by round. Raises InputError if there is none."""
    found = history.ticket_files()
    if not found:
        raise InputError(f"{history.folder}: no round is finished yet, so there is no ticket")
    return found


def _names(histories: list[History]) -> dict[Path, str]:
    """Return the folders' names if they differ, otherwise their paths."""
    short = {history.folder: history.folder.resolve().name for history in histories}
    return short if len(set(short.values())) == len(short) else {folder: str(folder) for folder in short}


def _next(session: Session, images: Iterator[NDArray[np.float32]]) -> None:
    session.run({INPUT: next(images)})
