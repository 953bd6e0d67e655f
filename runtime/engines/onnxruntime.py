"""onnxruntime, which inlines the function bodies and computes dense: the rival, and the fallback for other devices."""

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from spiketicket.errors import ModelError
from spiketicket.model.names import INPUT, LOGITS, LOGITS_T, TIMESTEPS
from spiketicket.runtime.engine import Engine, Floats, KernelChoice, Model, Options, Trace, names_by_lif_output

if TYPE_CHECKING:
    import onnxruntime

QUIET = 3  # errors only: onnxruntime warns that the default of `timesteps` is not constant, which is its purpose


class OnnxRuntimeEngine(Engine):
    name = "onnxruntime"
    package = "onnxruntime", "cpu"

    def __init__(self, model: Model, options: Options) -> None:
        self.onnxruntime = self.load()
        self.model = model
        self.threads = options.threads
        self.session = self._load(model.data)
        defaults = self.session.get_overridable_initializers()  # `timesteps`, unless they are fixed
        self.inputs = {value.name: value.shape for value in (*self.session.get_inputs(), *defaults)}
        self.stepping = not self.inputs.keys() <= {INPUT, TIMESTEPS}  # the others are potentials
        self.output = LOGITS if self.stepping else LOGITS_T

    def run(self, x: Floats, timesteps: int) -> Floats:
        (logits,) = self._run(self.session, [self.output], x, timesteps)
        return np.asarray(logits)

    def trace(self, x: Floats, timesteps: int) -> Trace:
        names = names_by_lif_output(self.model.graph)
        logits, *arrays = self._run(self._traced, [self.output, *names], x, timesteps)
        spikes = {name: array.astype(np.uint8) for name, array in zip(names.values(), arrays, strict=True)}
        return Trace(spikes, np.asarray(logits))

    def steps(self, x: Floats, timesteps: int) -> Iterator[Floats]:
        return iter(self.run(x, timesteps))

    def plan(self) -> dict[str, KernelChoice]:
        plan = KernelChoice("dense", "onnxruntime decodes the weights when it loads the file")
        return {node.name: plan for node in self.model.graph.nodes}

    def _run(
        self, session: "onnxruntime.InferenceSession", outputs: list[str], x: Floats, timesteps: int
    ) -> list[NDArray[np.float32]]:
        try:
            if self.stepping:
                return self._stream(session, outputs, x)
            feeds = {INPUT: x, TIMESTEPS: np.array(timesteps, dtype=np.int64)}
            results: list[NDArray[np.float32]] = session.run(
                outputs, {name: array for name, array in feeds.items() if name in self.inputs}
            )
        except Exception as error:  # onnxruntime's own exceptions share no other base
            if "alloc" in str(error):
                raise MemoryError(str(error)) from error
            raise ModelError(f"{self.model.path}: onnxruntime cannot run it: {error}") from error
        return results

    def _stream(
        self, session: "onnxruntime.InferenceSession", outputs: list[str], x: Floats
    ) -> list[NDArray[np.float32]]:
        """Return the outputs of every timestep, stacked; membrane potentials are fed back."""
        names = [name for name in self.inputs if name != INPUT]
        states = {name: np.zeros((x.shape[1], *self.inputs[name][1:]), np.float32) for name in names}
        results = []
        for frame in x:
            arrays = session.run([*outputs, *(f"{name}_out" for name in names)], {INPUT: frame, **states})
            results.append(arrays[: len(outputs)])
            states = dict(zip(names, arrays[len(outputs) :], strict=True))
        return [np.stack(steps) for steps in zip(*results, strict=True)]

    @cached_property
    def _traced(self) -> "onnxruntime.InferenceSession":
        """Return a session of the same model that also outputs every LIF layer's spikes."""
        proto = onnx.load_model_from_string(self.model.data)
        for value in names_by_lif_output(self.model.graph):
            proto.graph.output.append(helper.make_tensor_value_info(value, TensorProto.FLOAT, None))
        return self._load(proto.SerializeToString())

    def _load(self, data: bytes) -> "onnxruntime.InferenceSession":
        options = self.onnxruntime.SessionOptions()
        options.log_severity_level = QUIET
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        try:
            session: onnxruntime.InferenceSession = self.onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own exceptions share no other base
            raise ModelError(f"{self.model.path}: onnxruntime cannot load it: {error}") from error
        return session
