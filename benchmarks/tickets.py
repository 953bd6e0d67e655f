"""Accuracy by sparsity of IMP, IMP+ET, EB, EB+ET and random tickets on CIFAR-10: the paper's experiment, in small.

    python -m benchmarks.tickets --data DIR
    python -m benchmarks.tickets --data DIR --device cuda --arch vgg16 ... (docs/gpu.md)

It trains a narrow network of the same kind on a part of the training images for few epochs, which two CPU cores can do
in hours. (VGG16 itself, at an eighth of its channels, reaches only 14 to 23% in 8 epochs of 5,000 images.) All methods
of a seed are searched before the next seed, so that a benchmark that is stopped has about as many searches of each; the
same command continues it. Finished searches are reported (tickets_report.py), and in the end all tickets are exported
and run in the native engine (deployed.py).
"""

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.lists import split
from benchmarks.models.deployed import export_all
from benchmarks.reports.tickets import collect, present
from spiketicket.cli.console import guarded, make_app, say
from spiketicket.cli.search.command import EXIT_OUT_OF_TIME, progress_bar
from spiketicket.data import Dataset, load_dataset
from spiketicket.data.dataset import rank_in_class
from spiketicket.errors import InputError, OutOfTimeError
from spiketicket.profiling.search.paper import SPARSITIES
from spiketicket.train.loop.distributed import joined_group
from spiketicket.train.search.search import RunOptions, search
from spiketicket.train.search.settings import SearchSettings

METHODS = ("imp", "imp-et", "eb", "eb-et", "random")

app = make_app("Accuracy by sparsity of the paper's methods, in small.")


@dataclass(frozen=True)
class Scale:
    """The size of the experiment; `images` is the number of training images."""

    arch: str
    images: int
    epochs: int
    rewind_epoch: int
    width: float
    batch_size: int
    lr: float
    precision: str = "float32"

    def settings(self, method: str, seed: int, **options: Any) -> SearchSettings:
        """Return the settings of a search of this size."""
        return SearchSettings(
            method,
            self.arch,
            "cifar10",
            epochs=self.epochs,
            width=self.width,
            batch_size=self.batch_size,
            lr=self.lr,
            precision=self.precision,
            seed=seed,
            **options,
        )

    def searches(self, seed: int, methods: Collection[str]) -> Iterator[tuple[str, SearchSettings]]:
        """Yield the name of the run folder and the settings of every search of a seed, for the chosen METHODS."""
        for name, settings in self._searches(seed):
            if name.rstrip("-0123456789") in methods:
                yield name, settings

    def _searches(self, seed: int) -> Iterator[tuple[str, SearchSettings]]:
        rewind = {"rewind_epoch": self.rewind_epoch}
        rounds = max(SPARSITIES) + 1
        reported = tuple(SPARSITIES)[:-1]
        yield f"imp-{seed}", self.settings("imp", seed, rounds=rounds, **rewind)
        yield f"imp-et-{seed}", self.settings("imp", seed, rounds=rounds, early_time=True, finals=reported, **rewind)
        for n in SPARSITIES:  # as many weights as IMP keeps
            yield f"eb-{n}-{seed}", self.settings("eb", seed, rounds=n + 1)
            yield f"eb-et-{n}-{seed}", self.settings("eb", seed, rounds=n + 1, early_time=True)
            yield f"random-{n}-{seed}", self.settings("random", seed, rounds=n + 1, **rewind)


@app.command()
@guarded
def main(
    data: Annotated[Path, typer.Option(help="Folder that holds CIFAR-10.")] = Path("data"),
    seeds: Annotated[int, typer.Option(help="Searches of each method.")] = 3,
    arch: Annotated[str, typer.Option(help="Network.")] = "alexnet",
    images: Annotated[int, typer.Option(help="Training images, a tenth of which is held out.")] = 4000,
    test_images: Annotated[int, typer.Option(help="Test images.")] = 2000,
    epochs: Annotated[int, typer.Option(help="Epochs of each training.")] = 8,
    rewind_epoch: Annotated[int, typer.Option(help="Epoch to which later rounds rewind.")] = 1,
    width: Annotated[float, typer.Option(help="Multiplier of its channels.")] = 0.25,
    methods: Annotated[str, typer.Option(help="Separated by commas.")] = ",".join(METHODS),
    device: Annotated[str, typer.Option(help="cpu, or cuda.")] = "cpu",
    precision: Annotated[str, typer.Option(help="float32; bfloat16 on a GPU.")] = "float32",
    batch_size: Annotated[int, typer.Option(help="Images per iteration.")] = 50,
    lr: Annotated[float, typer.Option(help="First learning rate.")] = 0.1,
    remark: Annotated[str, typer.Option(help="Remark on the images for the report, as in 'JPEG copies'.")] = "",
    max_minutes: Annotated[
        float, typer.Option(help="Time after which it stops with exit code 75; run it again to continue.")
    ] = 180.0,
    folder: Annotated[Path, typer.Option("--out", help="Folder of the runs and results.")] = Path("build/tickets"),
) -> None:
    """Search all tickets, or continue with them, and report the finished searches."""
    if seeds < 1 or not 1 <= rewind_epoch < epochs:
        raise InputError(
            f"expected seeds from 1 and a rewind epoch from 1 to {epochs - 1}, got {seeds} and {rewind_epoch}"
        )
    chosen = split(methods)
    if not chosen or not set(chosen) <= set(METHODS):
        raise InputError(f"methods: expected some of {', '.join(METHODS)}, got {methods!r}")
    scale = Scale(arch, images, epochs, rewind_epoch, width, batch_size, lr, precision)
    dataset = part_of(load_dataset("cifar10", data), images, test_images)
    end, finished = time.monotonic() + 60 * max_minutes, False
    try:
        with joined_group(device) as group:
            for seed in range(seeds):
                for name, settings in scale.searches(seed, chosen):
                    left = (end - time.monotonic()) / 60
                    if left <= 0:
                        raise OutOfTimeError("")
                    with progress_bar(name) as report:
                        search(settings, dataset, folder / name, RunOptions(report, group, left))
        finished = True
    except OutOfTimeError:
        say("out of time; run the same command again to continue")
    found = collect(folder, dataset, SPARSITIES, scale.settings("imp", 0, rounds=2, rewind_epoch=rewind_epoch), remark)
    if found is None:
        say("no search is finished yet")
        raise typer.Exit(EXIT_OUT_OF_TIME)
    present(found, folder)
    if not finished:
        raise typer.Exit(EXIT_OUT_OF_TIME)
    # The tables are written before, so that they exist even if an export fails.
    present(replace(found, exports=export_all(found.histories, dataset, folder / "models")), folder)


def part_of(dataset: Dataset, train: int, test: int) -> Dataset:
    """Return the first images of every class, `train` and `test` in all, equally many of each class."""

    def first(split: Any, count: int) -> Any:
        return split.take(rank_in_class(split.labels) < count // len(dataset.classes))

    return replace(dataset, train=first(dataset.train, train), test=first(dataset.test, test))


if __name__ == "__main__":
    app()
