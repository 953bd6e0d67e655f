"""The picture of a comparison: accuracy against sparsity and against search time, side by side."""

import textwrap
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from spiketicket.errors import InputError, extra
from spiketicket.files import write_atomic
from spiketicket.train.history.curves import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito: colours that colour-blind readers can distinguish; the markers distinguish curves without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", ":", "-.")
INCHES, DPI = (11, 4.8), 150
CHARACTERS = 140  # characters that fit into the width
MARGIN, TICK_GAP = 0.05, 0.09  # as shares of the sparsity axis
WIDE = 20  # ratio of search times from which their axis is logarithmic
UNITS = ((2 * 3600, 3600, "h"), (120, 60, "min"), (0, 1, "s"))  # from, seconds, name


def draw(curves: Sequence[Curve], path: Path, title: str, caption: str) -> None:
    """Write the picture as PNG, 1650 x 720 pixels.

    Raises InputError if `path` does not end in .png, MissingExtraError without matplotlib.
    """
    if path.suffix.lower() != ".png":
        raise InputError(f"the picture is a PNG: expected a name that ends in .png, got {path.name}")
    with extra("report", "the picture", "matplotlib"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    figure = Figure(INCHES, DPI, layout="constrained")
    FigureCanvasAgg(figure)  # needs no window system, whatever the user's settings say
    by_sparsity, by_time = figure.subplots(1, 2, sharey=True)
    unit, unit_name = _unit(curves)
    for index, curve in enumerate(curves):
        _draw_curve(by_sparsity, curve, index, [1 - point.sparsity for point in curve.points])
        times = [(point.mean("search_seconds"), point.deviation("search_seconds")) for point in curve.points]
        errors = [(deviation or 0.0) / unit for _, deviation in times]
        _draw_curve(by_time, curve, index, [seconds / unit for seconds, _ in times], errors)
    _sparsity_axis(by_sparsity, curves)
    _time_axis(by_time, [point.mean("search_seconds") / unit for curve in curves for point in curve.points], unit_name)
    by_sparsity.set_ylabel("test accuracy, %")
    for ax in (by_sparsity, by_time):
        ax.grid(alpha=0.3)
    figure.suptitle("\n".join([title, *textwrap.wrap(caption, CHARACTERS)]), fontsize=10)
    handles, labels = by_sparsity.get_legend_handles_labels()
    columns = max(1, min(len(labels), CHARACTERS // (max(map(len, labels)) + 8)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=DPI)
    write_atomic(path, picture.getvalue())


def _draw_curve(ax: "Axes", curve: Curve, index: int, x: list[float], x_errors: list[float] | None = None) -> None:
    several = any(len(point.samples) > 1 for point in curve.points)
    y_errors = [100 * (point.deviation("accuracy") or 0.0) for point in curve.points]
    ax.errorbar(
        x,
        [100 * point.mean("accuracy") for point in curve.points],
        xerr=x_errors if several else None,
        yerr=y_errors if several else None,
        label=curve.label,
        color=COLOURS[index % len(COLOURS)],
        marker=MARKERS[index % len(MARKERS)],
        linestyle=LINES[index // len(COLOURS) % len(LINES)],
        markersize=5,
        linewidth=1.5,
        capsize=3,
        elinewidth=1,
    )


def _sparsity_axis(ax: "Axes", curves: Sequence[Curve]) -> None:
    """Scale the axis by the logarithm of the weights that survive: equal prunings are equal steps."""
    sparsities = sorted({point.sparsity for curve in curves for point in curve.points}, reverse=True)
    densities = [1 - sparsity for sparsity in sparsities]
    span = max(densities[-1] / densities[0], 1.1)
    ax.set_xscale("log")
    ax.set_xlim(densities[-1] * span**MARGIN, densities[0] / span**MARGIN)
    ticks = densities[:1]
    for density in densities[1:]:
        if density / ticks[-1] >= span**TICK_GAP:
            ticks.append(density)
    ax.set_xticks(ticks, [f"{100 * (1 - density):.4g}" for density in ticks])
    ax.minorticks_off()
    ax.set_xlabel("sparsity p, % of all parameters")


def _time_axis(ax: "Axes", times: Sequence[float], unit: str) -> None:
    from matplotlib.ticker import LogLocator

    if min(times) > 0 and max(times) / min(times) > WIDE:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
    else:
        ax.set_xlim(left=-0.03 * max(times) or None)  # a search may take no time: a cut of the initial weights
    ax.set_xlabel(f"search time, {unit}")


def _unit(curves: Sequence[Curve]) -> tuple[int, str]:
    longest = max(point.mean("search_seconds") for curve in curves for point in curve.points)
    return next((seconds, name) for start, seconds, name in UNITS if longest >= start)
