"""Export of a ticket as a verified model file."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spiketicket.export.module import export
from spiketicket.export.pack import Export
from spiketicket.model.metadata import Metadata
from spiketicket.train.search.ticket import Ticket, load_ticket


def export_ticket(
    ticket: Ticket,
    path: Path,
    samples: NDArray[np.float32] | None = None,
    *,
    timesteps: int | None = None,
    **options: Any,
) -> Export:
    """Write `ticket` as the model file `path`.

    `samples` are normalised images, float32 `[N, C, H, W]`, on which torch, onnxruntime and the native engine must
    agree with the float64 oracle before the file is written; None skips that check. `timesteps` is T, by default the
    ticket's. `options` are those of `spiketicket.export.export`, and so are the exceptions raised.
    """
    model = ticket.model if timesteps is None else replace(ticket.model, timesteps=timesteps)
    sample = (
        np.zeros((1, model.in_channels, model.image_size, model.image_size), np.float32) if samples is None else samples
    )
    return export(
        replace(ticket, model=model).network(),
        sample,
        model.timesteps,
        path,
        check=samples is not None,
        metadata=_metadata(ticket),
        **options,
    )


@contextmanager
def model_of_ticket(path: Path) -> Iterator[Path]:
    """Yield a temporary model file of the ticket in `path`, without verification; it is deleted afterwards.

    Raises TicketError if the ticket cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="spiketicket-") as folder:
        model = Path(folder) / "model.onnx"
        export_ticket(load_ticket(path), model)
        yield model


def _metadata(ticket: Ticket) -> dict[str, str]:
    """Return what the model file stores about the ticket."""
    search = ticket.search
    return Metadata(
        ticket.fingerprint,
        ticket.model.arch,
        str(search["dataset"]),
        tuple(search["classes"]),
        ticket.normalisation,
        str(search["method"]),
        ticket.sparsity,
        ticket.sparsity_prunable,
        search["test_accuracy"],
    ).to_strings()
