"""Where a run's time goes: every layer of a model in the native engine, on one thread, beside what bounds its kernel.

    python benchmarks/layers.py build/bench/models/TICKET [--timesteps 5] [--batch 1]

TICKET is a folder that benchmarks/inference.py made: a model and the images that were timed.

Additions are those that the kernel makes: dense rows of the spikes that fire (events), their nonzeros (sparse-events),
every weight at every position (masks), one per table (tables). Their peak is that of the same kernel on a small layer
whose weights lie in the first cache, measured in the same minute. Dense GMAC/s is what a dense engine would need for
the same time. Bytes are those of the weights, as the kernel stores them, and of the spikes in and out.
"""

import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from spiketicket.cli import guarded, make_app, run_app
from spiketicket.csr import Csr
from spiketicket.domain import INPUT
from spiketicket.errors import InputError
from spiketicket.export.onnx_writer import to_onnx
from spiketicket.graph import Conv, Flatten, Graph, Lif, Linear, MaxPool, Repeat, window
from spiketicket.runtime import Session
from spiketicket.runtime.planner import PLANS

REPEATS = 40
LANES = 16
SMALL = {"events": 16, "sparse-events": 16, "masks": 64, "tables": 64}  # input channels of the layer that gives a peak


app = make_app("Where a run's time goes, layer by layer.")


@app.command()
@guarded
def main(
    ticket: Annotated[Path, typer.Argument(help="Folder of a ticket that benchmarks/inference.py made.")],
    timesteps: Annotated[int, typer.Option(min=1, help="Timesteps T.")] = 5,
    batch: Annotated[int, typer.Option(min=1, max=32, help="Images per run.")] = 1,
    plan: Annotated[str, typer.Option(help=f"Kernels: {', '.join(PLANS)}.")] = "auto",
) -> None:
    """Print milliseconds, kernel, additions per nanosecond (and their share of the kernel's peak) and bytes of every
    layer, on one thread.
    """
    if not (ticket / "oracle.npz").exists():
        raise InputError(
            f"{ticket} is no ticket's folder: run benchmarks/inference.py, then give one of its OUT/models"
        )
    with np.load(ticket / "oracle.npz") as stored:
        x = np.ascontiguousarray(stored["images"][:batch])
    with Session(ticket / "model.onnx", threads=1, plan=plan) as session:
        rows = measure(session, x, timesteps)
    peaks = {kernel: peak(kernel) for kernel in {row["kernel"] for row in rows if row["kernel"] in SMALL}}
    table = Table(title=f"{ticket.name}, T = {timesteps}, batch {batch}, one thread: medians of {REPEATS} runs")
    for column in ("layer", "shape", "density", "rate in", "kernel", "ms", "dense GMAC/s", "adds/ns", "of peak", "kB"):
        table.add_column(column, justify="left" if column in ("layer", "shape", "kernel") else "right")
    for row in rows:
        if row["macs"] == 0:
            table.add_row(row["name"], "", "", "", row["kernel"], f"{row['ms']:.3f}", "", "", "", "")
            continue
        speed = row["additions"] / row["ms"] / 1e6
        share = f"{speed / peaks[row['kernel']]:.0%}" if row["kernel"] in peaks and row["timed"] else ""
        table.add_row(
            row["name"], row["shape"], f"{row['density']:.1%}", f"{row['rate']:.1%}", row["kernel"],
            f"{row['ms']:.3f}", f"{row['macs'] / row['ms'] / 1e6:.0f}", f"{speed:.1f}", share,
            f"{row['bytes'] / 1e3:.0f}",
        )  # fmt: skip
    console = Console(width=140)
    console.print(table)
    console.print("peak additions/ns: " + ", ".join(f"{kernel} {rate:.1f}" for kernel, rate in sorted(peaks.items())))
    console.print(f"all layers: {sum(row['ms'] for row in rows):.3f} ms")


def measure(session: Session, x: NDArray[np.float32], timesteps: int) -> list[dict[str, Any]]:
    """One row per operation of the engine, in order."""
    lowered: Any = session._engine.lowered  # type: ignore[union-attr]
    graph, network = session._graph, lowered.network
    times = np.median([network.time_operations(x, len(x), timesteps) for _ in range(REPEATS)], axis=0)
    spikes = spikes_of(graph, session.spikes({INPUT: x}, timesteps))
    plans = {layer.name: layer for layer in session.layers()}
    seen: set[int] = set()
    rows = []
    for node in graph.nodes:
        operation = network.operation_of(lowered.ids[node.output]) if node.output in lowered.ids else -1
        if operation < 0 or operation in seen:
            continue
        seen.add(operation)
        parts = [part for name, part in named(graph) if part_of(plans, name, node.name)]
        kernel = next(
            (plans[part.name].kernel for part in parts if plans[part.name].kernel != "none"), plans[node.name].kernel
        )
        row = {"name": node.name, "kernel": kernel.split(" ")[0].split("/")[0], "ms": times[operation], "macs": 0}
        if parts:
            row |= work(graph, parts, spikes, row["kernel"], timesteps, len(x))
            row["name"], row["shape"] = parts[0].name, " + ".join("x".join(map(str, p.weight.shape)) for p in parts)
            row["bytes"] = network.weight_bytes(lowered.layers[parts[0].name]) + sum(
                spikes[name].size / 8 for name in (*(p.inputs[0] for p in parts), node.output) if name in spikes
            )
        rows.append(row)
    return rows


def named(graph: Graph) -> list[tuple[str, Conv | Linear]]:
    return [(node.name, node) for node in graph.weighted()]


