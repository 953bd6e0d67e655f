"""Validation of the profiler's clock: known durations, equal candidates, intervals that must contain the true value.

    python -m benchmarks.clock

It answers three questions, each in a table. Is a function of known duration measured within 2% on this machine? Does
the interval of the ratio of two equal functions contain 1 in 95% of the measurements? On a simulated machine, whose
speed drifts and where some runs are slow, how many intervals contain the true value? It takes two and a half minutes.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter_ns, strftime
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.reports.report import publish, section
from benchmarks.reports.results import disturbances
from benchmarks.simulated import SimulatedTime
from spiketicket.cli.console import err, guarded, make_app
from spiketicket.model.names import INPUT
from spiketicket.profiling.measure.clock import Run, measure
from spiketicket.profiling.measure.machine import machine_facts
from spiketicket.profiling.measure.noise import Noise
from spiketicket.profiling.measure.timing import Interval, difference, ratio
from spiketicket.profiling.report.document import Section
from spiketicket.runtime import Session

MODEL = Path(__file__).parents[1] / "tests" / "assets" / "digits.onnx"
KNOWN_DURATIONS = (0.05, 0.2, 1.0, 5.0)  # ms
MAX_ERROR = 0.02
CONTAINED_SHARE = 0.95
ITERATIONS = 600  # runs of each candidate in a short measurement, whose turns take 2 ms
SIMULATED_MEASUREMENTS, SIMULATED_RUNS = 400, 60  # measurements; runs of a candidate in each
SIMULATED_MACHINES: Mapping[str, dict[str, float]] = {
    "quiet": {},
    "drifts by 20%": {"drift": 0.2},
    "5% of runs take 3 to 10 times as long": {"outliers": 0.05},
    "both": {"drift": 0.2, "outliers": 0.05},
}

app = make_app("Validation of the clock that measures everything else.")


@app.command()
@guarded
def main(
    repeats: Annotated[int, typer.Option(help="Measurements of each pair of equal functions.", min=1)] = 100,
    folder: Annotated[Path, typer.Option("--out", help="Folder of the results.")] = Path("docs/results"),
) -> None:
    """Measure functions of known duration, equal functions, and functions on a simulated clock.

    Writes clock.json and clock.md.
    """
    report: dict[str, Any] = {
        "format": "spiketicket.clock",
        "version": 1,
        "started": strftime("%Y-%m-%d %H:%M:%S"),
        "machine": machine_facts(),
    }
    with err.status("known durations ..."):
        report["known"], noise = known_durations()
    report["equal"] = []
    noises = [noise]
    x = np.zeros((1, 1, 8, 8), np.float32)
    a = np.random.default_rng(0).standard_normal((128, 128), dtype=np.float32)
    with Session(MODEL, engine="native", threads=1) as session:
        pairs: dict[str, Run] = {
            "a product of 128 x 128 matrices": lambda: a @ a,
            "the digits model, native engine": lambda: session.run({INPUT: x}),
        }
        for name, run in pairs.items():
            with err.status(f"{name}, {repeats} times ..."):
                row, found = compare_equal_functions(name, run, repeats)
            report["equal"].append(row)
            noises += found
    with err.status("simulated clock ..."):
        report["simulated"] = [simulate(name, machine) for name, machine in SIMULATED_MACHINES.items()]
    report["noise"] = [noise.to_dict() for noise in noises]
    present(report, disturbances(noises), folder)


def known_durations() -> tuple[list[dict[str, float]], Noise]:
    """Measure functions of KNOWN_DURATIONS in turns; return a row of the table for each, and the noise."""
    found = measure({ms: waiting(ms) for ms in KNOWN_DURATIONS}, duration=1.0)
    rows = [
        {"ms": ms, **timing.to_dict(1e3), "error": 1e3 * timing.median().value / ms - 1}
        for ms, timing in found.timings.items()
    ]
    return rows, found.noise


def waiting(ms: float) -> Callable[[], None]:
    """Return a function that reads the monotonic clock until `ms` milliseconds are over."""

    def wait() -> None:
        end = perf_counter_ns() + round(1e6 * ms)
        while perf_counter_ns() < end:
            pass

    return wait


def compare_equal_functions(name: str, run: Run, repeats: int) -> tuple[dict[str, Any], list[Noise]]:
    """Measure one function as two candidates, `repeats` times for a short time each.

    Returns a row of the table, with the share of measurements whose interval of the ratio contains 1, and the noise of
    each measurement.
    """
    differences, noises = [], []
    milliseconds = []
    for seed in range(repeats):
        found = measure({"one": run, "other": run}, iterations=ITERATIONS, warmup=None if seed == 0 else 1, seed=seed)
        one, other = found.timings["one"], found.timings["other"]
        differences.append(ratio(one, other))
        milliseconds.append(1e3 * one.median().value)
        noises.append(found.noise)
    return {
        "name": name,
        "measurements": repeats,
        "ms": float(np.median(milliseconds)),
        "held": share_containing(differences, 1.0),
        "width": width(differences),
        "largest_difference": max(abs(interval.value - 1) for interval in differences),
    }, noises


def simulate(name: str, machine: dict[str, float]) -> dict[str, Any]:
    """Measure candidates of 4, 4 and 4.4 ms on a simulated machine; return a row of the table."""
    equal, slower = [], []
    for seed in range(SIMULATED_MEASUREMENTS):
        time = SimulatedTime(seed, **machine)
        runs = {key: time.candidate(ms / 1e3) for key, ms in (("one", 4), ("other", 4), ("slower", 4.4))}
        with time.installed():
            timings = measure(runs, iterations=SIMULATED_RUNS, warmup=0, seed=seed).timings
        equal.append(difference(timings["one"], timings["other"]).scaled(1 / 0.004))
        slower.append(ratio(timings["slower"], timings["one"]))
    return {
        "name": name,
        "measurements": SIMULATED_MEASUREMENTS,
        "held_equal": share_containing(equal, 0.0),
        "held_slower": share_containing(slower, 1.1),
        "width": width(slower),
    }


def share_containing(intervals: list[Interval], truth: float) -> float:
    """Return the share of the intervals that contain the true value."""
    return float(np.mean([interval.low <= truth <= interval.high for interval in intervals]))


def width(intervals: list[Interval]) -> float:
    """Return the median width of the intervals."""
    return float(np.median([interval.high - interval.low for interval in intervals]))


def sheets(report: dict[str, Any]) -> list[Section]:
    """Return the three tables."""
    known = [
        [
            f"{r['ms']:g}",
            f"{r['p50']:.4f}",
            f"{r['low']:.4f}-{r['high']:.4f}",
            f"{r['error']:+.2%}",
            met(abs(r["error"]) <= MAX_ERROR),
        ]
        for r in report["known"]
    ]
    equal = [
        [
            r["name"],
            f"{r['ms']:.3f}",
            f"{r['measurements']}",
            f"{r['held']:.1%}",
            f"{r['width']:.2%}",
            f"{r['largest_difference']:.2%}",
            met(r["held"] >= CONTAINED_SHARE),
        ]
        for r in report["equal"]
    ]
    simulated = [
        [r["name"], f"{r['measurements']}", f"{r['held_equal']:.1%}", f"{r['held_slower']:.1%}", f"{r['width']:.2%}"]
        for r in report["simulated"]
    ]
    return [
        section(
            "A function of known duration (aim: error within 2%)",
            ["duration, ms", "median, ms", "interval", "error", ""],
            known,
            [
                "The function returns when it first reads the clock after its time is over, and the call takes time, "
                "too, so errors are above 0."
            ],
        ),
        section(
            "Two equal functions (aim: the interval of their ratio contains 1 in 95% of the measurements)",
            ["", "ms", "measurements", "contains 1", "median width", "largest difference", ""],
            equal,
        ),
        section(
            "Simulated clock: intervals that contain the true value",
            ["simulated machine", "measurements", "difference of equal functions", "ratio 1.1", "median width"],
            simulated,
        ),
    ]


def met(yes: bool) -> str:
    return "met" if yes else "NOT met"


def present(report: dict[str, Any], warnings: list[str], folder: Path) -> None:
    """Print the tables, and write clock.md and clock.json."""
    notes = [
        f"machine: {', '.join(f'{key} {value}' for key, value in report['machine'].items())}",
        f"equal functions: {ITERATIONS} timed runs of each, in ten rounds or more; simulated clock: "
        f"{SIMULATED_RUNS} runs",
    ]
    title = f"Validation of the clock, {report['started']}"
    publish(folder / "clock", report, sheets(report), title, notes, warnings)


if __name__ == "__main__":
    app()
