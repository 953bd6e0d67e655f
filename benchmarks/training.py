"""Time and memory of a training iteration with this project's layers and with SpikingJelly's: see -h.

The rivals are in timestep_loop.py. All candidates of a configuration train the same network on the same images and are
timed in turns in one process. The peak memory of each is measured in a process of its own.
"""

import gc
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from time import strftime
from typing import Annotated, Any

import torch
import typer

from benchmarks.lists import integers, split
from benchmarks.reports.report import publish, section, write_json
from benchmarks.reports.results import disturbances, figures, with_spread
from benchmarks.rivals.trainers import (
    CHOSEN,
    CONTIGUOUS,
    FOLDED,
    GRAPHED,
    LOOP,
    OURS,
    Candidate,
    TrainingConfiguration,
    batch_maker,
    candidates,
    gradients,
    peak_megabytes,
    trainer,
)
from spiketicket.cli.console import err, guarded, make_app
from spiketicket.errors import InputError
from spiketicket.profiling.measure import clock
from spiketicket.profiling.measure.machine import machine_facts
from spiketicket.profiling.measure.noise import Noise
from spiketicket.profiling.measure.timing import Timing, ratio
from spiketicket.profiling.report.document import Section
from spiketicket.profiling.search import paper
from spiketicket.train.networks.models import ARCHITECTURES

PRECISIONS = ("float32", "bf16", "fp16")
DATA = "a batch's images, augmented"
AIMS = {  # how many times as fast as the loop in float32, and as folded time, by device and precision
    "cpu": {"float32": (1.1, 1), "bf16": (1.8, 1), "fp16": (1.8, 1)},
    "gpu": dict.fromkeys(PRECISIONS, (5, 1.3)),
}

app = make_app("Speed and memory of training, against SpikingJelly's layers.")


@dataclass(frozen=True)
class Result:
    """The measurements of one configuration.

    `seconds` are those of an iteration, `megabytes` the peak memory, `differences` the relative differences of
    gradients from those of the loop in float64.
    """

    configuration: TrainingConfiguration
    seconds: dict[Candidate, Timing]
    data: Timing  # seconds to make a batch of images
    megabytes: dict[Candidate, float]
    differences: dict[str, float]
    noise: Noise

    def best(self, kind: str, precision: str) -> Timing:
        """Return the timing in the fastest memory format; for this project's layers, with or without a CUDA graph."""
        kinds = (OURS, GRAPHED) if kind == OURS else (kind,)
        timings = [s for c, s in self.seconds.items() if c.kind in kinds and c.precision == precision]
        return min(timings, key=lambda timing: timing.median().value)

    def ratios(self, precision: str) -> tuple[float, float]:
        """Return how many times as long as this project's layers two rivals take.

        The rivals are the loop in float32, and folded time in the same precision.
        """
        ours = self.best(OURS, precision)
        rivals = self.best(LOOP, "float32"), self.best(FOLDED, precision)
        return ratio(rivals[0], ours).value, ratio(rivals[1], ours).value

    def to_dict(self) -> dict[str, Any]:
        return {
            **vars(self.configuration),
            "contestants": {
                c.name: {"seconds_per_iteration": figures(s), "peak_mb": self.megabytes.get(c)}
                for c, s in self.seconds.items()
            },
            "seconds_per_batch_of_data": figures(self.data),
            "gradient_difference": self.differences,
            "ratios": {
                p: dict(zip(("loop", "folded"), self.ratios(p), strict=True)) for p in _precisions(self.seconds)
            },
            "noise": self.noise.to_dict(),
        }