def part_of(plans: dict[str, Any], layer: str, operation: str) -> bool:
    """Whether the weights of `layer` are computed by `operation` (a LIF that takes them in, or they themselves)."""
    first = plans[operation].why.removeprefix("part of ") if plans[operation].why.startswith("part of ") else operation
    return layer == first or plans[layer].why == f"part of {first}"


def spikes_of(graph: Graph, recorded: dict[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.uint8]]:
    """Every value of spikes [T, N, ...], those behind pooling and Flatten too."""
    values: dict[str, NDArray[np.uint8]] = {}
    for node in graph.nodes:
        if isinstance(node, Lif):
            values[node.output] = recorded[node.name]
        elif isinstance(node, MaxPool) and node.inputs[0] in values and not any(node.pads):
            windows = np.lib.stride_tricks.sliding_window_view(values[node.inputs[0]], node.kernel, axis=(3, 4))
            values[node.output] = windows[:, :, :, :: node.strides[0], :: node.strides[1]].max((5, 6))
        elif isinstance(node, Flatten) and node.inputs[0] in values:
            values[node.output] = values[node.inputs[0]].reshape(*values[node.inputs[0]].shape[:2], -1)
    return values


def work(
    graph: Graph, parts: list[Conv | Linear], spikes: dict[str, NDArray[np.uint8]], kernel: str, timesteps: int, n: int
) -> dict[str, Any]:
    """Multiply-accumulates of a dense engine, and additions that the kernel makes, of n images."""
    timed = all(part.inputs[0] in spikes for part in parts)
    steps = timesteps if timed else 1
    dense = sum(graph.macs(part, dense=True) * inside(graph, part) for part in parts) * steps * n
    sparse = sum(graph.macs(part) for part in parts) * steps * n
    sizes = [spikes[part.inputs[0]].size for part in parts if part.inputs[0] in spikes]
    fired = [spikes[part.inputs[0]] for part in parts if part.inputs[0] in spikes]
    rate = sum(int(s.sum()) for s in fired) / max(sum(sizes), 1)
    added = rate  # of periodic spikes every neuron once, whatever its period
    if len(parts) == 1 and constant_current(graph, parts[0].inputs[0]):
        added = float(fired[0].any(axis=0).mean()) / timesteps
    density = sum(part.weight.nnz for part in parts) / sum(math.prod(part.weight.shape) for part in parts)
    positions = math.prod(graph.values[parts[0].output].shape[1:])
    padded = math.ceil(positions / LANES) * LANES / positions
    additions = {
        "events": dense * (added if timed else 1),
        "sparse-events": dense * density * added,
        "masks": sparse * padded,
        "tables": sum(graph.macs(part, dense=True) for part in parts)
        * steps
        * n
        / 4
        * (1 - (1 - density) ** 4)
        * padded,
    }[kernel]
    macs = sum(graph.macs(part, dense=True) for part in parts) * steps * n
    return {"macs": macs, "additions": additions, "rate": rate if timed else 1.0, "density": density, "timed": timed}


def constant_current(graph: Graph, value: str) -> bool:
    """Whether the neurons of a value get the same current at every timestep, and fall back to rest."""
    makers = {node.output: node for node in graph.nodes}
    lif = makers.get(value)
    return isinstance(lif, Lif) and lif.v_reset is not None and isinstance(makers.get(lif.inputs[0]), Repeat)


def inside(graph: Graph, part: Conv | Linear) -> float:
    """Share of kernel taps that lie inside the input plane."""
    if isinstance(part, Linear):
        return 1.0
    shares = []
    for axis in (0, 1):
        size, kernel = graph.values[part.inputs[0]].shape[1 + axis], part.weight.shape[2 + axis]
        stride, before, dilation = part.strides[axis], part.pads[axis], part.dilations[axis]
        out = window(size, kernel, stride, before, part.pads[axis + 2], dilation)
        taps = np.arange(out)[:, None] * stride - before + np.arange(kernel) * dilation
        shares.append(((taps >= 0) & (taps < size)).mean())
    return float(shares[0] * shares[1])


def peak(kernel: str) -> float:
    """Additions per nanosecond of a kernel on a small dense layer where every neuron fires."""
    channels, size = SMALL[kernel], 8
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, channels, 3, 3))
    identity = np.zeros((channels, channels, 1, 1), np.float32)
    identity[range(channels), range(channels)] = 2
    zeros = np.zeros(64, np.float32)
    nodes = (
        Conv("first", ("x",), "x1", Csr.from_dense(identity), zeros[:channels]),
        Repeat("repeat", ("x1",), "x2"),
        Lif("spikes", ("x2",), "s0", 1.0, v_threshold=1.0, v_reset=None),
        Conv("conv", ("s0",), "c", Csr.from_dense(weight.astype(np.float32)), zeros, pads=(1, 1, 1, 1)),
        Lif("lif", ("c",), "s1", 4 / 3),
        Flatten("flat", ("s1",), "f"),
        Linear("out", ("f",), "y", Csr.from_dense(np.zeros((2, 64 * size * size), np.float32)), zeros[:2]),
    )
    graph = Graph("x", (channels, size, size), nodes, "y", 5)
    x = np.ones((1, channels, size, size), np.float32)
    path = Path("build") / f"peak-{kernel}.onnx"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(to_onnx(graph).SerializeToString())
    with Session(path, threads=1, plan=kernel) as session:
        row = next(row for row in measure(session, x, 5) if row["name"] == "conv")
    path.unlink()
    return float(row["additions"] / row["ms"] / 1e6)


if __name__ == "__main__":
    run_app(app)
