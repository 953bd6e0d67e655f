"""Engine cuda against dense and sparse rivals on the present NVIDIA GPU: `make gpu-bench`, or see -h.

It prints three kinds of tables. Networks: milliseconds per run of every candidate, timed in turns. Layers: the kernel
of each layer, its time and its share of the memory bandwidth, the time of cuSPARSE beside it, and the share of a run
that is spent outside kernels. Densities: the kernels of one layer from dense to nearly empty, and the density below
which the sparse kernel is the fastest. None of this has run on a GPU yet.
"""

import gc
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from time import strftime
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.lists import integers, numbers, split
from benchmarks.models.cuts import TicketSpec, TimedTicket, load_images, make_ticket
from benchmarks.reports.gpu import densities_sheet, layers_sheet, networks_sheet
from benchmarks.reports.report import publish, write_json
from benchmarks.rivals.gpu import (
    CANDIDATES,
    SLOW_TO_BUILD,
    Candidate,
    GpuBuildOptions,
    cuda_engine,
    cusparse_microseconds,
)
from spiketicket.cli.console import err, guarded, make_app, say
from spiketicket.csr import Csr
from spiketicket.errors import InputError
from spiketicket.graph import Conv, Flatten, Graph, Lif, Linear, Repeat
from spiketicket.profiling.inference.engines import Unavailable
from spiketicket.profiling.measure.clock import measure
from spiketicket.profiling.measure.machine import machine_facts
from spiketicket.profiling.measure.nvidia_smi import ask
from spiketicket.runtime.engines.cuda.choice import milliseconds
from spiketicket.runtime.engines.cuda.device import load_cupy
from spiketicket.runtime.engines.cuda.fusion import fuse
from spiketicket.runtime.engines.cuda.program import Program
from spiketicket.runtime.engines.cuda.store import Store

LAYERS_OF = 98.13  # sparsity, in percent, of the network whose layers are timed
# The layers of the densities' table: channels, and height and width of the image.
SWEPT = {"64 x 64 at 32 x 32": (64, 32), "256 x 256 at 8 x 8": (256, 8), "512 x 512 at 4 x 4": (512, 4)}
DENSITIES = (1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005)
GPU_FACTS = ("name", "driver_version", "clocks.sm", "clocks.mem", "power.draw", "power.limit", "memory.total")

app = make_app("Speed of engine cuda and its rivals.")


@app.command()
@guarded
def main(
    data: Annotated[Path, typer.Option(help="Folder that holds cifar-10-batches-py; else synthetic images.")] = Path(
        "data"
    ),
    archs: Annotated[str, typer.Option(help="Networks; all lists are separated by commas.")] = "vgg16,resnet19",
    sparsities: Annotated[str, typer.Option(help="The paper's p in percent.")] = "0,68.30,89.91,95.69,98.13",
    timesteps: Annotated[int, typer.Option(help="T, 5 at most.")] = 5,
    batches: Annotated[str, typer.Option(help="Images per run.")] = "1,128",
    engines: Annotated[str, typer.Option(help="Candidates.")] = ",".join(CANDIDATES),
    duration: Annotated[float, typer.Option(help="Seconds per candidate.")] = 0.3,
    folder: Annotated[Path, typer.Option("--out", help="Folder of tickets and results.")] = Path("build/gpu-bench"),
) -> None:
    """Measure milliseconds per run, times of layers, and the density below which the sparse kernel is the fastest.

    Writes gpu.md and gpu.json; the JSON file is written after every configuration.
    """
    unknown = [name for name in split(engines) if name not in CANDIDATES]
    if unknown or not 1 <= timesteps <= 5:
        raise InputError(
            f"expected engines from {', '.join(CANDIDATES)} and timesteps from 1 to 5, got {engines!r} and {timesteps}"
        )
    cupy = load_cupy("the benchmark")
    report: dict[str, Any] = {
        "format": "spiketicket.gpu-benchmark",
        "version": 1,
        "started": strftime("%Y-%m-%d %H:%M:%S"),
        "machine": machine_facts(),
        "gpu": (ask(GPU_FACTS) or [{}])[0],
        "bandwidth": bandwidth(cupy),
        "runs": [],
        "layers": [],
        "densities": [],
    }

    def save() -> None:
        write_json(folder / "gpu.json", report)

    images = load_images(data)
    for arch, sparsity in product(split(archs), numbers(sparsities)):
        ticket = make_ticket(TicketSpec(arch, sparsity), images, folder / "models")
        for batch in integers(batches):
            with err.status(f"{arch} {sparsity:g}%, batch {batch} ..."):
                report["runs"].append(networks(ticket, timesteps, batch, split(engines), duration))
                free_memory(cupy)
                if sparsity == LAYERS_OF:
                    report["layers"].append(layers(cupy, ticket, timesteps, batch, report["bandwidth"]))
            save()
    for batch in integers(batches):
        with err.status(f"densities, batch {batch} ..."):
            report["densities"] += densities(cupy, timesteps, batch)
        save()
    report["gpu_afterwards"] = (ask(GPU_FACTS) or [{}])[0]
    save()
    present(report, folder)


