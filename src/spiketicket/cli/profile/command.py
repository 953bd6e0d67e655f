"""The command `snn-profile`."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperGroup

from spiketicket.cli.console import EXIT_MISTAKE, err, guarded, number_ranges, out, run_app, say
from spiketicket.cli.profile.report import Export, check_endings, show_and_write
from spiketicket.cli.profile.search import search, tickets
from spiketicket.errors import InputError
from spiketicket.profiling.decisions.budget import Budget, best, fits
from spiketicket.profiling.decisions.compare import compare
from spiketicket.profiling.decisions.comparison import comparison_report
from spiketicket.profiling.decisions.limits import Verdict, hold, read_limits
from spiketicket.profiling.decisions.stored import read_profile
from spiketicket.profiling.inference.engines import PROFILED
from spiketicket.profiling.inference.profile import Data, profile_models
from spiketicket.profiling.inference.report import inference_report
from spiketicket.profiling.inference.settings import PERCENTILES, ProfileSettings
from spiketicket.profiling.layers.energy import CMOS_45NM, load_energy_table
from spiketicket.profiling.measure.machine import pin, usable_cores

DEFAULT = "model"


class _Group(TyperGroup):
    """`snn-profile FILE...` is `snn-profile model FILE...`; a file that is called like a command needs the latter."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Group,
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(search)
app.command()(tickets)


@app.callback()
def group() -> None:
    """Measure what models and searches cost, timestep by timestep.

    'snn-profile FILE...' is 'snn-profile model FILE...'.
    """


@app.command(DEFAULT)
@guarded
def profile_model(
    models: Annotated[list[Path] | None, typer.Argument(help="Model files of snn-export.", show_default=False)] = None,
    engines: Annotated[
        str, typer.Option(help=f"Engines, separated by commas: {', '.join(PROFILED)}.")
    ] = "native,onnxruntime",
    timesteps: Annotated[str, typer.Option(help="Numbers of timesteps, as in 1,3,5 or 1-5.")] = "1-5",
    batch: Annotated[str, typer.Option(help="Images per run, as in 1,32.")] = "1",
    threads: Annotated[str | None, typer.Option(help="CPU threads, as in 1,2.", show_default="all cores")] = None,
    streams: Annotated[
        int | None, typer.Option(help="Measure throughput, too, with so many threads running batches at once.")
    ] = None,
    duration: Annotated[float, typer.Option(help="Seconds of measurement per engine, T, batch and threads.")] = 1.0,
    iterations: Annotated[int | None, typer.Option(help="Timed runs of each instead.")] = None,
    warmup: Annotated[
        int | None, typer.Option(help="Untimed runs of each first.", show_default="until times are steady")
    ] = None,
    percentile: Annotated[str, typer.Option(help="Percentiles of latency.")] = ",".join(f"{p:g}" for p in PERCENTILES),
    pinned: Annotated[
        str | None, typer.Option("--pin", help="Stay on these CPU cores, as in 0,1 or 0-3.", show_default=False)
    ] = None,
    margin: Annotated[
        str | None, typer.Option(help="Margins of early exit, as in 0.5,1,2.", show_default="three that fit")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Data set of images and accuracy.", show_default="the model's, else noise")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the data sets' files (docs/data.md).", show_default="data")
    ] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Test images for accuracy.", show_default="all")] = None,
    energy: Annotated[
        Path | None,
        typer.Option(help="JSON file with energies per operation (docs/profiling.md).", show_default="45 nm"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the order of turns.")] = 0,
    budget: Annotated[
        str | None, typer.Option(help="Say what fits, as in 2ms or 2ms@p99 (p95 where it says nothing).")
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(help="Hold the figures against the limits in a TOML file; exit with 1 where one fails."),
    ] = None,
    comparison: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--compare", help="Measure nothing: compare two profiles written by -x, before and after."),
    ] = None,
    export: Export = None,
) -> None:
    """Latency by engine, T, batch and threads; accuracy and early exit; layers, operations and energy; memory.

    All engines and T are measured in turn. A .json file of -x instead of model files: for --budget and --check.
    """
    check_endings(export)
    limits = read_limits(check) if check else []
    allowed = Budget.parse(budget) if budget else None
    if comparison is not None:
        if limits or allowed is not None:
            raise InputError(
                "--compare holds two profiles against each other: expected no --budget or --check beside it"
            )
        _compare(*comparison, models, export)
        return
    if not models:
        raise InputError("expected one or more model files, or --compare BEFORE.json AFTER.json (-h shows the usage)")
    if [path.suffix for path in models] == [".json"]:
        measured = read_profile(models[0])
        if not limits and allowed is None:
            raise InputError(f"{models[0]} is measured already: give --budget or --check, or model files")
        if export:
            raise InputError(
                f"{models[0]} is measured already, there is nothing new to write: expected no -x beside it"
            )
    else:
        cores = number_ranges("pin", pinned) if pinned is not None else None
        with pin(list(cores)) if cores else nullcontext():
            settings = ProfileSettings(
                tuple(name.strip() for name in engines.split(",") if name.strip()),
                number_ranges("timesteps", timesteps),
                number_ranges("batch", batch),
                number_ranges("threads", threads) if threads is not None else (usable_cores(),),
                streams,
                duration,
                iterations,
                warmup,
                _numbers("percentile", percentile),
                _numbers("margin", margin) if margin else (),
                seed,
            )
            table = load_energy_table(energy) if energy else CMOS_45NM
            with err.status("reading ...") as status:
                profile = profile_models(models, settings, Data(dataset, data, images), table, status.update)
        report = inference_report(profile)
        show_and_write(report, export)
        measured = dict(report.data)
    if allowed is not None:
        _print_budget(measured, allowed)
    verdicts = hold(measured, limits)
    _print_verdicts(verdicts)
    if not all(verdict.kept for verdict in verdicts):
        raise typer.Exit(EXIT_MISTAKE)


def _compare(before: Path, after: Path, models: Sequence[Path] | None, export: Sequence[Path] | None) -> None:
    if models:
        raise InputError("--compare measures nothing: expected no model files beside it")
    old, new = read_profile(before), read_profile(after)
    show_and_write(comparison_report(compare(old, new), before, after, new["machine"]), export)


def _print_budget(measured: dict[str, Any], budget: Budget) -> None:
    found = fits(measured, budget)
    table = Table(title=f"What fits into {budget}")
    for column in ("model", "engine", "batch", "threads", "largest T", budget.quantile + ", ms", "accuracy"):
        table.add_column(column, justify="left" if column in ("model", "engine") else "right")
    for fit in found:
        table.add_row(
            fit.model,
            fit.engine,
            str(fit.batch),
            str(fit.threads),
            str(fit.timesteps or "none"),
            f"{fit.ms:.3f}",
            "-" if fit.accuracy is None else f"{fit.accuracy:.2%}",
        )
    out.print(table)
    chosen = best(found)
    if chosen is None:
        say(f"nothing fits into {budget}")
    else:
        known = "" if chosen.accuracy is None else f", accuracy {chosen.accuracy:.2%}"
        say(f"best: {chosen.model} in {chosen.engine} at T = {chosen.timesteps}, {chosen.ms:.3f} ms{known}")


def _print_verdicts(verdicts: Sequence[Verdict]) -> None:
    for verdict in verdicts:
        say(f"{'kept' if verdict.kept else 'BROKEN'}: {verdict.limit}; {verdict.row}: {verdict.value:g}")


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{name}: expected numbers separated by commas, got {text!r}") from error


def main() -> None:
    run_app(app)


if __name__ == "__main__":
    main()
