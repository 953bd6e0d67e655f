"""Engine cuda and its rivals on a GPU, each built for one T and batch. None of this has run on a GPU yet.

Dense rivals run with time folded into the batch, in float16, with channels-last tensors.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.models.cuts import TimedTicket
from spiketicket.export.formats.unrolled import unrolled_onnx
from spiketicket.model.names import INPUT, LOGITS_T
from spiketicket.profiling.inference.engines import Unavailable, open_engine
from spiketicket.profiling.inference.torch_network import TorchNetwork
from spiketicket.runtime.engine import Options
from spiketicket.runtime.engines.cuda.engine import CudaEngine

Floats = NDArray[np.float32]
OURS, OURS_HALF = "cuda", "cuda/float16"
WARM_UP = 3  # runs before a capture


@dataclass(frozen=True)
class GpuBuildOptions:
    """The ticket, T and batch that a candidate is built for."""

    ticket: TimedTicket
    timesteps: int
    batch: int
    stack: ExitStack  # closes the engines that candidates open


@dataclass(frozen=True)
class Candidate:
    """A network that is ready to be timed.

    `run` takes images from the CPU and returns logits to it. `device` does the same work on images that are on the GPU
    already, and returns when the GPU has finished; it is None where a library cannot do this.
    """

    run: Callable[[Floats], Floats]  # [N, C, H, W] -> [T, N, classes]
    device: Callable[[], object] | None = None


def cuda_engine(options: GpuBuildOptions, values: str) -> CudaEngine:
    """Return the engine with weights of type `values`; it is closed with the stack of `options`."""
    engine = CudaEngine(CudaEngine.read(options.ticket.path), Options(threads=1, plan="auto", values=values))
    options.stack.callback(engine.close)
    return engine


def ours(options: GpuBuildOptions, values: str) -> Candidate:
    """Return engine cuda with weights of type `values`, float32 or float16."""
    engine = cuda_engine(options, values)
    program = engine.program(options.timesteps, options.batch)

    def device() -> None:
        program.graph.launch(engine.stream)
        engine.stream.synchronize()

    return Candidate(lambda x: engine.run(x, options.timesteps), device)


def torch_eager(options: GpuBuildOptions) -> Candidate:
    """Return the torch network as it is, without compilation."""
    return _torch(options, lambda network, _x: network)


def torch_graph(options: GpuBuildOptions) -> Candidate:
    """Capture the eager network as one CUDA graph."""

    def captured(network: TorchNetwork, x: torch.Tensor) -> Callable[..., torch.Tensor]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                network(x, options.timesteps)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = network(x, options.timesteps)

        def replay(_x: torch.Tensor, _timesteps: int) -> torch.Tensor:
            graph.replay()
            return logits

        return replay

    return _torch(options, captured)


def torch_compiled(options: GpuBuildOptions) -> Candidate:
    """Compile the network with max-autotune, which uses CUDA graphs."""
    torch._dynamo.reset()
    return _torch(options, lambda network, _x: torch.compile(network, mode="max-autotune", fullgraph=True))


def _torch(
    options: GpuBuildOptions, prepare: Callable[[TorchNetwork, torch.Tensor], Callable[..., torch.Tensor]]
) -> Candidate:
    """Return the torch network in float16.

    `prepare(network, x)` returns the function that is timed. It is called with `x`, whose content changes from run to
    run, and T. Raises Unavailable if torch sees no GPU.
    """
    if not torch.cuda.is_available():
        raise Unavailable(f"torch {torch.__version__} sees no GPU")
    network = TorchNetwork(options.ticket.graph).eval().to("cuda", torch.float16).to(memory_format=torch.channels_last)
    shape = (options.batch, *options.ticket.graph.input_shape)
    x = torch.zeros(shape, dtype=torch.float16, device="cuda").contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def device() -> torch.Tensor:
        logits = call(x, options.timesteps)
        torch.cuda.synchronize()
        return logits

    @torch.inference_mode()
    def run(images: Floats) -> Floats:
        x.copy_(torch.from_numpy(images))
        logits: Floats = call(x, options.timesteps).float().cpu().numpy()
        return logits

    with torch.inference_mode():
        call = prepare(network, x)
    device()
    return Candidate(run, device)


def onnxruntime_cuda(options: GpuBuildOptions) -> Candidate:
    """Build the unrolled graph on onnxruntime's CUDA provider, in float32."""
    try:
        import onnxruntime
    except ImportError as error:
        raise Unavailable("onnxruntime is not installed") from error
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise Unavailable(f"onnxruntime {onnxruntime.__version__} has no CUDA provider: pip install onnxruntime-gpu")
    model = unrolled_onnx(options.ticket.graph, options.timesteps, options.batch, outputs=(LOGITS_T,))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CUDAExecutionProvider"])
    return Candidate(lambda x: session.run([LOGITS_T], {INPUT: x})[0])


def tensorrt(options: GpuBuildOptions) -> Candidate:
    """Return the engine tensorrt of the profiler."""
    run = open_engine("tensorrt", options.ticket.path, 1, options.stack)
    return Candidate(lambda x: run(x, options.timesteps))


CANDIDATES: dict[str, Callable[[GpuBuildOptions], Candidate]] = {
    OURS: lambda options: ours(options, "float32"),
    OURS_HALF: lambda options: ours(options, "float16"),
    "torch": torch_eager,
    "torch CUDA graph": torch_graph,
    "torch.compile": torch_compiled,
    "onnxruntime-gpu": onnxruntime_cuda,
    "tensorrt": tensorrt,
}
# Each takes a minute or more to build. They are dense, so one sparsity is enough.
SLOW_TO_BUILD = ("torch.compile", "tensorrt")


def cusparse_microseconds(cupy: Any, engine: CudaEngine, node: Any, columns: int) -> float:
    """Return the microseconds of cuSPARSE for a layer's weights times a float32 matrix of `columns` columns.

    Bringing the layer's input into the shape of that matrix is not timed, which favours cuSPARSE.
    """
    from cupyx.scipy import sparse

    weight = node.weight
    arrays = (cupy.asarray(weight.floats), cupy.asarray(weight.indices.astype(np.int32)), cupy.asarray(weight.indptr))
    matrix = sparse.csr_matrix(arrays, shape=(weight.rows, weight.columns))
    dense = cupy.ones(
        (weight.columns, columns), dtype=np.float32, order="F"
    )  # in another order CuPy would copy it every time
    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    with engine.stream:
        for _ in range(WARM_UP):
            matrix @ dense
        begin.record(engine.stream)
        for _ in range(10):
            matrix @ dense
        end.record(engine.stream)
        end.synchronize()
    return 1e3 * float(cupy.cuda.get_elapsed_time(begin, end)) / 10
