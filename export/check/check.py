"""Verify an export before its file is kept, by running the network, the float64 oracle and all engines of the file.

Three comparisons in a row tell where an error comes from: the network with the traced graph, the traced graph with the
stored one (removed channels, rounded weights), and the stored graph with the file.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spiketicket.errors import InputError, VerificationError
from spiketicket.export.check.agreement import MIN_TOP1_ROUNDED, TENSORRT, Agreement, Tolerance, compare, join
from spiketicket.graph import Graph
from spiketicket.runtime.engine import FIXED, Model, Options, Trace
from spiketicket.runtime.engines.reference import ReferenceEngine

_BATCH = 4  # the float64 oracle keeps every value of a batch

Floats = NDArray[np.float32]
Run = Callable[[Floats], Trace]


@dataclass(frozen=True)
class Samples:
    """The samples that an export is verified on.

    `x` is float32 `[N, ...]`, normalised, or `[T, N, ...]` if the graph's input is timed; `labels` are `[N]`.
    """

    x: Floats
    timesteps: int
    timed: bool = False
    labels: NDArray[np.integer] | None = None

    def run(self, run: Run, batch: int | None = None) -> Trace:
        """Return the trace of all samples, run in small batches, or in batches of exactly `batch` samples."""
        axis, size = int(self.timed), batch or _BATCH
        count = self.x.shape[axis]
        # With a fixed batch size, the last batch is filled up with copies of the last sample.
        padded = np.minimum(np.arange(-(-count // size) * size), count - 1) if batch else np.arange(count)
        parts = np.split(self.x.take(padded, axis=axis), range(size, len(padded), size), axis=axis)
        whole = join([run(np.ascontiguousarray(part)) for part in parts])
        return Trace({name: s[:, :count] for name, s in whole.spikes.items()}, whole.logits_t[:, :count])

    def frames(self, x: Floats) -> Floats:
        """Return a batch of samples as `[T, N, ...]`; static ones are repeated over time."""
        return x if self.timed else np.repeat(x[None], self.timesteps, axis=0)

    def accuracy(self, trace: Trace) -> float | None:
        """Return the share of samples that are classified correctly, or None without labels."""
        if self.labels is None:
            return None
        return float((trace.logits_t.mean(axis=0).argmax(axis=1) == self.labels).mean())


@dataclass(frozen=True)
class Original:
    """The network that is exported. If it returns only mean logits, those of `run` are `[1, N, classes]`."""

    name: str
    run: Run


@dataclass
class Check:
    """The comparisons of one export. Each raises VerificationError, naming the first layer that differs."""

    samples: Samples
    tolerance: Tolerance
    agreements: list[Agreement] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)  # layers of neurons that never fired on the samples

    def require_agreement(self, engine: str, got: Trace, against: str, wanted: Trace) -> None:
        """Compare two traces, which must be equal up to rounding, and record the result."""
        agreement = self.compare(engine, got, against, wanted)
        agreement.require_exact()
        self.agreements.append(agreement)

    def compare(self, engine: str, got: Trace, against: str, wanted: Trace) -> Agreement:
        return compare(engine, got, against, wanted, self.tolerance, self.samples.accuracy(got))

    def original(self, original: Original, oracle: Trace) -> None:
        """Compare the network with the graph that was traced from it."""
        got = self.samples.run(original.run)
        if len(got.logits_t) == 1:
            oracle = Trace(oracle.spikes, oracle.logits_t.mean(axis=0, keepdims=True))
        wrong = [n for n, s in oracle.spikes.items() if n not in got.spikes or got.spikes[n].size != s.size]
        if wrong:
            raise VerificationError(f"{original.name} has other layers or shapes than its graph: {', '.join(wrong)}")
        # Signals [C, L] are images of one row in the graph.
        spikes = {name: np.reshape(got.spikes[name], wanted.shape) for name, wanted in oracle.spikes.items()}
        self.require_agreement(original.name, Trace(spikes, got.logits_t), "reference", oracle)

    def rounded(self, values: str, stored: Trace, exact: Trace) -> None:
        """Record what storing weights in another type changes; it must keep the classes of nearly all samples."""
        agreement = self.compare(f"reference ({values})", stored, "reference (float32)", exact)
        self.require_classes(agreement, f"weights in {values}")
        self.agreements.append(agreement)

    def require_classes(self, agreement: Agreement, what: str) -> None:
        """Raise VerificationError if too many samples change their class; one is always allowed to."""
        changed = round(agreement.images * (1 - agreement.top1))
        if agreement.top1 < MIN_TOP1_ROUNDED and changed > 1:
            raise VerificationError(f"{what} change the class of {changed} of {agreement.images} samples: use float32")

    def runs(self, runs: Iterable[tuple[str, Run]], stored: Trace, batch: int | None) -> None:
        """Compare everything that runs the file with the oracle of the stored graph.

        Runs in lower precision, which have it in brackets behind their name, are recorded but not required to agree.
        """
        for name, run in runs:
            agreement = self.compare(name, self.samples.run(run, batch), "reference", stored)
            if name.startswith(TENSORRT):
                self.require_classes(agreement, name)
            elif "(" not in name:
                agreement.require_exact()
            self.agreements.append(agreement)


def check_graphs(
    check: Check,
    exact: Graph,
    stored: Graph,
    kept: Mapping[str, NDArray[np.intp]],
    values: str,
    original: Original | None,
) -> Trace:
    """Compare the network with the traced graph, and that with the stored one; return the stored graph's trace.

    `kept` has the channels of each layer of neurons that are left in the stored graph.
    """
    oracle = check.samples.run(oracle_run(exact, check.samples.timesteps))
    check.silent = [name for name, spikes in oracle.spikes.items() if not spikes.any()]
    if original is not None:
        check.original(original, oracle)
    if values == "float32" and stored.values == exact.values:  # no channel removed, no weight rounded
        return oracle
    remaining = {name: s[:, :, kept[name]] if name in kept else s for name, s in oracle.spikes.items()}
    trace = check.samples.run(oracle_run(stored, check.samples.timesteps))
    if values == "float32":
        check.require_agreement("without idle channels", trace, "reference", Trace(remaining, oracle.logits_t))
    else:
        check.rounded(values, trace, Trace(remaining, oracle.logits_t))
    return trace


def oracle_run(graph: Graph, timesteps: int) -> Run:
    """Return a function that runs `graph` by the float64 reference engine."""
    engine = ReferenceEngine(Model(Path(), b"", graph), Options(1, FIXED, "float32"))
    return lambda x: engine.trace(x, timesteps)


def check_samples(x: object, graph: Graph) -> Floats:
    """Return `x` if it can be samples for `graph`.

    Raises InputError if its type, shape or number of timesteps is wrong, or if it holds NaN or infinity.
    """
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
