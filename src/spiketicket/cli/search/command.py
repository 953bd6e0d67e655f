"""The command `snn-search`: a subcommand per method, whose options are made from the settings, and what it prints."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import Field, fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from spiketicket.cli.console import err, guarded, make_app, out, print_json, run_app, say, whole_numbers
from spiketicket.cli.options import declare, parameter
from spiketicket.cli.search.history import add_history_commands
from spiketicket.data import DATASET_NAMES, load_dataset
from spiketicket.errors import InputError, OutOfTimeError, extra
from spiketicket.train.pruning.masks import emptied, survivors
from spiketicket.train.search.phases import count_epochs, parse_phases
from spiketicket.train.search.settings import METHODS, SAVE_MINUTES, SearchSettings

if TYPE_CHECKING:
    from spiketicket.train.search.search import Progress as SearchProgress
    from spiketicket.train.search.ticket import Ticket

EXIT_OUT_OF_TIME = 75  # sysexits.h: try again later
COMMON, EARLY_TIME = "Options", "Early-Time"

app = make_app("Search lottery tickets in spiking neural networks.")


def _command(method: str) -> Callable[..., None]:
    """Return the command of a method: its options are the fields of SearchSettings that it knows."""
    known = [f for f in fields(SearchSettings) if "help" in f.metadata and method in f.metadata["methods"]]

    @guarded
    def search(
        arch: Annotated[
            str, typer.Option(help="vgg_digits, vgg16, resnet19, alexnet, resnet34, or what --import adds.")
        ],
        dataset: Annotated[str, typer.Option(help=f"Data set: {', '.join(DATASET_NAMES)}.")],
        folder: Annotated[Path, typer.Option("--out", help="Run folder; run again to resume.")],
        data: Annotated[
            Path | None, typer.Option(help="Folder of the data set's files (docs/data.md).", show_default="data")
        ] = None,
        device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
        max_minutes: Annotated[
            float | None, typer.Option(help="Stop after that many minutes with exit code 75; run again to go on.")
        ] = None,
        save_minutes: Annotated[float, typer.Option(help="Minutes between two checkpoints, at most.")] = SAVE_MINUTES,
        tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Log to OUT/tensorboard as well.")] = False,
        deterministic: Annotated[
            bool,
            typer.Option(
                "--deterministic", help="Compute the same bits in every run on a GPU, where that is possible; slower."
            ),
        ] = False,
        imports: Annotated[
            list[str] | None, typer.Option("--import", help="Python module that registers more networks; repeatable.")
        ] = None,
        start: Annotated[
            Path | None,
            typer.Option(
                "--from", help="Begin with this ticket's weights and mask, not with a dense network from --seed."
            ),
        ] = None,
        start_mask: Annotated[
            Path | None, typer.Option("--from-mask", help="Begin with this ticket's mask, and weights from --seed.")
        ] = None,
        json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
        **options: Any,
    ) -> None:
        with extra("train", "snn-search"):
            from spiketicket.train.loop.distributed import joined_group
            from spiketicket.train.networks.models import import_plugins
            from spiketicket.train.search.search import RunOptions, Start
            from spiketicket.train.search.search import search as run_search
            from spiketicket.train.search.ticket import load_ticket
        import_plugins(imports or [])
        settings = _settings(method, arch, dataset, known, options)
        images = load_dataset(dataset, data)
        if images.official is False:
            err.print(f"[yellow]note:[/] the files of {dataset} are not the official ones: their checksums differ")
        _positive("max-minutes", max_minutes)
        _positive("save-minutes", save_minutes)
        if start is not None and start_mask is not None:
            raise InputError("--from, --from-mask: expected at most one of the two, got both")
        given = start or start_mask
        begin = None if given is None else Start(load_ticket(given), mask_only=start is None)
        with joined_group(device, deterministic) as group, progress_bar(f"{method} {arch} on {dataset}") as report:
            shown = report if group.is_main else lambda _: None
            try:
                tickets = run_search(
                    settings, images, folder, RunOptions(shown, group, max_minutes, save_minutes, tensorboard), begin
                )
            except OutOfTimeError as error:
                if group.is_main:
                    say(str(error))
                raise typer.Exit(EXIT_OUT_OF_TIME) from error
        if not group.is_main:
            return
        if json:
            print_json([_summary(ticket) for ticket in tickets])
        else:
            _print(tickets, folder)

    search.__doc__ = METHODS[method]
    _declare(search, known)
    return search


def _declare(command: Callable[..., None], known: list[Field[Any]]) -> None:
    """Give the command an option for each of those fields, in the place of **options."""
    hints = get_type_hints(SearchSettings)
    own = [p for p in inspect.signature(command).parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    options = [
        parameter(
            f.name,
            str if f.default == () else hints[f.name],
            "" if f.default == () else f.default,
            names=[f"--{f.name.replace('_', '-')}"] if f.default is False else [],  # a flag, without its opposite
            help=escape(f.metadata["help"]),
            rich_help_panel=EARLY_TIME if f.metadata["early_time"] else COMMON,
            show_default=f.default is not None,
        )
        for f in known
    ]
    declare(command, [*own, *options])


def _settings(method: str, arch: str, dataset: str, known: list[Field[Any]], options: dict[str, Any]) -> SearchSettings:
    for f in known:
        if f.default == ():
            options[f.name] = tuple(whole_numbers(f.name, options[f.name])) if options[f.name].strip() else ()
    if options["phases"] and options["epochs"] == SearchSettings.epochs:
        options["epochs"] = count_epochs(parse_phases("phases", options["phases"]))
    if not options["epochs"]:
        options["rewind_epoch"] = 0
    return SearchSettings(method, arch, dataset, **options)


def _positive(name: str, value: float | None) -> None:
    if value is not None and not value > 0:
        raise InputError(f"{name}: expected above 0, got {value}")


for _method in METHODS:
    app.command(_method)(_command(_method))
add_history_commands(app)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[["SearchProgress"], None]]:
    """Show a bar over all epochs of a search, on stderr; yield the callback that moves it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=err)
    task = progress.add_task(title, total=None)

    def line(state: "SearchProgress") -> None:
        if state.done % 1:
            return
        err.print(f"{title}, {state.stage}: epoch {state.done} of {state.total}, loss {state.loss:.3f}", soft_wrap=True)

    def report(state: "SearchProgress") -> None:
        progress.start()  # at the first epoch: nothing to show for a mistake or a finished run
        text = f"{title}, {state.stage}, loss {state.loss:.3f}"
        progress.update(task, total=state.total, completed=state.done, description=text)

    try:
        yield report if err.is_terminal else line
    finally:
        progress.stop()


