"""The native engine against dense and sparse rivals on the paper's networks: `make bench`, or see -h.

The tickets are described in cuts.py, the rivals in rivals.py. All candidates of a configuration are built, compared
with the float64 oracle, and timed in turns in one process; a candidate whose logits are wrong is not timed. The first
run makes the tickets (half a minute each) and keeps them in OUT/models.
"""

import gc
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import cycle, product
from pathlib import Path
from time import perf_counter, strftime
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.lists import integers, numbers, split
from benchmarks.models.assets import trained
from benchmarks.models.cuts import (
    IMAGES,
    TIMESTEPS,
    TRAINED,
    TicketSpec,
    TimedTicket,
    load_images,
    make_ticket,
    read_ticket,
)
from benchmarks.reports.plot import draw
from benchmarks.reports.report import publish, write_json
from benchmarks.reports.results import (
    Configuration,
    Result,
    disturbances,
    footprint_sheet,
    latency_sheets,
    layer_sheet,
    notes_on,
    summary_sheet,
    ticket_sheet,
)
from benchmarks.rivals.engines import (
    CANDIDATES,
    COMPILED,
    INT8,
    ROUNDED,
    BuildOptions,
    Candidate,
    Floats,
    Run,
    Unavailable,
    prepare,
)
from benchmarks.rivals.engines import folded_bytes as folded_onnx
from spiketicket.cli.console import err, guarded, make_app, say
from spiketicket.errors import InputError, MissingExtraError
from spiketicket.files import write_atomic
from spiketicket.profiling.measure.clock import measure
from spiketicket.profiling.measure.machine import machine_facts
from spiketicket.profiling.measure.memory import PLAIN, measure_memory
from spiketicket.train.networks.models import ARCHITECTURES
from spiketicket.train.search.settings import PAPER_SPARSITIES

SLOW_TO_QUANTISE = "quantising takes half a minute: measured at the highest T and batch 1 only"
SLOW_TO_COMPILE = "compiling takes 10 to 40 s: measured at the highest T and number of threads only"
FOOTPRINT = ("vgg16", 98.13)  # the ticket whose load time and memory are measured

app = make_app("Latency and memory of the native engine and its rivals.")


@dataclass(frozen=True)
class BenchmarkGrid:
    """The configurations and candidates of one benchmark, and the options of its tickets.

    Raises InputError if a network or candidate is unknown or a number is out of range.
    """

    archs: list[str]
    sparsities: list[float]
    timesteps: list[int]
    batches: list[int]
    threads: list[int]
    engines: list[str]
    duration: float
    init: str
    beta: float
    deepsparse_python: Path | None

    def __post_init__(self) -> None:
        _require_known("archs", self.archs, list(ARCHITECTURES))
        _require_known("engines", self.engines, list(CANDIDATES))
        if not all((self.sparsities, self.timesteps, self.batches, self.threads)):
            raise InputError("sparsities, timesteps, batches and threads: expected one or more of each")
        if not all(1 <= t <= TIMESTEPS for t in self.timesteps):
            raise InputError(f"timesteps: expected 1 to {TIMESTEPS}, got {self.timesteps}")
        if not all(n >= 1 and IMAGES % n == 0 for n in self.batches):
            raise InputError(f"batches: expected divisors of {IMAGES}, got {self.batches}")
        if not all(n >= 1 for n in self.threads) or not self.duration > 0:
            raise InputError(
                f"expected threads from 1 and a duration above 0, got {self.threads} and {self.duration:g}"
            )
        if self.deepsparse_python and not self.deepsparse_python.is_file():
            raise InputError(
                f"--deepsparse-python: expected a Python executable, but {self.deepsparse_python} is no file"
            )

    def configurations(self, arch: str, sparsity: float) -> Iterator[Configuration]:
        """Yield every T, batch and number of threads for one ticket."""
        for timesteps, batch, threads in product(self.timesteps, self.batches, self.threads):
            yield Configuration(arch, sparsity, timesteps, batch, threads)

    def tickets(self, model: Path | None, data: Path, folder: Path) -> Iterator[TimedTicket]:
        """Yield the ticket in the file `model`; without it, one for every network and sparsity, made where missing."""
        if model is not None:
            yield read_ticket(model, data)
            return
        dataset = load_images(data)
        for arch, sparsity in product(self.archs, self.sparsities):
            if self.init == TRAINED and (arch, sparsity) not in trained():
                say(f"left out: there is no trained ticket of {arch} at {sparsity:g}%")
                continue
            with err.status(f"ticket {arch} {sparsity:g}% ..."):
                ticket = make_ticket(TicketSpec(arch, sparsity, self.init, self.beta), dataset, folder)
            yield ticket


