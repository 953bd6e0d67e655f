"""The profiles of docs/results: snn-profile's report of a VGG16 ticket at 98.13%, with its pictures.

    python benchmarks/profiles.py inference --data DIR

The ticket is cuts.py's, made (half a minute) unless it is there.
"""

import re
from pathlib import Path
from typing import Annotated

import typer
from cuts import Recipe, load_images, make_ticket

from spiketicket.cli import err, guarded, make_app, out, say
from spiketicket.files import write_atomic
from spiketicket.profiling.energy import CMOS_45NM
from spiketicket.profiling.inference import Data, profile_models
from spiketicket.profiling.inference_report import inference_report
from spiketicket.profiling.machine import usable_cores
from spiketicket.profiling.report.chart import svg
from spiketicket.profiling.report.document import Report
from spiketicket.profiling.report.files import write
from spiketicket.profiling.report.terminal import show
from spiketicket.profiling.settings import Settings

TICKET = Recipe("vgg16", 98.13)

app = make_app("The profiles of docs/results.")


@app.callback()
def group() -> None:
    """JSON, HTML and pictures of snn-profile's reports."""


Folder = Annotated[Path, typer.Option("--out", help="Folder of the results.")]


@app.command()
@guarded
def inference(
    data: Annotated[Path, typer.Option(help="Folder that holds cifar-10-batches-py; else synthetic images.")] = Path(
        "data"
    ),
    images: Annotated[int, typer.Option(help="Test images for accuracy.")] = 2000,
    duration: Annotated[float, typer.Option(help="Seconds per engine and T.")] = 1.5,
    models: Annotated[Path, typer.Option(help="Folder of tickets.")] = Path("build/bench/models"),
    folder: Folder = Path("build/bench"),
) -> None:
    """Native, onnxruntime, OpenVINO and torch at T = 1 to 5, batch 1, all cores: about four minutes."""
    ticket = make_ticket(TICKET, load_images(data), models)
    model = folder / f"{TICKET.arch}-{TICKET.sparsity:g}.onnx"
    write_atomic(model, ticket.path.read_bytes())
    settings = Settings(
        ("native", "onnxruntime", "openvino", "torch"), (1, 2, 3, 4, 5), threads=(usable_cores(),),
        streams=usable_cores(), duration=duration,
    )  # fmt: skip
    with err.status("reading ...") as status:
        profile = profile_models([model], settings, Data(None, data, images), CMOS_45NM, status.update)
    _write(inference_report(profile), folder / "profile-inference")


def _write(report: Report, base: Path) -> None:
    """JSON and HTML, and each picture as an SVG file."""
    show(report, out)
    for ending in (".json", ".html"):
        path = base.with_name(base.name + ending)
        write(report, path)
        say(f"wrote {path}")
    for section in report.sections:
        for number, picture in enumerate(section.pictures):
            name = re.sub(r"-0$", "", f"{base.name}-{section.key}-{number}")
            write_atomic(base.with_name(f"{name}.svg"), svg(picture, standalone=True).encode())


if __name__ == "__main__":
    app()