def _summary(ticket: "Ticket") -> dict[str, object]:
    return {
        "round": ticket.search["round"],
        "kind": ticket.search["kind"],
        "timesteps": ticket.model.timesteps,
        "sparsity": ticket.sparsity,
        "sparsity_prunable": ticket.sparsity_prunable,
        "validation_accuracy": ticket.search["validation_accuracy"],
        "test_accuracy": ticket.search["test_accuracy"],
        "search_seconds": ticket.search["search_seconds"],
        "seconds": ticket.search["seconds"],
        "fingerprint": ticket.fingerprint,
        "emptied_layers": emptied(ticket.masks),
    }


def _print(tickets: "list[Ticket]", folder: Path) -> None:
    table = Table(title="Tickets")
    for column in ("round", "T", "sparsity of all", "of prunable", "validation", "test", "search s", "own s"):
        table.add_column(column, justify="right")
    for ticket in tickets:
        s = ticket.search
        table.add_row(
            f"{s['round']}{' final' if s['kind'] == 'final' else ''}",
            str(ticket.model.timesteps),
            f"{ticket.sparsity:.2%}",
            f"{ticket.sparsity_prunable:.2%}",
            _share(s["validation_accuracy"], "-"),
            _share(s["test_accuracy"], "untrained"),
            f"{s['search_seconds']:.1f}",
            f"{s['seconds']:.1f}",
        )
    out.print(table)
    if not all(ticket.search["mask_settled"] for ticket in tickets):
        err.print("[yellow]warning:[/] the mask did not settle; the cut is that of the last epoch's weights")
    for line in _idle_rounds(tickets):
        err.print(f"[yellow]warning:[/] {line}")
    for name in emptied(tickets[-1].masks):
        err.print(f"[yellow]warning:[/] no weight of {name} survives in the last ticket (--strategy erk keeps some)")
    say(f"last ticket: {folder / 'ticket.pt'}   {tickets[-1].fingerprint[:12]}")


def _idle_rounds(tickets: "list[Ticket]") -> list[str]:
    """Return a warning if some rounds pruned nothing: N:M leaves N of M weights at most, whatever was asked."""
    strategy = tickets[-1].search["settings"]["strategy"]
    left = {ticket.search["round"]: survivors(ticket.masks) for ticket in tickets if strategy[0].isdigit()}
    idle = [str(after) for before, after in pairwise(left) if left[before] == left[after]]
    return [f"round {', '.join(idle)} pruned nothing: {strategy} had left fewer weights than asked"] if idle else []


def _share(accuracy: float | None, otherwise: str) -> str:
    return otherwise if accuracy is None else f"{accuracy:.2%}"


def main() -> None:
    run_app(app)


if __name__ == "__main__":
    main()
