"""Latency of the paper's networks at its sparsities: the native engine against onnxruntime, in turn.

    python benchmarks/inference.py [--data DIR] [--archs vgg16,resnet19] [--sparsities 0,98.13] [--out FILE]

Tickets are cut from initial weights (`snn-search oneshot --epochs 0`), batch norm calibrated on training
images, so that firing rates are realistic; they are printed beside the latencies. Without CIFAR-10 in
DIR, smooth random images stand in for it.
"""

import json
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from spiketicket.domain import INPUT
from spiketicket.errors import DataError
from spiketicket.export.pack import export_ticket
from spiketicket.files import write_atomic
from spiketicket.profiling.latency import profile
from spiketicket.runtime import Session
from spiketicket.runtime.inputs import dataset_inputs
from spiketicket.train.data import Dataset, Normalisation, Split, load_dataset
from spiketicket.train.search import search
from spiketicket.train.settings import Settings

ENGINES = ["native", "onnxruntime"]


def main(
    data: Annotated[Path, typer.Option(help="Folder that holds cifar-10-batches-py.")] = Path("data"),
    archs: str = "vgg16,resnet19",
    sparsities: str = "0,68.30,89.91,95.69,98.13",
    timesteps: str = "1,5",
    batch: int = 1,
    threads: int | None = None,
    duration: float = 1.0,
    out: Path = Path("build/bench/inference.json"),
) -> None:
    """Measure and print; write the figures as JSON."""
    dataset = images(data)
    steps = [int(t) for t in timesteps.split(",")]
    table = Table(title=f"Median ms per image, batch {batch}, {dataset.name}")
    for column in ("network", "p %", "MB", "firing rate", "T", *ENGINES, "ratio"):
        table.add_column(column, justify="right")
    results = []
    for arch in archs.split(","):
        for sparsity in map(float, sparsities.split(",")):
            with tempfile.TemporaryDirectory() as folder:
                model = Path(folder) / "model.onnx"
                settings = Settings("oneshot", arch, dataset.name, sparsity=sparsity, epochs=0, rewind_epoch=0)
                (ticket,) = search(settings, dataset, Path(folder) / "run")
                exported = export_ticket(ticket, model)
                rate = firing_rate(model, dataset)
                report = profile(model, ENGINES, steps, batch, threads, 3, duration, data)
            rows = {(row.engine, row.timesteps): row for row in report.rows}
            for t in steps:
                native, rival = (rows[engine, t].latency.p50 for engine in ENGINES)
                table.add_row(
                    arch, f"{sparsity:g}", f"{exported.nbytes / 1e6:.2f}", f"{rate:.1%}", str(t),
                    f"{native:.2f}", f"{rival:.2f}", f"{rival / native:.2f}x",
                )  # fmt: skip
            results.append({"arch": arch, "sparsity": sparsity, "firing_rate": rate, **report.to_dict()})
    Console().print(table)
    write_atomic(out, (json.dumps(results, indent=2) + "\n").encode())
    Console().print(f"wrote {out}")


def images(folder: Path) -> Dataset:
    """CIFAR-10, or smooth random images in its place."""
    try:
        return load_dataset("cifar10", folder)
    except DataError:
        rng = np.random.default_rng(0)
        coarse = rng.integers(0, 256, (600, 3, 8, 8), dtype=np.uint8)
        pixels, labels = coarse.repeat(4, axis=2).repeat(4, axis=3), rng.integers(0, 10, 600)
        normalisation = Normalisation(255.0, (0.5,) * 3, (0.29,) * 3)
        split = Split(pixels, labels)
        return Dataset("random images", split, split, tuple(map(str, range(10))), normalisation, augmented=False)


def firing_rate(model: Path, dataset: Dataset) -> float:
    """Mean spikes per neuron and timestep over a few test images."""
    with Session(model) as session:
        spikes = session.spikes({INPUT: dataset_inputs(session, dataset, "test")[:8]})
    return float(sum(s.sum() for s in spikes.values()) / sum(s.size for s in spikes.values()))


if __name__ == "__main__":
    typer.run(main)
