"""The report of `snn-profile search`: costs of an iteration, hours of searches projected from them, runs measured."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from time import strftime
from typing import Any

from spiketicket.profiling.measure.machine import machine_facts
from spiketicket.profiling.report.document import Axis, Bars, Cell, Column, Lines, Point, Report, Section, Series, Table
from spiketicket.profiling.search import paper
from spiketicket.profiling.search.cost import Cost, SearchCost
from spiketicket.profiling.search.hours import gain_section, hours_section
from spiketicket.profiling.search.measured import TicketCost, gains
from spiketicket.profiling.search.noise_images import image_format
from spiketicket.profiling.search.projection import METHODS, Projection, SearchPlan, project
from spiketicket.profiling.search.runs import run_section
from spiketicket.profiling.search.setup import PARTS, IterationSetup
from spiketicket.train.history.forecast import fit

MB = 1e-6


@dataclass(frozen=True)
class SearchProfileSettings:
    """What was asked for: networks at numbers of timesteps, with batches of images of a data set."""

    archs: tuple[str, ...]
    timesteps: tuple[int, ...]
    batch: int
    dataset: str
    precision: str

    def setups(self) -> list[IterationSetup]:
        return [
            IterationSetup(arch, t, self.batch, self.dataset, precision=self.precision)
            for arch in self.archs
            for t in self.timesteps
        ]


def search_report(asked: SearchProfileSettings, cost: SearchCost, runs: Sequence[TicketCost] = ()) -> Report:
    """Return the report. `cost` holds the setups of `asked` and those of `runs`."""
    costs = [cost.costs[setup] for setup in asked.setups()]
    projections = project_all(asked, costs)
    by_arch = {
        arch: {c.setup.timesteps: c.seconds_per_epoch for c in costs if c.setup.arch == arch} for arch in asked.archs
    }
    sections = [iteration_section(costs), epoch_section(costs), memory_section(costs)]
    if projections:
        sections += [hours_section(projections, by_arch), gain_section(projections, by_arch)]
    else:
        needed = f"T = {paper.EARLY_TIMESTEPS} and a larger one, of a network and data set that the paper has"
        sections.append(
            Section("hours", "Hours of a search", f"Hours were not projected: they take seconds at {needed}.")
        )
    if runs:
        sections.append(run_section(runs, cost.threads))
    where = f"{cost.device}, threads: {cost.threads}" if cost.device == "cpu" else cost.device
    return Report(
        "search",
        "Cost of searching tickets",
        f"Training iterations of {asked.batch} images like those of {asked.dataset}, {asked.precision}, on {where}.",
        tuple(sections),
        _data(asked, cost, costs, projections, by_arch, runs),
        cost.noise.warnings,
        {"Machine": machine_facts()},
    )


def project_all(asked: SearchProfileSettings, costs: Iterable[Cost]) -> list[Projection]:
    """Project all methods to the four sparsities, if the largest T is above the paper's T_early and that was measured,
    too.

    Returns nothing otherwise, and for a data set that the paper does not have.
    """
    full = max(asked.timesteps)
    if not {paper.EARLY_TIMESTEPS, full} <= set(asked.timesteps) or full <= paper.EARLY_TIMESTEPS:
        return []
    if asked.dataset not in paper.EPOCHS:
        return []
    found = []
    for cost in costs:
        if cost.setup.timesteps == full:
            plan = SearchPlan(
                cost.setup.arch,
                asked.dataset,
                paper.EPOCHS[asked.dataset],
                paper.REWIND_EPOCH,
                full,
                paper.EARLY_TIMESTEPS,
                cost.prunable,
                cost.parameters,
            )
            found += [project(plan, method, n) for method in METHODS for n in paper.SPARSITIES]
    return [projection for projection in found if projection is not None]


def iteration_section(costs: Sequence[Cost]) -> Section:
    columns = (
        Column("network"),
        Column("T", form="d"),
        Column("iterations", form="d", means="how many were timed"),
        Column("iteration", "s", ".4g", "the median, timed as a whole"),
        Column("low", "s", ".4g", "of its 95% interval"),
        Column("high", "s", ".4g"),
        *(Column(part, "s", ".3g") for part in PARTS),
        Column("sum / whole", form=".3f", means="median of the parts' sum over that of the whole"),
    )
    rows: list[tuple[Cell, ...]] = []
    for cost in costs:
        middle = cost.whole.median()
        parts = (part.median().value for part in cost.parts.values())
        rows.append(
            (
                cost.setup.arch,
                cost.setup.timesteps,
                cost.whole.n,
                middle.value,
                middle.low,
                middle.high,
                *parts,
                cost.sum_of_parts.median().value / middle.value,
            )
        )
    notes = [
        "Forward is the network's, to its logits; backward holds the loss, too; optimiser the step, and zeroing what "
        "is pruned. Data is a batch drawn, augmented and normalised.",
        "The images are noise: every layer is computed in full, whatever they show.",
    ]
    if any(cost.whole.n < 6 for cost in costs):
        notes.append("Fewer than six iterations give no 95% interval: low and high are the fastest and the slowest.")
    labels = tuple(f"{cost.setup.arch}, T = {cost.setup.timesteps}" for cost in costs)
    picture = Bars(
        Axis("medians of an iteration's parts", "s"),
        labels,
        {part: tuple(cost.parts[part].median().value for cost in costs) for part in PARTS},
        "Seconds of an iteration by network and T, in parts",
    )
    slowest = max(costs, key=lambda cost: cost.seconds)
    shares = {part: slowest.parts[part].median().value / slowest.sum_of_parts.median().value for part in PARTS}
    says = (
        f"An iteration of {slowest.setup.arch} at T = {slowest.setup.timesteps} takes {slowest.seconds:.3g} s: "
        f"{shares['forward']:.0%} forward, {shares['backward']:.0%} backward, {shares['optimiser']:.1%} optimiser, "
        f"{shares['data']:.1%} data."
    )
    return Section("iteration", "Seconds per iteration", says, Table(columns, tuple(rows)), (picture,), tuple(notes))


def epoch_section(costs: Sequence[Cost]) -> Section:
    """Return the section on seconds per epoch beside the paper's Table 1, both also relative to the largest T."""
    columns = (
        Column("network"),
        Column("T", form="d"),
        Column("epoch", "s", ",.1f", "projected: iterations x seconds of one"),
        Column("iterations", form="d", means="in an epoch"),
        Column("paper's epoch", "s", ".2f", "supplementary, Table 1, one RTX 2080 Ti"),
        Column("share", form=".0%", means="of the epoch at the largest T here"),
        Column("paper's share", form=".0%", means="of its epoch at the same T"),
    )
    largest = max(cost.setup.timesteps for cost in costs)
    full = {cost.setup.arch: cost for cost in costs if cost.setup.timesteps == largest}
    rows: list[tuple[Cell, ...]] = []
    series, sentences = [], []
    for arch in dict.fromkeys(cost.setup.arch for cost in costs):
        printed = paper.SECONDS_PER_EPOCH.get(arch, {})
        group = [cost for cost in costs if cost.setup.arch == arch]
        for cost in group:
            t = cost.setup.timesteps
            theirs = printed[t] / printed[largest] if t in printed and largest in printed else None
            rows.append(
                (
                    arch,
                    t,
                    cost.seconds_per_epoch,
                    cost.iterations_per_epoch,
                    printed.get(t),
                    cost.seconds / full[arch].seconds,
                    theirs,
                )
            )
        series.append(Series(arch, tuple(Point(c.setup.timesteps, c.seconds / full[arch].seconds) for c in group)))
        shown = [(t, s / printed[largest]) for t, s in printed.items() if largest in printed]
        if shown:
            series.append(Series(f"{arch}, paper", tuple(Point(t, share) for t, share in shown)))
        sentences.append(_fixed_cost(arch, group, printed))
    notes = (
        'The paper\'s Table 1 says "seconds per iteration"; they must be per epoch of CIFAR (391 iterations), '
        "because only then its Table 3 follows from them. The unit is corrected here.",
        "An epoch is projected: the median of an iteration times the iterations that all training images take.",
    )
    picture = Lines(
        Axis("T", form="d"),
        Axis(f"time of an epoch over that at T = {largest}", form=".2f"),
        tuple(series),
        "Relative time of an epoch against T, here and in the paper",
    )
    return Section("epoch", "Seconds per epoch", " ".join(sentences), Table(columns, tuple(rows)), (picture,), notes)


