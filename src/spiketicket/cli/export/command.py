"""The command `snn-export`."""

from pathlib import Path
from typing import Annotated

import typer

from spiketicket.cli.console import guarded, make_app, out, print_json, run_app
from spiketicket.cli.export.options import File, Inputs, Source, Verification
from spiketicket.cli.options import grouped
from spiketicket.errors import extra

app = make_app(
    "Export a pruned spiking network to one sparse ONNX file, verified; `snn-export inspect FILE` tells what is in one."
)


@app.callback(invoke_without_command=True)
@guarded
@grouped
def export(
    context: typer.Context,  # tells whether the subcommand `inspect` follows
    source: Source,
    inputs: Inputs,
    file: File,
    verification: Verification,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Fold batch norm, pack the surviving weights as CSR and write one ONNX file.

    Any ONNX tool reads the file; engines that know the operators of ai.spiketicket run it sparse.
    """
    with extra("nir" if source.nir else "train", "snn-export"):
        from spiketicket.cli.export.actions import run
        from spiketicket.cli.export.result import print_export

        result = run(source, inputs, file, verification)
    if json:
        print_json(result.to_dict())
    else:
        print_export(result)


@app.command()
@guarded
def inspect(
    file: Annotated[Path, typer.Argument(help="Model file of snn-export, of any format.", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Tell what is in a model file: layers, density, bytes, work, provenance, and what each engine will do with it."""
    from spiketicket.cli.export.inspect import render
    from spiketicket.export.inspect.inspect import inspect as look

    facts = look(file)
    if json:
        print_json(facts.to_dict())
    else:
        out.print(render(facts, out.width))


def main() -> None:
    run_app(app)


if __name__ == "__main__":
    main()
