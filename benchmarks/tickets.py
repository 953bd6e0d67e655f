"""The paper's claims in small, on CIFAR-10: accuracy against sparsity of IMP, IMP+ET, EB, EB+ET and random tickets.

    python benchmarks/tickets.py --data DIR

A narrow network of the same kind on a part of the training images, with few epochs: what two CPU cores can do in hours.
(VGG16 itself at an eighth of its channels learns next to nothing in 8 epochs of 5,000 images: 14 to 23%.) Searches go
seed by seed, so that whenever it is stopped, all methods have been treated alike; the same command goes on. What is
finished is reported in tickets.json, tickets.md (beside the paper's rows) and tickets.png.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import typer

from spiketicket.cli import guarded, make_app, say
from spiketicket.errors import InputError, OutOfTimeError
from spiketicket.files import write_atomic
from spiketicket.profiling.machine import machine_facts
from spiketicket.train.cli import progress_bar
from spiketicket.train.curves import Curve, make_curves
from spiketicket.train.data import Dataset, load_dataset
from spiketicket.train.data.dataset import rank_in_class
from spiketicket.train.early_time import EarlyTime, choose
from spiketicket.train.history import read_events, read_history
from spiketicket.train.models import prunable
from spiketicket.train.plot import draw
from spiketicket.train.search import Control, model_config, search
from spiketicket.train.settings import Settings
from spiketicket.train.ticket import build_meta

SPARSITIES = {4: 68.30, 8: 89.91, 11: 95.69, 14: 98.13}  # prunings of 25% -> percent of all parameters
PAPER = {  # test accuracy in percent, VGG16 on CIFAR-10: the paper's supplementary, Table 3
    "IMP": (92.66, 92.54, 92.38, 91.81),
    "IMP+ET": (92.49, 92.09, 91.54, 91.10),
    "EB": (91.74, 91.05, 89.55, 84.64),
    "EB+ET": (91.27, 90.66, 88.95, 84.86),
}
PAPER_GAIN = (1.34, 1.35, 1.35, 1.35)  # IMP's search time over IMP+ET's, same table
PAPER_DIVERGENCE = {"forward": (0.274, 0.158), "jensen-shannon": (0.281, 0.167)}  # D_3 and D_4 in units of D_2, Table 2
DRAWN = {"forward": "KL", "jensen-shannon": "JS"}

app = make_app("Accuracy against sparsity of the paper's methods, in small.")


@dataclass(frozen=True)
class Scale:
    """How small. `images`: of the training set."""

    arch: str
    images: int
    epochs: int
    rewind_epoch: int
    width: float
    batch_size: int
    lr: float

    def settings(self, method: str, seed: int, **options: Any) -> Settings:
        return Settings(
            method, self.arch, "cifar10", epochs=self.epochs, width=self.width, batch_size=self.batch_size, lr=self.lr,
            seed=seed, **options,
        )  # fmt: skip

    def searches(self, seed: int) -> Iterator[tuple[str, Settings]]:
        """Folder and settings of every search of a seed."""
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
    epochs: Annotated[int, typer.Option(help="Of a training.")] = 8,
    rewind_epoch: Annotated[int, typer.Option(help="Epoch that later rounds go back to.")] = 1,
    width: Annotated[float, typer.Option(help="Multiplier of its channels.")] = 0.25,
    batch_size: Annotated[int, typer.Option(help="Images per iteration.")] = 50,
    lr: Annotated[float, typer.Option(help="First learning rate.")] = 0.1,
    max_minutes: Annotated[float, typer.Option(help="Stop after that time; run again to go on.")] = 180.0,
    folder: Annotated[Path, typer.Option("--out", help="Folder of the runs and results.")] = Path("build/tickets"),
) -> None:
    """Search all tickets, or go on with it, and report what is there."""
    if seeds < 1 or not 1 <= rewind_epoch < epochs:
        raise InputError(f"expected seeds from 1 and rewind_epoch from 1 below epochs, got {seeds}, {rewind_epoch}")
    scale = Scale(arch, images, epochs, rewind_epoch, width, batch_size, lr)
    dataset = part_of(load_dataset("cifar10", data), images, test_images)
    end = time.monotonic() + 60 * max_minutes
    try:
        for seed in range(seeds):
            for name, settings in scale.searches(seed):
                left = (end - time.monotonic()) / 60
                if left <= 0:
                    raise OutOfTimeError("")
                with progress_bar(name) as report:
                    search(settings, dataset, folder / name, Control(report, max_minutes=left))
    except OutOfTimeError:
        say("out of time; the same command goes on")
    present(scale, dataset, folder)


def part_of(dataset: Dataset, train: int, test: int) -> Dataset:
    """The first images of every class, as many of each."""

    def first(split: Any, count: int) -> Any:
        return split.take(rank_in_class(split.labels) < count // len(dataset.classes))

    return replace(dataset, train=first(dataset.train, train), test=first(dataset.test, test))


def present(scale: Scale, dataset: Dataset, folder: Path) -> None:
    """Write tickets.json, tickets.md, tickets.png of the searches that are finished."""
    histories = [read_history(path.parent) for path in sorted(folder.glob("*/metrics.jsonl"))]
    finished = [history for history in histories if history.state == "finished"]
    if not finished:
        say("no search is finished yet")
        return
    curves, _ = make_curves(finished)
    order = [*PAPER, "random"]
    curves.sort(key=lambda curve: order.index(curve.label))
    choices = [event for history in finished for _, event in read_events(history.folder)[0]
               if event["event"] == "early_time"]  # fmt: skip
    network = build_meta(model_config(scale.settings("imp", 0, rounds=2, rewind_epoch=1), dataset))
    share = sum(w.numel() for w in prunable(network).values()) / sum(w.numel() for w in network.parameters())
    source = "" if dataset.official else ", a copy whose files are not the official ones (JPEG, quality 75)"
    facts = {
        "images": f"CIFAR-10: {len(dataset.train.labels)} training images (a tenth held out), "
        f"{len(dataset.test.labels)} test images{source}",
        "network": f"{scale.arch}, width {scale.width:g}, T = 5; the paper's figures are VGG16's",
        "schedule": f"{scale.epochs} epochs, rewind point after {scale.rewind_epoch}, "
        f"batch {scale.batch_size}, lr {scale.lr:g} on a cosine; the paper: 300 epochs of 50,000 images, rewind point "
        "after 20, batch 128, lr 0.3",
        "machine": ", ".join(f"{key} {value}" for key, value in machine_facts().items()),
    }
    report = {
        "format": "spiketicket.tickets", "version": 1, **facts, "early_time": divergence_rows(choices),
        "chosen": [event["chosen"] for event in choices],
        "curves": [{"label": c.label, "folders": [Path(f).name for f in c.folders], "points": [
            {"sparsity": p.sparsity, "samples": [vars(sample) for sample in p.samples]} for p in c.points
        ]} for c in curves],
    }  # fmt: skip
    write_atomic(folder / "tickets.json", (json.dumps(report, indent=1) + "\n").encode())
    write_atomic(folder / "tickets.md", markdown(facts, curves, choices, share).encode())
    seen = "Test accuracy of tickets trained at full T; mean ± standard deviation over seeds"
    draw(curves, folder / "tickets.png", f"{scale.arch}, width {scale.width:g}, on CIFAR-10", seen)
    for name in ("tickets.json", "tickets.md", "tickets.png"):
        say(f"wrote {folder / name}")


def markdown(facts: dict[str, str], curves: list[Curve], choices: list[dict[str, Any]], share: float) -> str:
    """`share`: of the parameters that can be pruned; in narrow networks fewer, so that p is a little lower."""
    head = ["# Tickets in small, beside the paper's", "", *(f"- {value}" for value in facts.values()), ""]
    ours = [100 * share * (1 - 0.75**n) for n in SPARSITIES]
    percents = [f"{p:.2f}%" for p in ours]
    theirs = [f"{p:g}%" for p in SPARSITIES.values()]
    lines = ["### Test accuracy, %", "", row(["", "seeds", *(f"p = {p}" for p in percents), *theirs])]
    lines += [row(["---", *["--:"] * 9]), row(["", "", *["ours"] * 4, *["paper"] * 4])]
    by_label = {curve.label: curve for curve in curves}
    for label, curve in by_label.items():
        points = [at(curve, p) for p in ours]
        paper = [f"{value:.2f}" for value in PAPER.get(label, ())] or ["-"] * 4
        seeds = {len(point.samples) for point in points if point is not None}
        cells = ["-" if p is None else spread([100 * s.accuracy for s in p.samples], 1) for p in points]
        lines.append(row([label, "/".join(map(str, sorted(seeds))), *cells, *paper]))
    lines += ["", "### Search, minutes (the trainings that a mask comes from), and Early-Time's gain", ""]
    lines += [row(["", *(f"p = {p}" for p in percents)]), row(["---", *["--:"] * 4])]
    for label, curve in by_label.items():
        points = [at(curve, p) for p in ours]
        cells = ["-" if p is None else spread([s.search_seconds / 60 for s in p.samples], 1) for p in points]
        lines.append(row([label, *cells]))
    for slow, fast, paper in (("IMP", "IMP+ET", PAPER_GAIN), ("EB", "EB+ET", ())):
        if slow in by_label and fast in by_label:
            points = [at(by_label[fast], p) for p in ours]
            gains = [None if point is None else by_label[slow].gain(point) for point in points]
            gains = ["-" if gain is None else f"{gain:.2f}" for gain in gains]
            lines.append(row([f"{slow} / {fast}", *gains]))
            if paper:
                lines.append(row([f"{slow} / {fast}, paper", *(f"{value:.2f}" for value in paper)]))
    lines += ["", "### Divergence from the prediction at T = 5, in units of that at t = 2", ""]
    lines += [row(["", "t = 3", "t = 4", "paper, t = 3", "paper, t = 4"]), row(["---", *["--:"] * 4])]
    for name, cells in divergence_rows(choices).items():
        shown = [spread(cells[t], 2) for t in ("3", "4")]
        lines.append(row([DRAWN[name], *shown, *(f"{value:.3f}" for value in PAPER_DIVERGENCE[name])]))
    chosen = sorted({event["chosen"] for event in choices})
    lines += ["", f"Chosen T: {', '.join(map(str, chosen)) or '-'} ({len(choices)} searches)", ""]
    return "\n".join([*head, *lines])


def divergence_rows(choices: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """D_3 and D_4 over D_2 of every search with Early-Time, by divergence."""
    curves = {name: [choose(event["curves"][name], EarlyTime(name)) for event in choices] for name in DRAWN}
    return {name: {str(t): [c.normalised[t - 1] for c in found] for t in (3, 4)} for name, found in curves.items()}


def at(curve: Curve, percent: float) -> Any:
    """The point of that sparsity, or None."""
    return next((p for p in curve.points if abs(100 * p.sparsity - percent) < 0.05), None)


def spread(values: list[float], digits: int) -> str:
    text = f"{mean(values):.{digits}f}" if values else "-"
    return text + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    app()
