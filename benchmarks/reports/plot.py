"""Picture of the inference benchmark: speed relative to the best rival by sparsity, for each network and batch."""

from collections.abc import Sequence
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.reports.results import TARGET_THREADS, TARGET_TIMESTEPS, TARGETS, Result
from spiketicket.errors import extra
from spiketicket.files import write_atomic

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7")  # by Okabe and Ito, who chose them for colour-blind readers
MARKERS = ("s", "o", "^", "D")
LINES = ("-", "--", ":", "-.")
TICKS = (0.25, 0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30)


def draw(results: Sequence[Result], path: Path, subtitle: str) -> None:
    """Draw the picture: colour and marker show T, the line style shows the number of threads.

    Raises MissingExtraError if matplotlib is not installed.
    """
    with extra("bench", "the picture", "matplotlib"):
        import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullFormatter

    measured = [r for r in results if r.ratio() is not None]
    archs, batches, steps, threads = (_distinct(measured, key) for key in ("arch", "batch", "timesteps", "threads"))
    sparsities = sorted(_distinct(measured, "sparsity"))
    figure, axes = plt.subplots(
        len(archs),
        len(batches),
        figsize=(4.6 * len(batches) + 0.6, 3.4 * len(archs) + 1.2),
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    for arch, row in zip(archs, axes, strict=True):  # vgg16 in the first row
        for batch, ax in zip(sorted(batches), row, strict=True):
            here = [r for r in measured if (r.configuration.arch, r.configuration.batch) == (arch, batch)]
            _lines(ax, here, sparsities, steps, threads)
            if TARGET_TIMESTEPS in steps and TARGET_THREADS in threads:
                _target(ax, TARGETS.get((arch, batch), {}), sparsities)
            ax.axhline(1, color="0.5", linewidth=1)
            ax.set_title(f"{arch}, batch {batch}", fontsize=11)
            ax.grid(alpha=0.3)
    first = axes[0][0]
    ratios = [r.ratio() or 1 for r in measured] + [ratio for goal in TARGETS.values() for ratio in goal.values()]
    first.set_yscale("log")
    first.set_yticks(TICKS)
    first.set_ylim(min(0.7, min(ratios) / 1.2), max(ratios) * 1.2)
    first.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}x"))
    first.yaxis.set_minor_formatter(NullFormatter())
    first.set_xticks(range(len(sparsities)), [f"{p:g}" for p in sparsities])
    for ax in axes[-1]:
        ax.set_xlabel("sparsity p, % of all parameters")
    for ax in axes[:, 0]:
        ax.set_ylabel("times as fast as the best rival")
    figure.suptitle(f"Native engine against its best rival\n{subtitle}", fontsize=11)
    handles, labels = first.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    plt.close(figure)
    write_atomic(path, picture.getvalue())


def _lines(ax: Any, results: list[Result], sparsities: list[float], steps: list[int], threads: list[int]) -> None:
    """Draw a line for each T and number of threads."""
    for (i, t), (j, n) in product(enumerate(steps), enumerate(threads)):
        points = {
            sparsities.index(r.configuration.sparsity): r.ratio()
            for r in results
            if (r.configuration.timesteps, r.configuration.threads) == (t, n)
        }
        ordered = sorted(points)
        ax.plot(
            ordered,
            [points[index] for index in ordered],
            color=COLOURS[i % 4],
            marker=MARKERS[i % 4],
            linestyle=LINES[j % 4],
            fillstyle="none" if j else "full",
            label=f"T = {t}, {n} thread{'s' if n > 1 else ''}",
        )


def _target(ax: Any, goal: dict[float, float], sparsities: list[float]) -> None:
    """Mark the aimed ratio at each sparsity that has one."""
    ratios = {sparsities.index(p): ratio for p, ratio in goal.items() if p in sparsities}
    if ratios:
        ax.plot(
            list(ratios),
            list(ratios.values()),
            color="black",
            marker="_",
            markersize=14,
            linestyle="none",
            markeredgewidth=2,
            label=f"target (T = {TARGET_TIMESTEPS}, {TARGET_THREADS} threads)",
        )


def _distinct(results: list[Result], key: str) -> list[Any]:
    """Return the distinct values in falling order, so that T = 5 and two threads come first."""
    return sorted({getattr(r.configuration, key) for r in results}, reverse=True)
