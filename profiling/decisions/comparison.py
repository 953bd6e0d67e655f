"""The report of a comparison of two profiles."""

from pathlib import Path
from typing import Any

from spiketicket.profiling.decisions.compare import Accuracies, Comparison
from spiketicket.profiling.decisions.stored import FORMAT, VERSION
from spiketicket.profiling.report.document import Column, Report, Section, Table


def comparison_report(comparison: Comparison, before: Path, after: Path, machine: dict[str, Any]) -> Report:
    """Return the report. `machine` has the facts of the later profile's machine."""
    changes = comparison.changes
    beyond = [change for change in changes if change.exceeds]
    faster = sum(change.ratio.value > 1 for change in beyond)
    says = (
        f"Of {len(changes)} latencies, {faster} became faster and {len(beyond) - faster} slower by more than noise, "
        f"{len(changes) - len(beyond)} did not."
    )
    columns = (
        Column("model"),
        Column("engine"),
        Column("T", form="d"),
        Column("batch", form="d"),
        Column("threads", form="d"),
        Column("before", "ms", ".3f"),
        Column("after", "ms", ".3f"),
        Column("speed", form=".3f", means="before / after: above 1 is faster now"),
        Column("low", form=".3f", means="of its 95% interval"),
        Column("high", form=".3f"),
        Column("verdict", means="slower or faster if the interval leaves out 1"),
    )
    rows = tuple(
        (
            c.place.model,
            c.place.engine,
            c.place.timesteps,
            c.place.batch,
            c.place.threads,
            c.before,
            c.after,
            c.ratio.value,
            c.ratio.low,
            c.ratio.high,
            c.verdict,
        )
        for c in changes
    )
    notes = (
        "Intervals cover what varies within a measurement. Another process, another day or another build can shift "
        "all times by some percent: if that matters, measure both several times.",
        *(f"only in one of the two: {place}" for place in comparison.alone),
    )
    sections = [Section("latency", "Latency, before and after", says, Table(columns, rows), (), notes)]
    if comparison.accuracies:
        sections.append(_accuracy(comparison))
    data = {
        "format": FORMAT,
        "version": VERSION,
        "kind": "comparison",
        "before": str(before),
        "after": str(after),
        "warnings": comparison.warnings,
        "changes": [change.to_dict() for change in changes],
        "accuracy": [one.to_dict() for one in comparison.accuracies],
        "alone": comparison.alone,
    }
    title = f"{before.name} against {after.name}"
    facts = {"Machine": {key: str(value) for key, value in machine.items()}}
    return Report("comparison", title, says, tuple(sections), data, tuple(comparison.warnings), facts)


def _accuracy(comparison: Comparison) -> Section:
    columns = (
        Column("model"),
        Column("T", form="d"),
        Column("before", form=".2%"),
        Column("after", form=".2%"),
        Column("change", "points", "+.2f"),
        Column("verdict", means="as for independent images; on the same images, smaller changes may be real"),
    )
    rows = tuple(
        (one.model, one.timesteps, one.before.value, one.after.value, 100 * one.change, _verdict(one))
        for one in comparison.accuracies
    )
    largest = max(comparison.accuracies, key=lambda one: abs(one.change))
    says = (
        f"The largest change of accuracy is {100 * largest.change:+.2f} points ({largest.model}, T = "
        f"{largest.timesteps}): {_verdict(largest)}."
    )
    if not largest.change:
        says = "Accuracy did not change."
    return Section("accuracy", "Accuracy, before and after", says, Table(columns, rows))


def _verdict(one: Accuracies) -> str:
    return "within noise" if not one.exceeds else "better" if one.change > 0 else "worse"
