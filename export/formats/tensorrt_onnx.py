"""Format `tensorrt-onnx`: a plain graph for TensorRT's parser, verified in onnxruntime."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from spiketicket.errors import extra
from spiketicket.export.check.check import Floats, Run, Samples
from spiketicket.export.formats.settings import ExportFormat
from spiketicket.export.formats.unrolled import unrolled_onnx
from spiketicket.graph import Graph, Lif
from spiketicket.model.names import INPUT, LOGITS_T
from spiketicket.runtime.engine import Trace


def write(settings: ExportFormat, graph: Graph) -> bytes:
    model = unrolled_onnx(graph, graph.timesteps, settings.batch, half=settings.values == "float16")
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def with_metadata(settings: ExportFormat, data: bytes, graph: Graph) -> bytes:
    return write(settings, graph)


def runs(settings: ExportFormat, path: Path, graph: Graph, samples: Samples) -> Iterator[tuple[str, Run]]:
    """Yield the file in onnxruntime, with the spikes of every LIF layer (`[T * N, ...]` in the file) as outputs."""
    with extra("cpu", "the check of a graph for TensorRT", "onnxruntime"):
        import onnxruntime

        from spiketicket.runtime.engines.onnxruntime import QUIET
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

    yield "onnxruntime" if settings.values == "float32" else "onnxruntime (float16)", run
