"""Test accuracy after some epochs of this project's training step and of the authors' loop over timesteps.

    python -m benchmarks.learning --data DIR
    python -m benchmarks.learning --data DIR --device cuda --arch vgg16 --width 1 --images 50000 --test-images 10000 \
        --batch-size 128 --lr 0.3 --precisions float32,bfloat16

The candidates are `loop`, SpikingJelly's layers once per timestep with torch's SGD in float32, and the training step
of a search (on a GPU with this project's kernels, as a CUDA graph) in each precision. For each seed, all of them begin
with the same weights, see the same batches, and train without pruning. Results are saved after every training; the
same command continues an interrupted benchmark.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from time import strftime
from typing import Annotated, Any

import numpy as np
import torch
import typer
from scipy.stats import t as student
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.lists import split
from benchmarks.reports.report import publish, section, write_json
from benchmarks.rivals.timestep_loop import LoopNetwork
from benchmarks.tickets import part_of
from spiketicket.cli.console import guarded, make_app, say
from spiketicket.data import load_dataset
from spiketicket.errors import InputError
from spiketicket.profiling.measure.machine import machine_facts
from spiketicket.train.loop.batches import Batches
from spiketicket.train.loop.distributed import Group, joined_group
from spiketicket.train.loop.loop import MOMENTUM, EpochMean, TrainingState, accuracy, learning_rate
from spiketicket.train.networks.config import ModelConfig
from spiketicket.train.networks.models import build, logits
from spiketicket.train.pruning.masks import dense_masks
from spiketicket.train.search.settings import PRECISIONS, SearchSettings

LOOP, OURS = "loop float32", "spiketicket "

app = make_app("Accuracy after some epochs: the authors' loop against the step of a search.")


@dataclass(frozen=True)
class TrainingTask:
    """The initial weights, data and schedule that all candidates of a seed share."""

    settings: SearchSettings
    config: ModelConfig
    batches: Batches
    group: Group

    def network(self) -> nn.Module:
        """Build the network with the initial weights of the seed."""
        torch.manual_seed(self.settings.seed)
        return build(self.config).to(self.group.device)

    def epochs(self) -> Iterator[tuple[float, Iterator[tuple[Tensor, Tensor]]]]:
        """Yield the learning rate and the batches of every epoch."""
        for epoch in range(self.settings.epochs):
            seed = np.random.SeedSequence([self.settings.seed, epoch])
            batches = self.batches.epoch(self.settings.batch_size, seed)
            yield learning_rate(self.settings, epoch, self.settings.epochs), batches


def train_by_loop(task: TrainingTask) -> nn.Module:
    """Train the network as the paper's authors do, with a loop over timesteps; return it."""
    settings, network = task.settings, LoopNetwork(task.network())
    optimiser = torch.optim.SGD(network.parameters(), settings.lr, MOMENTUM, weight_decay=settings.weight_decay)
    for rate, batches in task.epochs():
        network.train()
        optimiser.param_groups[0]["lr"] = rate
        for images, labels in batches:
            steps = logits(network, images)
            loss = cross_entropy(steps.flatten(0, 1), labels.repeat(len(steps)))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return network


def train_by_search_step(task: TrainingTask) -> nn.Module:
    """Train the network with the step that searches use, without pruning; return it."""
    network = task.network()
    state = TrainingState(network, dense_masks(network), task.settings, task.group)
    epoch_mean = EpochMean.empty(task.group.device)
    for rate, batches in task.epochs():
        state.set_learning_rate(rate)
        for images, labels in batches:
            state.step(images, labels, epoch_mean, 1.0)
    return network


