"""The command `snn-run`."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import typer
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from spiketicket.cli.console import guarded, make_app, out, print_json, run_app, say
from spiketicket.cli.options import grouped, option
from spiketicket.data import DATASET_NAMES, load_dataset
from spiketicket.errors import InputError, extra
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


@dataclass(frozen=True)
class Images:
    """The source of images."""

    PANEL: ClassVar[str] = "Images"

    dataset: str | None = option(f"Classify a data set: {', '.join(DATASET_NAMES)}.")
    split: str = option("Part of the data set: train or test.", default="test")
    data: Path | None = option("Folder of the data sets' files (docs/data.md).", show_default="data")
    input: Path | None = option(
        "A .npy file of images instead: float32 [N, C, H, W], normalised, or [T, N, C, H, W] if the model takes a "
        "frame per timestep."
    )


@dataclass(frozen=True)
class Execution:
    """How the model runs."""

    PANEL: ClassVar[str] = "Execution"

    engine: str = option(f"Engine: auto, {', '.join(MODEL_ENGINES)}.", default="auto")
    timesteps: int | None = option("Timesteps T.", show_default="the model's")
    batch: int = option("Images per run.", default=32)
    threads: int | None = option("CPU threads.", show_default="all")
    plan: str = option(
        f"How kernels are chosen: auto (by measurement), fixed (by estimate), or one kernel: "
        f"{', '.join(NativeEngine.kernels)} (native), {', '.join(CudaEngine.kernels)} (cuda).",
        default=AUTO,
    )
    values: str = option(
        "Weights: float32, int16 (native, for layers where it is faster) or float16 (cuda).", default="float32"
    )
    margin: float | None = option(
        "Early exit: an image stops when its best mean logit leads the second best by this much.",
        show_default="no exit",
    )

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InputError(f"batch: expected 1 or more, got {self.batch}")

    def session(self, path: Path) -> Session:
        return Session(path, self.engine, threads=self.threads, plan=self.plan, values=self.values)


@app.command()
@guarded
@grouped
def run(
    model: Annotated[
        Path, typer.Argument(help="Model file of snn-export; a ticket is exported first.", show_default=False)
    ],
    images: Images,
    execution: Execution,
    explain: Annotated[bool, typer.Option("--explain", help="Print each layer's kernel and why, run nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Classify a data set (accuracy, confusion counts, images per second) or an array of images, or explain a model."""
    if not explain and (images.dataset is None) == (images.input is None):
        raise InputError("give either --dataset or --input")
    timesteps, margin = execution.timesteps, execution.margin
    with _model_file(model) as path, execution.session(path) as session:
        if explain:
            _print_layers(session, json)
            return
        if images.input is not None:
            x = load_array(images.input)
            if margin is None:
                logits, steps = session.run({INPUT: x}, timesteps)[LOGITS], None
            else:
                logits, steps = exit_early(session, x, timesteps, margin)
            _print_logits(session, logits, steps, json)
            return
        loaded = load_dataset(str(images.dataset), images.data)
        inputs, labels = dataset_inputs(session, loaded, images.split), loaded.split(images.split).labels
        evaluation = evaluate(session, inputs, labels, execution.batch, timesteps, margin)
        facts: dict[str, Any] = {
            "model": str(model),
            "engine": session.engine_name,
            "dataset": loaded.name,
            "split": images.split,
            "images": len(labels),
            "timesteps": session.timesteps if timesteps is None else timesteps,
            "margin": margin,
            "mean_timesteps": evaluation.timesteps,
            "threads": session.threads,
            "batch": execution.batch if margin is None else 1,
            "accuracy": evaluation.accuracy,
            "images_per_second": evaluation.images_per_second,
        }
    if json:
        print_json({**facts, "classes": list(loaded.classes), "confusion": evaluation.confusion.tolist()})
    else:
        _print_evaluation(facts, evaluation, loaded.classes)


def _model_file(path: Path) -> AbstractContextManager[Path]:
    """Provide the model file `path`, or one made from the ticket `path`, which is not verified as by snn-export."""
    if not path.name.endswith(TICKET_ENDINGS):
        return nullcontext(path)
    with extra("train", "running a ticket"):
        from spiketicket.export.ticket import model_of_ticket
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
    """Print the classes and logits of images; `steps` are the timesteps of every image with early exit."""
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
