"""What finished searches took according to their logs, and what the same epochs take by iterations measured now."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spiketicket.errors import InputError, SpikeTicketError
from spiketicket.profiling.search import paper
from spiketicket.profiling.search.cost import Cost
from spiketicket.profiling.search.setup import IterationSetup
from spiketicket.train.history.curves import NAMES
from spiketicket.train.history.events import FINAL, SEARCH, TicketRecord
from spiketicket.train.history.history import History, Training, read_history
from spiketicket.train.search.plan import rewind_point
from spiketicket.train.search.settings import SearchSettings

_APART = ("early_time", "finals", "et_divergence", "et_normaliser", "et_threshold", "et_candidates", "threads")


@dataclass(frozen=True)
class TicketCost:
    """The cost of a ticket's search. `measured` and `projected` are seconds of the trainings that its mask comes from,
    `..._own` of its own training. Projections are for the epochs that the log has, by T (`epochs`, `own_epochs`).
    """

    history: History
    ticket: TicketRecord
    epochs: dict[int, int]
    own_epochs: dict[int, int]
    measured: float
    measured_own: float
    projected: float | None  # None: how many iterations an epoch has is not known
    projected_own: float | None
    iterations: int | None  # iterations of an epoch

    @property
    def method(self) -> str:
        return method_name(self.history)

    def to_dict(self) -> dict[str, Any]:
        return {
            "run": str(self.history.folder),
            "method": self.method,
            "round": self.ticket.round,
            "sparsity": self.ticket.sparsity,
            "threads": self.history.settings.get("threads"),
            "measured": {"search_seconds": self.measured, "own_seconds": self.measured_own},
            "projected": None
            if self.projected is None
            else {"search_seconds": self.projected, "own_seconds": self.projected_own},
            "inputs": {
                "iterations_per_epoch": self.iterations,
                "search_epochs": {str(t): n for t, n in self.epochs.items()},
                "own_epochs": {str(t): n for t, n in self.own_epochs.items()},
            },
        }


def method_name(history: History) -> str:
    method: str = history.settings["method"]
    return NAMES.get(method, method) + ("+ET" if history.settings.get("early_time") else "")


def read_runs(folders: Iterable[Path]) -> list[History]:
    """Read the logs of run folders. Raises InputError for a folder that is no run, that comes twice, or that has no
    finished ticket.
    """
    folders = list(folders)
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError("a run is given twice")
    histories = [read_history(folder) for folder in folders]
    for history in histories:
        if not history.tickets:
            raise InputError(f"{history.folder}: no round is finished yet, so there is no ticket")
    return histories


def setups_of(history: History) -> list[IterationSetup]:
    """Return the setups that a search's epochs trained, one for each T. Raises InputError if its log or settings are
    not those of a search.
    """
    s = history.settings
    given = {name: s[name] for name in ("width", "batch_norm", "precision") if name in s}
    batch = s.get("batch_size", SearchSettings.batch_size)
    steps = sorted({epoch.timesteps for epoch in history.epochs})
    try:
        return [IterationSetup(s["arch"], t, batch, s["dataset"], **given) for t in steps]
    except TypeError as error:
        raise InputError(f"{history.folder}: its settings are damaged: {error}") from error


def iterations_of(history: History) -> int | None:
    """Return the iterations of an epoch, or None if they cannot be known.

    They come from the counters of batch norm, up to the rewind point or, for Early-Bird, to the end of its mask search.
    """
    from spiketicket.train.search.run import Run
    from spiketicket.train.search.ticket import load_ticket

    if any(epoch.image_size for epoch in history.epochs):
        return None  # iterations are measured on images of the data set's size only
    try:
        if history.settings["method"] == "eb":
            ticket = load_ticket(history.folder / "rounds" / "00.pt")
            state, epochs = ticket.state, ticket.search["epochs"]
        else:
            state = Run(history.folder, 1, is_main=False, tensorboard=False).load_rewind()
            epochs = rewind_point(_settings(history))
    except (SpikeTicketError, TypeError):
        return None
    # A layer that runs once per input counts once per iteration, others T times.
    counted = [int(tensor) for name, tensor in state.items() if name.endswith("num_batches_tracked")]
    whole = bool(counted) and epochs > 0 and min(counted) % epochs == 0
    return min(counted) // epochs if whole else None


def spent(history: History, costs: Callable[[IterationSetup], Cost]) -> list[TicketCost]:
    """Return the costs of the tickets at the paper's prunings if the run has them, otherwise of its sparsest ticket."""
    by_steps = {setup.timesteps: costs(setup).seconds for setup in setups_of(history)}
    iterations = iterations_of(history)
    return [_spent(history, ticket, by_steps, iterations) for ticket in _reported(history)]


def gains(found: Iterable[TicketCost]) -> list[tuple[TicketCost, TicketCost]]:
    """Return pairs without and with Early-Time, of searches that are the same otherwise, at the same round."""
    found = list(found)
    plain = {(_identity(one.history), one.ticket.round): one for one in found if not one.method.endswith("+ET")}
    pairs = []
    for one in found:
        other = plain.get((_identity(one.history), one.ticket.round))
        if one.method.endswith("+ET") and other is not None and one.measured and other.measured:
            pairs.append((other, one))
    return pairs


def _reported(history: History) -> list[TicketRecord]:
    """Return a run's tickets; the final ticket of a round takes the place of the search's."""
    tickets = {ticket.round: ticket for ticket in sorted(history.tickets, key=lambda t: t.kind == FINAL)}
    s = history.settings
    if s["method"] == "imp" and s.get("prune_rate", 0.25) == 0.25:
        here = [tickets[n] for n in paper.SPARSITIES if n in tickets]
        if here:
            return here
    return [tickets[max(tickets)]]


def _spent(history: History, ticket: TicketRecord, by_steps: dict[int, float], iterations: int | None) -> TicketCost:
    before = [t for t in history.trainings if t.stage.kind == SEARCH and t.stage.round < ticket.round]
    own = [t for t in history.trainings if (t.stage.kind, t.stage.round) == (ticket.kind, ticket.round)]
    epochs, own_epochs = _epochs(before), _epochs(own)

    def seconds(numbers: dict[int, int]) -> float | None:
        return None if iterations is None else iterations * sum(n * by_steps[t] for t, n in numbers.items())

    measured, measured_own = sum(t.seconds for t in before), sum(t.seconds for t in own)
    if history.settings["method"] == "gradual":  # mask and ticket come from the same training
        measured, measured_own = ticket.search_seconds, ticket.final_seconds
    return TicketCost(
        history,
        ticket,
        epochs,
        own_epochs,
        measured,
        measured_own,
        seconds(epochs),
        seconds(own_epochs),
        iterations,
    )


def _epochs(trainings: Iterable[Training]) -> dict[int, int]:
    return dict(sorted(Counter(epoch.timesteps for t in trainings for epoch in t.epochs).items(), reverse=True))


def _identity(history: History) -> str:
    return repr(sorted((name, repr(v)) for name, v in history.settings.items() if name not in _APART))


def _settings(history: History) -> SearchSettings:
    names = SearchSettings.__dataclass_fields__
    values: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in history.settings.items() if name in names
    }
    return SearchSettings(**values)
