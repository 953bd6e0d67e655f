"""The same network on an NVIDIA GPU through torch, timed by CUDA events, with and without a CUDA graph.

This file has not run on a GPU yet; what tests hold is what it says where there is none.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from spiketicket.graph import Graph
from spiketicket.model.reader import read_model
from spiketicket.profiling.inference.samples import Samples
from spiketicket.profiling.inference.settings import Settings
from spiketicket.profiling.measure.nvidia_smi import ask

WARMUP, REPEATS = 10, 100
_FACTS = ("name", "driver_version", "clocks.sm", "clocks.mem", "power.draw", "power.limit", "memory.total")


@dataclass(frozen=True)
class GpuRow:
    """Milliseconds from event to event on the device. Without a graph, they hold its waits for Python where launching
    takes longer than computing."""

    precision: str
    graph: bool  # one CUDA graph per run
    timesteps: int
    batch: int
    p50: float
    p95: float
    n: int


@dataclass(frozen=True)
class GpuProfile:
    """`missing`: why there are no rows, or no more of them."""

    facts: dict[str, str]  # of nvidia-smi, clocks and power right after the measurement
    rows: list[GpuRow]
    missing: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def profile_gpu(path: Path, samples: Samples, settings: Settings) -> GpuProfile:
    """float32 (exact: convolutions would otherwise take TensorFloat-32, of 10 bits, where a GPU has it) and float16,
    eager and as a CUDA graph, at every T and batch; or why not."""
    facts = _facts()
    if not facts:
        return GpuProfile({}, [], "no NVIDIA GPU was found here: nothing was measured on one")
    try:
        import torch
    except ImportError:
        return GpuProfile(facts, [], "torch is not installed: pip install 'spiketicket[train]'")
    if not torch.cuda.is_available():
        return GpuProfile(facts, [], f"torch {torch.__version__} does not see the GPU")
    rows: list[GpuRow] = []
    missing = ""
    try:
        rows.extend(_rows(torch, read_model(path)[0], samples, settings))
    except (RuntimeError, TypeError) as error:  # CUDA's own errors; a node that torch has not: all else is measured
        missing = f"torch cannot run the model on the GPU: {str(error).splitlines()[0]}"
    return GpuProfile(_facts(), rows, missing)


def _rows(torch: Any, graph: Graph, samples: Samples, settings: Settings) -> Iterator[GpuRow]:
    from spiketicket.profiling.inference.torch_network import TorchNetwork

    for precision, dtype in (("float32", torch.float32), ("float16", torch.float16)):
        network = TorchNetwork(graph).eval().to("cuda", dtype)
        for batch in settings.batches:
            images = torch.from_numpy(samples.batches(batch)[0]).to("cuda", dtype)
            for t in settings.timesteps:
                x = images.expand(t, *images.shape).contiguous() if graph.timed_input else images

                def run(network: Any = network, x: Any = x, t: int = t) -> Any:
                    return network(x, t)

                with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                    eager = _event_ms(torch, run)
                    captured = _event_ms(torch, _captured(torch, run))
                for as_graph, ms in ((False, eager), (True, captured)):
                    yield GpuRow(precision, as_graph, t, batch, median(ms), float(np.quantile(ms, 0.95)), len(ms))


def _captured(torch: Any, run: Callable[[], Any]) -> Callable[[], Any]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # as torch asks for before a capture
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    replay: Callable[[], Any] = graph.replay
    return replay


def _event_ms(torch: Any, run: Callable[[], Any]) -> list[float]:
    for _ in range(WARMUP):
        run()
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(REPEATS)]
    for begin, end in pairs:
        begin.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return [float(begin.elapsed_time(end)) for begin, end in pairs]


def _facts() -> dict[str, str]:
    """Of the first GPU, which torch takes; empty where there is none."""
    gpus = ask(_FACTS)
    return gpus[0] if gpus else {}