@app.command()
@guarded
def main(
    model: Annotated[
        Path | None, typer.Option(help="Time this file instead: an export of a data set in DIR, or of digits.")
    ] = None,
    data: Annotated[Path, typer.Option(help="Folder that holds cifar-10-batches-py; else synthetic images.")] = Path(
        "data"
    ),
    archs: Annotated[str, typer.Option(help="Networks; all lists are separated by commas.")] = "vgg16,resnet19",
    sparsities: Annotated[
        str | None,
        typer.Option(
            help="The paper's p in percent; any with --init kaiming or plain, as in 0,68.30.",
            show_default="those of the trained tickets, else the paper's",
        ),
    ] = None,
    timesteps: Annotated[str, typer.Option(help=f"1 to {TIMESTEPS}.")] = "5,4,3,2,1",
    batches: Annotated[str, typer.Option(help="Images per run.")] = "1,32",
    threads: Annotated[str, typer.Option(help="CPU threads.")] = "1,2",
    engines: Annotated[str, typer.Option(help="Candidates.")] = ",".join(CANDIDATES),
    duration: Annotated[float, typer.Option(help="Seconds per candidate; ten rounds at least.")] = 0.6,
    init: Annotated[
        str,
        typer.Option(
            help="Weights: trained; or initial weights that are pruned: kaiming, or plain, which may empty layers.",
            show_default="trained where there is one, else kaiming",
        ),
    ] = "",
    beta: Annotated[
        float, typer.Option(help="Bias of batch norm in pruned initial weights: above 0, neurons fire more.")
    ] = 0.0,
    deepsparse_python: Annotated[Path | None, typer.Option(help="A Python that has DeepSparse 1.8.")] = None,
    footprint: Annotated[bool, typer.Option(help="Measure load time and memory, too.")] = True,
    folder: Annotated[Path, typer.Option("--out", help="Folder of tickets and results.")] = Path("build/bench"),
    quick: Annotated[bool, typer.Option("--quick", help="Only VGG16 at 98.13%, T = 5, batch 1, 2 threads.")] = False,
) -> None:
    """Measure the median milliseconds per run of each candidate, and how much faster the native engine is.

    Writes results.json, results.md and results.png.
    All configurations together take some 25 minutes on two cores, and 5 more if the tickets must be made.
    """
    if quick:
        archs, sparsities, timesteps, batches, threads = "vgg16", "98.13", "5", "1", "2"
    chosen = numbers(sparsities) if sparsities else sorted({p for _, p in trained()}) or [0, *PAPER_SPARSITIES]
    grid = BenchmarkGrid(
        split(archs),
        chosen,
        integers(timesteps),
        integers(batches),
        integers(threads),
        split(engines),
        duration,
        init,
        beta,
        deepsparse_python,
    )
    report: dict[str, Any] = {
        "format": "spiketicket.benchmark",
        "version": 2,
        "started": strftime("%Y-%m-%d %H:%M:%S"),
        "images": "",
        "duration": duration,
        "machine": machine_facts(),
        "tickets": [],
        "runs": [],
        "footprint": [],
    }
    results: list[Result] = []
    count = 1 if model else len(grid.archs) * len(grid.sparsities)
    progress = _Progress(count * len(list(grid.configurations("", 0))))
    for ticket in grid.tickets(model, data, folder / "models"):
        if not report["images"]:
            report["images"] = ticket.source
            say(f"images: {ticket.source}")
        arch, sparsity = ticket.spec.arch, ticket.spec.sparsity
        report["tickets"].append(ticket.facts())
        for configuration in grid.configurations(arch, sparsity):
            with err.status(progress.line(configuration)):
                result = run_configuration(grid, configuration, ticket)
            progress.done += 1
            results.append(result)
            report["runs"].append(result.to_dict())
            write_json(folder / "results.json", report)
        if footprint and (arch, sparsity) == FOOTPRINT:
            with err.status("load time and memory ..."):
                report["footprint"] = footprints(ticket, max(grid.threads), folder)
    report["finished"] = strftime("%Y-%m-%d %H:%M:%S")
    write_json(folder / "results.json", report)
    present(report, results, folder)


