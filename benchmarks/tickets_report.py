"""Tables and picture of the tickets benchmark, beside the paper's rows: tickets.md, tickets.json, tickets.png."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from deployed import ENGINES, SAMPLES, Deployed, deploy, milliseconds, tickets
from results import Sheet
from rich.console import Console

from spiketicket.cli import err, out, say
from spiketicket.files import write_atomic
from spiketicket.profiling.machine import machine_facts
from spiketicket.train.curves import Curve, Point, make_curves
from spiketicket.train.data import Dataset
from spiketicket.train.early_time import EarlyTime, choose
from spiketicket.train.history import History, read_events, read_history
from spiketicket.train.models import prunable
from spiketicket.train.plot import draw
from spiketicket.train.search import model_config
from spiketicket.train.settings import Settings
from spiketicket.train.ticket import build_meta

# VGG16 on CIFAR-10 at the four sparsities: the paper's supplementary, Table 3 (as printed).
PAPER_ACCURACY = {
    "IMP": (92.66, 92.54, 92.38, 91.81),
    "IMP+ET": (92.49, 92.09, 91.54, 91.10),
    "EB": (91.74, 91.05, 89.55, 84.64),
    "EB+ET": (91.27, 90.66, 88.95, 84.86),
}
PAPER_HOURS = {
    "IMP": (14.97, 29.86, 40.84, 51.99),
    "IMP+ET": (11.19, 22.00, 30.11, 38.26),
    "EB": (1.96, 0.74, 0.11, 0.09),
    "EB+ET": (1.44, 0.55, 0.07, 0.06),
}
PAPER_GAIN = {"IMP": (1.34, 1.35, 1.35, 1.35), "EB": (1.36, 1.34, 1.18, 1.12)}
PAPER_DIVERGENCE = {"forward": (0.274, 0.158), "jensen-shannon": (0.281, 0.167)}  # D_3, D_4 by D_2: Table 2, VGG16
NAMES = {"forward": "KL", "jensen-shannon": "JS"}
ORDER = (*PAPER_ACCURACY, "random")
TIMED_RUN = "imp-0"
WIDTH = 120


@dataclass(frozen=True)
class Found:
    """What the finished searches found. `percents`: ours, of all parameters, beside the paper's."""

    curves: dict[str, Curve]
    choices: list[dict[str, Any]]  # Early-Time's
    percents: dict[float, float]

    def points(self, label: str) -> list[Point | None]:
        """Of the dense network, then at each sparsity; None where there is none."""
        points = self.curves[label].points
        return [next((p for p in points if abs(100 * p.sparsity - q) < 0.05), None) for q in (0.0, *self.percents)]

    def headings(self) -> list[str]:
        return [f"p = {ours:.2f}% (paper {theirs:g}%)" for ours, theirs in self.percents.items()]

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": "spiketicket.tickets", "version": 2, "early_time": divergences(self.choices),
            "chosen": [event["chosen"] for event in self.choices],
            "curves": [{"label": c.label, "folders": [Path(f).name for f in c.folders], "points": [
                {"sparsity": p.sparsity, "samples": [vars(sample) for sample in p.samples]} for p in c.points
            ]} for c in self.curves.values()],
        }  # fmt: skip


def present(folder: Path, dataset: Dataset, sparsities: Mapping[int, float], settings: Settings) -> None:
    """Report the finished searches in `folder`. `sparsities`: the paper's, by prunings; `settings`: of IMP."""
    histories = [read_history(path.parent) for path in sorted(folder.glob("*/metrics.jsonl"))]
    finished = [history for history in histories if history.state == "finished"]
    if not finished:
        say("no search is finished yet")
        return
    found = collect(finished, dataset, sparsities, settings)
    exports = {h.folder.name: export_all(h.folder, dataset, (0, *sparsities), folder / "models") for h in finished}
    timed = exports.get(TIMED_RUN, [])
    times = milliseconds([d.path for d in timed], dataset.normalisation(dataset.test.images)) if timed else {}
    facts = {**about(dataset, settings), "machine": ", ".join(f"{k} {v}" for k, v in machine_facts().items())}
    sheets = [accuracy_sheet(found), search_sheet(found), divergence_sheet(found), deployed_sheet(exports, times)]
    console = out if out.is_terminal else Console(width=WIDTH)
    for sheet in sheets:
        sheet.show(console)
    head = "# Tickets in small, beside the paper's\n\n" + "".join(f"- {fact}\n" for fact in facts.values())
    write_atomic(folder / "tickets.md", (head + "\n" + "\n".join(sheet.markdown() for sheet in sheets)).encode())
    report = {**facts, **found.to_dict(), **deployed_dict(exports, times)}
    write_atomic(folder / "tickets.json", (json.dumps(report, indent=1) + "\n").encode())
    seen = "Test accuracy of tickets trained at full T; mean ± standard deviation over seeds"
    draw(
        list(found.curves.values()),
        folder / "tickets.png",
        f"{settings.arch}, width {settings.width:g}, CIFAR-10",
        seen,
    )
    say(f"wrote {folder / 'tickets.json'}, tickets.md and tickets.png")


def collect(histories: list[History], dataset: Dataset, sparsities: Mapping[int, float], settings: Settings) -> Found:
    network = build_meta(model_config(settings, dataset))
    # Narrow networks have a smaller share of parameters that can be pruned, so that p is a little lower.
    share = sum(w.numel() for w in prunable(network).values()) / sum(w.numel() for w in network.parameters())
    curves = sorted(make_curves(histories)[0], key=lambda curve: ORDER.index(curve.label))
    events = (event for history in histories for _, event in read_events(history.folder)[0])
    choices = [event for event in events if event["event"] == "early_time"]
    percents = {100 * share * (1 - 0.75**n): theirs for n, theirs in sparsities.items()}
    return Found({curve.label: curve for curve in curves}, choices, percents)