@app.command()
@guarded
def main(
    archs: Annotated[str, typer.Option(help="Networks; all lists are separated by commas.")] = "vgg16,resnet19",
    timesteps: Annotated[str, typer.Option(help="Numbers of timesteps.")] = "1,2,3,4,5",
    batch: Annotated[int, typer.Option(help="Images per iteration; the paper's is 128.")] = 16,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    device: Annotated[str, typer.Option(help="cpu, or cuda.")] = "cpu",
    precisions: Annotated[str, typer.Option(help="float32, bf16, fp16 (with a scaled loss).")] = "float32,bf16",
    duration: Annotated[float, typer.Option(help="Seconds per candidate; ten rounds at least.")] = 5.0,
    memory: Annotated[bool, typer.Option(help="Measure peak memory, too.")] = True,
    folder: Annotated[Path, typer.Option("--out", help="Folder of the results.")] = Path("build/training-bench"),
) -> None:
    """Measure the median seconds per iteration (forward, backward, SGD) of each candidate, and its peak memory.

    Writes results.json and results.md. All configurations together take about 20 minutes on two cores.
    """
    networks, steps, kinds = split(archs), integers(timesteps), split(precisions)
    _check(networks, steps, kinds, batch, threads, device)
    torch.set_num_threads(threads)
    report: dict[str, Any] = {
        "format": "spiketicket.training-benchmark",
        "version": 2,
        "started": strftime("%Y-%m-%d %H:%M:%S"),
        "threads": threads,
        "duration": duration,
        "machine": {**machine_facts(), **_gpu(device)},
        "runs": [],
    }
    results: list[Result] = []
    for arch, count in product(networks, steps):
        with err.status(f"{arch}, T = {count}, batch {batch} ..."):
            configuration = TrainingConfiguration(arch, count, batch, device)
            results.append(measure(configuration, candidates(kinds, device), duration, threads, memory))
        report["runs"].append(results[-1].to_dict())
        write_json(folder / "results.json", report)
    present(report, results, folder)


def measure(
    configuration: TrainingConfiguration, rivals: list[Candidate], duration: float, threads: int, memory: bool
) -> Result:
    """Time all candidates in turns, then measure the memory and the gradients of each."""
    runs = {c.name: trainer(c, configuration) for c in rivals}
    rivals = [c for c in rivals if runs[c.name] is not None]
    runs = {c.name: runs[c.name] for c in rivals} | {DATA: batch_maker(configuration)}
    found = clock.measure(runs, duration=duration)
    runs.clear()
    gc.collect()
    megabytes = {c: peak_megabytes(c, configuration, threads) for c in rivals} if memory else {}
    exact = gradients(Candidate(LOOP, "float64", CONTIGUOUS), configuration)
    compared = [Candidate(OURS, "float64", CHOSEN), *(c for c in rivals if c.kind in (LOOP, OURS))]
    differences = {c.name: float((gradients(c, configuration) - exact).norm() / exact.norm()) for c in compared}
    by_rival = {c: found.timings[c.name] for c in rivals}
    return Result(configuration, by_rival, found.timings[DATA], megabytes, differences, found.noise)


def present(report: dict[str, Any], results: list[Result], folder: Path) -> None:
    """Print the tables, and write results.md and results.json."""
    sheets = []
    for arch in dict.fromkeys(r.configuration.arch for r in results):
        group = [r for r in results if r.configuration.arch == arch]
        sheets.append(seconds_sheet(group))
        if group[0].megabytes:
            sheets.append(memory_sheet(group))
        if group[0].configuration.batch == paper.BATCH:
            sheets.append(epoch_sheet(group))
    notes = [f"machine: {', '.join(f'{key} {value}' for key, value in report['machine'].items())}"]
    title, warnings = f"Training benchmark, {report['started']}", disturbances([r.noise for r in results])
    publish(folder / "results", report, sheets, title, notes, warnings)


