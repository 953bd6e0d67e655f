"""Show an inspection as tables, for a terminal of 80 columns or more."""

from collections.abc import Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from spiketicket.export.inspect.facts import Inspection, Layer, Port, Totals
from spiketicket.text import human_bytes

LONG = 12  # classes that are listed by name
WIDE = 105  # columns of a terminal that shows everything
KEYS = 26  # columns of the longest key


def render(inspection: Inspection, width: int) -> RenderableType:
    """Return everything that `snn-export inspect` prints, for a terminal of `width` columns.

    Below 105 columns, tables leave out what can be derived from other columns: dense work (surviving work over
    density), neurons (the output's shape), and what onnxruntime does, which is the same for all layers of a kind. Names
    and paths from the file are never read as markup.
    """
    x, wide = inspection, width >= WIDE
    parts: list[RenderableType] = [_facts("File", _about_file(x))]
    if x.layers:
        parts.append(_facts("Weights and work", _about_work(x)))
    if x.metadata:
        parts.append(_facts("Metadata", _about_training(x.metadata)))
    if x.verification:
        parts.append(_verified(x))
    if x.layers:
        parts.append(_layers(x, wide))
    if x.kind == "sparse":
        parts.append(_engines(x, wide))
    elif x.operators:
        parts.append(_operators(x))
    return Group(*(part for pair in zip(parts, [Text()] * len(parts), strict=True) for part in pair))


def _table(title: str, *columns: str, left: tuple[str, ...], wide: bool = True) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False)
    table.padding = (0, 1, 0, 0) if wide else 0
    for name in columns:
        text = name in left
        # Names break if they must; numbers never do.
        table.add_column(name, justify="left" if text else "right", overflow="fold", no_wrap=not text)
    return table


