"""Running an export everywhere before it is kept: the network, the float64 oracle, and each engine on the file.

The order tells where an error lies: network -> graph (tracing), graph -> stored graph (removed channels, rounded
weights), stored graph -> file in each engine.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spiketicket.domain import INPUT
from spiketicket.errors import InputError, MissingExtraError, SpikeTicketError, VerificationError
from spiketicket.export.verify import MIN_TOP1_ROUNDED, Agreement, Tolerance, Trace, compare, join
from spiketicket.files import write_atomic
from spiketicket.graph import Graph
from spiketicket.runtime import Session
from spiketicket.runtime.engine import Model, Options
from spiketicket.runtime.onnx_reader import parse_model
from spiketicket.runtime.planner import FIXED
from spiketicket.runtime.reference import ReferenceEngine

_BATCH = 4  # the float64 oracle keeps every value of a batch

Floats = NDArray[np.float32]
Run = Callable[[Floats], Trace]


@dataclass(frozen=True)
class Samples:
    """What an export is checked on: `x` normalised, float32 `[N, ...]`, or `[T, N, ...]` where the graph's input is
    timed; `labels` `[N]` where they are known."""

    x: Floats
    timesteps: int
    timed: bool = False
    labels: NDArray[np.integer] | None = None

    def run(self, run: Run, batch: int | None = None) -> Trace:
        """The trace of `run`, a few samples at a time, or `batch` always."""
        axis, size = int(self.timed), batch or _BATCH
        count = self.x.shape[axis]
        padded = np.minimum(np.arange(-(-count // size) * size), count - 1) if batch else np.arange(count)
        parts = np.split(self.x.take(padded, axis=axis), range(size, len(padded), size), axis=axis)
        whole = join([run(np.ascontiguousarray(part)) for part in parts])
        return Trace({name: s[:, :count] for name, s in whole.spikes.items()}, whole.logits_t[:, :count])

    def accuracy(self, trace: Trace) -> float | None:
        if self.labels is None:
            return None
        return float((trace.logits_t.mean(axis=0).argmax(axis=1) == self.labels).mean())


@dataclass(frozen=True)
class Original:
    """The network that is exported, to be reproduced. `run` gives `[1, N, classes]` where it returns a mean only."""

    name: str
    run: Run


@dataclass(frozen=True)
class Candidate:
    """What is to be checked: the graph as traced, the graph as stored, and the file."""

    exact: Graph
    stored: Graph
    kept: Mapping[str, NDArray[np.intp]]  # of neuron layers that lost channels: those that are left
    data: bytes
    values: str
    sparse: bytes | None = None  # where `data` is plain ONNX: the file with the domain's operators


def check(candidate: Candidate, samples: Samples, original: Original | None, tolerance: Tolerance) -> list[Agreement]:
    """Raises VerificationError, naming the first layer that differs, where one does not agree with the one before."""
    oracle = samples.run(_oracle(candidate.exact, samples.timesteps))
    agreements: list[Agreement] = []

    def hold(engine: str, got: Trace, against: str, wanted: Trace) -> None:
        agreement = compare(engine, got, against, wanted, tolerance, samples.accuracy(got))
        agreement.require_exact()
        agreements.append(agreement)

    if original is not None:
        _hold_original(original, samples, oracle, hold)
    stored = samples.run(_oracle(candidate.stored, samples.timesteps))
    left = _left(oracle, candidate.kept)
    if candidate.values == "float32":
        if candidate.stored.values != candidate.exact.values:
            hold("without idle channels", stored, "reference", left)
    else:
        rounded = compare(f"reference ({candidate.values})", stored, "reference (float32)", left, tolerance,
                          samples.accuracy(stored))  # fmt: skip
        if rounded.top1 < MIN_TOP1_ROUNDED and rounded.images * (1 - rounded.top1) > 1.5:  # one may always change
            raise VerificationError(
                f"weights in {candidate.values} change the class of {1 - rounded.top1:.0%} of the samples: use float32"
            )
        agreements.append(rounded)
    batch = candidate.stored.batch
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "candidate.onnx"
        write_atomic(path, candidate.data)
        if candidate.sparse is not None:
            hold("onnxruntime", samples.run(_dense(path, candidate, samples), batch), "reference", stored)
            return agreements
        for engine in ("native", "onnxruntime"):
            hold(engine, samples.run(_session(path, engine, samples), batch), "reference", stored)
        # What rounding to whole numbers would change, for who wants it; the file does not depend on it.
        whole = samples.run(_session(path, "native", samples, "events-int16", "int16"), batch)
        agreements.append(compare("native (int16)", whole, "reference", stored, tolerance, samples.accuracy(whole)))
    return agreements


def _hold_original(
    original: Original, samples: Samples, oracle: Trace, hold: Callable[[str, Trace, str, Trace], None]
) -> None:
    got = samples.run(original.run)
    if len(got.logits_t) == 1:
        oracle = Trace(oracle.spikes, oracle.logits_t.mean(axis=0, keepdims=True))
    missing = set(oracle.spikes) - set(got.spikes)
    if missing or any(got.spikes[name].size != spikes.size for name, spikes in oracle.spikes.items()):
        raise VerificationError(f"{original.name} has other layers or shapes than its graph: {sorted(missing)}")
    # Signals [C, L] are images of one row in the graph.
    spikes = {name: np.reshape(got.spikes[name], wanted.shape) for name, wanted in oracle.spikes.items()}
    hold(original.name, Trace(spikes, got.logits_t), "reference", oracle)


def _left(trace: Trace, kept: Mapping[str, NDArray[np.intp]]) -> Trace:
    spikes = {name: s[:, :, kept[name]] if name in kept else s for name, s in trace.spikes.items()}
    return Trace(spikes, trace.logits_t)


def _oracle(graph: Graph, timesteps: int) -> Run:
    engine = ReferenceEngine(Model(Path(), b"", graph), Options(1, FIXED, "float32"))
    return lambda x: Trace(engine.spikes(x, timesteps), engine.run(x, timesteps))


def _session(path: Path, engine: str, samples: Samples, plan: str = FIXED, values: str = "float32") -> Run:
    try:
        session = Session(path, engine, plan=plan, values=values)
    except MissingExtraError as error:
        raise SpikeTicketError(f"cannot verify: {error}; or export with --no-check") from error

    def run(x: Floats) -> Trace:
        if session.timed_input and not samples.timed:  # a file of one timestep, on the same image at every one
            x = np.repeat(x[None], samples.timesteps, axis=0)
        timesteps = None if session.timed_input else samples.timesteps
        return Trace(session.spikes({INPUT: x}, timesteps), session.run({INPUT: x}, timesteps)["logits_t"])

    return run


def _dense(path: Path, candidate: Candidate, samples: Samples) -> Run:
    """Plain ONNX in onnxruntime; the names of its values are those of the sparse file."""
    assert candidate.sparse is not None
    try:
        from spiketicket.runtime.ort import OnnxRuntimeEngine
    except MissingExtraError as error:
        raise SpikeTicketError(f"cannot verify: {error}; or export with --no-check") from error
    engine = OnnxRuntimeEngine(Model(path, candidate.data, parse_model(candidate.sparse)), Options(1, FIXED, "float32"))

    def run(x: Floats) -> Trace:
        frames = np.repeat(x[None], samples.timesteps, axis=0) if engine.stepping and not samples.timed else x
        return Trace(engine.spikes(frames, samples.timesteps), engine.run(frames, samples.timesteps))

    return run


def check_samples(x: object, graph: Graph) -> Floats:
    """`x` as samples for `graph`. Raises InputError for another type, shape, number of timesteps, or NaN."""
    expected = f"float32 [{'T, ' if graph.timed_input else ''}N, {', '.join(map(str, graph.input_shape))}]"
    lead = 1 + graph.timed_input
    if not isinstance(x, np.ndarray) or x.dtype != np.float32 or x.shape[lead:] != graph.input_shape or 0 in x.shape:
        got = f"{x.dtype} {list(x.shape)}" if isinstance(x, np.ndarray) else type(x).__name__
        raise InputError(f"samples must be {expected}, got {got}")
    if graph.timed_input and len(x) != graph.timesteps:
        raise InputError(f"samples have {len(x)} timesteps, but timesteps is {graph.timesteps}")
    if not np.isfinite(x).all():
        raise InputError("samples hold NaN or infinity")
    return x
