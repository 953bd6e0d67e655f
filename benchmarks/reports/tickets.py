"""Report of the tickets benchmark, with the paper's figures: tickets.md, tickets.json and tickets.png."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from benchmarks.models.deployed import ENGINES, SAMPLES, DeployedTicket
from benchmarks.reports.report import publish, section
from spiketicket.cli.console import say
from spiketicket.data import Dataset
from spiketicket.profiling.measure.machine import machine_facts
from spiketicket.profiling.report.document import Section
from spiketicket.profiling.search import paper
from spiketicket.train.history.curves import Curve, Point, make_curves
from spiketicket.train.history.events import EarlyBirdRecord
from spiketicket.train.history.history import History, read_events, read_history
from spiketicket.train.history.plot import draw
from spiketicket.train.networks.models import prunable
from spiketicket.train.search.early_time import EarlyTime, choose
from spiketicket.train.search.search import model_config
from spiketicket.train.search.settings import SearchSettings
from spiketicket.train.search.ticket import build_meta

# VGG16 on CIFAR-10 at the four sparsities: the paper's supplementary, Table 3 (as printed).
PAPER_ACCURACY = {
    "IMP": (92.66, 92.54, 92.38, 91.81),
    "IMP+ET": (92.49, 92.09, 91.54, 91.10),
    "EB": (91.74, 91.05, 89.55, 84.64),
    "EB+ET": (91.27, 90.66, 88.95, 84.86),
}
PAPER_HOURS = {
    label: tuple(paper.HOURS["cifar10", "vgg16", label, n] for n in paper.SPARSITIES) for label in PAPER_ACCURACY
}
PAPER_GAIN = {
    slow: tuple(paper.GAINS["cifar10", "vgg16", f"{slow}+ET", n] for n in paper.SPARSITIES) for slow in ("IMP", "EB")
}
# Divergences D_3 and D_4 divided by D_2 for VGG16: the paper's Table 2.
PAPER_DIVERGENCE = {"forward": (0.274, 0.158), "jensen-shannon": (0.281, 0.167)}
NAMES = {"forward": "KL", "jensen-shannon": "JS"}
ORDER = (*PAPER_ACCURACY, "random")
TIMED_RUN = "imp-0"


@dataclass(frozen=True)
class TicketResults:
    """The results of the finished searches.

    `percents` has the paper's sparsities, in percent, by those of this network.
    """

    facts: dict[str, str]
    histories: list[History]
    curves: dict[str, Curve]
    choices: list[dict[str, Any]]  # events of Early-Time, one per trained network
    percents: dict[float, float]
    exports: list[DeployedTicket] = field(default_factory=list)

    def points(self, label: str) -> list[Point | None]:
        """Return the point of the dense network, then those at each sparsity; None where there is none."""
        points = self.curves[label].points
        return [next((p for p in points if near(p.sparsity, q)), None) for q in (0.0, *self.percents)]

    def headings(self) -> list[str]:
        """Return the headings of the columns, one per sparsity."""
        return [f"p = {ours:.2f}% (paper {theirs:g}%)" for ours, theirs in self.percents.items()]

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": "spiketicket.tickets",
            "version": 2,
            **self.facts,
            "early_time": divergences(self.choices),
            "chosen": [event["chosen"] for event in self.choices],
            "curves": [
                {
                    "label": c.label,
                    "folders": [Path(f).name for f in c.folders],
                    "points": [
                        {"sparsity": p.sparsity, "samples": [vars(sample) for sample in p.samples]} for p in c.points
                    ],
                }
                for c in self.curves.values()
            ],
            "early_bird": {
                h.folder.name: [vars(event) for event in h.early_bird] for h in self.histories if h.early_bird
            },
            "deployed": [vars(d) for d in self.exports],
        }


def near(sparsity: float, percent: float) -> bool:
    """Return whether a sparsity from 0 to 1 is `percent`, but for rounding."""
    return abs(100 * sparsity - percent) < 0.05


def collect(
    folder: Path, dataset: Dataset, sparsities: Mapping[int, float], settings: SearchSettings, remark: str
) -> TicketResults | None:
    """Read the finished searches in `folder`; return None if there is none.

    `sparsities` has the paper's sparsities by the number of prunings, `settings` are those of IMP, and `remark` is
    added to the description of the images.
    """
    histories = [read_history(path.parent) for path in sorted(folder.glob("*/metrics.jsonl"))]
    finished = sorted((h for h in histories if h.state == "finished"), key=lambda h: h.folder.name != TIMED_RUN)
    if not finished:
        return None
    network = build_meta(model_config(settings, dataset))
    # Narrow networks have a smaller share of parameters that can be pruned, so that p is a little lower.
    share = sum(w.numel() for w in prunable(network).values()) / sum(w.numel() for w in network.parameters())
    curves = sorted(make_curves(finished)[0], key=lambda curve: ORDER.index(curve.label))
    events = (event for history in finished for _, event in read_events(history.folder)[0])
    # Early-Bird's searches of one seed begin with the same epochs, whatever their sparsity.
    choices = {str(event["raw"]): event for event in events if event["event"] == "early_time"}
    percents = {100 * share * (1 - 0.75**n): theirs for n, theirs in sparsities.items()}
    facts = {
        **conditions(dataset, settings, remark),
        "machine": ", ".join(f"{k} {v}" for k, v in machine_facts().items()),
    }
    return TicketResults(facts, finished, {curve.label: curve for curve in curves}, list(choices.values()), percents)


def conditions(dataset: Dataset, settings: SearchSettings, remark: str) -> dict[str, str]:
    """Return the images, the network and the schedule in words, beside those of the paper."""
    s, train, test = settings, len(dataset.train.labels), len(dataset.test.labels)
    files = {True: "the official files", False: "not the official files", None: "files without a checksum"}
    return {
        "images": f"CIFAR-10, {files[dataset.official]}{f' ({remark})' if remark else ''}: {train} training images, a "
        f"tenth of them held out, {test} test images",
        "network": f"{s.arch}, width {s.width:g}, T = {s.timesteps}; the paper's figures are those of VGG16",
        "schedule": f"{s.epochs} epochs, rewind point after {s.rewind_epoch}, batch {s.batch_size}, lr {s.lr:g} with a "
        "cosine schedule; the paper: 300 epochs of 50,000 images, rewind point after 20, batch 128, lr 0.3",
    }


def present(found: TicketResults, folder: Path) -> None:
    """Print all tables, and write tickets.md, tickets.json and tickets.png."""
    sheets = [accuracy_sheet(found), search_sheet(found), early_bird_sheet(found), divergence_sheet(found)]
    if found.exports:
        sheets.append(deployed_sheet(found))
    heading, notes = "Tickets of a small network, beside the paper's figures", list(found.facts.values())
    publish(folder / "tickets", found.to_dict(), sheets, heading, notes)
    seen = "Test accuracy of tickets trained at full T; mean ± standard deviation over seeds"
    title = f"{found.facts['network'].split(';')[0]}, on CIFAR-10"
    draw(list(found.curves.values()), folder / "tickets.png", title, seen)
    say(f"wrote {folder / 'tickets.png'}")


def accuracy_sheet(found: TicketResults) -> Section:
    """Tabulate the test accuracy of each method by sparsity."""
    rows = []
    for label in found.curves:
        points = found.points(label)
        accuracies = [None if p is None else [100 * sample.accuracy for sample in p.samples] for p in points]
        rows.append([label, *(spread(values, 1) for values in accuracies)])
        if label in PAPER_ACCURACY:
            rows.append([f"{label}, paper", "-", *(f"{value:.2f}" for value in PAPER_ACCURACY[label])])
    seeds = sorted({len(p.samples) for label in found.curves for p in found.points(label) if p is not None})
    note = f"Mean ± standard deviation; seeds: {', '.join(map(str, seeds))}."
    return section("Test accuracy, %", ["", "dense", *found.headings()], rows, [note])


def search_sheet(found: TicketResults) -> Section:
    """Tabulate the search time of each method by sparsity, and the gain of Early-Time."""
    rows = []
    for label in found.curves:
        minutes = [None if p is None else [s.search_seconds / 60 for s in p.samples] for p in found.points(label)[1:]]
        rows.append([f"{label}, minutes", *(spread(values, 2) for values in minutes)])
        if label in PAPER_HOURS:
            rows.append([f"{label}, paper, hours", *(f"{value:.2f}" for value in PAPER_HOURS[label])])
    for slow in PAPER_GAIN:
        if {slow, f"{slow}+ET"} <= found.curves.keys():
            gains = [None if p is None else found.curves[slow].gain(p) for p in found.points(f"{slow}+ET")[1:]]
            rows.append([f"{slow} / {slow}+ET", *("-" if gain is None else f"{gain:.2f}" for gain in gains)])
            rows.append([f"{slow} / {slow}+ET, paper", *(f"{value:.2f}" for value in PAPER_GAIN[slow])])
    notes = [
        "Search time is that of the training steps that a mask comes from, without validation and without a ticket's "
        f"own training at full T. {seconds_per_epoch(found.histories)}"
    ]
    return section("Search time", ["", *found.headings()], rows, notes)


def seconds_per_epoch(histories: list[History]) -> str:
    """Return a sentence on the seconds of an epoch at each T.

    Epochs at one T do the same work, so the spread of their times is due to the machine.
    """
    epochs = [epoch for history in histories for epoch in history.epochs]
    by_steps = {t: [e.seconds for e in epochs if e.timesteps == t] for t in sorted({e.timesteps for e in epochs})}
    by_timesteps = [
        "{:.2f} s ({:.2f}-{:.2f}) at T = {}".format(*np.percentile(seconds, [50, 10, 90]), t)
        for t, seconds in by_steps.items()
    ]
    return f"An epoch took, as median (p10-p90), {', '.join(by_timesteps)}."


def early_bird_sheet(found: TicketResults) -> Section:
    """Tabulate whether Early-Bird's mask settled, and how similar masks were at the epoch of the pruning."""
    rows = []
    for label in ("EB", "EB+ET"):
        folders = found.curves[label].folders if label in found.curves else ()
        last_epochs: dict[float, list[EarlyBirdRecord]] = {percent: [] for percent in found.percents}
        for history in found.histories:
            for percent, records in last_epochs.items():
                if str(history.folder) in folders and near(history.tickets[-1].sparsity, percent):
                    records.append(history.early_bird[-1])
        for name, show in _EARLY_BIRD.items():
            cells = (show(records) if records else "-" for records in last_epochs.values())
            rows.append([f"{label}, {name}", *cells])
    note = (
        "The search stops when the masks of the last five epochs differ at fewer than 2% of all positions, or when the "
        "epochs are over."
    )
    return section("Early-Bird's masks", ["", *found.headings()], rows, [note])


