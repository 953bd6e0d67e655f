"""Makes the profiles of docs/results: reports of snn-profile on the trained VGG16 ticket and on training.

python -m benchmarks.profiles inference --data DIR
python -m benchmarks.profiles search
"""

from pathlib import Path
from typing import Annotated

import typer

from spiketicket.cli.console import err, guarded, make_app, out, say
from spiketicket.export.ticket import model_of_ticket
from spiketicket.files import write_atomic
from spiketicket.profiling.inference.profile import Data, profile_models
from spiketicket.profiling.inference.report import inference_report
from spiketicket.profiling.inference.settings import ProfileSettings
from spiketicket.profiling.layers.energy import CMOS_45NM
from spiketicket.profiling.measure.machine import usable_cores
from spiketicket.profiling.report.document import Report
from spiketicket.profiling.report.drawing.chart import svg
from spiketicket.profiling.report.files import write
from spiketicket.profiling.report.terminal import show
from spiketicket.profiling.search import paper
from spiketicket.profiling.search.cost import measure_search
from spiketicket.profiling.search.measured import read_runs, setups_of, spent
from spiketicket.profiling.search.report import SearchProfileSettings, search_report

TICKET = Path(__file__).parents[1] / "tests" / "assets" / "vgg16-98.13.pt.xz"

app = make_app("The profiles of docs/results.")


@app.callback()
def group() -> None:
    """Make the profiles of docs/results, as JSON, HTML and a picture."""


Folder = Annotated[Path, typer.Option("--out", help="Folder of the results.")]


@app.command()
@guarded
def inference(
    ticket: Annotated[Path, typer.Option(help="A ticket of snn-search.")] = TICKET,
    data: Annotated[Path, typer.Option(help="Folder that holds cifar-10-batches-py.")] = Path("data"),
    images: Annotated[int, typer.Option(help="Test images for accuracy.")] = 2000,
    duration: Annotated[float, typer.Option(help="Seconds per engine and T.")] = 1.5,
    folder: Folder = Path("build/bench"),
) -> None:
    """Profile native, onnxruntime, OpenVINO and torch at T = 1 to 5, batch 1, all cores: about four minutes."""
    model = folder / f"{ticket.name.partition('.pt')[0]}.onnx"
    with model_of_ticket(ticket) as path:
        write_atomic(model, path.read_bytes())
    settings = ProfileSettings(
        ("native", "onnxruntime", "openvino", "torch"),
        (1, 2, 3, 4, 5),
        threads=(usable_cores(),),
        streams=usable_cores(),
        duration=duration,
    )
    with err.status("reading ...") as status:
        profile = profile_models([model], settings, Data(None, data, images), CMOS_45NM, status.update)
    _write(inference_report(profile), folder / "profile-inference", "latency")


@app.command()
@guarded
def search(
    runs: Annotated[
        list[Path] | None, typer.Option("--run", help="Run folder of snn-search to compare with; repeatable.")
    ] = None,
    folder: Folder = Path("build/bench"),
) -> None:
    """Profile the training of VGG16 and ResNet19 at T = 1 to 5, batch 128, on the CPU: about eight minutes."""
    settings = SearchProfileSettings(("vgg16", "resnet19"), (1, 2, 3, 4, 5), paper.BATCH, "cifar10", "float32")
    histories = read_runs(runs or [])
    of_runs = [setup for history in histories for setup in setups_of(history)]
    with err.status("measuring ...") as status:
        cost = measure_search(
            [*settings.setups(), *of_runs], device="cpu", memory=settings.setups(), report=status.update
        )
    found = [one for history in histories for one in spent(history, cost.costs.__getitem__)]
    _write(search_report(settings, cost, found), folder / "profile-search", "iteration")


def _write(report: Report, base: Path, shown: str) -> None:
    """Write the report as JSON and HTML, and the first picture of the section `shown`."""
    show(report, out)
    for ending in (".json", ".html"):
        path = base.with_name(base.name + ending)
        write(report, path)
        say(f"wrote {path}")
    picture = next(section.pictures[0] for section in report.sections if section.key == shown)
    write_atomic(base.with_name(f"{base.name}-{shown}.svg"), svg(picture, standalone=True).encode())


if __name__ == "__main__":
    app()