def bandwidth(cupy: Any) -> float:
    """Return the memory bandwidth of the GPU: bytes per second that a copy reads and writes, the best of five."""
    source = cupy.zeros(1 << 28, np.uint8)
    target, best = cupy.zeros(1 << 28, np.uint8), 0.0
    for _ in range(5):
        begin, end = cupy.cuda.Event(), cupy.cuda.Event()
        begin.record()
        target[...] = source
        end.record()
        end.synchronize()
        best = max(best, 2 * source.nbytes / (1e-3 * float(cupy.cuda.get_elapsed_time(begin, end))))
    return best


def networks(ticket: TimedTicket, timesteps: int, batch: int, names: list[str], duration: float) -> dict[str, Any]:
    """Time every candidate by wall clock: from the CPU and back, and with images that are on the GPU already.

    A candidate that cannot be built is not timed; `missing` in the result says why.
    """
    images = np.ascontiguousarray(np.resize(ticket.images, (batch, *ticket.images.shape[1:])))
    oracle = np.resize(ticket.oracle[:timesteps].swapaxes(0, 1), (batch, timesteps, ticket.oracle.shape[2]))
    found: dict[str, Candidate] = {}
    missing, agreement = {}, {}
    with ExitStack() as stack:
        for name in names:
            try:
                if name in SLOW_TO_BUILD and ticket.spec.sparsity != LAYERS_OF:
                    raise Unavailable(f"dense, and slow to build: measured at {LAYERS_OF}% only")
                found[name] = CANDIDATES[name](GpuBuildOptions(ticket, timesteps, batch, stack))
                agreement[name] = agreement_with(found[name].run(images), oracle.swapaxes(0, 1))
            except Exception as error:  # libraries' exceptions share no other base
                missing[name] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                found.pop(name, None)
        runs = {(name, "run"): lambda one=one: one.run(images) for name, one in found.items()}
        runs |= {(name, "device"): one.device for name, one in found.items() if one.device is not None}
        measured = measure(runs, duration=duration) if runs else None
        seconds = {} if measured is None else {key: t.to_dict(1e3) for key, t in measured.timings.items()}
        found.clear()
        runs.clear()
    return {
        "arch": ticket.spec.arch,
        "sparsity": ticket.spec.sparsity,
        "timesteps": timesteps,
        "batch": batch,
        "ms": {
            name: {how: seconds[name, how] for how in ("run", "device") if (name, how) in seconds} for name in names
        },
        "agreement": agreement,
        "missing": missing,
        "warnings": [] if measured is None else list(measured.noise.warnings),
    }


def free_memory(cupy: Any) -> None:
    """Free the memory that candidates left in the pools of CuPy and of torch: neither library can use the other's."""
    gc.collect()
    cupy.get_default_memory_pool().free_all_blocks()
    torch.cuda.empty_cache()


def agreement_with(logits: Any, oracle: Any) -> dict[str, float]:
    """Compare logits `[T, N, classes]` with the oracle's.

    Returns the share of images with the oracle's class (`top1`), and the share whose logits differ by at most 0.001 of
    the image's largest logit (`exact`).
    """
    same = (logits.mean(axis=0).argmax(axis=1) == oracle.mean(axis=0).argmax(axis=1)).mean()
    scale = np.abs(oracle).max(axis=(0, 2))
    near = (np.abs(logits - oracle).max(axis=(0, 2)) <= 1e-3 * scale).mean()
    return {"top1": float(same), "exact": float(near)}


