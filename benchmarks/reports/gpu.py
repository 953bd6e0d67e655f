"""Tables of the GPU benchmark's results."""

from typing import Any

from benchmarks.reports.report import section
from benchmarks.rivals.gpu import OURS, OURS_HALF
from spiketicket.profiling.report.document import Section

# How many times as fast as the best dense rival engine cuda shall be: by batch, then from which sparsity p on.
AIMS = {1: {98.13: 2.0}, 128: {0.0: 1.0, 95.69: 1.2}}


def aim(batch: int, sparsity: float) -> float | None:
    """Return the aim at a batch and a sparsity; None if there is none."""
    reached = [times for p, times in AIMS.get(batch, {}).items() if sparsity >= p]
    return max(reached, default=None)


def crossover(rows: list[dict[str, Any]]) -> float | None:
    """Return the largest density at which the sparse kernel is the fastest; None if it never is."""
    won = [row["density"] for row in rows if min(row["us"], key=row["us"].__getitem__) == "sparse"]
    return max(won, default=None)


def networks_sheet(runs: list[dict[str, Any]], how: str) -> Section:
    """Tabulate milliseconds per run, measured as `how` says: "run" or "device".

    The best rival is the fastest one at any sparsity: dense rivals take the same time at all of them, and the slow ones
    are measured at one only.
    """
    names = list(runs[0]["ms"])
    ours = [name for name in names if name in (OURS, OURS_HALF)]
    rows = []
    for run in runs:
        ms = {name: run["ms"][name][how]["p50"] for name in names if how in run["ms"][name]}
        rivals = [
            other["ms"][name][how]["p50"]
            for other in runs
            if (other["arch"], other["batch"]) == (run["arch"], run["batch"])
            for name in names
            if name not in (OURS, OURS_HALF) and how in other["ms"][name]
        ]
        gains = [f"{min(rivals) / ms[name]:.2f}x" if rivals and name in ms else "-" for name in ours]
        cells = (f"{ms[name]:.4f}" if name in ms else "-" for name in names)
        wanted = _cell(aim(run["batch"], run["sparsity"]), "g")
        rows.append([f"{run['arch']} {run['sparsity']:g}%, {run['batch']}", *cells, *gains, wanted])
    where = "images on the GPU" if how == "device" else "from the CPU and back"
    reasons = {f"{name}: {why}" for run in runs for name, why in run["missing"].items()}
    agreed = [
        f"{run['arch']} {run['sparsity']:g}%, {run['batch']}: "
        + ", ".join(
            f"{n} {a['top1']:.0%} the oracle's class, {a['exact']:.0%} exact" for n, a in run["agreement"].items()
        )
        for run in runs
    ]
    columns = ["network, batch", *names, *(f"best rival / {name}" for name in ours), "aim"]
    return section(
        f"Milliseconds per run, {where}",
        columns,
        rows,
        [*sorted(reasons), "Agreement with the oracle: share of images with its class, and with its logits.", *agreed],
    )


def layers_sheet(one: dict[str, Any]) -> Section:
    """Tabulate the kernels of one network's layers."""
    rows = [
        [
            row["layer"],
            row["kernel"],
            _cell(row["density"], ".2%"),
            _cell(row["us"], ".2f"),
            _cell(row["bandwidth"], ".0%"),
            _cell(row["cusparse_us"], ".2f"),
            row["why"],
        ]
        for row in one["rows"]
    ]
    note = (
        f"Kernels {one['kernels_us']:.1f} us one by one, the graph {one['graph_us']:.1f} us: "
        f"{one['outside_kernels']:.0%} of a run is launches and waiting (below 0: kernels of the graph overlap)."
    )
    title = f"{one['arch']} at {one['sparsity']:g}%, batch {one['batch']}, T = {one['timesteps']}: layers"
    return section(title, ["layer", "kernel", "density", "us", "of bandwidth", "cuSPARSE us", "why"], rows, [note])


def densities_sheet(found: list[dict[str, Any]]) -> Section:
    """Tabulate the time of each kernel of one layer by density."""
    kernels = list(found[0]["us"])
    rows = [
        [row["layer"], str(row["batch"]), f"{row['density']:.1%}", *(f"{row['us'][k]:.2f}" for k in kernels)]
        for row in found
    ]
    notes = []
    for layer, batch in dict.fromkeys((row["layer"], row["batch"]) for row in found):
        at = crossover([row for row in found if (row["layer"], row["batch"]) == (layer, batch)])
        notes.append(f"{layer}, batch {batch}: sparse is fastest " + ("nowhere" if at is None else f"up to {at:.1%}"))
    return section("Microseconds of one layer by density", ["layer", "batch", "density", *kernels], rows, notes)


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
