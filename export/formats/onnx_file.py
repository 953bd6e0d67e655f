"""Format `onnx`: the model file, sparse or `dense`, run by the engines that read it."""

from collections.abc import Iterator
from pathlib import Path

from onnx import checker

from spiketicket.errors import ModelError
from spiketicket.export.check.check import Floats, Run, Samples
from spiketicket.export.formats.settings import ExportFormat
from spiketicket.graph import Graph
from spiketicket.model.names import INPUT
from spiketicket.model.reader import parse_model
from spiketicket.model.writer import to_onnx
from spiketicket.runtime import Session
from spiketicket.runtime.engine import FIXED, Model, Options, Trace


def write(settings: ExportFormat, graph: Graph) -> bytes:
    model = to_onnx(graph, dense=settings.dense, step=settings.step, opset=settings.opset)
    try:
        checker.check_model(model, full_check=True)
    except checker.ValidationError as error:
        raise ModelError(f"names of layers collide with others in the file, rename one: {error}") from error
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def with_metadata(settings: ExportFormat, data: bytes, graph: Graph) -> bytes:
    return write(settings, graph)


def runs(settings: ExportFormat, path: Path, graph: Graph, samples: Samples) -> Iterator[tuple[str, Run]]:
    if settings.dense:
        yield "onnxruntime", _run_dense(settings, path, graph, samples)
        return
    for engine in ("native", "onnxruntime"):
        yield engine, _run_session(path, engine, samples)
    # The file does not depend on int16 sums; this run only records what choosing them at runtime would change.
    yield "native (int16)", _run_session(path, "native", samples, "events-int16", "int16")


def _run_session(path: Path, engine: str, samples: Samples, plan: str = FIXED, values: str = "float32") -> Run:
    session = Session(path, engine, plan=plan, values=values)

    def run(x: Floats) -> Trace:
        feeds = {INPUT: samples.frames(x) if session.timed_input else x}
        timesteps = None if session.timed_input else samples.timesteps
        return session.trace(feeds, timesteps)

    return run


def _run_dense(settings: ExportFormat, path: Path, graph: Graph, samples: Samples) -> Run:
    """Return a run of plain ONNX in onnxruntime.

    The names of layers and spikes come from the sparse file of the same graph, whose values have the same names.
    """
    from spiketicket.runtime.engines.onnxruntime import OnnxRuntimeEngine

    named = parse_model(to_onnx(graph, step=settings.step, opset=settings.opset).SerializeToString())
    engine = OnnxRuntimeEngine(Model(path, path.read_bytes(), named), Options(1, FIXED, "float32"))

    def run(x: Floats) -> Trace:
        frames = samples.frames(x) if settings.step else x
        return engine.trace(frames, samples.timesteps)

    return run