def _facts(title: str, rows: Iterator[tuple[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, padding=0)
    table.add_column(style="dim", no_wrap=True, min_width=KEYS + 1)
    table.add_column(overflow="fold")
    for key, value in rows:
        table.add_row(Text(key), Text(value))
    return table


def _about_file(x: Inspection) -> Iterator[tuple[str, str]]:
    yield "path", str(x.path)
    yield "size", human_bytes(x.nbytes) + _compared(x)
    if x.kind in _KINDS:
        yield "kind", _KINDS[x.kind]
    yield "format", f"{x.format}, written by {x.producer or 'an unknown program'}"
    yield "inputs", ", ".join(map(_port, x.inputs))
    yield "outputs", ", ".join(map(_port, x.outputs))
    if x.timesteps is not None:
        yield "timesteps", f"{x.timesteps}, fixed" if x.fixed_timesteps else f"{x.timesteps} by default"
    yield from x.facts.items()


_KINDS = {
    "plain": "plain dense ONNX: zeros are stored; for other runtimes, not for snn-run",
    "nir": "NIR graph: zeros are stored; for simulators and chips, not for snn-run",
    "engine": "TensorRT engine: for the GPU and version below alone, in snn-run --engine tensorrt",
}


def _compared(x: Inspection) -> str:
    """Return the size of the file, compared with that of dense ONNX."""
    if x.dense:
        return f", {human_bytes(x.initializer_nbytes)} of it stored arrays"
    if x.dense_nbytes is None:
        return ""
    ratio = x.dense_nbytes / x.nbytes
    size = f"{ratio:.1f}x smaller than" if ratio >= 1 else f"{1 / ratio:.1f}x the size of"
    return f", {size} dense ONNX ({human_bytes(x.dense_nbytes)})"


def _port(port: Port) -> str:
    return f"{port.name} {port.dtype}".strip() + f" [{', '.join(map(str, port.shape))}]"


def _about_work(x: Inspection) -> Iterator[tuple[str, str]]:
    t = x.totals
    yield "weights", f"{t.weights:,}, of which {t.nonzeros:,} are not zero ({t.density:.2%})"
    if t.weight_nbytes:
        yield "stored in", f"{human_bytes(t.weight_nbytes)}: {t.bytes_per_nonzero:.2f} bytes per nonzero"
    if x.dense:
        return
    yield "neurons", f"{t.neurons:,}"
    for when, sparse, dense in _macs(t):
        yield f"MACs {when}", f"{_short(sparse)} of {_short(dense)} dense ({sparse / max(dense, 1):.1%})"


def _macs(t: Totals) -> Iterator[tuple[str, int, int]]:
    if t.dense_macs_once:
        yield "once per image", t.macs_once, t.dense_macs_once
    yield "per timestep", t.macs_per_timestep, t.dense_macs_per_timestep


def _about_training(metadata: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Return the metadata that the exporter wrote: the known keys in words and in a fixed order, then all others."""
    left = dict(metadata)
    for key, label in _LABELS.items():
        if key in left:
            yield label, _readable(key, left.pop(key))
    yield from sorted(left.items())


_LABELS = {
    "arch": "network",
    "dataset": "data set",
    "classes": "classes",
    "method": "method",
    "sparsity": "sparsity, all parameters",
    "sparsity_prunable": "sparsity, prunable weights",
    "test_accuracy": "test accuracy",
    "scale": "pixels divided by",
    "mean": "then minus",
    "std": "then divided by",
    "values": "values",
    "fingerprint": "ticket",
    "exporter": "exporter",
}


def _readable(key: str, text: str) -> str:
    if key in ("sparsity", "sparsity_prunable", "test_accuracy"):
        try:
            return f"{float(text):.2%}"
        except ValueError:
            return text
    if key == "classes":
        names = text.split("\n")
        return f"{len(names)}: {', '.join(names[:LONG])}{', ...' if len(names) > LONG else ''}"
    return text


def _verified(x: Inspection) -> Table:
    table = _table(
        "Verified",
        "engine",
        "against",
        "images",
        "spikes differ",
        "logits differ",
        "same class",
        left=("engine", "against"),
    )
    for a in x.verification:
        logits = a.drift if "(" in a.engine else a.logits  # engines that round are compared on all images
        row = (a.engine, a.against, f"{a.images:,}", a.flips, f"{logits:.1e}", f"{a.top1:.1%}")
        table.add_row(*map(Text, row))
    return table


def _layers(x: Inspection, wide: bool) -> Table:
    """Return the table of layers; for a dense file, of its weights."""
    columns: tuple[str, ...] = ("layer", "kind", "output", "weight", "density", "bytes", "MACs")
    if x.dense:
        columns = ("layer", "kind", "weight", "density", "bytes")
    elif wide:
        columns = (*columns, "of dense", "neurons")
    if x.kind == "nir":
        columns = tuple(column for column in columns if column != "bytes")
    table = _table("Layers", *columns, left=("layer", "kind"), wide=wide)
    for layer in x.layers:
        cells = _cells(layer)
        table.add_row(*(Text(cells[column]) for column in columns))
    return table


def _cells(layer: Layer) -> dict[str, str]:
    return {
        "layer": layer.name,
        "kind": layer.kind,
        "output": _sizes(layer.output),
        "weight": _sizes(layer.weight),
        "density": "" if layer.density is None else f"{layer.density:.2%}",
        "bytes": f"{layer.nbytes:,}" if layer.nbytes else "",
        "MACs": _short(layer.macs) if layer.weight else "",
        "of dense": _short(layer.dense_macs) if layer.weight else "",
        "neurons": f"{layer.neurons:,}" if layer.neurons else "",
    }


def _engines(x: Inspection, wide: bool) -> Group:
    columns = ("layer", "runs", "native engine", *(["onnxruntime"] if wide else []))
    table = _table("Engines", *columns, left=columns, wide=wide)
    for layer in x.layers:
        kernel = layer.native.partition(" (")[0]  # without the instruction set
        native = layer.why if kernel == "none" else f"{kernel}: {layer.why}"
        row = [layer.name, "each t" if layer.timed else "once", native, layer.onnxruntime]
        table.add_row(*map(Text, row[: len(columns)]))
    isas = {layer.native.partition(" (")[2].rstrip(")") for layer in x.layers} - {""}
    built = "built here" if x.custom_operators_built else "not built in this installation"
    notes = (
        f"The native engine's kernels{f' ({isas.pop()})' if isas else ''} are those of plan fixed; plan auto measures.",
        "onnxruntime decodes sparse weights when it loads the file, and multiplies their zeros too. With the library "
        f"of custom operators ({built}) it runs sparse layers and neurons by the native engine's kernels.",
    )
    return Group(table, *(Text(note, style="dim") for note in notes))


def _operators(x: Inspection) -> Text:
    counts = ", ".join(f"{count} {name}" for name, count in x.operators.items())
    return Text(f"{sum(x.operators.values())} operators: {counts}")


def _sizes(shape: tuple[int, ...] | None) -> str:
    return "x".join(map(str, shape or ()))


def _short(count: int) -> str:
    """Return a count with three digits: 1,234,567 becomes '1.23 M'."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)
