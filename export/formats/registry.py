"""The formats that a graph can be written in, and how each is run to be checked."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, checker, helper

from spiketicket.errors import InputError, MissingExtraError, ModelError, SpikeTicketError
from spiketicket.export.check.agreement import TENSORRT, is_finite
from spiketicket.export.check.check import Floats, Run, Samples, oracle_run
from spiketicket.export.formats.unrolled import unrolled_onnx
from spiketicket.export.nir.dialects import NIR_DT
from spiketicket.graph import Graph, Lif
from spiketicket.model import engine_file
from spiketicket.model.names import INPUT, LOGITS_T, OPSET
from spiketicket.model.reader import parse_model
from spiketicket.model.values import VALUES, check_values
from spiketicket.model.writer import to_onnx
from spiketicket.runtime import Session
from spiketicket.runtime.engine import FIXED, Model, Options, Trace

LARGEST_BATCH = 2**31 - 1


@dataclass(frozen=True)
class ExportFormat:
    """What file is asked for.

    `format`: onnx, tensorrt-onnx (the plain graph that TensorRT's parser takes), tensorrt (an engine for this
    machine's GPU) or nir. `values`: the type of stored weights; for TensorRT float16 is the type of weighted sums, too.
    Of onnx: `dense`, plain standard ONNX without the domain's operators, which the native engine does not read;
    `step`, one timestep per call, potentials as inputs and outputs; `opset`. `fixed_timesteps`: T is the graph's
    always. `batch`: N, where it is fixed. `dt`: seconds per timestep, of nir. Raises InputError for what does not go
    together.
    """

    format: str = "onnx"
    values: str = "float32"
    dense: bool = False
    step: bool = False
    fixed_timesteps: bool = False
    batch: int | None = None
    opset: int = OPSET
    dt: float = NIR_DT

    def __post_init__(self) -> None:
        check_values(self.values)
        for name in ("dense", "step", "fixed_timesteps"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} must be True or False, got {getattr(self, name)!r}")
        whole = isinstance(self.batch, int) and not isinstance(self.batch, bool)
        if self.batch is not None and not (whole and 1 <= self.batch <= LARGEST_BATCH):
            raise InputError(f"batch must be a whole number from 1 to {LARGEST_BATCH}, or None, got {self.batch!r}")
        if not is_finite(self.dt) or self.dt <= 0:
            raise InputError(f"dt must be a positive number of seconds, got {self.dt!r}")
        if self.format not in tuple(FORMATS):
            raise InputError(f"format: expected one of {', '.join(FORMATS)}, got {self.format!r}")
        if self.format != "onnx" and (self.dense, self.step, self.opset) != (False, False, OPSET):
            raise InputError(f"dense, step and opset are settings of format onnx, not of {self.format}")
        if self.dense and self.values != "float32":
            raise InputError(f"plain ONNX holds its weights as float32, not as {self.values}")
        if self.step and self.fixed_timesteps:
            raise InputError("a file of one timestep per call does not fix T: use --timesteps dynamic:T")
        if self.values not in FORMATS[self.format].values:
            raise InputError(
                f"{self.format} holds weights as {' or '.join(FORMATS[self.format].values)}, not as {self.values}"
            )
        if self.format == "nir" and (self.batch is not None or self.fixed_timesteps):
            raise InputError("a NIR graph says nothing of timesteps and batch: it cannot fix them")

    def write(self, graph: Graph) -> bytes:
        """The file's bytes: the same for the same graph (but for TensorRT's engines)."""
        return FORMATS[self.format].write(self, graph)

    def with_metadata(self, data: bytes, graph: Graph) -> bytes:
        """The file `data` with the metadata of `graph`, which is otherwise what it was written of."""
        return FORMATS[self.format].with_metadata(self, data, graph)

    def runs(self, path: Path, graph: Graph, samples: Samples) -> Iterator[tuple[str, Run]]:
        """What runs the file `path`, which was written of `graph`, by name."""
        try:
            yield from FORMATS[self.format].runs(self, path, graph, samples)
        except MissingExtraError as error:
            raise SpikeTicketError(f"cannot verify: {error}; or export with --no-check") from error


Form = ExportFormat  # the old name


def _write_onnx(form: ExportFormat, graph: Graph) -> bytes:
    model = to_onnx(graph, dense=form.dense, step=form.step, opset=form.opset)
    try:
        checker.check_model(model, full_check=True)
    except checker.ValidationError as error:
        raise ModelError(f"names of layers collide with others in the file, rename one: {error}") from error
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _run_onnx(form: ExportFormat, path: Path, graph: Graph, samples: Samples) -> Iterator[tuple[str, Run]]:
    if form.dense:
        yield "onnxruntime", _run_dense(form, path, graph, samples)
        return
    for engine in ("native", "onnxruntime"):
        yield engine, _run_session(path, engine, samples)
    # What rounding to whole numbers would change, for who wants it; the file does not depend on it.
    yield "native (int16)", _run_session(path, "native", samples, "events-int16", "int16")


def _run_session(path: Path, engine: str, samples: Samples, plan: str = FIXED, values: str = "float32") -> Run:
    session = Session(path, engine, plan=plan, values=values)

    def run(x: Floats) -> Trace:
        feeds = {INPUT: samples.frames(x) if session.timed_input else x}
        timesteps = None if session.timed_input else samples.timesteps
        return session.trace(feeds, timesteps)

    return run


def _run_dense(form: ExportFormat, path: Path, graph: Graph, samples: Samples) -> Run:
    """Plain ONNX in onnxruntime. Its values are called as in the file with the domain's operators."""
    from spiketicket.runtime.engines.onnxruntime import OnnxRuntimeEngine

    named = parse_model(to_onnx(graph, step=form.step, opset=form.opset).SerializeToString())
    engine = OnnxRuntimeEngine(Model(path, path.read_bytes(), named), Options(1, FIXED, "float32"))

    def run(x: Floats) -> Trace:
        frames = samples.frames(x) if form.step else x
        return engine.trace(frames, samples.timesteps)

    return run