def layers(cupy: Any, ticket: TimedTicket, timesteps: int, batch: int, peak: float) -> dict[str, Any]:
    """Time each kernel launch of engine cuda by itself, and the CUDA graph of all launches.

    `peak` is the memory's bytes per second, as `bandwidth` measures them.
    """
    with ExitStack() as stack:
        engine = cuda_engine(GpuBuildOptions(ticket, timesteps, batch, stack), "float32")
        program = engine.program(timesteps, batch)
        rows = []
        with engine.stream:
            program.fill()
            works = {work.op.parts[0]: work for work in program.works}
            for name, launch in program.launches():
                us = 1e3 * milliseconds(program, launch, engine.stream)
                op = works[name].op if name in works else None
                values = [] if op is None else [*op.reads, op.output]
                nbytes = launch.nbytes + sum(int(program.buffers[value].array.nbytes) for value in values)
                weighted = op is not None and isinstance(op.node, Conv | Linear)
                columns = batch * timesteps * works[name].positions if weighted else 0
                rows.append(
                    {
                        "layer": name,
                        "kernel": launch.kernel,
                        "us": us,
                        "nbytes": nbytes,
                        "bandwidth": nbytes / (1e-6 * us) / peak,
                        "density": op.node.weight.density if weighted else None,
                        "why": program.choices[name].why if weighted else "",
                        "cusparse_us": cusparse(cupy, engine, op.node, columns) if weighted else None,
                    }
                )
        whole_us = (
            1e6 * measure({"graph": _graph_run(program, engine.stream)}, duration=0.2).timings["graph"].median().value
        )
    total = sum(row["us"] for row in rows)
    return {
        "arch": ticket.spec.arch,
        "sparsity": ticket.spec.sparsity,
        "batch": batch,
        "timesteps": timesteps,
        "rows": rows,
        "kernels_us": total,
        "graph_us": whole_us,
        "outside_kernels": 1 - total / whole_us,
    }


def _graph_run(program: Program, stream: Any) -> Any:
    def run() -> None:
        program.graph.launch(stream)
        stream.synchronize()

    return run


def cusparse(cupy: Any, engine: Any, node: Any, columns: int) -> float | None:
    """Return the microseconds of cuSPARSE for a layer; None, with a message, if it fails."""
    try:
        return cusparse_microseconds(cupy, engine, node, columns)
    except Exception as error:  # cuSPARSE failed, or memory is short
        say(f"cuSPARSE, {node.name}: {error}")
        return None


def densities(cupy: Any, timesteps: int, batch: int) -> list[dict[str, Any]]:
    """Time every kernel of one 3 x 3 convolution, whose inputs fire at 15%, at each of DENSITIES; in microseconds."""
    rows = []
    for what, (channels, size) in SWEPT.items():
        for density in DENSITIES:
            fused = fuse(one_layer(channels, size, density))
            store, stream = Store(cupy, 2), cupy.cuda.Stream(non_blocking=True)
            with stream:
                program = Program(fused, store, timesteps, batch, state=False)
                program.load()
                program.fill()
                work = next(work for work in program.works if work.op.parts[0] == "conv")
                times = {k: 1e3 * milliseconds(program, launch, stream) for k, launch in work.choices.items()}
            rows.append({"layer": what, "batch": batch, "density": density, "us": times})
    return rows


def one_layer(channels: int, size: int, density: float) -> Graph:
    """Build a network of one 3 x 3 convolution of that density, with spiking neurons before and after it."""
    rng = np.random.default_rng(0)
    mask = rng.random((channels, channels, 3, 3)) < density
    weight = Csr.from_dense(np.where(mask, rng.standard_normal(mask.shape), 0).astype(np.float32))
    stem = Csr.from_dense(np.ones((channels, 1, 1, 1), np.float32))
    head = Csr.from_dense(np.ones((2, channels * size * size), np.float32))
    zeros = np.zeros(channels, np.float32)
    nodes = (
        Conv("stem", ("x",), "a", stem, zeros),
        Repeat("repeat", ("a",), "b"),
        Lif("first", ("b",), "c", 4 / 3),
        Conv("conv", ("c",), "d", weight, zeros, pads=(1, 1, 1, 1)),
        Lif("second", ("d",), "e", 4 / 3),
        Flatten("flat", ("e",), "f"),
        Linear("head", ("f",), "g", head, np.zeros(2, np.float32)),
    )
    return Graph("x", (1, size, size), nodes, "g", 5)


def present(report: dict[str, Any], folder: Path) -> None:
    """Print all tables, and write gpu.md and gpu.json."""
    sheets = [networks_sheet(report["runs"], how) for how in ("device", "run")]
    sheets += [layers_sheet(one) for one in report["layers"]]
    sheets.append(densities_sheet(report["densities"]))
    gpu = ", ".join(f"{key} {value}" for key, value in report["gpu"].items())
    notes = [f"GPU: {gpu}", f"a copy reads and writes {1e-9 * report['bandwidth']:.0f} GB/s"]
    warnings = sorted({warning for run in report["runs"] for warning in run["warnings"]})
    publish(folder / "gpu", report, sheets, f"GPU benchmark, {report['started']}", notes, warnings)


if __name__ == "__main__":
    app()
