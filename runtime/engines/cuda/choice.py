"""Choose the kernel of each weighted layer: by measurement on the present GPU, as asked, or by estimate."""

from typing import Any

from spiketicket.graph import Conv, Linear
from spiketicket.runtime.engine import BY_ESTIMATE
from spiketicket.runtime.engines.cuda.kernels import Launch
from spiketicket.runtime.engines.cuda.lowering import Work
from spiketicket.runtime.engines.cuda.program import Choice, Program

KERNELS = ("sparse", "tensor", "tensor/sparse")
WARM_UP, TIMED = 2, 10  # graphs that are not timed, and launches in each
MULTIPROCESSORS = 100  # number in a GPU, for estimates
ADDS, PRODUCTS = 128, 1024  # operations that one begins per cycle: float32, and float16 on tensor cores
BESIDE = 9  # instructions of `sparse` for a nonzero, beside an addition per timestep (docs/LOG.md)


def fastest(program: Program, stream: Any, _plan: str) -> dict[str, Choice]:
    """Return for each layer the kernel that takes the least time on noise in which 15% of the neurons fire."""
    found = {}
    program.fill()
    for work in program.works:
        if len(work.choices) > 1:
            times = {name: milliseconds(program, launch, stream) for name, launch in work.choices.items()}
            best, *others = sorted(times, key=times.__getitem__)
            against = ", ".join(f"{name} {1e3 * times[name]:.3g}" for name in others)
            found[work.op.parts[0]] = _choice(work, best, f"measured {1e3 * times[best]:.3g} us against {against}")
        elif work.choices:
            found[work.op.parts[0]] = _only(work)
    return found


def asked(program: Program, _stream: Any, plan: str) -> dict[str, Choice]:
    """Return for each layer the kernel `plan` if it suits the layer, otherwise that of the fewest estimated cycles."""
    found = {}
    for work in program.works:
        if plan in work.choices:
            found[work.op.parts[0]] = _choice(work, plan, "asked for")
        elif len(work.choices) > 1:
            best = min(work.choices, key=lambda name: estimated_cycles(name, work, program))
            found[work.op.parts[0]] = _choice(work, best, BY_ESTIMATE)
        elif work.choices:
            found[work.op.parts[0]] = _only(work)
    return found


def estimated_cycles(kernel: str, work: Work, program: Program) -> float:
    """Estimate the cycles of a kernel's arithmetic. With few blocks, some multiprocessors have nothing to do."""
    assert isinstance(work.op.node, Conv | Linear)
    weight = work.op.node.weight
    blocks = work.choices[kernel].grid[0] * work.choices[kernel].grid[1]
    steps = program.timesteps
    if kernel == "sparse":
        positions = program.images * work.positions
        busy = min(1.0, blocks / MULTIPROCESSORS / 8)  # blocks of 128 threads that hide latency
        return float(weight.nnz * positions * (steps + BESIDE) / ADDS / MULTIPROCESSORS / busy)
    rounds = -(-blocks // MULTIPROCESSORS)
    products = 64 * 32 * weight.columns * steps * program.store.parts / PRODUCTS
    zeros = 64 * weight.columns / ADDS if kernel != "tensor" else 0
    return float(rounds * (products + zeros))


def milliseconds(program: Program, launch: Launch, stream: Any) -> float:
    """Measure one launch: the mean of several that follow each other in a CUDA graph, as those of a run do.

    Launched one by one, a short kernel would wait for Python, and all kernels would seem to take equally long.
    """
    cuda = program.cupy.cuda
    program.launch(launch)  # a kernel's first launch cannot be captured
    stream.synchronize()
    stream.begin_capture()
    for _ in range(TIMED):
        program.launch(launch)
    graph = stream.end_capture()
    for _ in range(WARM_UP):
        graph.launch(stream)
    begin, end = cuda.Event(), cuda.Event()
    begin.record(stream)
    graph.launch(stream)
    end.record(stream)
    end.synchronize()
    return float(cuda.get_elapsed_time(begin, end)) / TIMED


def _choice(work: Work, kernel: str, why: str) -> Choice:
    return Choice(kernel, why, work.choices[kernel].nbytes)


def _only(work: Work) -> Choice:
    (kernel,) = work.choices
    return _choice(work, kernel, "the tensor cores take spikes in one group only")
