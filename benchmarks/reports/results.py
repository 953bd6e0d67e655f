"""Results of the inference benchmark and their tables.

There is a table per network, T, batch and number of threads; its rows are candidates, its columns sparsities.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.reports.report import section
from benchmarks.rivals.engines import AVX2, INT8, NATIVE, ROUNDED, Agreement
from spiketicket.profiling.measure.noise import Noise
from spiketicket.profiling.measure.timing import Timing, ratio
from spiketicket.profiling.report.document import Section

MS = 1e3
TARGET_TIMESTEPS, TARGET_THREADS = 5, 2
_SPARSITIES = (0.0, 68.30, 89.91, 95.69, 98.13)
_VGG16 = {1: (2.5, 3.5, 5.0, 7.0, 10.0), 32: (2.0, 3.0, 4.5, 6.0, 8.0)}
TARGETS = {  # (arch, batch) -> sparsity -> ratio to the best rival, at T = 5 and two threads
    (arch, batch): {p: share * ratio for p, ratio in zip(_SPARSITIES, ratios, strict=True)}
    for arch, share in (("vgg16", 1.0), ("resnet19", 0.8))
    for batch, ratios in _VGG16.items()
}


@dataclass(frozen=True)
class Configuration:
    """The ticket, T, batch and number of threads of one comparison."""

    arch: str
    sparsity: float
    timesteps: int
    batch: int
    threads: int

    @property
    def panel(self) -> tuple[str, int, int, int]:
        """What the configurations in one table have in common."""
        return self.arch, self.timesteps, self.batch, self.threads

    @property
    def target(self) -> float | None:
        """The aimed ratio to the best rival; None if there is no aim."""
        if (self.timesteps, self.threads) != (TARGET_TIMESTEPS, TARGET_THREADS):
            return None
        return TARGETS.get((self.arch, self.batch), {}).get(self.sparsity)


@dataclass(frozen=True)
class Result:
    """The result of one configuration.

    `seconds` are those of a run, of candidates whose logits were right; `missing` says why others were not timed.
    """

    configuration: Configuration
    seconds: dict[str, Timing]
    agreements: dict[str, Agreement]
    missing: dict[str, str] = field(default_factory=dict)
    noise: Noise | None = None  # None if nothing was timed

    @property
    def best_rival(self) -> str | None:
        """The fastest rival that computes the file's network in float32."""
        rivals = {name: t.median().value for name, t in self.seconds.items() if name not in (NATIVE, AVX2, *ROUNDED)}
        return min(rivals, key=rivals.__getitem__, default=None)

    def ratio(self, candidate: str = NATIVE) -> float | None:
        """Return the best rival's time divided by that of `candidate`: above 1, `candidate` is faster."""
        if self.best_rival is None or candidate not in self.seconds:
            return None
        return ratio(self.seconds[self.best_rival], self.seconds[candidate]).value

    def over_native(self, candidate: str) -> float | None:
        """Return how many times as long as the native engine `candidate` takes."""
        if candidate not in self.seconds or NATIVE not in self.seconds:
            return None
        return ratio(self.seconds[candidate], self.seconds[NATIVE]).value

    def to_dict(self) -> dict[str, Any]:
        return {
            **vars(self.configuration),
            "contestants": {
                name: {
                    "seconds_per_run": figures(timing),
                    "images_per_second": self.configuration.batch / timing.median().value,
                    "agreement": vars(self.agreements[name]),
                }
                for name, timing in self.seconds.items()
            },
            "missing": self.missing,
            "noise": self.noise and self.noise.to_dict(),
            "wrong": {name: vars(a) for name, a in self.agreements.items() if name not in self.seconds},
            "best_rival": self.best_rival,
            "ratio": self.ratio(),
            "ratio_avx2": self.ratio(AVX2),
            "target": self.configuration.target,
        }


def summary_sheet(results: Sequence[Result]) -> Section | None:
    """Tabulate ratios to the best rival, with aims in brackets; return None if no result has an aim."""
    rows: dict[tuple[str, int], dict[float, str]] = {}
    for r in results:
        c, times, target = r.configuration, r.ratio(), r.configuration.target
        if times is not None and target is not None:
            rows.setdefault((c.arch, c.batch), {})[c.sparsity] = f"{_ratio(times)} ({target:.3g})"
    sparsities = sorted({p for cells in rows.values() for p in cells})
    if not rows:
        return None
    return section(
        f"Speed relative to the best rival, T = {TARGET_TIMESTEPS}, {TARGET_THREADS} threads (aim in brackets)",
        ["", *(f"p = {p:g}%" for p in sparsities)],
        [[f"{arch}, batch {batch}", *(cells.get(p, "-") for p in sparsities)] for (arch, batch), cells in rows.items()],
    )


def latency_sheets(results: Sequence[Result]) -> list[Section]:
    """Return the tables of milliseconds per run."""
    panels: dict[tuple[str, int, int, int], list[Result]] = {}
    for result in results:
        panels.setdefault(result.configuration.panel, []).append(result)
    return [_latency_sheet(group) for group in panels.values()]


