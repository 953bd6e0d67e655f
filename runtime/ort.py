"""onnxruntime: inlines the function bodies and runs dense. The rival, and the fallback for other devices."""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from spiketicket.domain import INPUT, LOGITS_T, TIMESTEPS
from spiketicket.errors import MissingExtraError, ModelError
from spiketicket.runtime.engine import Engine, Floats, Model, Options, Plan, Spikes, lif_names

try:
    import onnxruntime
except ImportError as error:
    raise MissingExtraError("onnxruntime", "cpu", "engine onnxruntime") from error

QUIET = 3  # errors only: onnxruntime warns that the default of `timesteps` is not constant, which is its purpose


class OnnxRuntimeEngine(Engine):
    def __init__(self, model: Model, options: Options) -> None:
        self.model = model
        self.threads = options.threads
        self.session = self._load(model.data)

    def run(self, x: Floats, timesteps: int) -> Floats:
        (logits,) = self._run(self.session, [LOGITS_T], x, timesteps)
        return np.asarray(logits)

    def spikes(self, x: Floats, timesteps: int) -> dict[str, Spikes]:
        names = lif_names(self.model.graph)
        arrays = self._run(self._spying, list(names), x, timesteps)
        return {name: array.astype(np.uint8) for name, array in zip(names.values(), arrays, strict=True)}

    def steps(self, x: Floats, timesteps: int) -> Iterator[Floats]:
        return iter(self.run(x, timesteps))

    def plan(self) -> dict[str, Plan]:
        plan = Plan("dense", "onnxruntime decodes the weights when it loads the file")
        return {node.name: plan for node in self.model.graph.nodes}

    def _run(
        self, session: "onnxruntime.InferenceSession", outputs: list[str], x: Floats, timesteps: int
    ) -> list[NDArray[np.float32]]:
        timed = self.model.graph.timed_input  # then the input says how many timesteps
        feeds = {INPUT: x} | ({} if timed else {TIMESTEPS: np.array(timesteps, dtype=np.int64)})
        try:
            results: list[NDArray[np.float32]] = session.run(outputs, feeds)
        except Exception as error:  # onnxruntime's own exceptions share no other base
            if "alloc" in str(error):
                raise MemoryError(str(error)) from error
            raise ModelError(f"{self.model.path}: onnxruntime cannot run it: {error}") from error
        return results

    @cached_property
    def _spying(self) -> "onnxruntime.InferenceSession":
        """The same model with every LIF layer's spikes as outputs."""
        proto = onnx.load_model_from_string(self.model.data)
        for value in lif_names(self.model.graph):
            proto.graph.output.append(helper.make_tensor_value_info(value, TensorProto.FLOAT, None))
        return self._load(proto.SerializeToString())

    def _load(self, data: bytes) -> "onnxruntime.InferenceSession":
        options = onnxruntime.SessionOptions()
        options.log_severity_level = QUIET
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        try:
            return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exceptions share no other base
            raise ModelError(f"{self.model.path}: onnxruntime cannot load it: {error}") from error
