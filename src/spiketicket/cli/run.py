"""The command `snn-run`."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from spiketicket.cli.console import guarded, make_app, out, print_json, run_app, say
from spiketicket.data import DATASET_NAMES, load_dataset
from spiketicket.errors import InputError, MissingExtraError
from spiketicket.model.metadata import class_names
from spiketicket.model.names import INPUT, LOGITS
from spiketicket.runtime.engine import AUTO
from spiketicket.runtime.engines.cuda.engine import CudaEngine
from spiketicket.runtime.engines.native.engine import NativeEngine
from spiketicket.runtime.engines.registry import MODEL_ENGINES
from spiketicket.runtime.evaluate import Evaluation, evaluate, exit_early
from spiketicket.runtime.inputs import dataset_inputs, load_array
from spiketicket.runtime.session import Session

TICKET_ENDINGS = (".pt", ".pt.xz")

app = make_app("Run an exported model.")


@app.command()
@guarded
def run(
    model: Annotated[
        Path, typer.Argument(help="Model file of snn-export; a ticket is exported first.", show_default=False)
    ],
    dataset: Annotated[str | None, typer.Option(help=f"Classify a data set: {', '.join(DATASET_NAMES)}.")] = None,
    split: Annotated[str, typer.Option(help="Which part of it: train or test.")] = "test",
    data: Annotated[
        Path | None, typer.Option(help="Folder of the data sets' files (docs/data.md).", show_default="data")
    ] = None,
    array: Annotated[
        Path | None,
        typer.Option(
            "--input",
            help="Or run float32 images [N, C, H, W], normalised, from a .npy file; [T, N, C, H, W] where the model "
            "takes a frame per timestep.",
        ),
    ] = None,
    engine: Annotated[str, typer.Option(help=f"auto, {', '.join(MODEL_ENGINES)}.")] = "auto",
    timesteps: Annotated[int | None, typer.Option(help="Timesteps T.", show_default="the model's")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per run.")] = 32,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", show_default="all")] = None,
    plan: Annotated[
        str,
        typer.Option(
            help=f"How kernels are chosen: auto (measured), fixed (estimated); {', '.join(NativeEngine.kernels)} of "
            f"engine native, {', '.join(CudaEngine.kernels)} of cuda."
        ),
    ] = AUTO,
    values: Annotated[
        str, typer.Option(help="Weights: float32; int16 (native: rounded where faster); float16 (cuda).")
    ] = "float32",
    margin: Annotated[
        float | None,
        typer.Option(
            help="Early exit: an image stops when its best mean logit leads the second best by this much.",
            show_default="no exit",
        ),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print each layer's kernel and why, run nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Classify a data set (accuracy, confusion counts, images per second) or an array of images, or explain a model."""
    if not explain and (dataset is None) == (array is None):
        raise InputError("give either --dataset or --input")
    with _model_file(model) as path, Session(path, engine=engine, threads=threads, plan=plan, values=values) as session:
        if explain:
            _print_layers(session, json)
            return
        if array is not None:
            images = load_array(array)
            if margin is None:
                logits, steps = session.run({INPUT: images}, timesteps)[LOGITS], None
            else:
                logits, steps = exit_early(session, images, timesteps, margin)
            _print_logits(session, logits, steps, json)
            return
        loaded = load_dataset(str(dataset), data)
        inputs, labels = dataset_inputs(session, loaded, split), loaded.split(split).labels
        evaluation = evaluate(session, inputs, labels, batch, timesteps, margin)
        facts: dict[str, Any] = {
            "model": str(model),
            "engine": session.engine_name,
            "dataset": loaded.name,
            "split": split,
            "images": len(labels),
            "timesteps": session.timesteps if timesteps is None else timesteps,
            "margin": margin,
            "mean_timesteps": evaluation.timesteps,
            "threads": session.threads,
            "batch": batch if margin is None else 1,
            "accuracy": evaluation.accuracy,
            "images_per_second": evaluation.images_per_second,
        }
    if json:
        print_json({**facts, "classes": list(loaded.classes), "confusion": evaluation.confusion.tolist()})
    else:
        _print_evaluation(facts, evaluation, loaded.classes)


def _model_file(path: Path) -> AbstractContextManager[Path]:
    """Give `path`, or the model file of the ticket that it is (not checked against torch, as snn-export does)."""
    if not path.name.endswith(TICKET_ENDINGS):
        return nullcontext(path)
    try:
        from spiketicket.export.ticket import model_of_ticket
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "train", "running a ticket") from error
    return model_of_ticket(path)


def _print_layers(session: Session, json: bool) -> None:
    layers = session.layers()
    if json:
        print_json([asdict(layer) for layer in layers])
        return
    table = Table()
    for column, justify in (
        ("layer", "left"),
        ("shape", "left"),
        ("density", "right"),
        ("kernel", "left"),
        ("why", "left"),
    ):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for layer in layers:
        density = "" if layer.density is None else f"{layer.density:.1%}"
        table.add_row(escape(layer.name), "x".join(map(str, layer.shape)), density, layer.kernel, escape(layer.why))
    out.print(table)


def _print_evaluation(facts: dict[str, Any], evaluation: Evaluation, classes: tuple[str, ...]) -> None:
    table = Table(title="Confusion: rows are true classes, columns predicted ones")
    table.add_column("")
    names = [*classes, *map(str, range(len(classes), len(evaluation.confusion)))]
    for name in names:
        table.add_column(escape(name), justify="right")
    for name, row in zip(names, evaluation.confusion, strict=True):
        table.add_row(escape(name), *(str(count) if count else "[dim].[/]" for count in row))
    out.print(table)
    say(
        f"{facts['dataset']} {facts['split']}: accuracy {evaluation.accuracy:.2%} of {facts['images']} images, "
        f"{evaluation.images_per_second:,.0f} images/s ({facts['engine']}, mean T = {facts['mean_timesteps']:.3g}, "
        f"batch {facts['batch']}, {facts['threads']} threads)",
    )


def _print_logits(session: Session, logits: NDArray[np.float32], steps: NDArray[np.int64] | None, json: bool) -> None:
    """`steps`: the timesteps of every image, where they exited early."""
    names = list(class_names(session.metadata) or ())
    if len(names) != logits.shape[1]:
        names = [str(index) for index in range(logits.shape[1])]
    best = logits.argmax(axis=1)
    if json:
        taken = {} if steps is None else {"timesteps": steps.tolist()}
        print_json({"class": [names[i] for i in best], LOGITS: logits.tolist(), **taken})
        return
    table = Table()
    for column in ("image", "class", "mean logit", *(() if steps is None else ("T",))):
        table.add_column(column, justify="right")
    for image, index in enumerate(best):
        taken_by = () if steps is None else (str(steps[image]),)
        table.add_row(str(image), escape(names[index]), f"{logits[image, index]:.4f}", *taken_by)
    out.print(table)


def main() -> None:
    run_app(app)


if __name__ == "__main__":
    main()