def run_configuration(grid: BenchmarkGrid, configuration: Configuration, ticket: TimedTicket) -> Result:
    """Build, check and time every candidate of a configuration."""
    c = configuration
    candidates: dict[str, Candidate] = {}
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        options = BuildOptions(ticket, c.timesteps, c.batch, c.threads, stack, grid.deepsparse_python)
        for name in grid.engines:
            try:
                if name == COMPILED and (c.timesteps, c.threads) != (max(grid.timesteps), max(grid.threads)):
                    raise Unavailable(SLOW_TO_COMPILE)
                if name == INT8 and (c.timesteps != max(grid.timesteps) or c.batch > 1):
                    raise Unavailable(SLOW_TO_QUANTISE)
                candidates[name] = prepare(name, options)
            except Unavailable as error:
                missing[name] = str(error)
        agreements = {name: candidate.agreement for name, candidate in candidates.items()}
        right = {
            name: candidate for name, candidate in candidates.items() if candidate.agreement.right or name in ROUNDED
        }
        missing |= {name: f"wrong logits, {found}" for name, found in agreements.items() if name not in right}
        batches = np.split(ticket.images, len(ticket.images) // c.batch)
        runs = {name: partial(_run_next, candidate.run, cycle(batches)) for name, candidate in right.items()}
        found = measure(runs, duration=grid.duration) if runs else None
        candidates.clear()
        right.clear()
        runs.clear()
    gc.collect()
    return Result(c, found.timings if found else {}, agreements, missing, found.noise if found else None)


def _run_next(run: Run, batches: Iterator[Floats]) -> None:
    """Run the next images. They change, since the native engine's time depends on how many spikes they cause."""
    run(next(batches))


def footprints(ticket: TimedTicket, threads: int, folder: Path) -> list[dict[str, Any]]:
    """Measure the memory of the sparse file in both engines, and of the dense file in plain onnxruntime."""
    dense = folder / "models" / "dense.onnx"
    write_atomic(dense, folded_onnx(ticket))
    what = f"{ticket.spec.arch} at {ticket.spec.sparsity:g}%, batch 1, {threads} threads, medians of 3 processes"
    try:
        return [
            {
                **measure_memory(engine, path, ticket.images[:1], threads, ticket.graph.timesteps).to_dict(),
                "label": label,
                "what": what,
            }
            for label, engine, path in (
                ("native", "native", ticket.path),
                ("onnxruntime, the same file", PLAIN, ticket.path),
                ("onnxruntime, dense file", PLAIN, dense),
            )
        ]
    finally:
        dense.unlink()


def present(report: dict[str, Any], results: list[Result], folder: Path) -> None:
    """Print the tables, and write results.md, results.json and, if a ratio was measured, results.png."""
    sheets = [ticket_sheet(report["tickets"])]
    sparsest = {facts["arch"]: facts for facts in sorted(report["tickets"], key=lambda facts: facts["sparsity"])}
    per_layer = [layer_sheet(facts) for facts in sparsest.values()]
    sheets += latency_sheets(results)
    summary = summary_sheet(results)
    if summary is not None:
        sheets.insert(0, summary)
    if report["footprint"]:
        sheets.append(footprint_sheet(report["footprint"]))
    machine = report["machine"]
    facts = ", ".join(f"{key} {value}" for key, value in machine.items())
    notes = [f"images: {report['images']}", f"machine: {facts}", *notes_on(results)]
    title, warnings = f"Inference benchmark, {report['started']}", disturbances([r.noise for r in results if r.noise])
    publish(folder / "results", report, [*sheets, *per_layer], title, notes, warnings)
    if any(result.ratio() for result in results):
        subtitle = f"{machine['cpu']}, {machine['cores']} cores, {machine['instruction set']}"
        try:
            draw(results, folder / "results.png", subtitle)
            say(f"wrote {folder / 'results.png'}")
        except MissingExtraError as error:
            say(str(error))


@dataclass
class _Progress:
    """How many configurations are done, and how long the others will take."""

    total: int
    done: int = 0

    def __post_init__(self) -> None:
        self.start = perf_counter()

    def line(self, c: Configuration) -> str:
        """Return the status line of the next configuration."""
        left = (perf_counter() - self.start) / self.done * (self.total - self.done) / 60 if self.done else None
        rest = "" if left is None else f", about {left:.0f} min left"
        return (
            f"{self.done + 1}/{self.total}{rest}: {c.arch} {c.sparsity:g}%, T = {c.timesteps}, batch {c.batch}, "
            f"threads {c.threads} ..."
        )


def _require_known(what: str, names: list[str], known: list[str]) -> None:
    """Raise InputError if a name is unknown, or there is none."""
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise InputError(f"{what}: expected some of {', '.join(known)}, got {', '.join(unknown) or 'none'}")


if __name__ == "__main__":
    app()
