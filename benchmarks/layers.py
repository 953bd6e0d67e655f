"""Time and work of every layer of a model in the native engine, on one thread.

    python -m benchmarks.layers build/bench/models/TICKET [--timesteps 5] [--images 8]

TICKET is a folder that benchmarks.inference made: a model and the images that were timed. The columns are those of
the profiler (profiling/layers/profile.py) that fit on a line.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.reports.report import present
from spiketicket.cli.console import guarded, make_app, run_app
from spiketicket.errors import InputError
from spiketicket.profiling.layers.profile import profile_layers
from spiketicket.profiling.layers.sections import sections
from spiketicket.runtime import Session
from spiketicket.runtime.engines.native.engine import build_info
from spiketicket.runtime.engines.registry import PLANS

LEFT_OUT = ("kind", "low", "high", "share", "firing rate", "silent", "why this kernel")

app = make_app("Time and work of every layer.")


@app.command()
@guarded
def main(
    ticket: Annotated[Path, typer.Argument(help="Folder of a ticket that benchmarks.inference made.")],
    timesteps: Annotated[int, typer.Option(min=1, help="Timesteps T.")] = 5,
    images: Annotated[int, typer.Option(min=1, max=32, help="Images, run one at a time.")] = 8,
    plan: Annotated[str, typer.Option(help=f"Kernels: {', '.join(PLANS)}.")] = "auto",
) -> None:
    """Print the time that every layer takes on one thread, and the operations that it computes."""
    if not (ticket / "oracle.npz").exists():
        raise InputError(
            f"{ticket} is not the folder of a ticket: run python -m benchmarks.inference, and name one in OUT/models"
        )
    with np.load(ticket / "oracle.npz") as stored:
        x = np.ascontiguousarray(stored["images"][:images])
    with Session(ticket / "model.onnx", threads=1, plan=plan) as session:
        section = sections(profile_layers(session, x, timesteps))[0]
    table = section.table
    assert table is not None
    for name in LEFT_OUT:
        table = table.without(name)
    title = f"{ticket.name}, T = {timesteps}, batch 1, one thread, {build_info()['isa']}"
    present([replace(section, title=title, table=table)])


if __name__ == "__main__":
    run_app(app)
