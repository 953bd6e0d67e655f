"""The commands `snn-search status` and `snn-search compare`."""

import csv
import io
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from spiketicket.cli.console import err, guarded, out, print_json
from spiketicket.cli.search.status import compact, percent, print_status, status_dict
from spiketicket.errors import InputError
from spiketicket.train.history.curves import Curve, Point, differing_settings, make_curves
from spiketicket.train.history.events import FINAL, SEARCH
from spiketicket.train.history.forecast import forecast
from spiketicket.train.history.history import read_history


def add_history_commands(app: typer.Typer) -> None:
    """Add `status` and `compare` to the application of `snn-search`."""
    app.command("status")(_status)
    app.command("compare")(_compare)


@guarded
def _status(
    run: Annotated[Path, typer.Argument(help="Run folder of snn-search.", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show the state of a search: its rounds, sparsity, accuracy, and how long it has to go."""
    history = read_history(run)
    _warn(history.damaged)
    expected = forecast(history, time.time())
    if json:
        print_json(status_dict(history, expected))
    else:
        print_status(history, expected)


@guarded
def _compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; the first is the reference.", show_default=False)],
    plot: Annotated[
        Path | None, typer.Option(help="Draw accuracy against sparsity and time into this PNG.", show_default=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the curves, seed by seed, as JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the table as CSV.")] = False,
) -> None:
    """Compare the accuracy of several searches by sparsity and search time; seeds of one search become one curve.

    Accuracy is that of final tickets on the test images where a search has any, else of the search's own tickets.
    """
    if json and as_csv:
        raise InputError("--json and --csv: expected one of them")
    if len({run.resolve() for run in runs}) < len(runs):
        raise InputError("a run is given twice")
    histories = [read_history(run) for run in runs]
    curves, untested = make_curves(histories)
    _warn([line for history in histories for line in history.damaged])
    _warn([f"{folder} has no ticket with a test accuracy yet and is left out" for folder in untested])
    if plot:
        from spiketicket.train.history.plot import draw

        draw(curves, plot, _title(curves), caption(curves))
    if json:
        print_json([_curve_dict(curve, curves[0]) for curve in curves])
    elif as_csv:
        typer.echo(_csv(curves), nl=False)
    else:
        _print_table(curves)
    if plot:
        err.print(f"wrote {plot}", markup=False, highlight=False, soft_wrap=True)


def _warn(lines: "list[str] | tuple[str, ...]") -> None:
    for line in lines:
        err.print("[yellow]warning:[/]", end=" ")
        err.print(line, markup=False, highlight=False, soft_wrap=True)


def caption(curves: list[Curve]) -> str:
    """Return a sentence that says which accuracy is shown, and what its spread is."""
    words = {FINAL: "of final tickets, trained at full T", SEARCH: "of the search's own tickets"}
    kinds = {kind: [curve.label for curve in curves if curve.kind == kind] for kind in words}
    present = [(words[kind], labels) for kind, labels in kinds.items() if labels]
    if len(present) == 1:
        which = present[0][0]
    else:
        which = "; ".join(f"{what} ({'; '.join(labels)})" for what, labels in present)
    several = any(len(point.samples) > 1 for curve in curves for point in curve.points)
    return f"Test accuracy {which}{'; mean ± standard deviation over seeds' if several else ''}"


def _title(curves: list[Curve]) -> str:
    settings = [curve.settings for curve in curves]
    archs, datasets = (", ".join(dict.fromkeys(s[name] for s in settings)) for name in ("arch", "dataset"))
    return f"{archs} on {datasets}"


def _print_table(curves: list[Curve]) -> None:
    table = Table(title=_title(curves))
    table.add_column("search", overflow="fold")
    for column in ("sparsity", "seeds", "test accuracy", "search", "gain", "own training"):
        table.add_column(column, justify="right", no_wrap=True)
    for curve in curves:
        for index, point in enumerate(curve.points):
            gain = curves[0].gain(point)
            table.add_row(
                curve.label if index == 0 else "",
                percent(point.sparsity),
                str(len(point.samples)),
                _accuracy(point),
                compact(point.mean("search_seconds")),
                "-" if gain is None else f"{gain:.2f}x" if gain < 10 else f"{gain:.0f}x",
                compact(point.mean("final_seconds")) if point.mean("final_seconds") else "-",
                end_section=index == len(curve.points) - 1,
            )
    out.print(table)
    out.print(
        f"{caption(curves)}. Sparsity is that of all parameters. Search is the time of the training steps of all "
        "trainings that a ticket's mask comes from, beside it those of its own; gain is the search time of "
        f"{curves[0].label} divided by it.",
        markup=False,
        highlight=False,
    )
    for name, by_label in differing_settings(curves).items():
        values = "; ".join(
            f"{label}: {'none' if value is None else str(value)[:12]}" for label, value in by_label.items()
        )
        out.print(f"Not the same in all: {name.replace('_', ' ')} ({values}).", markup=False, highlight=False)


def _accuracy(point: Point) -> str:
    deviation = point.deviation("accuracy")
    return percent(point.mean("accuracy")) + ("" if deviation is None else f" ± {100 * deviation:.2f}")


def _rows(curve: Curve, reference: Curve) -> list[dict[str, Any]]:
    return [
        {
            "sparsity": point.sparsity,
            "seeds": len(point.samples),
            "test_accuracy": point.mean("accuracy"),
            "test_accuracy_deviation": point.deviation("accuracy"),
            "search_seconds": point.mean("search_seconds"),
            "search_seconds_deviation": point.deviation("search_seconds"),
            "gain": reference.gain(point),
            "final_seconds": point.mean("final_seconds"),
        }
        for point in curve.points
    ]


def _curve_dict(curve: Curve, reference: Curve) -> dict[str, Any]:
    rows = zip(_rows(curve, reference), curve.points, strict=True)
    return {
        "label": curve.label,
        "tickets": curve.kind,
        "folders": list(curve.folders),
        "settings": curve.settings,
        "points": [{**row, "samples": [asdict(sample) for sample in point.samples]} for row, point in rows],
    }


def _csv(curves: list[Curve]) -> str:
    text = io.StringIO()
    rows = [
        {"search": curve.label, "method": curve.settings["method"], "tickets": curve.kind, **row}
        for curve in curves
        for row in _rows(curve, curves[0])
    ]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
