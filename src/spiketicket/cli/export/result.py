"""Print the result of an export."""

from rich.markup import escape
from rich.table import Table

from spiketicket.cli.console import err, out, say
from spiketicket.export.check.agreement import Agreement
from spiketicket.export.pack import Export
from spiketicket.text import human_bytes


def print_export(result: Export) -> None:
    out.print(_layers(result))
    for node in result.graph.weighted():
        if node.weight.nnz == 0:
            err.print(f"[yellow]warning:[/] no weight of {escape(node.name)} survives: nothing before it matters")
    for name in result.silent:
        err.print(f"[yellow]warning:[/] {escape(name)} never fires on the samples: what follows it was not tested")
    if result.agreements:
        out.print(_verified(result.agreements))
    if result.accuracy is not None:
        say(f"accuracy on all test images, native engine: {result.accuracy:.2%}")
    ratio = result.dense_nbytes / result.nbytes
    size = f"{ratio:.1f}x smaller than" if ratio >= 1 else f"{1 / ratio:.1f}x the size of"
    say(f"{result.path}: {human_bytes(result.nbytes)}, {size} dense ONNX ({human_bytes(result.dense_nbytes)})")


def _layers(result: Export) -> Table:
    table = Table(title="Layers")
    table.add_column("layer")
    columns = ("shape", "density", "bytes", *(("removed channels",) if result.removed else ()))
    for column in columns:
        table.add_column(column, justify="right")
    for node in result.graph.weighted():
        shape = " x ".join(map(str, node.weight.shape))
        lost = result.removed.get(node.name)
        removed = (f"{lost.count} of {lost.channels}" if lost else "",) if result.removed else ()
        nbytes = f"{node.weight.nbytes + node.bias.nbytes:,}"
        table.add_row(escape(node.name), shape, f"{node.weight.density:.2%}", nbytes, *removed)
    return table


def _verified(agreements: list[Agreement]) -> Table:
    table = Table(title="Verified, against the float64 oracle")
    labelled = any(a.accuracy is not None for a in agreements)
    columns = ("samples", "spikes differ", "logits differ", "same class", *(("accuracy",) if labelled else ()))
    table.add_column("engine", min_width=11)
    for column in columns:
        table.add_column(column, justify="right")
    for a in agreements:
        logits = a.drift if "(" in a.engine else a.logits  # engines that round are compared on all samples
        accuracy = (("" if a.accuracy is None else f"{a.accuracy:.1%}"),) if labelled else ()
        table.add_row(a.engine, str(a.images), a.flips, f"{logits:.1e}", f"{a.top1:.1%}", *accuracy)
    return table
