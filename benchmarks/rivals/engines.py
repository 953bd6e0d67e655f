"""The native engine and its rivals: each a function from images to logits, built for one T, batch and thread number.

All of them start from the same folded weights, and only the native engine (and DeepSparse, where it is installed) makes
use of the zeros. They compute in float32, except for two whose names say otherwise: these need not have the logits of
the float64 oracle, and the share of images that keep its class is reported beside their times. Each rival runs in the
fastest of the forms that were tried: `unrolled` ONNX, one convolution over all timesteps, contiguous tensors for eager
torch (channels-last is slower), weights that inductor packs ahead of time (`freezing`).
"""

import importlib
import io
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch._inductor import config as inductor

from benchmarks.models.cuts import TimedTicket
from benchmarks.rivals.deepsparse_client import deepsparse
from spiketicket.errors import InputError, SpikeTicketError
from spiketicket.export.check.agreement import DEFAULT, MIN_TOP1
from spiketicket.export.formats.unrolled import unrolled_onnx
from spiketicket.model.names import INPUT, LOGITS_T, TIMESTEPS
from spiketicket.model.writer import to_onnx
from spiketicket.profiling.inference.engines import Unavailable, open_engine
from spiketicket.profiling.inference.torch_network import TorchNetwork
from spiketicket.runtime import Session
from spiketicket.runtime.engines.native.engine import build_info

Floats = NDArray[np.float32]
Run = Callable[[Floats], Floats]  # [N, C, H, W] -> logits [T, N, classes]

NATIVE, AVX2, COMPILED, DEEPSPARSE = "native", "native/avx2", "torch.compile", "deepsparse"
INT16, INT8 = "native/int16", "openvino/int8"
ROUNDED = (INT16, INT8)  # their weights (and the activations of int8) are rounded
MIN_EXACT = 0.5  # share of images without a flipped spike, as spiketicket.export.check.agreement asks
CHECKED_ONE_BY_ONE = 8  # images that are checked at batch 1
COMPILE_SECONDS = 120  # after which compilation is given up
ISA_VARIABLE = "SPIKETICKET_ISA"


@dataclass(frozen=True)
class BuildOptions:
    """The ticket, T, batch and threads that a candidate is built for; `stack` closes what a candidate opens."""

    ticket: TimedTicket
    timesteps: int
    batch: int
    threads: int
    stack: ExitStack
    deepsparse_python: Path | None = None


def native(options: BuildOptions) -> Run:
    session = options.stack.enter_context(Session(options.ticket.path, engine="native", threads=options.threads))
    return lambda x: session.run({INPUT: x}, options.timesteps)[LOGITS_T]


def native_int16(options: BuildOptions) -> Run:
    session = Session(options.ticket.path, engine="native", threads=options.threads, values="int16")
    options.stack.enter_context(session)
    return lambda x: session.run({INPUT: x}, options.timesteps)[LOGITS_T]


def native_avx2(options: BuildOptions) -> Run:
    if build_info()["isa"] == "avx2":
        raise Unavailable("native itself runs AVX2 on this CPU")
    with environment(ISA_VARIABLE, "avx2"):
        try:
            return native(options)
        except InputError as error:
            raise Unavailable(str(error)) from error


def onnxruntime_folded(options: BuildOptions) -> Run:
    session = onnxruntime_session(folded_bytes(options.ticket), options.threads)
    steps = np.array(options.timesteps, dtype=np.int64)
    return lambda x: session.run([LOGITS_T], {INPUT: x, TIMESTEPS: steps})[0]


def onnxruntime_unrolled(options: BuildOptions) -> Run:
    session = onnxruntime_session(unrolled_bytes(options.ticket, options.timesteps, options.batch), options.threads)
    return lambda x: session.run([LOGITS_T], {INPUT: x})[0]