def seconds_sheet(results: list[Result]) -> Section:
    """Tabulate the seconds per iteration and the errors of gradients of one network, a column per T."""
    first = results[0]
    rows = [[c.name, *(_seconds(r.seconds[c]) for r in results)] for c in first.seconds]
    rows.append([DATA, *(_seconds(r.data) for r in results)])
    for precision in _precisions(first.seconds):
        loop, folded = zip(*(r.ratios(precision) for r in results), strict=True)
        aims = AIMS["cpu" if first.configuration.device == "cpu" else "gpu"][precision]
        rows.append([f"loop float32 / {OURS} {precision} (aim {aims[0]:g})", *(f"{x:.2f}x" for x in loop)])
        rows.append([f"folded {precision} / {OURS} {precision} (aim {aims[1]:g})", *(f"{x:.2f}x" for x in folded)])
    for name in first.differences:
        rows.append([f"gradient error of {name}", *(f"{r.differences[name]:.1e}" for r in results)])
    title = f"{first.configuration.title}: seconds per iteration"
    notes = [
        "loop: SpikingJelly's single-step layers, once per timestep; folded: its multi-step layers, with time folded "
        "into the batch; spiketicket: the layers of this project. chosen: the memory format is chosen for each layer.",
        "Gradient error: |g - g'| / |g'| over all weights, where g' are the gradients of the loop in float64. In "
        "float32 a potential close to the threshold may round to the other side of it; in an untrained network, one "
        "such spike changes everything that follows.",
    ]
    return section(title, ["median (p10-p90)", *(f"T = {r.configuration.timesteps}" for r in results)], rows, notes)


def memory_sheet(results: list[Result]) -> Section:
    """Tabulate the peak memory of one network, a column per T."""
    first = results[0]
    rows = [[c.name, *(f"{r.megabytes[c]:,.0f}" for r in results)] for c in first.megabytes]
    title = f"{first.configuration.title}: peak memory in MB"
    return section(title, ["", *(f"T = {r.configuration.timesteps}" for r in results)], rows)


def epoch_sheet(results: list[Result]) -> Section:
    """Tabulate the seconds of an epoch of CIFAR beside the paper's."""
    first, printed = results[0], paper.SECONDS_PER_EPOCH.get(results[0].configuration.arch)
    rows = [[c.name, *(f"{paper.EPOCH * r.seconds[c].median().value:.2f}" for r in results)] for c in first.seconds]
    if printed:
        theirs = (printed.get(r.configuration.timesteps) for r in results)
        rows.append(["paper, RTX 2080 Ti", *("-" if s is None else f"{s:.2f}" for s in theirs)])
    by_steps = {r.configuration.timesteps: r for r in results}
    notes = []
    if {3, 5} <= by_steps.keys():
        medians = {steps: {c: s.median().value for c, s in by_steps[steps].seconds.items()} for steps in (3, 5)}
        gains = (f"{c.name} {medians[5][c] / medians[3][c]:.2f}x" for c in first.seconds)
        notes.append(f"T = 3 is faster than T = 5: {', '.join(gains)}")
    title = f"{first.configuration.arch}: seconds per epoch, {paper.EPOCH} iterations of batch {paper.BATCH}"
    return section(title, ["", *(f"T = {r.configuration.timesteps}" for r in results)], rows, notes)


def _seconds(timing: Timing) -> str:
    digits = 4 if timing.median().value < 0.1 else 3
    return with_spread(timing, lambda seconds: f"{seconds:.{digits}f}")


def _precisions(seconds: dict[Candidate, Timing]) -> list[str]:
    return list(dict.fromkeys(c.precision for c in seconds if c.kind == OURS))


def _check(networks: list[str], steps: list[int], kinds: list[str], batch: int, threads: int, device: str) -> None:
    for what, names, known in (("archs", networks, list(ARCHITECTURES)), ("precisions", kinds, list(PRECISIONS))):
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise InputError(f"{what}: expected some of {', '.join(known)}, got {', '.join(unknown) or 'none'}")
    if not steps or min(*steps, threads) < 1 or batch < 2:
        raise InputError(f"expected timesteps and threads from 1 and a batch from 2, got {steps}, {threads}, {batch}")
    if device not in ("cpu", "cuda"):
        raise InputError(f"--device: expected cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device {device}: expected a GPU that torch can use, found none")


def _gpu(device: str) -> dict[str, str]:
    return {"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}


if __name__ == "__main__":
    app()
