"""The whole way from training to a profile on real images, in about two minutes: `python -m spiketicket.demo`.

Trains a small spiking network on scikit-learn's handwritten digits, finds a ticket and a random one of the same size,
exports the ticket, runs it natively and in onnxruntime, and reports.
"""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from spiketicket.cli.console import err, guarded, make_app, out, say
from spiketicket.data import Dataset, load_dataset
from spiketicket.errors import extra
from spiketicket.files import write_atomic
from spiketicket.text import human_bytes
from spiketicket.train.search.settings import SearchSettings

IMP = SearchSettings(
    "imp", "vgg_digits", "digits", timesteps=5, rounds=10, epochs=12, rewind_epoch=3, batch_size=64, seed=0
)
ENGINES = ("native", "onnxruntime")

app = make_app("The whole way on handwritten digits: search, export, run, profile.")


@app.command()
@guarded
def demo(
    folder: Annotated[Path, typer.Option("--out", help="Folder for the run; run again to resume.")] = Path("demo"),
) -> None:
    """Search a ticket, export it, run and profile it, and print one table."""
    with extra("train,cpu,report", "the demo"):
        from spiketicket.cli.search.command import progress_bar
        from spiketicket.export.pack import SAMPLES
        from spiketicket.export.ticket import export_ticket
        from spiketicket.profiling.inference.profile import Data, profile_models
        from spiketicket.profiling.inference.report import inference_report
        from spiketicket.profiling.inference.settings import ProfileSettings
        from spiketicket.profiling.layers.energy import CMOS_45NM
        from spiketicket.profiling.report.files import write
        from spiketicket.runtime import Session
        from spiketicket.runtime.evaluate import evaluate
        from spiketicket.runtime.inputs import dataset_inputs
        from spiketicket.train.search.search import RunOptions, search

    start = time.monotonic()
    dataset = load_dataset("digits")
    tickets = {}
    for settings in (IMP, replace(IMP, method="random")):
        with progress_bar(f"{settings.method} {settings.arch} on {settings.dataset}") as report:
            tickets[settings.method] = search(settings, dataset, folder / settings.method, RunOptions(report))
    dense, winner, chance = tickets["imp"][0], tickets["imp"][-1], tickets["random"][-1]

    with err.status("exporting and verifying the ticket ..."):
        samples = winner.normalisation(dataset.test.images[:SAMPLES])
        exported = export_ticket(winner, folder / "ticket.onnx", samples=samples)
    accuracies = {}
    for engine in ENGINES:
        with Session(exported.path, engine=engine) as session:
            images = dataset_inputs(session, dataset, "test")
            accuracies[engine] = evaluate(session, images, dataset.test.labels).accuracy
    with err.status("measuring ...") as status:
        measured = profile_models(
            [exported.path], ProfileSettings(ENGINES, (1, 2, 3, 4, 5), duration=0.3), Data(), CMOS_45NM, status.update
        )
    html = folder / "report.html"
    write(inference_report(measured), html)

    timesteps = IMP.timesteps
    result = {
        "accuracy": {
            "dense": dense.search["test_accuracy"],
            "ticket": winner.search["test_accuracy"],
            "random": chance.search["test_accuracy"],
            **{f"ticket, {engine}": value for engine, value in accuracies.items()},
        },
        "sparsity": {"prunable": winner.sparsity_prunable, "all": winner.sparsity},
        "bytes": {"dense_onnx": exported.dense_nbytes, "sparse_onnx": exported.nbytes},
        "ms_per_image": {
            row.engine: 1e3 * row.timing.median().value
            for row in measured.models[0].latency.rows
            if row.timesteps == timesteps
        },
        "seconds": time.monotonic() - start,
        "report": str(html),
    }
    write_atomic(folder / "result.json", (json.dumps(result, indent=2) + "\n").encode())
    _print(result, dataset)


def _print(result: dict[str, Any], dataset: Dataset) -> None:
    accuracy, sparsity, nbytes = (result[key] for key in ("accuracy", "sparsity", "bytes"))
    table = Table(title=f"A lottery ticket for {len(dataset.classes)} handwritten digits, T = {IMP.timesteps}")
    for column in ("", "dense", "ticket", "random"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row(
        f"test accuracy ({len(dataset.test.labels)} images)",
        *(f"{accuracy[name]:.2%}" for name in ("dense", "ticket", "random")),
    )
    for engine in ENGINES:
        table.add_row(f"  the model file in {engine}", "", f"{accuracy[f'ticket, {engine}']:.2%}", "")
    table.add_row("sparsity of prunable weights", "0.00%", *[f"{sparsity['prunable']:.2%}"] * 2)
    table.add_row("sparsity of all parameters", "0.00%", *[f"{sparsity['all']:.2%}"] * 2)
    table.add_row("ONNX file", human_bytes(nbytes["dense_onnx"]), human_bytes(nbytes["sparse_onnx"]), "")
    for engine in ENGINES:
        table.add_row(f"ms per image in {engine}", "", f"{result['ms_per_image'][engine]:.3f}", "")
    out.print(table)
    say(f"latency, layers, operations: {result['report']}   ({result['seconds']:.0f} s in all)")


if __name__ == "__main__":
    app()