def onnxruntime_session(model: bytes | str, threads: int) -> Any:
    """Open a plain onnxruntime session on a file or the bytes of a model.

    Its threads spin within a run, as by default, but not after it: they would take a core from the next rival.
    """
    onnxruntime = _import("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def openvino(options: BuildOptions) -> Run:
    """Open the profiler's OpenVINO engine, which runs one request at a time.

    At batch 32, the THROUGHPUT hint and two requests at once were not faster on two cores.
    """
    return profiler_engine("openvino", options)


def openvino_int8(options: BuildOptions) -> Run:
    """Quantise the network by NNCF after training, calibrated on the images that are timed, and run it in OpenVINO."""
    ov, properties = _import("openvino"), _import("openvino.properties")
    hint = _import("openvino.properties.hint")
    settings = {
        hint.performance_mode: hint.PerformanceMode.LATENCY,
        properties.inference_num_threads: options.threads,
        hint.enable_cpu_pinning: options.threads > 1,
    }
    model = quantised(options.ticket, options.timesteps, options.batch)
    request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()
    return lambda x: np.array(request.infer({INPUT: x}, share_inputs=True)[LOGITS_T])


@lru_cache(maxsize=1)  # quantising takes long, and its result serves all numbers of threads
def quantised(ticket: TimedTicket, timesteps: int, batch: int) -> Any:
    """Return OpenVINO's model of the network in int8."""
    ov, nncf = _import("openvino"), _import("nncf")
    nncf.set_log_level(logging.ERROR)
    model = ov.Core().read_model(unrolled_bytes(ticket, timesteps, batch))
    batches = [{INPUT: images} for images in np.split(ticket.images, len(ticket.images) // batch)]
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # hides progress bars
        return nncf.quantize(model, nncf.Dataset(batches), subset_size=len(batches))


def torch_eager(options: BuildOptions) -> Run:
    return profiler_engine("torch", options)


def profiler_engine(name: str, options: BuildOptions) -> Run:
    """Open an engine that snn-profile measures, too."""
    run = open_engine(name, options.ticket.path, options.threads, options.stack)
    return lambda x: run(x, options.timesteps)


def torch_compiled(options: BuildOptions) -> Run:
    torch.set_num_threads(options.threads)
    torch._dynamo.reset()
    network = TorchNetwork(options.ticket.graph).eval()
    compiled = torch.compile(network, fullgraph=True)

    @torch.no_grad()
    def run(x: Floats) -> Floats:
        logits: Floats = compiled(torch.from_numpy(x), options.timesteps).numpy()
        return logits

    with time_limit(COMPILE_SECONDS), inductor.patch(freezing=True):
        run(options.ticket.images[: options.batch])
    return run


def deepsparse_engine(options: BuildOptions) -> Run:
    if options.deepsparse_python is None:
        raise Unavailable("no --deepsparse-python given")
    model = unrolled_bytes(options.ticket, options.timesteps, options.batch)
    return options.stack.enter_context(deepsparse(options.deepsparse_python, model, options.threads))


CANDIDATES: dict[str, Callable[[BuildOptions], Run]] = {
    NATIVE: native,
    AVX2: native_avx2,
    "onnxruntime/folded": onnxruntime_folded,
    "onnxruntime/unrolled": onnxruntime_unrolled,
    INT16: native_int16,
    "openvino": openvino,
    INT8: openvino_int8,
    "torch": torch_eager,
    COMPILED: torch_compiled,
    DEEPSPARSE: deepsparse_engine,
}


@dataclass(frozen=True)
class Agreement:
    """How far a candidate's logits agree with those of the oracle.

    A flipped spike changes everything that follows in its image, so logits are compared image by image.
    """

    images: int
    top1: float  # share of images with the oracle's class
    exact: float  # share of images whose logits agree within DEFAULT.rtol of the image's largest
    error: float  # largest difference on these images, as a share of the image's largest logit

    @property
    def right(self) -> bool:
        """Whether the candidate computes the network, so that its time may be compared."""
        return self.exact >= MIN_EXACT and self.top1 >= MIN_TOP1


@dataclass(frozen=True)
class Candidate:
    """A candidate that is built, checked and ready to be timed."""

    run: Run
    agreement: Agreement


def prepare(name: str, options: BuildOptions) -> Candidate:
    """Build and check the candidate `name`.

    Raises Unavailable with the reason if it cannot be built or its library fails. Errors of the native engine itself
    are raised as they are, since nothing can be compared without it.
    """
    try:
        run = CANDIDATES[name](options)
        return Candidate(run, agreement(run, options))
    except Unavailable:
        raise
    except Exception as error:  # the libraries' exceptions share no other base
        if name == NATIVE:
            raise
        kind = "" if isinstance(error, SpikeTicketError) else f"{type(error).__name__}: "
        raise Unavailable(kind + " ".join(str(error).split())[:300]) from error


def agreement(run: Run, options: BuildOptions) -> Agreement:
    """Compare the logits of one batch of the timed images with the oracle's; at batch 1, of eight images one by one."""
    count = options.batch if options.batch > 1 else CHECKED_ONE_BY_ONE
    images = options.ticket.images[:count]
    got = np.concatenate([run(x) for x in np.split(images, count // options.batch)], axis=1)
    oracle = options.ticket.oracle[: options.timesteps, :count]
    if got.shape != oracle.shape:
        raise Unavailable(f"logits have the shape {list(got.shape)}, expected {list(oracle.shape)}")
    difference, scale = (np.abs(array).max(axis=(0, 2)) for array in (got - oracle, oracle))
    exact = difference <= DEFAULT.rtol * scale  # false for NaN
    relative = difference / np.where(scale > 0, scale, 1)
    same = got.mean(axis=0).argmax(axis=1) == oracle.mean(axis=0).argmax(axis=1)
    return Agreement(count, float(same.mean()), float(exact.mean()), float(relative[exact].max(initial=0.0)))


@lru_cache(maxsize=1)
def folded_bytes(ticket: TimedTicket) -> bytes:
    """Return the dense ONNX file with time folded into the batch, for any T and batch."""
    data: bytes = to_onnx(ticket.graph, dense=True).SerializeToString()
    return data


@lru_cache(maxsize=1)
def unrolled_bytes(ticket: TimedTicket, timesteps: int, batch: int) -> bytes:
    """Return the plain ONNX file of one T and batch."""
    data: bytes = unrolled_onnx(ticket.graph, timesteps, batch, outputs=(LOGITS_T,)).SerializeToString()
    return data


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for a while."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise Unavailable in the block after `seconds`, as soon as Python code runs again."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise Unavailable(f"not ready after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _import(module: str) -> Any:
    """Import an optional package. Raises Unavailable if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Unavailable(f"{module} is not installed") from error
