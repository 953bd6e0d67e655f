"""Format `tensorrt`: an engine for the present GPU, built from the unrolled graph.

Networks are strongly typed: every tensor has the type that the graph gives it. (TensorRT 11 has no other networks,
TensorRT 10 builds them on request.) So the unrolled graph decides what is float16, and thresholds are always compared
in float32.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spiketicket.errors import InputError, ModelError, SpikeTicketError
from spiketicket.export.check.agreement import TENSORRT
from spiketicket.export.check.check import Floats, Run, Samples
from spiketicket.export.formats.settings import ExportFormat
from spiketicket.export.formats.unrolled import unrolled_onnx
from spiketicket.files import cache_folder, write_atomic
from spiketicket.graph import Graph, Lif
from spiketicket.model.engine_file import Build, EngineFile, pack, unpack
from spiketicket.model.names import INPUT
from spiketicket.model.writer import to_onnx
from spiketicket.runtime import Session
from spiketicket.runtime.engine import MAX_TIMESTEPS, Trace
from spiketicket.runtime.engines.tensorrt.nvidia import Nvidia

WORKSPACE = 4 << 30  # bytes of GPU memory that a layer may use temporarily
Batch = tuple[int, int, int]  # images per run: the fewest, the number that TensorRT optimises for, the most
BATCH: Batch = (1, 8, 32)


def write(settings: ExportFormat, graph: Graph) -> bytes:
    batch = BATCH if settings.batch is None else (settings.batch, settings.batch, settings.batch)
    return pack(compiled(graph, batch=batch, half=settings.values == "float16"))


def with_metadata(settings: ExportFormat, data: bytes, graph: Graph) -> bytes:
    """Replace the model in the file. The engine is not built again: that takes minutes and may give another one."""
    file = unpack(data)
    return pack(replace(file, model=_model(graph, file.build.timesteps)))


def runs(settings: ExportFormat, path: Path, graph: Graph, samples: Samples) -> Iterator[tuple[str, Run]]:
    """Yield the engine. It does not output spikes, so that only its classes have to agree; its logits are recorded."""
    session = Session(path, "tensorrt")

    def run(x: Floats) -> Trace:
        no_spikes = {
            n.name: np.zeros((samples.timesteps, x.shape[samples.timed], *graph.values[n.output].shape), np.bool_)
            for n in graph.nodes
            if isinstance(n, Lif)
        }
        return Trace(no_spikes, session.run({INPUT: x})["logits_t"])

    yield f"{TENSORRT} ({settings.values})", run


def export_engine(
    graph: Graph,
    path: Path,
    *,
    timesteps: int | None = None,
    batch: Batch = BATCH,
    half: bool = True,
    sparse: bool = True,
) -> Build:
    """Write the engine of `graph`, see `compiled`, as the file `path`. Raises what that raises."""
    file = compiled(graph, timesteps=timesteps, batch=batch, half=half, sparse=sparse)
    write_atomic(path, pack(file))
    return file.build


def compiled(
    graph: Graph, *, timesteps: int | None = None, batch: Batch = BATCH, half: bool = True, sparse: bool = True
) -> EngineFile:
    """Return the engine of `graph` for `timesteps` (default: the graph's) together with the model it is built from.

    With `half`, weighted sums are in float16. With `sparse`, TensorRT may use 2:4 sparsity for the layers whose weights
    have it. Raises InputError if `timesteps` or `batch` is invalid, MissingExtraError without TensorRT, DeviceError
    without a GPU, and ModelError if TensorRT cannot build the graph.
    """
    steps = graph.timesteps if timesteps is None else timesteps
    if not 1 <= steps <= MAX_TIMESTEPS:
        raise InputError(f"timesteps must be a whole number from 1 to {MAX_TIMESTEPS}, got {steps!r}")
    if not 1 <= batch[0] <= batch[1] <= batch[2]:
        raise InputError(f"batch must be three sizes from 1 in ascending order, got {batch}")
    nvidia = Nvidia("export of a TensorRT engine")
    fitting = two_of_four(graph) if sparse else ()
    lead = (steps,) if graph.timed_input else ()
    shapes = [(*lead, images, *graph.input_shape) for images in batch]
    unrolled = unrolled_onnx(graph, steps, None, half=half).SerializeToString()
    build = Build(steps, batch, half, fitting, nvidia.trt.__version__, nvidia.gpu)
    engine = build_engine(nvidia, unrolled, shapes, sparse=bool(fitting))
    return EngineFile(build, _model(graph, steps), engine)


def _model(graph: Graph, timesteps: int) -> bytes:
    data: bytes = to_onnx(replace(graph, timesteps=timesteps)).SerializeToString(deterministic=True)
    return data


def build_engine(nvidia: Nvidia, model: bytes, shapes: list[tuple[int, ...]], *, sparse: bool) -> bytes:
    """Return the serialised engine of the ONNX `model`.

    `shapes` are the smallest, the usual and the largest shape of its input. Raises ModelError with TensorRT's messages.
    """
    trt = nvidia.trt
    builder = trt.Builder(nvidia.log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(nvidia, network, model)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE)
    config.clear_flag(trt.BuilderFlag.TF32)  # TF32 would round float32 to 10 bits of mantissa
    if sparse:
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT, *shapes)
    config.add_optimization_profile(profile)
    file = _timing_cache_file(nvidia)
    _load_timings(config, file)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ModelError(f"TensorRT cannot build the engine: {nvidia.failure()}")
    _save_timings(config, file)
    return bytes(engine)


def two_of_four(graph: Graph) -> tuple[str, ...]:
    """Return the names of the layers whose weights have 2:4 sparsity."""
    return tuple(node.name for node in graph.weighted() if follows_2_4(node.weight.to_dense()))


def follows_2_4(weight: NDArray[Any]) -> bool:
    """Return whether at most two of every four successive weights along the input channels are not zero.

    `weight` is `[out, in]` or `[out, in, kh, kw]`; the number of input channels must be a multiple of four. Source:
    TensorRT's documentation, "structured sparsity".
    """
    out, channels = weight.shape[:2]
    if channels % 4:
        return False
    fours = (weight != 0).reshape(out, channels // 4, 4, -1)
    return bool((np.count_nonzero(fours, axis=2) <= 2).all())


def _parse(nvidia: Nvidia, network: Any, model: bytes) -> None:
    parser = nvidia.trt.OnnxParser(network, nvidia.log)
    if not parser.parse(model):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        reasons = "; ".join(f"{e.node_operator()} {e.node_name()}: {e.desc()}" for e in errors) or nvidia.failure()
        raise ModelError(f"TensorRT cannot read the graph: {reasons}")


def _timing_cache_file(nvidia: Nvidia) -> Path | None:
    """Return the file of timings for this version of TensorRT and this kind of GPU.

    Returns None if the user has no home folder.
    """
    folder = cache_folder("tensorrt")
    name = f"{nvidia.trt.__version__}-{nvidia.gpu}".replace("/", "-")
    return folder and folder / f"{name}.timing"


def _load_timings(config: Any, file: Path | None) -> None:
    data = b""
    if file is not None:
        with suppress(OSError):
            data = file.read_bytes()
    cache = config.create_timing_cache(data)
    if cache is None or not config.set_timing_cache(cache, False):  # the file is damaged, or from another driver
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _save_timings(config: Any, file: Path | None) -> None:
    if file is not None:
        with suppress(SpikeTicketError):  # without a cache, the next build measures again
            write_atomic(file, bytes(config.get_timing_cache().serialize()))
