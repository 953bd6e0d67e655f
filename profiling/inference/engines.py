"""The engines that can be timed on a model file: spiketicket's own, and those that networks are usually run on."""

import importlib
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spiketicket.errors import DeviceError, MissingExtraError, ModelError, SpikeTicketError
from spiketicket.graph import Graph
from spiketicket.model.names import INPUT, LOGITS_T
from spiketicket.model.reader import read_model
from spiketicket.runtime import Session
from spiketicket.runtime.engine import count_images
from spiketicket.runtime.engines.registry import MODEL_ENGINES
from spiketicket.runtime.engines.tensorrt.nvidia import Nvidia

Floats = NDArray[np.float32]
Run = Callable[[Floats, int], Floats]  # input as Session.run takes it, and T -> logits [T, N, classes]


class Unavailable(SpikeTicketError):
    """An engine that cannot be measured here, and why."""


CANNOT = (Unavailable, ModelError, DeviceError, TypeError)  # errors that opening an engine or its first run raises


def open_engine(name: str, path: Path, threads: int, stack: ExitStack) -> Run:
    """Open the model file `path` on an engine with so many threads. `stack` closes it.

    native, onnxruntime and reference run the file itself. The others get the same weights in a form that suits them:
    openvino and tensorrt the unrolled graph (they read no Scan), compiled at the first run of every T and N, tensorrt
    with sums in float16, as it is exported; torch a dense eager network, as it would run without an export. Raises
    Unavailable, which says why, and ModelError.
    """
    if name in _FOREIGN:
        return _FOREIGN[name](path, threads, stack)
    try:
        session = stack.enter_context(Session(path, engine=name, threads=threads))
    except ImportError as error:
        raise Unavailable(str(error)) from error
    return lambda x, timesteps: session.run({INPUT: x}, timesteps)[LOGITS_T]


def _openvino(path: Path, threads: int, _stack: ExitStack) -> Run:
    """Open the model in OpenVINO, with one request that uses all threads, in exact float32."""
    ov, properties = _import("openvino", "bench"), _import("openvino.properties", "bench")
    hint = _import("openvino.properties.hint", "bench")
    core = ov.Core()
    graph = _graph(path)

    @cache
    def request(timesteps: int, batch: int) -> Any:
        from spiketicket.export.formats.unrolled import unrolled_onnx

        model = unrolled_onnx(graph, timesteps, batch, outputs=(LOGITS_T,)).SerializeToString()
        settings = {
            hint.performance_mode: hint.PerformanceMode.LATENCY,
            hint.inference_precision: ov.Type.f32,
            properties.inference_num_threads: threads,
            hint.enable_cpu_pinning: threads > 1,  # all networks of one thread would be pinned to the same core
        }
        compiled = core.compile_model(core.read_model(model), "CPU", settings)
        if compiled.get_property(hint.inference_precision) != ov.Type.f32:
            raise Unavailable("OpenVINO does not compute in float32 here")
        return compiled.create_infer_request()

    def run(x: Floats, timesteps: int) -> Floats:
        return np.array(request(timesteps, count_images(graph, x)).infer({INPUT: x}, share_inputs=True)[LOGITS_T])

    return run


def _torch(path: Path, threads: int, stack: ExitStack) -> Run:
    torch = _import("torch", "train")
    from spiketicket.profiling.inference.torch_network import TorchNetwork

    stack.callback(torch.set_num_threads, torch.get_num_threads())  # the number is that of the whole process
    torch.set_num_threads(threads)
    network = TorchNetwork(_graph(path)).eval()

    def run(x: Floats, timesteps: int) -> Floats:
        with torch.inference_mode():
            logits: Floats = network(torch.from_numpy(x), timesteps).numpy()
        return logits

    return run


def _tensorrt(path: Path, _threads: int, stack: ExitStack) -> Run:
    """Build what `snn-export --format tensorrt` writes, for each T and N."""
    from spiketicket.export.formats.tensorrt import export_engine

    try:
        Nvidia("engine tensorrt")
    except (MissingExtraError, DeviceError) as error:
        raise Unavailable(str(error)) from error
    folder = Path(stack.enter_context(TemporaryDirectory()))
    graph = _graph(path)

    @cache
    def session(timesteps: int, batch: int) -> Session:
        file = folder / f"{timesteps}-{batch}.engine"
        export_engine(graph, file, timesteps=timesteps, batch=(batch,) * 3)
        return stack.enter_context(Session(file, engine="tensorrt"))

    return lambda x, timesteps: session(timesteps, count_images(graph, x)).run({INPUT: x}, timesteps)[LOGITS_T]


_FOREIGN: dict[str, Callable[[Path, int, ExitStack], Run]] = {
    "openvino": _openvino,
    "tensorrt": _tensorrt,
    "torch": _torch,
}
PROFILED = (*MODEL_ENGINES, *_FOREIGN)


def _graph(path: Path) -> Graph:
    return read_model(path)[0]


def _import(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise Unavailable(f"{package} is not installed: pip install 'spiketicket[{extra}]'") from error
