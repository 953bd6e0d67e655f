"""Bytes of the paper's networks at its sparsities, file format by file format, and how long engines take to load them.

The tickets are described in cuts.py; they are made if OUT/models does not have them yet. All files of a ticket are
written, compared with the float64 oracle, and loaded in turns in one process. The operating system has the files in its
cache, and the native engine its plan.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from time import strftime
from typing import Annotated, Any

import numpy as np
import onnx
import typer

from benchmarks.lists import numbers, split
from benchmarks.models.cuts import TIMESTEPS, TicketSpec, TimedTicket, load_images, make_ticket, oracle_logits
from benchmarks.models.formats import COO, DENSE, FORMATS, GZIP, OURS, SAFETENSORS, loaders
from benchmarks.reports.report import publish, section
from benchmarks.reports.results import disturbances, figures, with_spread
from benchmarks.rivals.engines import BuildOptions, Run, Unavailable, agreement
from spiketicket.cli.console import err, guarded, make_app
from spiketicket.files import write_atomic
from spiketicket.profiling.measure import clock
from spiketicket.profiling.measure.machine import machine_facts
from spiketicket.profiling.measure.noise import Noise
from spiketicket.profiling.measure.timing import Timing
from spiketicket.profiling.report.document import Section

SPARSEST = 98.13
PER_NONZERO = 1.05 * (4 + 2)  # bytes: a float32 value, a uint16 index, and a twentieth for everything else
SMALLER = {"float32": 25, "float16": 40}  # how many times smaller than dense ONNX a file shall be at 98.13%
CHECKED = 8  # images on which an engine's logits are compared
ROUNDED = [name for name in FORMATS if name.startswith(OURS) and "float32" not in name]

app = make_app("Sizes of model files, and how long engines take to load them.")


@dataclass(frozen=True)
class Sizes:
    """File sizes and load times of one ticket.

    `top1` is the share of images that an engine puts into the class of the float64 oracle of the same file, `seconds`
    the time of loading; both are given by format and engine. `rounded` is the share of images that keep their class
    when the weights are rounded, by format. `missing` says why a format, or a format in an engine, was not measured.
    """

    arch: str
    sparsity: float
    weights: int
    nonzeros: int
    nbytes: dict[str, int]
    top1: dict[str, float]
    rounded: dict[str, float]
    seconds: dict[str, Timing]
    missing: dict[str, str]
    coo_check: str  # the result of onnx's checker for sparse_initializer
    noise: Noise

    def smaller(self, name: str) -> float:
        """Return how many times smaller than dense ONNX a format is."""
        return self.nbytes[DENSE] / self.nbytes[name]

    def per_nonzero(self, name: str) -> float:
        """Return the bytes per nonzero weight of a format."""
        return self.nbytes[name] / self.nonzeros

    def to_dict(self) -> dict[str, Any]:
        seconds = {key: figures(timing) for key, timing in self.seconds.items()}
        return {**vars(self), "seconds": seconds, "noise": self.noise.to_dict()}


def measure(ticket: TimedTicket, folder: Path, threads: int, duration: float) -> Sizes:
    """Write a ticket in all formats, load and check each, then time the loading."""
    graph, spec = ticket.graph, ticket.spec
    nbytes: dict[str, int] = {}
    top1: dict[str, float] = {}
    rounded: dict[str, float] = {}
    missing: dict[str, str] = {}
    runs: dict[str, Callable[[], object]] = {}
    for index, (name, write) in enumerate(FORMATS.items()):
        path = folder / f"{index}{'.gz' if name == GZIP else '.onnx'}"
        try:
            write_atomic(path, write(graph))
        except Unavailable as error:
            missing[name] = str(error)
            continue
        nbytes[name] = path.stat().st_size
        wanted = ticket
        if name in ROUNDED:
            wanted = replace(ticket, oracle=oracle_logits(path, ticket.images[:CHECKED]))
            rounded[name] = float((_classes(wanted) == _classes(ticket)).mean())
        for engine, load in loaders(name).items():
            key = f"{name} in {engine}"
            try:
                top1[key] = _top1(load(path, threads), wanted, threads)
                runs[key] = partial(load, path, threads)
            except Exception as error:  # onnxruntime's own exceptions share no other base
                missing[key] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    check = _check(folder / f"{list(FORMATS).index(COO)}.onnx")
    gc.collect()
    timed = clock.measure(runs, duration=duration)
    layers = list(graph.weighted())
    weights, nonzeros = sum(int(np.prod(n.weight.shape)) for n in layers), sum(n.weight.nnz for n in layers)
    return Sizes(
        spec.arch,
        spec.sparsity,
        weights,
        nonzeros,
        nbytes,
        top1,
        rounded,
        timed.timings,
        missing,
        check,
        timed.noise,
    )


def _top1(run: Run, ticket: TimedTicket, threads: int) -> float:
    with ExitStack() as stack:
        return agreement(run, BuildOptions(ticket, TIMESTEPS, CHECKED, threads, stack)).top1


def _classes(ticket: TimedTicket) -> Any:
    return ticket.oracle[:, :CHECKED].mean(axis=0).argmax(axis=1)


def _check(path: Path) -> str:
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # its C++ exceptions share no other base
        return str(error).split("\n")[0]
    return "passes"


def aims(found: list[Sizes]) -> Iterator[tuple[str, float, float, bool]]:
    """Yield the description, the aim, the measured value, and whether it meets the aim."""
    for s in found:
        name = f"{OURS} float32"
        got = s.per_nonzero(name)
        yield f"{s.arch} {s.sparsity:g}%, float32: bytes per nonzero, at most", PER_NONZERO, got, got <= PER_NONZERO
    for s, (values, times) in product((s for s in found if s.sparsity == SPARSEST), SMALLER.items()):
        got = s.smaller(f"{OURS} {values}")
        yield f"{s.arch} {s.sparsity:g}%, {values}: times smaller than dense, at least", times, got, got >= times


def sheets(found: list[Sizes]) -> Iterator[Section]:
    """Yield the tables: the aims, then sizes and load times of each network."""
    rows = [[what, f"{aim:.4g}", f"{got:.4g}", "met" if met else "NOT met"] for what, aim, got, met in aims(found)]
    yield section("Aims", ["", "aim", "measured", ""], rows)
    for arch in dict.fromkeys(s.arch for s in found):
        chosen = [s for s in found if s.arch == arch]
        header = [f"p = {s.sparsity:g}%" for s in chosen]
        size_rows = [[name, *(_size(s, name) for s in chosen)] for name in FORMATS]
        counts = ["nonzeros", *(f"{s.nonzeros:,} of {s.weights:,}" for s in chosen)]
        yield section(
            f"{arch}: MB (times smaller than dense; bytes per nonzero)", ["file", *header], [*size_rows, counts]
        )
        keys = list(dict.fromkeys(key for s in chosen for key in s.seconds))
        load_rows = [[key, *(_milliseconds(s, key) for s in chosen)] for key in keys]
        yield section(f"{arch}: loading, ms, median (p10-p90)", ["file, engine", *header], load_rows)


def _size(s: Sizes, name: str) -> str:
    if name not in s.nbytes:
        return "-"
    return f"{s.nbytes[name] / 1e6:.3f} ({s.smaller(name):.1f}; {s.per_nonzero(name):.2f})"


def _milliseconds(s: Sizes, key: str) -> str:
    timing = s.seconds.get(key)
    return "-" if timing is None else with_spread(timing, lambda seconds: f"{1e3 * seconds:.1f}")


def notes(report: dict[str, Any], found: list[Sizes]) -> list[str]:
    """Return the conditions of the measurements, and what was not measured."""
    lines = [
        "tickets: trained ones where there are some, else initial weights that are pruned once by magnitude, with "
        f"batch norm calibrated on {report['images']}",
        f"machine: {', '.join(f'{key} {value}' for key, value in report['machine'].items())}",
        f"loading: in one process, in turns, {report['threads']} threads; files and the native engine's plans are "
        "cached",
        f"{SAFETENSORS}: weights and biases without the network, so no engine loads it",
        f"{COO}: flat int64 indices; onnx.checker: {'; '.join(dict.fromkeys(s.coo_check for s in found))}",
    ]
    lines += sorted({f"not measured: {key}: {why}" for s in found for key, why in s.missing.items()})
    worst = {key: min(s.top1[key] for s in found if key in s.top1) for s in found for key in s.top1}
    lines.append(
        "share of 8 images that an engine puts into the class of the float64 oracle of the same file: at least "
        f"{min(worst.values()):.0%}"
    )
    lines += [
        f"{name}: {np.mean([s.rounded[name] for s in found]):.0%} of 8 images per ticket keep their class; "
        "in untrained networks, one flipped spike changes many in later layers"
        for name in ROUNDED
    ]
    return lines


@app.command()
@guarded
def main(
    data: Annotated[Path, typer.Option(help="Folder that holds cifar-10-batches-py; else synthetic images.")] = Path(
        "data"
    ),
    archs: Annotated[str, typer.Option(help="Networks; all lists are separated by commas.")] = "vgg16,resnet19",
    sparsities: Annotated[str, typer.Option(help="The paper's p in percent.")] = "68.30,89.91,95.69,98.13",
    threads: Annotated[int, typer.Option(help="CPU threads of an engine.", min=1)] = 2,
    duration: Annotated[float, typer.Option(help="Seconds per file and engine; ten rounds at least.")] = 1.0,
    folder: Annotated[Path, typer.Option("--out", help="Folder of tickets and results.")] = Path("build/bench"),
) -> None:
    """Measure the size of every format, and its load time in every engine that reads it: six minutes.

    Writes size.json and size.md.
    """
    dataset = load_images(data)
    report: dict[str, Any] = {
        "format": "spiketicket.size",
        "version": 2,
        "started": strftime("%Y-%m-%d %H:%M:%S"),
        "images": dataset.name,
        "threads": threads,
        "duration": duration,
        "machine": machine_facts(),
    }
    found = []
    for arch, sparsity in product(split(archs), numbers(sparsities)):
        with err.status(f"{arch} {sparsity:g}% ..."):
            ticket = make_ticket(TicketSpec(arch, sparsity), dataset, folder / "models")
            found.append(measure(ticket, folder / "sizes", threads, duration))
    report["tickets"] = [s.to_dict() for s in found]
    report["aims"] = [dict(zip(("what", "aim", "measured", "met"), row, strict=True)) for row in aims(found)]
    title, warnings = f"Sizes of model files, {report['started']}", disturbances([s.noise for s in found])
    publish(folder / "size", report, list(sheets(found)), title, notes(report, found), warnings)


if __name__ == "__main__":
    app()
