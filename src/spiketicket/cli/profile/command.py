"""The command `snn-profile`."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperGroup

from spiketicket.cli.console import EXIT_MISTAKE, err, guarded, out, run_app, say
from spiketicket.cli.options import grouped
from spiketicket.cli.profile.options import Decisions, Images, Measurement
from spiketicket.cli.profile.report import Export, check_endings, show_and_write
from spiketicket.cli.profile.search import search, tickets
from spiketicket.errors import InputError
from spiketicket.profiling.decisions.budget import Budget, best, fits
from spiketicket.profiling.decisions.compare import compare
from spiketicket.profiling.decisions.comparison import comparison_report
from spiketicket.profiling.decisions.limits import Verdict, check_limits, read_limits
from spiketicket.profiling.decisions.stored import read_profile
from spiketicket.profiling.inference.profile import Data, profile_models
from spiketicket.profiling.inference.report import inference_report
from spiketicket.profiling.layers.energy import CMOS_45NM, EnergyTable, load_energy_table
from spiketicket.profiling.measure.machine import pin

DEFAULT = "model"


class _Group(TyperGroup):
    """A group in which `snn-profile FILE...` is short for `snn-profile model FILE...`.

    A file that has the name of a command needs the long form.
    """

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
@grouped
def profile_model(
    measurement: Measurement,
    images: Images,
    decisions: Decisions,
    models: Annotated[list[Path] | None, typer.Argument(help="Model files of snn-export.", show_default=False)] = None,
    energy: Annotated[
        Path | None,
        typer.Option(help="JSON file with energies per operation (docs/profiling.md).", show_default="45 nm"),
    ] = None,
    export: Export = None,
) -> None:
    """Measure latency by engine, T, batch and threads; accuracy and early exit; layers, operations and energy; memory.

    All engines and T take turns. A .json file of -x can be given instead of models, for --budget and --check.
    """
    check_endings(export)
    limits = read_limits(decisions.check) if decisions.check else []
    allowed = decisions.allowed
    decides = bool(limits) or allowed is not None
    if decisions.compare is not None:
        if decides:
            raise InputError("--compare compares two profiles: expected no --budget or --check beside it")
        if models:
            raise InputError("--compare measures nothing: expected no model files beside it")
        _compare(*decisions.compare, export)
        return
    if not models:
        raise InputError("expected one or more model files, or --compare BEFORE.json AFTER.json (-h shows the usage)")
    if [path.suffix for path in models] == [".json"]:
        measured = _read_measured(models[0], decides, export)
    else:
        table = load_energy_table(energy) if energy else CMOS_45NM
        measured = _measure(models, measurement, images, table, export)
    if allowed is not None:
        _print_budget(measured, allowed)
    verdicts = check_limits(measured, limits)
    _print_verdicts(verdicts)
    if not all(verdict.kept for verdict in verdicts):
        raise typer.Exit(EXIT_MISTAKE)


def _read_measured(path: Path, decides: bool, export: Sequence[Path] | None) -> dict[str, Any]:
    measured = read_profile(path)
    if not decides:
        raise InputError(f"{path} is measured already: give --budget or --check, or model files")
    if export:
        raise InputError(f"{path} is measured already, there is nothing new to write: expected no -x beside it")
    return measured


def _measure(
    models: Sequence[Path],
    measurement: Measurement,
    images: Images,
    energy: EnergyTable,
    export: Sequence[Path] | None,
) -> dict[str, Any]:
    cores = measurement.cores
    with pin(cores) if cores else nullcontext():
        settings = measurement.settings()
        data = Data(images.dataset, images.data, images.images)
        with err.status("reading ...") as status:
            profile = profile_models(models, settings, data, energy, status.update)
    report = inference_report(profile)
    show_and_write(report, export)
    return dict(report.data)


def _compare(before: Path, after: Path, export: Sequence[Path] | None) -> None:
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


def main() -> None:
    run_app(app)


if __name__ == "__main__":
    main()
