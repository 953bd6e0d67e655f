"""What becomes of a benchmark's tickets: exported, verified, run by the native engine, timed beside onnxruntime."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spiketicket.domain import INPUT
from spiketicket.export.pack import export_ticket
from spiketicket.profiling.clock import measure
from spiketicket.runtime import Session
from spiketicket.runtime.evaluate import evaluate
from spiketicket.train.data import Dataset
from spiketicket.train.ticket import Ticket, load_ticket

SAMPLES = 8  # test images on which torch, onnxruntime and the native engine must agree with the float64 oracle
TIMED = 32  # test images, one after another
ENGINES = ("native", "onnxruntime")
MS = 1e3


@dataclass(frozen=True)
class Deployed:
    """A verified export. Accuracies on all test images, as the search and as the native engine has it."""

    path: Path
    sparsity: float
    nbytes: int
    dense_nbytes: int
    searched: float
    native: float


def tickets(run: Path, rounds: tuple[int, ...]) -> Iterator[Ticket]:
    """Those of a run folder that count: final ones where there are any, else those of `rounds`."""
    final = sorted((run / "final").glob("*.pt"))
    for path in final or sorted((run / "rounds").glob("*.pt")):
        if final or int(path.stem) in rounds:
            yield load_ticket(path)


def deploy(ticket: Ticket, dataset: Dataset, path: Path) -> Deployed:
    """Export `ticket` to `path` and classify the test images. Raises VerificationError where an engine differs."""
    images = ticket.normalisation(dataset.test.images)
    export = export_ticket(ticket, path, samples=images[:SAMPLES])
    with Session(path, engine="native") as session:
        found = evaluate(session, images, dataset.test.labels)
    return Deployed(
        path, ticket.sparsity, export.nbytes, export.dense_nbytes, ticket.search["test_accuracy"], found.accuracy
    )


def milliseconds(
    models: list[Path], images: NDArray[np.float32], duration: float = 1.0
) -> dict[Path, dict[str, float]]:
    """Median per image at batch 1 in each engine, all in turns in one run."""
    with ExitStack() as stack:
        runs: dict[Any, Any] = {}
        for path in models:
            for engine in ENGINES:
                session = stack.enter_context(Session(path, engine=engine))
                runs[path, engine] = partial(_next, session, cycle(images[:TIMED, None]))
        stats = measure(runs, warmup=TIMED, duration=duration)
    return {path: {engine: MS * stats[path, engine].p50 for engine in ENGINES} for path in models}


def _next(session: Session, images: Iterator[NDArray[np.float32]]) -> None:
    session.run({INPUT: next(images)})