def _fixed_cost(arch: str, group: Sequence[Cost], printed: dict[int, float]) -> str:
    """Return a sentence on the time that does not grow with T, from a line through the seconds of an epoch."""
    if len(group) < 2:
        return f"{arch}: {group[0].seconds_per_epoch:,.1f} s at T = {group[0].setup.timesteps}."
    fixed, step = fit({cost.setup.timesteps: cost.seconds_per_epoch for cost in group})
    sentence = f"{arch}: about {fixed:,.1f} s + {step:,.1f} s per timestep (a fitted line)"
    if not fixed:
        sentence = f"{arch}: about {step:,.1f} s per timestep (a line through the origin)"
    if printed:
        theirs = fit(printed)
        sentence += f"; the paper's figures: {theirs[0]:.1f} s + {theirs[1]:.1f} s per timestep"
    return sentence + "."


def memory_section(costs: Sequence[Cost]) -> Section:
    known = [cost for cost in costs if cost.peak is not None]
    if not known:
        return Section("memory", "Peak memory", "Memory was not measured.")
    columns = (
        Column("network"),
        Column("T", form="d"),
        Column("peak", "MB", ",.0f", "growth at most"),
        Column("share", form=".0%", means="of the peak at the largest T here"),
    )
    largest = max(cost.setup.timesteps for cost in known)
    full = {cost.setup.arch: cost.peak or 1 for cost in known if cost.setup.timesteps == largest}
    rows = [(c.setup.arch, c.setup.timesteps, (c.peak or 0) * MB, (c.peak or 0) / full[c.setup.arch]) for c in known]
    series = tuple(
        Series(arch, tuple(Point(c.setup.timesteps, (c.peak or 0) * MB) for c in known if c.setup.arch == arch))
        for arch in full
    )
    picture = Lines(Axis("T", form="d"), Axis("peak", "MB", form=",.0f"), series, "Peak memory against T")
    most = max(known, key=lambda cost: cost.peak or 0)
    says = (
        f"Memory of {most.setup.arch} at T = {most.setup.timesteps} grows by {(most.peak or 0) * MB:,.0f} MB at most."
    )
    notes = (
        "Each in a process of its own: weights, gradients, the optimiser's state and all that two iterations need, "
        "above the state before the network was built. On a GPU, what torch has allocated there.",
    )
    return Section("memory", "Peak memory", says, Table(columns, tuple(rows)), (picture,), notes)


