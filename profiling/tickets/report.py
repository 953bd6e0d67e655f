"""The report of `snn-profile tickets`: all tickets in one table, and which of them no other ticket beats."""

from collections.abc import Callable, Sequence
from time import strftime

from spiketicket.profiling.measure.machine import machine_facts
from spiketicket.profiling.report.document import Axis, Cell, Column, Lines, Point, Report, Section, Series, Table
from spiketicket.profiling.tickets.balance import LayerBalance
from spiketicket.profiling.tickets.pareto import front
from spiketicket.profiling.tickets.tickets import ENGINE, TicketRow, TicketTable
from spiketicket.train.pruning.strategies import BLOCK

MS, KB, MILLION, UJ = 1e3, 1e-3, 1e-6, 1e-6


def tickets_report(table: TicketTable) -> Report:
    tested = [row for row in table.rows if row.accuracy is not None]
    fronts = {
        "latency": _on_front(tested, lambda row: row.latency.median().value),
        "bytes": _on_front(tested, lambda row: row.nbytes),
    }
    runs = dict.fromkeys(row.run for row in table.rows)
    return Report(
        "tickets",
        f"Tickets of {', '.join(runs)}",
        f"{len(table.rows)} tickets, each exported and run by the engine {ENGINE}, batch 1, threads: {table.threads}, "
        "at the T it was trained with.",
        (_table(table, fronts), _front_section(tested, fronts), _balance_section(table)),
        {
            "format": "spiketicket.profile",
            "version": 1,
            "kind": "tickets",
            "created": strftime("%Y-%m-%dT%H:%M:%S%z"),
            "settings": {"runs": list(runs), "engine": ENGINE, "batch": 1, "threads": table.threads},
            "machine": machine_facts(),
            "warnings": list(table.noise.warnings),
            "noise": table.noise.to_dict(),
            "energy_table": table.energy.to_dict(),
            "tickets": [
                {**row.to_dict(table.energy), "on_front": {name: id(row) in found for name, found in fronts.items()}}
                for row in table.rows
            ],
        },
        table.noise.warnings,
        {"Machine": machine_facts()},
    )


def _on_front(tested: Sequence[TicketRow], cost: Callable[[TicketRow], float]) -> set[int]:
    """Return the identities of the rows on the front of accuracy against `cost`."""
    found = front([cost(row) for row in tested], [row.accuracy or 0.0 for row in tested])
    return {id(row) for row, on_it in zip(tested, found, strict=True) if on_it}


def _table(table: TicketTable, fronts: dict[str, set[int]]) -> Section:
    columns = (
        Column("ticket", means="run and round; final: trained once more at full T"),
        Column("method"),
        Column("T", form="d"),
        Column("p", form=".2%", means="zeros among all parameters"),
        Column("sparsity", form=".2%", means="zeros among prunable weights"),
        Column("accuracy", form=".2%", means="of its own test, when it was found"),
        Column("file", "kB", ",.1f"),
        Column("latency", "ms", ".3f", "median of one image"),
        Column("low", "ms", ".3f", "of its 95% interval"),
        Column("high", "ms", ".3f"),
        Column("operations", "million", ",.3f", "effective synaptic operations per image"),
        Column("energy estimate", "µJ", ".3f", "per image"),
        Column("balance", form=".1%", means="mean over busiest output channel"),
        Column("best layer"),
        Column("best balance", form=".1%"),
        Column("worst layer"),
        Column("worst balance", form=".1%"),
        Column("on the front", means="no other ticket is as accurate and cheaper: in latency, in bytes, in both"),
    )
    rows = tuple(_cells(row, table, fronts) for row in table.rows)
    done = [row for row in table.rows if row.accuracy is not None]
    says = f"{len(table.rows)} tickets."
    if done:
        best = max(done, key=lambda row: (row.accuracy or 0.0, -row.nbytes))
        smallest = min(done, key=lambda row: row.nbytes)
        says = (
            f"The most accurate, {best.name}, reaches {best.accuracy:.2%} in {best.nbytes * KB:,.1f} kB; the smallest, "
            f"{smallest.name}, {smallest.accuracy:.2%} in {smallest.nbytes * KB:,.1f} kB."
        )
    notes = (
        f"Energy is an estimate, not a measurement: operations at {table.energy.name} ({table.energy.source}), no "
        "memory.",
        "Operations are counted on "
        + "; ".join(dict.fromkeys(row.input for row in table.rows))
        + ", which latency was "
        "measured on, too, image by image.",
    )
    return Section("tickets", "All tickets", says, Table(columns, rows), (), notes)


