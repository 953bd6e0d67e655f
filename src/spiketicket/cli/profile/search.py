"""The commands `snn-profile search` and `snn-profile tickets`."""

from pathlib import Path
from typing import Annotated

import typer

from spiketicket.cli.console import err, guarded, number_ranges
from spiketicket.cli.profile.report import Export, check_endings, show_and_write
from spiketicket.errors import InputError
from spiketicket.profiling.search import paper
from spiketicket.profiling.search.cost import measure_search
from spiketicket.profiling.search.measured import read_runs, setups_of, spent
from spiketicket.profiling.search.report import SearchProfileSettings, search_report
from spiketicket.profiling.tickets.report import tickets_report
from spiketicket.profiling.tickets.tickets import measure_tickets
from spiketicket.train.search.settings import PRECISIONS

Threads = Annotated[int | None, typer.Option(help="CPU threads.", show_default="all cores")]


@guarded
def search(
    arch: Annotated[str, typer.Option(help="Networks, separated by commas.")] = "vgg16,resnet19",
    timesteps: Annotated[str, typer.Option(help="Numbers of timesteps, as in 1,3,5 or 1-5.")] = "1,2,3,4,5",
    batch: Annotated[int, typer.Option(help="Images per iteration; on a CPU, begin with few.")] = paper.BATCH,
    dataset: Annotated[str, typer.Option(help=f"Data set: {', '.join(paper.EPOCHS)}.")] = "cifar10",
    device: Annotated[str, typer.Option(help="Device: auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help=f"{', '.join(PRECISIONS)}.")] = "float32",
    threads: Threads = None,
    iterations: Annotated[
        int | None, typer.Option(help="Timed iterations per network and T.", show_default="6 on a CPU")
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(help="Seconds per network and T, instead of --iterations.", show_default="1 on a GPU"),
    ] = None,
    run: Annotated[
        list[Path] | None, typer.Option("--run", help="Run folder of snn-search, to compare with; repeatable.")
    ] = None,
    export: Export = None,
) -> None:
    """Measure seconds of a training iteration by T, and memory, and project the hours of searches from them.

    The paper's figures, and those of finished runs, are shown beside them.
    """
    check_endings(export)
    asked = SearchProfileSettings(
        tuple(_names("arch", arch)), tuple(_rising("timesteps", timesteps)), batch, _paper_dataset(dataset), precision
    )
    histories = read_runs(run or [])
    of_runs = [setup for history in histories for setup in setups_of(history)]
    with err.status("measuring ...") as status:
        cost = measure_search(
            [*asked.setups(), *of_runs],
            device=device,
            threads=threads,
            iterations=iterations,
            duration=duration,
            memory=asked.setups(),
            report=status.update,
        )
    found = [one for history in histories for one in spent(history, cost.costs.__getitem__)]
    show_and_write(search_report(asked, cost, found), export)


@guarded
def tickets(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of snn-search.", show_default=False)],
    data: Annotated[
        Path | None, typer.Option(help="Folder of the data sets' files (docs/data.md).", show_default="data")
    ] = None,
    threads: Threads = None,
    iterations: Annotated[int | None, typer.Option(help="Timed runs of each ticket.", show_default="none")] = None,
    duration: Annotated[float, typer.Option(help="Seconds of timing per ticket.")] = 1.0,
    export: Export = None,
) -> None:
    """Show all tickets of searches in one table: sparsity, accuracy, bytes, latency, operations, energy, balance.

    It marks those that no other ticket beats in both accuracy and cost.
    """
    check_endings(export)
    with err.status("measuring ...") as status:
        table = measure_tickets(
            runs, data=data, threads=threads, iterations=iterations, duration=duration, report=status.update
        )
    show_and_write(tickets_report(table), export)


def _names(option: str, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise InputError(f"{option}: expected one or more, each once, got {text!r}")
    return names


def _rising(option: str, text: str) -> list[int]:
    numbers = list(number_ranges(option, text))
    if numbers != sorted(set(numbers)):
        raise InputError(f"{option}: expected rising numbers, got {text}")
    return numbers


def _paper_dataset(name: str) -> str:
    if name not in paper.EPOCHS:
        raise InputError(f"dataset: expected one of {', '.join(paper.EPOCHS)}, whose hours the paper has, got {name!r}")
    return name
