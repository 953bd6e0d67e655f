"""The command `snn-export`."""

from pathlib import Path
from typing import Annotated

import typer

from spiketicket.cli.console import guarded, make_app, out, print_json, run_app
from spiketicket.errors import InputError, MissingExtraError

app = make_app(
    "Export a pruned spiking network to one sparse ONNX file, verified; `snn-export inspect FILE` tells what is in one."
)

SOURCE, SAMPLES, FILE, CHECK = "What to export", "What to check it on", "The file", "The check"
FORMATS = ("onnx", "tensorrt-onnx", "tensorrt", "nir")


@app.callback(invoke_without_command=True)
@guarded
def export(
    context: typer.Context,
    ticket: Annotated[
        Path | None, typer.Option(help="A ticket.pt of snn-search, or its run folder.", rich_help_panel=SOURCE)
    ] = None,
    module: Annotated[
        str | None,
        typer.Option(
            help="A torch module: package.file:factory, a function without arguments or a module.",
            rich_help_panel=SOURCE,
        ),
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option(
            help="One of spiketicket's networks, for --weights of Kim et al.'s code or ours.", rich_help_panel=SOURCE
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="State dict for --module or --arch; no code in it runs.", rich_help_panel=SOURCE)
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            help="Masks: a torch file by parameter name, or Kim et al.'s mask_*.pkl.",
            show_default="zero weights are pruned",
            rich_help_panel=SOURCE,
        ),
    ] = None,
    nir: Annotated[Path | None, typer.Option(help="A NIR graph (docs/nir.md).", rich_help_panel=SOURCE)] = None,
    dialect: Annotated[
        str,
        typer.Option(help="Whose simulator to follow where NIR is open: nir, snntorch, norse.", rich_help_panel=SOURCE),
    ] = "nir",
    dt: Annotated[float, typer.Option(help="Seconds per timestep, in NIR.", rich_help_panel=SOURCE)] = 1e-4,
    imports: Annotated[
        list[str] | None,
        typer.Option(
            "--import", help="Python module that registers more networks; repeatable.", rich_help_panel=SOURCE
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Test images of a data set (docs/data.md).", show_default="the ticket's", rich_help_panel=SAMPLES
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of the data sets' files.", show_default="data", rich_help_panel=SAMPLES),
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option(
            help="Or a .npy file: float32 [N, ...], normalised; --timed: [T, N, ...].", rich_help_panel=SAMPLES
        ),
    ] = None,
    timed: Annotated[
        bool,
        typer.Option("--timed", help="The network sees another input at every timestep.", rich_help_panel=SAMPLES),
    ] = False,
    timesteps: Annotated[
        str,
        typer.Option(
            help="T: a number, which the file fixes; dynamic, with the ticket's T as default; dynamic:T, with T as "
            "default.",
            rich_help_panel=FILE,
        ),
    ] = "dynamic",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write.", show_default="beside what is read", rich_help_panel=FILE),
    ] = None,
    format: Annotated[str, typer.Option(help=f"{', '.join(FORMATS)}.", rich_help_panel=FILE)] = "onnx",
    values: Annotated[
        str, typer.Option(help="Type of the stored weights: float32, float16, int16, int8.", rich_help_panel=FILE)
    ] = "float32",
    dense: Annotated[
        bool, typer.Option("--dense", help="Plain standard ONNX, without our operators.", rich_help_panel=FILE)
    ] = False,
    mode: Annotated[
        str,
        typer.Option(
            help="multi-step, or step: one timestep per call, potentials go in and out.", rich_help_panel=FILE
        ),
    ] = "multi-step",
    batch: Annotated[str, typer.Option(help="N: a number, or dynamic.", rich_help_panel=FILE)] = "dynamic",
    opset: Annotated[int, typer.Option(help="Of standard operators, 18 to 24.", rich_help_panel=FILE)] = 18,
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check",
            help="Run the network and every engine on the samples, against a float64 oracle; no file is written "
            "unless they agree. What int16 weights would change is shown beside.",
            rich_help_panel=CHECK,
        ),
    ] = True,
    atol: Annotated[float, typer.Option(help="A logit may differ by this much,", rich_help_panel=CHECK)] = 0.0,
    rtol: Annotated[
        float, typer.Option(help="plus this much times the sample's largest.", rich_help_panel=CHECK)
    ] = 1e-4,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Fold batch norm, pack the surviving weights as CSR and write one ONNX file.

    Any ONNX tool reads the file; engines that know the operators of ai.spiketicket run it sparse.
    """
    if context.invoked_subcommand is not None:
        return
    if mode not in ("multi-step", "step"):
        raise InputError(f"--mode: expected multi-step or step, got {mode!r}")
    steps, fixed = _timesteps(timesteps)
    if format == "nir" and fixed:
        raise InputError(f"--timesteps: a NIR graph does not fix T: use --timesteps dynamic:{steps}")
    form_of_file = {
        "format": format,
        "values": values,
        "dense": dense,
        "step": mode == "step",
        "fixed_timesteps": fixed,
        "batch": _batch(batch),
        "opset": opset,
        "dt": dt,
    }
    extra = "nir" if nir else "train"
    try:
        from spiketicket.cli.export.actions import Inputs, Source, run
        from spiketicket.cli.export.result import print_export

        if imports:
            from spiketicket.train.networks.models import import_plugins

            import_plugins(imports)
        source = Source(ticket, module, arch, nir, weights, masks, dialect)
        inputs = Inputs(dataset, data, samples, timed, check, atol, rtol)
        result = run(source, inputs, steps, output, form_of_file)
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", extra, "snn-export") from error
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

    inspection = look(file)
    if json:
        print_json(inspection.to_dict())
    else:
        out.print(render(inspection, out.width))


def _timesteps(text: str) -> tuple[int | None, bool]:
    """T where it is given, and whether the file fixes it: `4`, `dynamic` or `dynamic:4`."""
    word, _, number = text.partition(":")
    fixed = word != "dynamic"
    digits = word if fixed else number
    steps = _whole(digits)
    if (digits and steps is None) or (fixed and (number or not word)):
        raise InputError(f"--timesteps: expected a number from 1, dynamic or dynamic:T, got {text!r}")
    return steps, fixed


def _batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    size = _whole(text)
    if size is None:
        raise InputError(f"--batch: expected a number from 1, or dynamic, got {text!r}")
    return size


def _whole(digits: str) -> int | None:
    """A number from 1, of as many digits as anybody can mean."""
    return int(digits) if digits.isdecimal() and len(digits) < 100 and int(digits) > 0 else None


def main() -> None:
    run_app(app)


if __name__ == "__main__":
    main()
