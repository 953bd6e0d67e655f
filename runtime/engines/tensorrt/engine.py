"""TensorRT: runs an engine file of `spiketicket.export.formats.tensorrt` on the GPU that it was built on."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from spiketicket.errors import InputError, ModelError
from spiketicket.files import read_bytes
from spiketicket.graph import Conv, Linear
from spiketicket.model.engine_file import EngineFile, unpack
from spiketicket.model.names import INPUT, LOGITS, LOGITS_T
from spiketicket.model.reader import parse_model
from spiketicket.runtime.engine import Engine, Floats, KernelChoice, Model, Options, Trace, count_images
from spiketicket.runtime.engines.tensorrt.nvidia import Nvidia

FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class Compiled(Model):
    """A TensorRT engine and the model from which it was built."""

    file: EngineFile


class TensorRTEngine(Engine):
    """The engine on the GPU that it was built for. Raises InputError for another T than it was built for, or a batch
    outside its range.
    """

    name = "tensorrt"
    reads_models = False
    needs_gpu = True
    package = "tensorrt", "tensorrt"

    @classmethod
    def read(cls, path: Path) -> Compiled:
        try:
            file = unpack(read_bytes(path, "engine", ModelError))
            return Compiled(path, file.model, parse_model(file.model), file)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error

    def __init__(self, model: Model, options: Options) -> None:
        assert isinstance(model, Compiled)
        self.graph, self.build = model.graph, model.file.build
        self.nvidia = Nvidia("engine tensorrt")
        self.lock = Lock()  # a context runs one batch at a time
        self.context = self._load(model)
        self.memory: dict[str, int] = {}  # addresses on the GPU, room for the largest batch
        with ExitStack() as stack:
            self.stream = self.nvidia.cuda("cudaStreamCreate")
            stack.callback(self.nvidia.cuda, "cudaStreamDestroy", self.stream)
            for name in (INPUT, LOGITS, LOGITS_T):
                address = self.nvidia.cuda("cudaMalloc", FLOAT32 * prod(self._shape(name, self.build.batch[2])))
                stack.callback(self.nvidia.cuda, "cudaFree", address)
                self.context.set_tensor_address(name, address)
                self.memory[name] = address
            self.resources = stack.pop_all()

    def run(self, x: Floats, timesteps: int) -> Floats:
        images = count_images(self.graph, x)
        fewest, _, most = self.build.batch
        if timesteps != self.build.timesteps:
            raise InputError(f"this engine was built for {self.build.timesteps} timesteps, got {timesteps}")
        if not fewest <= images <= most:
            raise InputError(f"this engine was built for {fewest} to {most} images at once, got {images}")
        logits = np.empty(self._shape(LOGITS_T, images), dtype=np.float32)
        kinds = self.nvidia.cudart.cudaMemcpyKind
        with self.lock:
            self.nvidia.cuda("cudaSetDevice", self.nvidia.device)  # each thread has its own choice
            self._copy(self.memory[INPUT], x.ctypes.data, x.nbytes, kinds.cudaMemcpyHostToDevice)
            done = self.context.set_input_shape(INPUT, x.shape) and self.context.execute_async_v3(int(self.stream))
            if not done:
                raise ModelError(f"TensorRT cannot run the engine: {self.nvidia.failure()}")
            self._copy(logits.ctypes.data, self.memory[LOGITS_T], logits.nbytes, kinds.cudaMemcpyDeviceToHost)
            self.nvidia.cuda("cudaStreamSynchronize", self.stream)
        return logits

    def trace(self, x: Floats, timesteps: int) -> Trace:
        raise InputError("engine tensorrt has no spikes: a compiled engine gives out logits alone")

    def steps(self, x: Floats, timesteps: int) -> Iterator[Floats]:
        return iter(self.run(x, timesteps))

    def plan(self) -> dict[str, KernelChoice]:
        built = f"compiled by TensorRT {self.build.tensorrt} for {self.build.gpu}"
        plans = {node.name: KernelChoice("tensorrt/float32", built) for node in self.graph.nodes}
        for node in self.graph.nodes:
            if isinstance(node, Conv | Linear):
                kind = "tensorrt/float16" if self.build.half else "tensorrt/float32"
                sparse = ", weights 2:4 sparse" if node.name in self.build.two_of_four else ", weights dense"
                plans[node.name] = KernelChoice(kind, built + sparse)
        return plans

    def close(self) -> None:
        with self.lock:
            self.context = None
            self.resources.close()

    def _load(self, model: Compiled) -> Any:
        trt = self.nvidia.trt
        engine = trt.Runtime(self.nvidia.log).deserialize_cuda_engine(model.file.engine)
        context = None if engine is None else engine.create_execution_context()
        if context is None:
            raise ModelError(
                f"{model.path}: an engine runs only where it was built; this one by TensorRT {self.build.tensorrt} for "
                f"{self.build.gpu}, here are {trt.__version__} and {self.nvidia.gpu}: {self.nvidia.failure()}"
            )
        return context

    def _shape(self, name: str, images: int) -> tuple[int, ...]:
        """Return the shape of an input or output of the engine for that many images."""
        time = (self.build.timesteps,)
        if name == INPUT:
            return (*(time if self.graph.timed_input else ()), images, *self.graph.input_shape)
        return (*(time if name == LOGITS_T else ()), images, self.graph.classes)

    def _copy(self, target: int, source: int, nbytes: int, kind: Any) -> None:
        self.nvidia.cuda("cudaMemcpyAsync", target, source, nbytes, kind, self.stream)
