"""The section of the search report on finished runs: measured by their logs, beside projections of the same epochs."""

from collections.abc import Sequence

from spiketicket.profiling.report.document import Cell, Column, Section, Table
from spiketicket.profiling.search.hours import epochs_text
from spiketicket.profiling.search.measured import TicketCost, gains

MINUTE = 60


def run_section(runs: Sequence[TicketCost], threads: int) -> Section:
    columns = (
        Column("run"),
        Column("method"),
        Column("round", form="d"),
        Column("p", form=".2%"),
        Column("basis"),
        Column("search", "min", ".2f", "trainings that the mask comes from"),
        Column("own", "min", ".2f", "the ticket's own training"),
        Column("in all", "min", ".2f"),
        Column("gain", form=".2f", means="search without Early-Time over search with it, of the same settings"),
        Column("gain in all", form=".2f"),
        Column("search epochs"),
        Column("own epochs"),
    )
    slower = {id(fast): slow for slow, fast in gains(runs)}
    rows: list[tuple[Cell, ...]] = []
    for one in runs:
        other = slower.get(id(one))
        for basis in ("measured", "projected"):
            times = _times(one, basis)
            if times is None:
                continue
            theirs = None if other is None else _times(other, basis)
            rows.append(
                (
                    one.history.folder.name,
                    one.method,
                    one.ticket.round,
                    one.ticket.sparsity,
                    basis,
                    times[0] / MINUTE,
                    times[1] / MINUTE,
                    sum(times) / MINUTE,
                    theirs[0] / times[0] if theirs and times[0] else None,
                    sum(theirs) / sum(times) if theirs and sum(times) else None,
                    epochs_text(one.epochs) or "none",
                    epochs_text(one.own_epochs) or "none",
                )
            )
    return Section(
        "runs",
        "Runs: measured beside projected",
        _summary(runs),
        Table(columns, tuple(rows)),
        (),
        _notes(runs, threads),
    )


def _times(one: TicketCost, basis: str) -> tuple[float, float] | None:
    if basis == "measured":
        return one.measured, one.measured_own
    if one.projected is None or one.projected_own is None:
        return None
    return one.projected, one.projected_own


def _summary(runs: Sequence[TicketCost]) -> str:
    ratios = [one.projected / one.measured for one in runs if one.projected is not None and one.measured]
    sentences = []
    if ratios:
        sentences.append(f"Projected search times are {min(ratios):.2f} to {max(ratios):.2f} times the measured ones.")
    found = [slow.measured / fast.measured for slow, fast in gains(runs) if fast.measured]
    if found:
        sentences.append(f"Early-Time's measured gain is {min(found):.2f} to {max(found):.2f}.")
    return " ".join(sentences) or "Measured by the runs' logs."


def _notes(runs: Sequence[TicketCost], threads: int) -> tuple[str, ...]:
    notes = [
        "Measured: the sum of the log's epochs, training steps alone. Projected: as many epochs x iterations x the "
        "seconds of an iteration, measured here with the run's network, batch and precision.",
    ]
    counted = dict.fromkeys(f"{one.history.folder.name} {one.iterations}" for one in runs if one.iterations is not None)
    if counted:
        notes.append(f"Iterations per epoch, an input, by batch norm's counters in the run: {', '.join(counted)}.")
    unknown = dict.fromkeys(one.history.folder.name for one in runs if one.iterations is None)
    if unknown:
        notes.append(
            f"Not projected: {', '.join(unknown)}, which {'has' if len(unknown) == 1 else 'have'} no rewind point or "
            "mask search that would tell how many iterations an epoch has."
        )
    others = dict.fromkeys(
        f"{one.history.folder.name} ({one.history.settings.get('threads')})"
        for one in runs
        if one.history.settings.get("threads") not in (None, threads)
    )
    if others:
        notes.append(f"Trained with another number of threads than the {threads} here: {', '.join(others)}.")
    return tuple(notes)
