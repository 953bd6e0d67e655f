"""The command `snn-profile`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from spiketicket.cli import err, guarded, make_app, out, run_app, say, whole_numbers
from spiketicket.files import write_atomic
from spiketicket.profiling.latency import profile
from spiketicket.profiling.latency_page import latency_table, write_html
from spiketicket.runtime.engine import ENGINE_NAMES

app = make_app("Measure what a model costs, timestep by timestep.")


@app.command()
@guarded
def profile_model(
    model: Annotated[Path, typer.Argument(help="Model file of snn-export.", show_default=False)],
    engines: Annotated[
        str, typer.Option(help=f"Engines, separated by commas: {', '.join(ENGINE_NAMES)}.")
    ] = "native,onnxruntime",
    timesteps: Annotated[str, typer.Option(help="Numbers of timesteps, separated by commas.")] = "1,2,3,4,5",
    batch: Annotated[int, typer.Option(help="Images per run.")] = 1,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", show_default="all")] = None,
    warmup: Annotated[int, typer.Option(help="Untimed runs of each engine and T first.")] = 3,
    duration: Annotated[float, typer.Option(help="Seconds of measurement per engine and T.")] = 1.0,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the data sets' files (docs/data.md).", show_default="data")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report as JSON.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write the report as an HTML page.")] = None,
) -> None:
    """Latency per image by engine and T, with the cost of each further timestep and the speed-up.

    Engines and numbers of timesteps are measured in turn, so that drift of the machine hits all alike.
    """
    names = [name.strip() for name in engines.split(",") if name.strip()]
    with err.status("measuring ..."):
        report = profile(model, names, whole_numbers("timesteps", timesteps), batch, threads, warmup, duration, data)
    out.print(latency_table(report))
    say(f"input: {report.input}")
    if json_file:
        write_atomic(json_file, (json.dumps(report.to_dict(), indent=2) + "\n").encode())
    if html_file:
        write_html(report, html_file)
    for path in filter(None, (json_file, html_file)):
        say(f"wrote {path}")


def main() -> None:
    run_app(app)


if __name__ == "__main__":
    main()
