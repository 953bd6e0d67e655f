"""Trained tickets of the paper's networks: makes the files in tests/assets, and the pages docs/results/ARCH.md.

    python -m benchmarks.trained assets RUN... --data DIR
    python -m benchmarks.trained report RUN... --data DIR

RUN is a run folder of snn-search (docs/LOG.md has the commands). Accuracies are measured in the native engine, on all
test images.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.models.assets import ENDING, FOLDER
from benchmarks.models.cuts import count_spikes
from benchmarks.reports.report import publish, section
from benchmarks.reports.tickets import PAPER_ACCURACY, near
from spiketicket.cli.console import err, guarded, make_app, say
from spiketicket.data import Split, load_dataset
from spiketicket.errors import InputError
from spiketicket.export.ticket import export_ticket
from spiketicket.model.names import INPUT
from spiketicket.profiling.inference.accuracy import by_timestep, mean_logits
from spiketicket.profiling.measure.machine import machine_facts
from spiketicket.profiling.report.document import Section
from spiketicket.profiling.search.measured import method_name
from spiketicket.profiling.search.paper import SPARSITIES
from spiketicket.runtime import Session
from spiketicket.train.history.history import History, read_history
from spiketicket.train.search.ticket import Ticket, load_ticket, save_ticket

KEPT = (89.91, 98.13)  # sparsities, in percent, whose tickets are assets
MANTISSA = 5  # bits of a weight's fraction in an asset, so that all assets together stay below 8 MB
COUNTED = 512  # test images whose spikes are counted
BATCH = 32
# IMP on CIFAR-10 at each of SPARSITIES: the paper's supplementary, Table 3.
PAPER = {"vgg16": PAPER_ACCURACY["IMP"], "resnet19": (93.47, 93.49, 93.22, 92.43)}

app = make_app("Trained tickets of the paper's networks.")
Runs = Annotated[list[Path], typer.Argument(help="Run folders of snn-search on CIFAR-10.")]
Data = Annotated[Path, typer.Option(help="Folder that holds cifar-10-batches-py.")]


@dataclass(frozen=True)
class MeasuredTicket:
    """A ticket's accuracy and spikes in the native engine.

    `accuracy` has one value per timestep, of the mean logits up to it. `spikes` is their number per image over all
    timesteps, `silent` the share of neurons that do not fire in an image.
    """

    arch: str
    method: str
    kind: str
    sparsity: float
    accuracy: tuple[float, ...]
    firing_rate: float
    rates: dict[str, float]
    spikes: float
    silent: float
    minutes: float


@app.command()
@guarded
def assets(runs: Runs, data: Data = Path("data")) -> None:
    """Write the tickets of each run at 89.91 and 98.13% to tests/assets.

    Their weights are rounded, so that the files are small, and their accuracy is measured anew.
    """
    test = load_dataset("cifar10", data).test
    for history in map(read_history, runs):
        for ticket in tickets_of(history):
            percent = round(100 * ticket.sparsity, 2)
            if percent not in KEPT:
                continue
            with err.status(f"measuring {history.folder.name} at {percent}% ..."):
                rounded = round_weights(ticket, MANTISSA)
                accuracy = measure(rounded, "", test).accuracy[-1]
            before = ticket.search["test_accuracy"]
            path = FOLDER / f"{ticket.model.arch}-{percent:.2f}{ENDING}"
            save_ticket(path, replace(rounded, search={**ticket.search, "test_accuracy": accuracy}))
            say(f"wrote {path}: {path.stat().st_size / 1e6:.2f} MB, accuracy {accuracy:.2%} ({before:.2%} before)")


@app.command()
@guarded
def report(
    runs: Runs,
    data: Data = Path("data"),
    out: Annotated[Path, typer.Option(help="Folder of the page.")] = Path("docs/results"),
) -> None:
    """Write ARCH.md and ARCH.json of one network's runs: accuracy by sparsity and T beside the paper's, and spikes."""
    histories = [read_history(folder) for folder in runs]
    arch, *others = sorted({history.settings["arch"] for history in histories})
    if others:
        raise InputError(f"expected runs of one network, got {arch} and {', '.join(others)}")
    test = load_dataset("cifar10", data).test
    found = []
    for history in histories:
        for ticket in tickets_of(history):
            with err.status(f"measuring {history.folder.name} at {ticket.sparsity:.2%} ..."):
                found.append(measure(ticket, method_name(history), test))
    facts = {
        "format": "spiketicket.trained",
        "version": 1,
        "machine": machine_facts(),
        "tickets": [vars(f) for f in found],
    }
    publish(out / arch, facts, sections(found), f"Trained tickets of {arch}", notes(arch, histories))


def tickets_of(history: History) -> list[Ticket]:
    """Return the tickets of a run. Where a ticket was trained further, only the result of that training is returned."""
    last = {path.stem: path for _, path in history.ticket_files()}
    return [load_ticket(path) for path in last.values()]


def round_weights(ticket: Ticket, bits: int) -> Ticket:
    """Return the ticket with the weights of pruned tensors rounded to `bits` bits of fraction."""

    def rounded(tensor: torch.Tensor) -> torch.Tensor:
        fraction, exponent = torch.frexp(tensor)  # 0.5 <= fraction < 1: its leading bit is implied in a float
        scale = 2.0 ** (bits + 1)
        return torch.ldexp(torch.round(fraction * scale) / scale, exponent)

    state = {name: rounded(t) if name in ticket.masks else t for name, t in ticket.state.items()}
    return replace(ticket, state=state)


def measure(ticket: Ticket, method: str, test: Split) -> MeasuredTicket:
    """Measure the accuracy of a ticket on all test images, and its spikes on the first COUNTED."""
    images, labels = ticket.normalisation(test.images), test.labels
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ticket.onnx"
        export_ticket(ticket, path)
        with Session(path) as session:
            means = mean_logits(session, images, ticket.model.timesteps)
            parts = [session.spikes({INPUT: images[i : i + BATCH]}) for i in range(0, COUNTED, BATCH)]
    spikes = {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}
    rates = count_spikes(spikes)
    return MeasuredTicket(
        ticket.model.arch,
        method,
        ticket.search["kind"],
        ticket.sparsity,
        tuple(at.accuracy.accuracy for at in by_timestep(means, labels)),
        rates.overall,
        rates.layers,
        sum(float(s.sum()) for s in spikes.values()) / COUNTED,
        rates.silent,
        ticket.search["seconds"] / 60,
    )


def sections(found: list[MeasuredTicket]) -> list[Section]:
    """Return the tables: accuracy and spikes."""
    return [
        section(
            "Accuracy by sparsity and by timesteps",
            ["method", "p, %", *(f"T = {t}" for t in range(1, 6)), "paper, IMP, T = 5"],
            [[*name(f), *(f"{100 * a:.2f}" for a in f.accuracy), paper(f)] for f in found],
        ),
        section(
            "Spikes by sparsity",
            ["method", "p, %", "spikes per image", "firing per timestep", "silent in an image"],
            [[*name(f), f"{f.spikes:,.0f}", f"{f.firing_rate:.1%}", f"{f.silent:.1%}"] for f in found],
            [
                f"Means over {COUNTED} test images and all five timesteps. The paper finds that the number of spikes"
                " per image hardly changes with sparsity. Published networks of this kind have 17.7% (VGG16) and 31.3%"
                " (ResNet19) of their neurons firing per timestep, and 74.1 and 59.6% silent in an image."
            ],
        ),
    ]


def notes(arch: str, histories: list[History]) -> list[str]:
    """Return what the tables show, and how each run was trained."""
    return [
        f"These tickets are {arch} at full width on CIFAR-10 (a JPEG copy of the images). They were pruned in one"
        " training by snn-search gradual (docs/search.md), not by the paper's method, and in a small part of the"
        " paper's 300 epochs. All accuracies are those of the exported file in the native engine, on all 10,000 test"
        " images. Batch norm was calibrated at T = 5, so accuracy may be much lower at fewer timesteps.",
        *map(schedule, histories),
    ]


def name(found: MeasuredTicket) -> tuple[str, str]:
    """Return the first two cells of a ticket's row: method and sparsity."""
    return found.method, f"{100 * found.sparsity:.2f}"


def paper(found: MeasuredTicket) -> str:
    """Return the paper's accuracy of IMP at the ticket's sparsity, or nothing."""
    values = zip(SPARSITIES.values(), PAPER.get(found.arch, ()), strict=False)
    return next((f"{value:.2f}" for percent, value in values if near(found.sparsity, percent)), "")


def schedule(history: History) -> str:
    """Return the options of a run, its duration, and its training accuracy at the end."""
    s, epochs = history.settings, history.epochs
    hours = sum(epoch.seconds for epoch in epochs) / 3600
    last = ", ".join(f"{epoch.train_accuracy:.1%}" for epoch in epochs[-3:])
    options = " ".join(
        f"--{name.replace('_', '-')} {s[name]}"
        for name in ("phases", "soft_epochs", "prune_epochs", "lr", "batch_size", "cutout")
        if s.get(name) is not None
    )
    return (
        f"{method_name(history)}: {options}; {hours:.1f} hours of training; "
        f"training accuracy of the last three epochs {last}"
    )


if __name__ == "__main__":
    app()