def _data(
    asked: SearchProfileSettings,
    cost: SearchCost,
    costs: Sequence[Cost],
    projections: Sequence[Projection],
    by_arch: dict[str, dict[int, float]],
    runs: Sequence[TicketCost],
) -> dict[str, Any]:
    return {
        "format": "spiketicket.profile",
        "version": 1,
        "kind": "search",
        "created": strftime("%Y-%m-%dT%H:%M:%S%z"),
        "settings": {
            "archs": list(asked.archs),
            "timesteps": list(asked.timesteps),
            "batch": asked.batch,
            "dataset": asked.dataset,
            "images_per_epoch": image_format(asked.dataset).images,
            "precision": asked.precision,
            "device": cost.device,
            "threads": cost.threads,
        },
        "machine": machine_facts(),
        "warnings": list(cost.noise.warnings),
        "noise": cost.noise.to_dict(),
        "iterations": [one.to_dict() for one in costs],
        "paper_seconds_per_epoch": {
            arch: {str(t): s for t, s in seconds.items()} for arch, seconds in paper.SECONDS_PER_EPOCH.items()
        },
        "projections": [one.to_dict(by_arch[one.plan.arch]) for one in projections],
        "runs": [one.to_dict() for one in runs],
        "run_gains": [
            {
                "run": str(fast.history.folder),
                "over": str(slow.history.folder),
                "round": fast.ticket.round,
                "measured": slow.measured / fast.measured,
                "projected": slow.projected / fast.projected if slow.projected and fast.projected else None,
            }
            for slow, fast in gains(runs)
        ],
    }