def _cells(row: TicketRow, table: TicketTable, fronts: dict[str, set[int]]) -> tuple[Cell, ...]:
    latency = row.latency.median().scaled(MS)
    on = [name for name, found in fronts.items() if id(row) in found]
    best, worst = row.balance.best, row.balance.worst
    return (
        row.name,
        row.method,
        row.timesteps,
        row.sparsity,
        row.sparsity_prunable,
        row.accuracy,
        row.nbytes * KB,
        latency.value,
        latency.low,
        latency.high,
        row.operations * MILLION,
        row.energy(table.energy) * UJ,
        row.balance.by_channel,
        *_named(best),
        *_named(worst),
        "both" if len(on) == len(fronts) else ", ".join(on) or "no",
    )


def _named(layer: LayerBalance | None) -> tuple[Cell, Cell]:
    return (None, None) if layer is None else (layer.name, layer.by_channel)


def _front_section(tested: Sequence[TicketRow], fronts: dict[str, set[int]]) -> Section:
    if not tested:
        return Section("front", "Accuracy against cost", "No ticket was tested, so there is no front.")
    pictures = (
        _scatter(tested, fronts["latency"], Axis("latency", "ms", form=".3g"), lambda r: r.latency.median().value * MS),
        _scatter(tested, fronts["bytes"], Axis("file", "kB", log=True), lambda r: r.nbytes * KB),
    )
    names = {name: [row.name for row in tested if id(row) in found] for name, found in fronts.items()}
    says = " ".join(f"In {name}, no other ticket beats {', '.join(found)}." for name, found in names.items())
    notes = (
        "On the front: every cheaper ticket is less accurate. Latency goes by its median: tickets whose intervals "
        "overlap may change places.",
    )
    return Section("front", "Accuracy against cost", says, None, pictures, notes)


def _scatter(tested: Sequence[TicketRow], on_front: set[int], x: Axis, cost: Callable[[TicketRow], float]) -> Lines:
    """Return marks by run, and a line through the front, whose points have names."""
    series = [
        Series(run, tuple(_point(row, cost) for row in tested if row.run == run and id(row) not in on_front), False)
        for run in dict.fromkeys(row.run for row in tested)
    ]
    best = sorted((row for row in tested if id(row) in on_front), key=cost)
    series = [one for one in series if one.points]
    series.append(Series("front", tuple(_point(row, cost, row.name) for row in best)))
    return Lines(
        x, Axis("test accuracy", "%", form=".1f"), tuple(series), f"Test accuracy against {x.label}, with the front"
    )


def _point(row: TicketRow, cost: Callable[[TicketRow], float], label: str = "") -> Point:
    return Point(cost(row), 100 * (row.accuracy or 0.0), label=label)


def _balance_section(table: TicketTable) -> Section:
    """Return the section on balance, layer by layer, of the sparsest ticket of each run."""
    columns = (
        Column("ticket"),
        Column("layer"),
        Column("channels", form="d"),
        Column("nonzeros", form=",d"),
        Column("mean", form=",.1f", means="nonzero weights of an output channel"),
        Column("busiest", form=",d"),
        Column("balance", form=".1%", means="mean over busiest, a unit per channel"),
        Column("balance of blocks", form=".1%", means=f"the same, a unit per {BLOCK} channels"),
        Column("busiest block", means="its first to last channel, and its share of the layer's weights"),
        Column("idlest block"),
    )
    sparsest = {run: max((r for r in table.rows if r.run == run), key=lambda r: r.sparsity) for run in _runs(table)}
    rows = [_layer_cells(row.name, layer) for row in sparsest.values() for layer in row.balance.layers]
    sentences = []
    for row in sparsest.values():
        best, worst = row.balance.best, row.balance.worst
        if best is not None and worst is not None:
            sentences.append(
                f"{row.name}: {best.name} is balanced best ({best.by_channel:.0%}), {worst.name} worst "
                f"({worst.by_channel:.0%})."
            )
    notes = (
        "Balance: where a layer's output channels are dealt out to units that work in parallel and wait for each "
        "other, the share of time that they work: mean nonzero weights of a unit over those of the busiest (Yin et "
        "al., arXiv 2302.06746, call it utilisation). A ticket's is that of its layers one after another. How often "
        "inputs spike is not looked at.",
    )
    title = "Workload balance across output channels, sparsest tickets"
    return Section("balance", title, " ".join(sentences), Table(columns, tuple(rows)), (), notes)


def _runs(table: TicketTable) -> list[str]:
    return list(dict.fromkeys(row.run for row in table.rows))


def _layer_cells(ticket: str, layer: LayerBalance) -> tuple[Cell, ...]:
    work, blocks = layer.work, layer.blocks
    return (
        ticket,
        layer.name,
        len(work),
        int(work.sum()),
        float(work.mean()),
        int(work.max()),
        layer.by_channel,
        layer.by_block,
        _block(layer, int(blocks.argmax())),
        _block(layer, int(blocks.argmin())),
    )


def _block(layer: LayerBalance, index: int) -> str:
    first, total = index * BLOCK, int(layer.work.sum())
    last = min(first + BLOCK, len(layer.work)) - 1
    return f"{first}-{last} ({layer.blocks[index] / total:.1%})" if total else f"{first}-{last}"
