"""The command `snn-export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from spiketicket.cli import err, guarded, human_bytes, make_app, out, print_json, run_app, say
from spiketicket.errors import DataError, InputError, MissingExtraError

if TYPE_CHECKING:
    from spiketicket.export.pack import Export

app = make_app("Export a lottery ticket to one sparse ONNX file, verified.")


@app.command()
@guarded
def export(
    ticket: Annotated[Path, typer.Option(help="Ticket to export: a ticket.pt of snn-search.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Model file to write.", show_default="TICKET with .onnx")
    ] = None,
    values: Annotated[str, typer.Option(help="Type of the stored weights: float32 or float16.")] = "float32",
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check",
            help="Run torch, onnxruntime and native on test images of the ticket's data set, against the "
            "float64 oracle; no file is written unless they agree. What int16 weights would change is shown beside.",
        ),
    ] = True,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the data sets' files (docs/data.md).", show_default="data")
    ] = None,
    imports: Annotated[
        list[str] | None, typer.Option("--import", help="Python module that registers more networks; repeatable.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Fold batch norm, pack the surviving weights as CSR and write one ONNX file.

    Any ONNX tool reads the file; engines that know the operators of ai.spiketicket run it sparse.
    """
    try:
        from spiketicket.export.pack import SAMPLES
        from spiketicket.export.tickets import export_ticket
        from spiketicket.train.models import import_plugins
        from spiketicket.train.ticket import load_ticket
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "train", "snn-export") from error
    import_plugins(imports or [])
    if ticket.is_dir():  # of a run
        ticket = ticket / "ticket.pt"
        if not ticket.exists():
            raise InputError(f"{ticket.parent} has no ticket yet: finish the search; its rounds so far are in rounds/")
    path = output or ticket.with_suffix(".onnx")
    if path.resolve() == ticket.resolve():
        raise InputError(f"the model would overwrite the ticket {ticket}: choose another --output")
    loaded = load_ticket(ticket)
    samples = None
    if check:
        from spiketicket.train.data import load_dataset

        try:
            images = load_dataset(str(loaded.search["dataset"]), data).test.images[:SAMPLES]
        except DataError as error:
            raise DataError(f"cannot verify: {error}; or export with --no-check") from error
        samples = loaded.normalisation(images)
    result = export_ticket(loaded, path, samples, values=values)
    if json:
        print_json(result.to_dict())
    else:
        _print(result)


def _print(result: "Export") -> None:
    layers = Table(title="Layers")
    layers.add_column("layer")
    for column in ("shape", "density", "bytes"):
        layers.add_column(column, justify="right")
    for node in result.graph.weighted():
        shape = " x ".join(map(str, node.weight.shape))
        layers.add_row(node.name, shape, f"{node.weight.density:.2%}", f"{node.weight.nbytes + node.bias.nbytes:,}")
    out.print(layers)
    for node in result.graph.weighted():
        if node.weight.nnz == 0:
            err.print(f"[yellow]warning:[/] no weight of {escape(node.name)} survives: nothing before it matters")
    if result.agreements:
        checks = Table(title="Verified")
        for column in ("engine", "against", "images", "spike mismatch", "logits", "same class"):
            checks.add_column(column, justify="left" if column in ("engine", "against") else "right")
        for a in result.agreements:
            checks.add_row(a.engine, a.against, str(a.images), f"{a.mismatch:.1e}", f"{a.logits:.1e}", f"{a.top1:.1%}")
        out.print(checks)
    ratio = result.dense_nbytes / result.nbytes
    size = f"{ratio:.1f}x smaller than" if ratio >= 1 else f"{1 / ratio:.1f}x the size of"
    say(f"{result.path}: {human_bytes(result.nbytes)}, {size} dense ONNX ({human_bytes(result.dense_nbytes)})")


def main() -> None:
    run_app(app)


if __name__ == "__main__":
    main()