def about(dataset: Dataset, settings: Settings) -> dict[str, str]:
    copy = "" if dataset.official else ", a copy whose files are not the official ones (JPEG, quality 75)"
    s, train, test = settings, len(dataset.train.labels), len(dataset.test.labels)
    return {
        "images": f"CIFAR-10: {train} training images (a tenth held out), {test} test images{copy}",
        "network": f"{s.arch}, width {s.width:g}, T = {s.timesteps}; the paper's figures are VGG16's",
        "schedule": f"{s.epochs} epochs, rewind point after {s.rewind_epoch}, batch {s.batch_size}, lr {s.lr:g} on a "
        "cosine; the paper: 300 epochs of 50,000 images, rewind point after 20, batch 128, lr 0.3",
    }


def export_all(run: Path, dataset: Dataset, rounds: tuple[int, ...], models: Path) -> list[Deployed]:
    """Export and verify the reported tickets of a run."""
    with err.status(f"exporting {run.name} ..."):
        return [
            deploy(ticket, dataset, models / f"{run.name}-{ticket.search['round']:02d}.onnx")
            for ticket in tickets(run, rounds)
        ]


def accuracy_sheet(found: Found) -> Sheet:
    rows = []
    for label in found.curves:
        points = found.points(label)
        accuracies = [None if p is None else [100 * sample.accuracy for sample in p.samples] for p in points]
        rows.append([label, *(spread(values, 1) for values in accuracies)])
        if label in PAPER_ACCURACY:
            rows.append([f"{label}, paper", "-", *(f"{value:.2f}" for value in PAPER_ACCURACY[label])])
    seeds = sorted({len(p.samples) for label in found.curves for p in found.points(label) if p is not None})
    note = f"Mean ± standard deviation; seeds: {', '.join(map(str, seeds))}."
    return Sheet("Test accuracy, %", ["", "dense", *found.headings()], rows, [note])


def search_sheet(found: Found) -> Sheet:
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
    notes = ["The time of the trainings that a mask comes from; a ticket's own training at full T comes on top."]
    return Sheet("Search", ["", *found.headings()], rows, notes)


def divergence_sheet(found: Found) -> Sheet:
    rows = [
        [NAMES[name], *(spread(values, 2) for values in cells.values()), *(f"{x:.3f}" for x in PAPER_DIVERGENCE[name])]
        for name, cells in divergences(found.choices).items()
    ]
    counts = Counter(event["chosen"] for event in found.choices)
    chosen = ", ".join(f"T = {t} in {count} searches" for t, count in sorted(counts.items()))
    title = "Divergence from the prediction at T = 5 after two epochs, in units of that at t = 2"
    return Sheet(
        title, ["", "t = 3", "t = 4", "paper, t = 3", "paper, t = 4"], rows, [f"Chosen: {chosen or 'nothing yet'}."]
    )


def deployed_sheet(exports: Mapping[str, list[Deployed]], times: Mapping[Path, Mapping[str, float]]) -> Sheet:
    timed = sorted(exports.get(TIMED_RUN, []), key=lambda d: d.sparsity)
    rows = [
        ["file, kB", *(f"{d.nbytes / 1e3:.1f}" for d in timed)],
        ["dense ONNX, kB", *(f"{d.dense_nbytes / 1e3:.1f}" for d in timed)],
        *([f"{engine}, ms per image", *(f"{times[d.path][engine]:.3f}" for d in timed)] for engine in ENGINES),
        ["native, test accuracy, %", *(f"{100 * d.native:.2f}" for d in timed)],
        ["torch, test accuracy, %", *(f"{100 * d.searched:.2f}" for d in timed)],
    ]
    everything = [d for deployed in exports.values() for d in deployed]
    largest = max(abs(d.native - d.searched) for d in everything)
    notes = [
        f"Tickets of {TIMED_RUN}, T = 5, batch 1, onnxruntime on the same file. All {len(everything)} tickets of all "
        "searches were exported; torch, onnxruntime and the native engine were verified against the float64 oracle on "
        f"{SAMPLES} images, and the native engine classified all test images: its accuracies differ from torch's by "
        f"{100 * largest:.2f} points at most."
    ]
    return Sheet("Exported", ["", *(f"p = {100 * d.sparsity:.2f}%" for d in timed)], rows, notes)


def deployed_dict(exports: Mapping[str, list[Deployed]], times: Mapping[Path, Mapping[str, float]]) -> dict[str, Any]:
    return {
        "deployed": {
            run: [{**vars(d), "path": d.path.name, "ms_per_image": times.get(d.path)} for d in deployed]
            for run, deployed in exports.items()
        }
    }


def divergences(choices: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """D_3 and D_4 over D_2 of every search with Early-Time, by divergence."""
    curves = {name: [choose(event["curves"][name], EarlyTime(name)) for event in choices] for name in NAMES}
    return {name: {str(t): [c.normalised[t - 1] for c in found] for t in (3, 4)} for name, found in curves.items()}


def spread(values: list[float] | None, digits: int) -> str:
    text = f"{mean(values):.{digits}f}" if values else "-"
    return text + (f" ± {stdev(values):.{digits}f}" if values and len(values) > 1 else "")
