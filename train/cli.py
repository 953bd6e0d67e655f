"""The command `snn-search`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from spiketicket.cli import err, guarded, make_app, out, print_json, run_app, say
from spiketicket.errors import MissingExtraError
from spiketicket.train.cli_history import add_history_commands
from spiketicket.train.data import DATASET_NAMES, load_dataset
from spiketicket.train.settings import METHODS, Settings

if TYPE_CHECKING:
    from spiketicket.train.search import Progress as SearchProgress
    from spiketicket.train.ticket import Ticket

app = make_app("Search lottery tickets in spiking networks.")


def _command(method: str) -> Callable[..., None]:
    @guarded
    def search(
        arch: Annotated[str, typer.Option(help="Network: vgg_digits, vgg16 or resnet19.")],
        dataset: Annotated[str, typer.Option(help=f"Data set: {' or '.join(DATASET_NAMES)}.")],
        out_folder: Annotated[Path, typer.Option("--out", help="Run folder; run again to resume.")],
        data: Annotated[
            Path | None, typer.Option(help="Folder that holds cifar-10-batches-py.", show_default="data")
        ] = None,
        timesteps: Annotated[int, typer.Option(help="Timesteps T.")] = Settings.timesteps,
        rounds: Annotated[
            int | None, typer.Option(help="Trainings, the dense one included (the paper: 15). This or --sparsity.")
        ] = None,
        sparsity: Annotated[
            float | None,
            typer.Option(help="Instead of --rounds: zeros among all parameters, in percent (the paper's p)."),
        ] = None,
        epochs: Annotated[int, typer.Option(help="Epochs of the dense training.")] = Settings.epochs,
        rewind_epoch: Annotated[
            int, typer.Option(help="Epoch that every later round goes back to (0: init).")
        ] = Settings.rewind_epoch,
        prune_rate: Annotated[
            float, typer.Option(help="Share of the surviving weights pruned per round.")
        ] = Settings.prune_rate,
        batch_size: Annotated[int, typer.Option(help="Images per iteration.")] = Settings.batch_size,
        lr: Annotated[float, typer.Option(help="First learning rate; falls to 0 on a cosine.")] = Settings.lr,
        weight_decay: Annotated[float, typer.Option(help="L2 penalty.")] = Settings.weight_decay,
        width: Annotated[float, typer.Option(help="Multiplier of all hidden channels.")] = Settings.width,
        batch_norm: Annotated[
            str, typer.Option(help="per-timestep (as in the paper) or folded (time folded into the batch).")
        ] = Settings.batch_norm,
        seed: Annotated[int, typer.Option(help="Decides init, data order and random masks.")] = Settings.seed,
        json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    ) -> None:
        try:
            from spiketicket.train.search import search as run_search
        except ModuleNotFoundError as error:
            raise MissingExtraError(error.name or "torch", "train", "snn-search") from error
        settings = Settings(
            method=method, arch=arch, dataset=dataset, timesteps=timesteps, rounds=rounds, sparsity=sparsity,
            epochs=epochs, rewind_epoch=min(rewind_epoch, epochs) if epochs == 0 else rewind_epoch,
            prune_rate=prune_rate, batch_size=batch_size, lr=lr, weight_decay=weight_decay, width=width,
            batch_norm=batch_norm, seed=seed,
        )  # fmt: skip
        images = load_dataset(dataset, data)
        with progress_bar(f"{method} {arch} on {dataset}") as report:
            tickets = run_search(settings, images, out_folder, report)
        if json:
            print_json([_summary(ticket) for ticket in tickets])
        else:
            _print(tickets, out_folder)

    search.__doc__ = METHODS[method]
    return search


for _method in METHODS:
    app.command(_method)(_command(_method))
add_history_commands(app)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[["SearchProgress"], None]]:
    """A bar over all epochs of a search, on stderr; gives the callback that moves it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=err)
    task = progress.add_task(title, total=None)

    def report(state: "SearchProgress") -> None:
        progress.start()  # at the first epoch: nothing to show for a mistake or a finished run
        text = f"{title}, round {state.round + 1}/{state.rounds}, loss {state.loss:.3f}"
        progress.update(task, total=state.total, completed=state.done, description=text)

    try:
        yield report
    finally:
        progress.stop()


def _summary(ticket: "Ticket") -> dict[str, object]:
    return {
        "round": ticket.search["round"],
        "sparsity": ticket.sparsity,
        "sparsity_prunable": ticket.sparsity_prunable,
        "test_accuracy": ticket.search["test_accuracy"],
        "seconds": ticket.search["seconds"],
        "fingerprint": ticket.fingerprint,
        "emptied_layers": [name for name, mask in ticket.masks.items() if not mask.any()],
    }


def _print(tickets: "list[Ticket]", folder: Path) -> None:
    table = Table(title="Tickets")
    for column in ("round", "sparsity of all", "of prunable", "test accuracy", "seconds", "fingerprint"):
        table.add_column(column, justify="right")
    for ticket in tickets:
        s = ticket.search
        accuracy = "untrained" if s["test_accuracy"] is None else f"{s['test_accuracy']:.2%}"
        table.add_row(
            str(s["round"]), f"{ticket.sparsity:.2%}", f"{ticket.sparsity_prunable:.2%}",
            accuracy, f"{s['seconds']:.1f}", ticket.fingerprint[:12],
        )  # fmt: skip
    out.print(table)
    for name, mask in tickets[-1].masks.items():
        if not mask.any():
            err.print(f"[yellow]warning:[/] no weight of {name} survives in the last ticket")
    say(f"last ticket: {folder / 'ticket.pt'}")


def main() -> None:
    run_app(app)


if __name__ == "__main__":
    main()