@app.command()
@guarded
def main(
    data: Annotated[Path, typer.Option(help="Folder that holds CIFAR-10.")] = Path("data"),
    arch: Annotated[str, typer.Option(help="Network.")] = "alexnet",
    width: Annotated[float, typer.Option(help="Multiplier of its channels.")] = 0.25,
    timesteps: Annotated[int, typer.Option(help="T.")] = 5,
    images: Annotated[int, typer.Option(help="Training images.")] = 4000,
    test_images: Annotated[int, typer.Option(help="Test images.")] = 2000,
    epochs: Annotated[int, typer.Option(help="Epochs of each training.")] = 10,
    batch_size: Annotated[int, typer.Option(help="Images per iteration.")] = 50,
    lr: Annotated[float, typer.Option(help="First learning rate.")] = 0.1,
    seeds: Annotated[int, typer.Option(help="Trainings of each candidate; at least 3.")] = 5,
    precisions: Annotated[
        str, typer.Option(help=f"Precisions of this project's step: {', '.join(PRECISIONS)}.")
    ] = "float32",
    device: Annotated[str, typer.Option(help="cpu, or cuda.")] = "cpu",
    folder: Annotated[Path, typer.Option("--out", help="Folder of the results.")] = Path("build/learning"),
) -> None:
    """Train all candidates, seed by seed, and write learning.json and learning.md."""
    if seeds < 3 or epochs < 1 or min(images, test_images) < 10:
        raise InputError(
            "expected seeds from 3, epochs from 1, and training and test images from 10, "
            f"got {seeds}, {epochs}, {images} and {test_images}"
        )
    chosen = split(precisions)
    if not chosen or not set(chosen) <= set(PRECISIONS):
        raise InputError(f"precisions: expected some of {', '.join(PRECISIONS)}, got {precisions!r}")
    dataset = part_of(load_dataset("cifar10", data), images, test_images)
    setup = {
        "arch": arch,
        "width": width,
        "timesteps": timesteps,
        "images": images,
        "test_images": test_images,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "precisions": chosen,
        "device": device,
    }
    report = load_or_begin_report(folder, setup)
    runs: dict[str, list[float]] = report["accuracies"]
    with joined_group(device) as group:
        batches = Batches(dataset, group.device)
        config = ModelConfig(arch, 3, 32, len(dataset.classes), timesteps, width)
        for seed in range(max(seeds, *map(len, runs.values()))):  # an earlier run may have more seeds
            for name, found in runs.items():
                if len(found) > seed:
                    continue
                settings = SearchSettings(
                    "imp",
                    arch,
                    "cifar10",
                    timesteps=timesteps,
                    rounds=2,
                    epochs=epochs,
                    rewind_epoch=0,
                    lr=lr,
                    batch_size=batch_size,
                    width=width,
                    seed=seed,
                    precision="float32" if name == LOOP else name.removeprefix(OURS),
                )
                train: Callable[[TrainingTask], nn.Module] = train_by_loop if name == LOOP else train_by_search_step
                network = train(TrainingTask(settings, config, batches, group))
                found.append(accuracy(network, batches, dataset.test, group))
                say(f"seed {seed}, {name}: {100 * found[-1]:.2f}%")
                save_report(report, folder)
    report["differences"] = {name: difference(found, runs[LOOP]) for name, found in runs.items() if name != LOOP}
    save_report(report, folder)
    present(report, folder)


def load_or_begin_report(folder: Path, setup: dict[str, Any]) -> dict[str, Any]:
    """Read the report of an earlier run with the same settings, or begin a new one.

    Raises InputError if the settings differ.
    """
    path = folder / "learning.json"
    if not path.exists():
        return {
            "format": "spiketicket.learning-benchmark",
            "version": 1,
            "started": strftime("%Y-%m-%d %H:%M:%S"),
            "setup": setup,
            "machine": machine_facts(),
            "accuracies": {LOOP: [], **{OURS + precision: [] for precision in setup["precisions"]}},
        }
    report: dict[str, Any] = json.loads(path.read_text())
    if report["setup"] != setup:
        raise InputError(
            f"{path} is of another setup: expected {setup}, got {report['setup']}; choose another folder with --out"
        )
    return report


def save_report(report: dict[str, Any], folder: Path) -> None:
    """Write learning.json."""
    write_json(folder / "learning.json", report)


def difference(accuracies: list[float], baseline: list[float]) -> tuple[float, float, float]:
    """Return the mean difference of paired accuracies, and its 95% interval by Student's t.

    The pairs are seeds, since the trainings of a seed share weights and batches.
    """
    found = [a - b for a, b in zip(accuracies, baseline, strict=True)]
    margin = float(student.ppf(0.975, len(found) - 1)) * stdev(found) / sqrt(len(found))
    return mean(found), mean(found) - margin, mean(found) + margin


def present(report: dict[str, Any], folder: Path) -> None:
    """Print the table, and write learning.md and learning.json."""
    runs, setup = report["accuracies"], report["setup"]
    rows = []
    for name, found in runs.items():
        change = verdict = "-"
        if name in report["differences"]:
            middle, low, high = (100 * x for x in report["differences"][name])
            change = f"{middle:+.2f} ({low:+.2f} to {high:+.2f})"
            verdict = "no difference seen" if low <= 0 <= high else "better" if low > 0 else "worse"
        rows.append([name, *(f"{100 * x:.2f}" for x in found), f"{100 * mean(found):.2f}", change, verdict])
    seeds = [f"seed {seed}" for seed in range(len(runs[LOOP]))]
    title = (
        f"Test accuracy in %: {setup['arch']} at width {setup['width']:g}, T = {setup['timesteps']}, {setup['epochs']} "
        f"epochs on {setup['images']:,} images of CIFAR-10, {setup['test_images']:,} test images"
    )
    note = (
        "loop: SpikingJelly's layers once per timestep and torch's SGD, as in the authors' code; spiketicket: the "
        "training step of snn-search. The trainings of a seed begin with the same weights and see the same batches."
    )
    table = section(title, ["", *seeds, "mean", "difference from the loop (95% interval)", ""], rows, [note])
    facts = {**{key: setup[key] for key in ("batch_size", "lr", "device")}, **report["machine"]}
    notes = [", ".join(f"{key} {x}" for key, x in facts.items())]
    publish(folder / "learning", report, [table], f"Learning benchmark, {report['started']}", notes)


if __name__ == "__main__":
    app()