def _write_unrolled(form: ExportFormat, graph: Graph) -> bytes:
    model = unrolled_onnx(graph, graph.timesteps, form.batch, half=form.values == "float16")
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _run_unrolled(form: ExportFormat, path: Path, graph: Graph, samples: Samples) -> Iterator[tuple[str, Run]]:
    """In onnxruntime, with every LIF layer's spikes, which are folded `[T * N, ...]`, as outputs."""
    try:
        import onnxruntime

        from spiketicket.runtime.engines.onnxruntime import QUIET
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "cpu", "the check of a graph for TensorRT") from error
    model = onnx.load_model(path)
    lifs = {f"value:{node.output}": node for node in graph.nodes if isinstance(node, Lif)}
    present = {output for node in model.graph.node for output in node.output}
    model.graph.output.extend(helper.make_tensor_value_info(v, TensorProto.FLOAT, None) for v in lifs if v in present)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = QUIET
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs() if output.name in lifs]

    def run(x: Floats) -> Trace:
        logits, *spikes = session.run([LOGITS_T, *names], {INPUT: x})
        shapes = {name: (samples.timesteps, -1, *graph.values[lifs[name].output].shape) for name in names}
        by_layer = {lifs[n].name: s.reshape(shapes[n]) for n, s in zip(names, spikes, strict=True)}
        return Trace(by_layer, np.asarray(logits))

    yield "onnxruntime" if form.values == "float32" else "onnxruntime (float16)", run


def _write_tensorrt(form: ExportFormat, graph: Graph) -> bytes:
    from spiketicket.export.formats.tensorrt import BATCH, compiled

    batch = BATCH if form.batch is None else (form.batch, form.batch, form.batch)
    return engine_file.pack(compiled(graph, batch=batch, half=form.values == "float16"))


def _tensorrt_with_metadata(form: ExportFormat, data: bytes, graph: Graph) -> bytes:
    """Not built twice: that takes minutes, and another build may be another engine."""
    from spiketicket.export.formats.tensorrt import renoted

    return engine_file.pack(renoted(engine_file.unpack(data), graph))


def _run_tensorrt(form: ExportFormat, path: Path, graph: Graph, samples: Samples) -> Iterator[tuple[str, Run]]:
    """The engine does not show its spikes: its classes are held, its logits reported."""
    session = Session(path, "tensorrt")

    def run(x: Floats) -> Trace:
        quiet = {
            n.name: np.zeros((samples.timesteps, x.shape[samples.timed], *graph.values[n.output].shape), np.bool_)
            for n in graph.nodes
            if isinstance(n, Lif)
        }
        return Trace(quiet, session.run({INPUT: x})["logits_t"])

    yield f"{TENSORRT} ({form.values})", run


def _write_nir(form: ExportFormat, graph: Graph) -> bytes:
    from spiketicket.export.nir.writer import nir_bytes

    return nir_bytes(graph, form.dt)


def _run_nir(form: ExportFormat, path: Path, graph: Graph, samples: Samples) -> Iterator[tuple[str, Run]]:
    """Read back, on the oracle; everything is over time there."""
    from spiketicket.export.nir.reader import read_nir

    read = read_nir(path, graph.timesteps, form.dt)
    run = oracle_run(read, samples.timesteps)
    yield "read back", lambda x: run(samples.frames(x))


def _rewrite(form: ExportFormat, data: bytes, graph: Graph) -> bytes:
    return form.write(graph)


@dataclass(frozen=True)
class _Format:
    suffix: str
    values: tuple[str, ...]
    write: Callable[[ExportFormat, Graph], bytes]
    runs: Callable[[ExportFormat, Path, Graph, Samples], Iterator[tuple[str, Run]]]
    with_metadata: Callable[[ExportFormat, bytes, Graph], bytes] = _rewrite


FORMATS = {
    "onnx": _Format(".onnx", VALUES, _write_onnx, _run_onnx),
    "tensorrt-onnx": _Format(".tensorrt.onnx", VALUES[:2], _write_unrolled, _run_unrolled),
    "tensorrt": _Format(".engine", VALUES[:2], _write_tensorrt, _run_tensorrt, _tensorrt_with_metadata),
    "nir": _Format(".nir", VALUES[:1], _write_nir, _run_nir),
}
