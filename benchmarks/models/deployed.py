"""Export of the tickets of a benchmark: their verification, their accuracy in the native engine, and their speed."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spiketicket.cli.console import err
from spiketicket.data import Dataset
from spiketicket.export.ticket import export_ticket
from spiketicket.model.names import INPUT
from spiketicket.profiling.measure.clock import Run, measure
from spiketicket.runtime import Session
from spiketicket.runtime.evaluate import evaluate
from spiketicket.train.history.history import History
from spiketicket.train.search.ticket import Ticket, load_ticket

SAMPLES = 8  # test images on which torch, onnxruntime and the native engine must agree with the float64 oracle
TIMED = 32  # test images, one after another
DURATION = 1.0  # seconds per model and engine
ENGINES = ("native", "onnxruntime")


@dataclass(frozen=True)
class DeployedTicket:
    """A ticket of the run folder `run` that was exported and verified.

    `searched` is its accuracy on all test images in torch, as the search measured it; `native` is that in the native
    engine.
    """

    run: str
    round: int
    kind: str
    sparsity: float
    nbytes: int
    dense_nbytes: int
    searched: float
    native: float
    milliseconds: dict[str, float]  # median per image at batch 1, by engine; empty if the ticket was not timed


def export_all(histories: Sequence[History], dataset: Dataset, models: Path) -> list[DeployedTicket]:
    """Export all tickets, and time those of the first search. Raises VerificationError if engines disagree."""
    deployed = []
    for history in histories:
        paths = {}
        for source in sorted(history.folder.glob("rounds/*.pt")) + sorted(history.folder.glob("final/*.pt")):
            path = models / f"{history.folder.name}-{source.parent.name}-{source.stem}.onnx"
            with err.status(f"exporting {path.name} ..."):
                found = deploy(history.folder.name, load_ticket(source), dataset, path)
            paths[path] = found
        times = milliseconds(list(paths), dataset) if history is histories[0] else {}
        deployed += [replace(found, milliseconds=times.get(path, {})) for path, found in paths.items()]
    return deployed


def deploy(run: str, ticket: Ticket, dataset: Dataset, path: Path) -> DeployedTicket:
    """Export a ticket to `path`, and classify the test images at the number of timesteps that it was trained with."""
    images, search = ticket.normalisation(dataset.test.images), ticket.search
    export = export_ticket(ticket, path, samples=images[:SAMPLES])
    with Session(path, engine="native") as session:
        found = evaluate(session, images, dataset.test.labels)
    return DeployedTicket(
        run,
        search["round"],
        search["kind"],
        ticket.sparsity,
        export.nbytes,
        export.dense_nbytes,
        search["test_accuracy"],
        found.accuracy,
        {},
    )


def milliseconds(models: list[Path], dataset: Dataset) -> dict[Path, dict[str, float]]:
    """Return the median milliseconds of each model in each engine, timed in turns; every run takes the next image."""
    images = dataset.normalisation(dataset.test.images[:TIMED])
    with ExitStack() as stack:
        runs: dict[tuple[Path, str], Run] = {}
        for path in models:
            for engine in ENGINES:
                session = stack.enter_context(Session(path, engine=engine))
                runs[path, engine] = partial(_run_next, session, cycle(images[:, None]))
        timings = measure(runs, duration=DURATION).timings if runs else {}
    return {path: {engine: 1e3 * timings[path, engine].median().value for engine in ENGINES} for path in models}


def _run_next(session: Session, images: Iterator[NDArray[np.float32]]) -> None:
    session.run({INPUT: next(images)})