_EARLY_BIRD: dict[str, Callable[[list[EarlyBirdRecord]], str]] = {
    "settled": lambda records: f"{sum(event.stop for event in records)} of {len(records)}",
    "epochs searched": lambda records: spread([event.epoch + 1 for event in records], 1),
    "Hamming distance at the pruning": lambda records: spread([event.hamming or 0.0 for event in records], 3),
    "survivors in common": lambda records: spread([event.overlap or 0.0 for event in records], 2),
}


def divergence_sheet(found: TicketResults) -> Section:
    """Tabulate the divergences that Early-Time measured, and the timesteps that it chose."""
    rows = [
        [NAMES[name], *(spread(values, 2) for values in cells.values()), *(f"{x:.3f}" for x in PAPER_DIVERGENCE[name])]
        for name, cells in divergences(found.choices).items()
    ]
    counts = Counter(event["chosen"] for event in found.choices)
    chosen = ", ".join(f"T = {t} by {count} networks" for t, count in sorted(counts.items()))
    title = "Divergence from the prediction at T = 5 after two epochs, divided by that at t = 2"
    return section(
        title, ["", "t = 3", "t = 4", "paper, t = 3", "paper, t = 4"], rows, [f"Chosen: {chosen or 'nothing yet'}."]
    )


def deployed_sheet(found: TicketResults) -> Section:
    """Tabulate the exported tickets of one search: file size, time per image and accuracy."""
    timed = [d for d in found.exports if d.milliseconds and any(near(d.sparsity, p) for p in (0.0, *found.percents))]
    rows = [
        ["file, kB", *(f"{d.nbytes / 1e3:.1f}" for d in timed)],
        ["dense ONNX, kB", *(f"{d.dense_nbytes / 1e3:.1f}" for d in timed)],
        *([f"{engine}, ms per image", *(f"{d.milliseconds[engine]:.3f}" for d in timed)] for engine in ENGINES),
        ["native, test accuracy, %", *(f"{100 * d.native:.2f}" for d in timed)],
        ["torch, test accuracy, %", *(f"{100 * d.searched:.2f}" for d in timed)],
    ]
    largest = max(abs(d.native - d.searched) for d in found.exports)
    notes = [
        f"The table has tickets of {TIMED_RUN}, at batch 1; onnxruntime runs the same file. All {len(found.exports)} "
        "tickets of all searches were exported; torch, onnxruntime and the native engine agreed with the float64 "
        f"oracle on {SAMPLES} images, and the native engine classified all test images: its accuracies "
        f"differ from torch's by {100 * largest:.2f} points at most."
    ]
    return section("Exported tickets", ["", *(f"p = {100 * d.sparsity:.2f}%" for d in timed)], rows, notes)


def divergences(choices: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Return D_3 / D_2 and D_4 / D_2 of every network, by divergence and timestep."""
    curves = {name: [choose(event["curves"][name], EarlyTime(name)) for event in choices] for name in NAMES}
    return {name: {str(t): [c.normalised[t - 1] for c in found] for t in (3, 4)} for name, found in curves.items()}


def spread(values: list[float] | None, digits: int) -> str:
    """Return the mean and, of several values, the standard deviation; "-" if there is none."""
    text = f"{mean(values):.{digits}f}" if values else "-"
    return text + (f" ± {stdev(values):.{digits}f}" if values and len(values) > 1 else "")