def _latency_sheet(results: list[Result]) -> Section:
    c = results[0].configuration
    names = list(dict.fromkeys(name for r in results for name in [*r.agreements, *r.missing]))
    rows = [
        [name, *(_milliseconds(r, name) for r in results)] for name in names if any(name in r.seconds for r in results)
    ]
    if c.batch > 1:
        rows.append(["native, images/s", *(_images_per_second(r, NATIVE) for r in results)])
        rows.append(["best rival, images/s", *(_images_per_second(r, r.best_rival) for r in results)])
    rows.append(["best rival", *(r.best_rival or "-" for r in results)])
    rows.append(["best rival / native", *(_ratio(r.ratio()) for r in results)])
    if any(AVX2 in r.seconds for r in results):
        rows.append(["best rival / native/avx2", *(_ratio(r.ratio(AVX2)) for r in results)])
    if any(INT8 in r.seconds for r in results):
        rows.append([f"{INT8} / native", *(_ratio(r.over_native(INT8)) for r in results)])
    if any(r.configuration.target for r in results):
        rows.append(["aim", *(_ratio(r.configuration.target) for r in results)])
    title = (
        f"{c.arch}, T = {c.timesteps}, batch {c.batch}, {c.threads} thread{'s' if c.threads > 1 else ''}: ms per run"
    )
    return section(title, ["median (p10-p90)", *(f"p = {r.configuration.sparsity:g}%" for r in results)], rows)


def _milliseconds(result: Result, name: str) -> str:
    if name not in result.seconds:
        return "wrong" if name in result.agreements else "-"
    text = with_spread(result.seconds[name], lambda seconds: _short(MS * seconds))
    return f"{text}, {result.agreements[name].top1:.0%} of classes" if name in ROUNDED else text


def with_spread(timing: Timing, write: Callable[[float], str]) -> str:
    """Return the median, and in brackets the 10th and the 90th percentile."""
    low, high = timing.quantile(0.1), timing.quantile(0.9)
    return f"{write(timing.median().value)} ({write(low)}-{write(high)})"


def figures(timing: Timing) -> dict[str, float]:
    """Return the figures of a timing for JSON, in seconds."""
    return {**timing.to_dict(), "p10": timing.quantile(0.1)}


def _short(ms: float) -> str:
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}" if ms >= 1 else f"{ms:.3f}"


def _images_per_second(result: Result, name: str | None) -> str:
    return f"{result.configuration.batch / result.seconds[name].median().value:,.0f}" if name in result.seconds else "-"


def _ratio(times: float | None) -> str:
    return "-" if times is None else f"{times:.3g}x"


def ticket_sheet(facts: Sequence[dict[str, Any]]) -> Section:
    """Tabulate accuracy, size, density and firing rates of the tickets."""
    rows = [
        [
            f"{f['arch']} {f['sparsity']:g}%",
            "untrained" if f["test_accuracy"] is None else f"{f['test_accuracy']:.2%}",
            f"{f['megabytes']:.2f}",
            f"{f['mac_density']:.1%}",
            f"{f['firing_rate']:.1%}",
            f"{min(f['firing_rates'].values()):.1%}",
            f"{max(f['firing_rates'].values()):.1%}",
            f"{f['silent_neurons']:.0%}",
            f"{min(layer['density'] for layer in f['layers']):.2%}",
            str(len(f["dead_layers"])),
        ]
        for f in facts
    ]
    header = [
        "ticket",
        "test accuracy",
        "MB",
        "density by MACs",
        "firing rate",
        "lowest layer",
        "highest layer",
        "silent at all T",
        "lowest density",
        "empty layers",
    ]
    return section("Tickets (per layer in results.json)", header, rows)


def layer_sheet(facts: dict[str, Any]) -> Section:
    """Tabulate the density of weights and the firing rate of spiking layers of one ticket, in order."""
    weights = [
        [layer["name"], "x".join(map(str, layer["shape"])), f"{layer['density']:.2%}", ""] for layer in facts["layers"]
    ]
    spiking = [[name, "LIF", "", f"{rate:.1%}"] for name, rate in facts["firing_rates"].items()]
    title = f"{facts['arch']} at {facts['sparsity']:g}%, layer by layer"
    return section(title, ["layer", "weight", "density", "firing rate"], weights + spiking)


def footprint_sheet(rows: Sequence[dict[str, Any]]) -> Section:
    """Tabulate file size, load time and memory."""
    cells = [
        [
            r["label"],
            f"{r['file'] / 1e6:.2f}",
            f"{r['load_seconds']:.3f}",
            f"{r['first_result_seconds']:.3f}",
            f"{r['resident'] / 1e6:.1f}",
            f"{r['peak'] / 1e6:.1f}",
        ]
        for r in rows
    ]
    header = ["engine", "file MB", "load s", "load + first run s", "additional resident MB", "at the peak"]
    return section(f"Load and memory, {rows[0]['what']}" if rows else "Load and memory", header, cells)


def notes_on(results: Sequence[Result]) -> list[str]:
    """Return a note for each candidate that is missing: from how many configurations, and why."""
    where: dict[tuple[str, str], int] = {}
    for result in results:
        for name, reason in result.missing.items():
            where[name, reason] = where.get((name, reason), 0) + 1
    return [
        f"not measured: {name}: {reason} ({count} of {len(results)} configurations)"
        for (name, reason), count in where.items()
    ]


def disturbances(noises: Sequence[Noise]) -> list[str]:
    """Return a warning if measurements were disturbed: how many, and what disturbed the worst of them; else nothing."""
    noisy = [noise for noise in noises if noise.warnings]
    if not noisy:
        return []
    worst = max(noisy, key=lambda noise: (noise.others or 0.0, noise.spread))
    return [
        f"{len(noisy)} of {len(noises)} measurements were disturbed, so only ratios are reliable. "
        + " ".join(worst.warnings)
    ]
