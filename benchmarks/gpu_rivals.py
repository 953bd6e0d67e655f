"""Engine cuda and what it is held against on a GPU, each built for one T and batch. None of this has run on a GPU.

Dense rivals get time folded into the batch, float16, channels-last tensors. `run` takes images from the CPU and gives
logits back to it; `device` does the same work on images that lie on the GPU, until the GPU has finished.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.cuts import Ticket
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
class Setup:
    ticket: Ticket
    timesteps: int
    batch: int
    stack: ExitStack  # closes what is opened


@dataclass(frozen=True)
class Candidate:
    run: Callable[[Floats], Floats]  # [N, C, H, W] -> [T, N, classes]
    device: Callable[[], object] | None = None


def cuda_engine(setup: Setup, values: str) -> CudaEngine:
    engine = CudaEngine(CudaEngine.read(setup.ticket.path), Options(threads=1, plan="auto", values=values))
    setup.stack.callback(engine.close)
    return engine


def ours(setup: Setup, values: str) -> Candidate:
    engine = cuda_engine(setup, values)
    program = engine.program(setup.timesteps, setup.batch)

    def device() -> None:
        program.graph.launch(engine.stream)
        engine.stream.synchronize()

    return Candidate(lambda x: engine.run(x, setup.timesteps), device)


def torch_eager(setup: Setup) -> Candidate:
    return _torch(setup, lambda network, _x: network)


def torch_graph(setup: Setup) -> Candidate:
    """Capture the eager network as one CUDA graph."""

    def captured(network: TorchNetwork, x: torch.Tensor) -> Callable[..., torch.Tensor]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                network(x, setup.timesteps)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = network(x, setup.timesteps)

        def replay(_x: torch.Tensor, _timesteps: int) -> torch.Tensor:
            graph.replay()
            return logits

        return replay

    return _torch(setup, captured)


def torch_compiled(setup: Setup) -> Candidate:
    """Compile the network with max-autotune, which uses CUDA graphs."""
    torch._dynamo.reset()
    return _torch(setup, lambda network, _x: torch.compile(network, mode="max-autotune", fullgraph=True))


def _torch(setup: Setup, prepare: Callable[[TorchNetwork, torch.Tensor], Callable[..., torch.Tensor]]) -> Candidate:
    """`prepare` makes what is called with images and T, always the same tensor of images."""
    if not torch.cuda.is_available():
        raise Unavailable(f"torch {torch.__version__} sees no GPU")
    network = TorchNetwork(setup.ticket.graph).eval().to("cuda", torch.float16).to(memory_format=torch.channels_last)
    shape = (setup.batch, *setup.ticket.graph.input_shape)
    x = torch.zeros(shape, dtype=torch.float16, device="cuda").contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def device() -> torch.Tensor:
        logits = call(x, setup.timesteps)
        torch.cuda.synchronize()
        return logits

    @torch.inference_mode()
    def run(images: Floats) -> Floats:
        x.copy_(torch.from_numpy(images))
        logits: Floats = call(x, setup.timesteps).float().cpu().numpy()
        return logits

    with torch.inference_mode():
        call = prepare(network, x)
    device()
    return Candidate(run, device)


def onnxruntime_cuda(setup: Setup) -> Candidate:
    """Build the unrolled graph on onnxruntime's CUDA provider, in float32."""
    try:
        import onnxruntime
    except ImportError as error:
        raise Unavailable("onnxruntime is not installed") from error
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise Unavailable(f"onnxruntime {onnxruntime.__version__} has no CUDA provider: pip install onnxruntime-gpu")
    model = unrolled_onnx(setup.ticket.graph, setup.timesteps, setup.batch, outputs=(LOGITS_T,)).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CUDAExecutionProvider"])
    return Candidate(lambda x: session.run([LOGITS_T], {INPUT: x})[0])


def tensorrt(setup: Setup) -> Candidate:
    run = open_engine("tensorrt", setup.ticket.path, 1, setup.stack)
    return Candidate(lambda x: run(x, setup.timesteps))


CANDIDATES: dict[str, Callable[[Setup], Candidate]] = {
    OURS: lambda setup: ours(setup, "float32"),
    OURS_HALF: lambda setup: ours(setup, "float16"),
    "torch": torch_eager,
    "torch CUDA graph": torch_graph,
    "torch.compile": torch_compiled,
    "onnxruntime-gpu": onnxruntime_cuda,
    "tensorrt": tensorrt,
}
SLOW_TO_BUILD = ("torch.compile", "tensorrt")  # a minute or more; no zero makes them faster


def cusparse_microseconds(cupy: Any, engine: CudaEngine, node: Any, columns: int) -> float:
    """Of cuSPARSE's product of a layer's weights with `columns` columns of float32, the input's layout being a gift."""
    from cupyx.scipy import sparse

    weight = node.weight
    arrays = (cupy.asarray(weight.floats), cupy.asarray(weight.indices.astype(np.int32)), cupy.asarray(weight.indptr))
    matrix = sparse.csr_matrix(arrays, shape=(weight.rows, weight.columns))
    dense = cupy.ones((weight.columns, columns), dtype=np.float32, order="F")  # else CuPy copies it every time
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
