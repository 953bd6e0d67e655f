"""The native engine and its rivals: each a function from images to logits, built for one T, batch and thread number.

All of them start from the same folded weights; only the native engine knows which are zero (and DeepSparse, where it
is at hand). They compute in float32, but for two whose names say otherwise: those need not have the oracle's logits,
and the share of images that keep its class stands beside their times. Rivals get their best form of those tried:
`unrolled` ONNX, a convolution over all timesteps at once, contiguous tensors for eager torch (channels last is
slower), weights packed ahead by inductor (`freezing`).
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

from benchmarks.cuts import Ticket
from benchmarks.deepsparse_client import deepsparse
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
ROUNDED = (INT16, INT8)  # weights, and in int8 activations, are not those of the file
MIN_EXACT = 0.5  # share of images without a flipped spike, as spiketicket.export.check.agreement asks
CHECKED_ONE_BY_ONE = 8  # images, at batch 1
COMPILE_SECONDS = 120
ISA_VARIABLE = "SPIKETICKET_ISA"


@dataclass(frozen=True)
class Setup:
    """The ticket, T, batch and threads that a candidate is built for. `stack` closes it."""

    ticket: Ticket
    timesteps: int
    batch: int
    threads: int
    stack: ExitStack
    deepsparse_python: Path | None = None


def native(setup: Setup) -> Run:
    session = setup.stack.enter_context(Session(setup.ticket.path, engine="native", threads=setup.threads))
    return lambda x: session.run({INPUT: x}, setup.timesteps)[LOGITS_T]


def native_int16(setup: Setup) -> Run:
    session = Session(setup.ticket.path, engine="native", threads=setup.threads, values="int16")
    setup.stack.enter_context(session)
    return lambda x: session.run({INPUT: x}, setup.timesteps)[LOGITS_T]


def native_avx2(setup: Setup) -> Run:
    if build_info()["isa"] == "avx2":
        raise Unavailable("native itself runs AVX2 on this CPU")
    with environment(ISA_VARIABLE, "avx2"):
        try:
            return native(setup)
        except InputError as error:
            raise Unavailable(str(error)) from error


def onnxruntime_folded(setup: Setup) -> Run:
    session = onnxruntime_session(folded_bytes(setup.ticket), setup.threads)
    steps = np.array(setup.timesteps, dtype=np.int64)
    return lambda x: session.run([LOGITS_T], {INPUT: x, TIMESTEPS: steps})[0]


def onnxruntime_unrolled(setup: Setup) -> Run:
    session = onnxruntime_session(unrolled_bytes(setup.ticket, setup.timesteps, setup.batch), setup.threads)
    return lambda x: session.run([LOGITS_T], {INPUT: x})[0]


def onnxruntime_session(model: bytes | str, threads: int) -> Any:
    """Threads spin within a run, as by default, but not after it: they would hold a core in the next rival's turn."""
    onnxruntime = _import("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def openvino(setup: Setup) -> Run:
    """For batch 32, the THROUGHPUT hint and two requests at once were not faster on two cores."""
    return profiled("openvino", setup)


def openvino_int8(setup: Setup) -> Run:
    """Post-training quantisation by NNCF, calibrated on the images that are timed."""
    ov, properties = _import("openvino"), _import("openvino.properties")
    hint = _import("openvino.properties.hint")
    settings = {
        hint.performance_mode: hint.PerformanceMode.LATENCY,
        properties.inference_num_threads: setup.threads,
        hint.enable_cpu_pinning: setup.threads > 1,
    }
    model = quantised(setup.ticket, setup.timesteps, setup.batch)
    request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()
    return lambda x: np.array(request.infer({INPUT: x}, share_inputs=True)[LOGITS_T])


@lru_cache(maxsize=1)  # for all numbers of threads
def quantised(ticket: Ticket, timesteps: int, batch: int) -> Any:
    ov, nncf = _import("openvino"), _import("nncf")
    nncf.set_log_level(logging.ERROR)
    model = ov.Core().read_model(unrolled_bytes(ticket, timesteps, batch))
    batches = [{INPUT: images} for images in np.split(ticket.images, len(ticket.images) // batch)]
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # progress bars
        return nncf.quantize(model, nncf.Dataset(batches), subset_size=len(batches))


def torch_eager(setup: Setup) -> Run:
    return profiled("torch", setup)


def profiled(name: str, setup: Setup) -> Run:
    run = open_engine(name, setup.ticket.path, setup.threads, setup.stack)
    return lambda x: run(x, setup.timesteps)


def torch_compiled(setup: Setup) -> Run:
    torch.set_num_threads(setup.threads)
    torch._dynamo.reset()
    network = TorchNetwork(setup.ticket.graph).eval()
    compiled = torch.compile(network, fullgraph=True)

    @torch.no_grad()
    def run(x: Floats) -> Floats:
        logits: Floats = compiled(torch.from_numpy(x), setup.timesteps).numpy()
        return logits

    with time_limit(COMPILE_SECONDS), inductor.patch(freezing=True):
        run(setup.ticket.images[: setup.batch])
    return run


def deepsparse_engine(setup: Setup) -> Run:
    if setup.deepsparse_python is None:
        raise Unavailable("no --deepsparse-python given")
    model = unrolled_bytes(setup.ticket, setup.timesteps, setup.batch)
    return setup.stack.enter_context(deepsparse(setup.deepsparse_python, model, setup.threads))


CANDIDATES: dict[str, Callable[[Setup], Run]] = {
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
    """How far a candidate's logits agree with the oracle's. A flipped spike changes all that follows in its image."""

    images: int
    top1: float  # share of images with the oracle's class
    exact: float  # share of images whose logits agree within DEFAULT.rtol of the image's largest
    error: float  # largest difference on those, by the same measure

    @property
    def right(self) -> bool:
        return self.exact >= MIN_EXACT and self.top1 >= MIN_TOP1


@dataclass(frozen=True)
class Candidate:
    """A candidate that is built, checked and ready to be timed."""

    run: Run
    agreement: Agreement


def prepare(name: str, setup: Setup) -> Candidate:
    """Build and check the candidate `name`. Raises Unavailable with the reason, also if its library fails."""
    try:
        run = CANDIDATES[name](setup)
        return Candidate(run, agreement(run, setup))
    except Unavailable:
        raise
    except Exception as error:  # the libraries' exceptions share no other base
        if name == NATIVE:
            raise
        kind = "" if isinstance(error, SpikeTicketError) else f"{type(error).__name__}: "
        raise Unavailable(kind + " ".join(str(error).split())[:300]) from error


def agreement(run: Run, setup: Setup) -> Agreement:
    """Compare the logits of the timed images with the oracle's; at batch 1, of the first eight one by one."""
    count = setup.batch if setup.batch > 1 else CHECKED_ONE_BY_ONE
    images = setup.ticket.images[:count]
    got = np.concatenate([run(x) for x in np.split(images, count // setup.batch)], axis=1)
    oracle = setup.ticket.oracle[: setup.timesteps, :count]
    if got.shape != oracle.shape:
        raise Unavailable(f"logits have the shape {list(got.shape)}, expected {list(oracle.shape)}")
    difference, scale = (np.abs(array).max(axis=(0, 2)) for array in (got - oracle, oracle))
    exact = difference <= DEFAULT.rtol * scale  # false for NaN
    relative = difference / np.where(scale > 0, scale, 1)
    same = got.mean(axis=0).argmax(axis=1) == oracle.mean(axis=0).argmax(axis=1)
    return Agreement(count, float(same.mean()), float(exact.mean()), float(relative[exact].max(initial=0.0)))


@lru_cache(maxsize=1)
def folded_bytes(ticket: Ticket) -> bytes:
    data: bytes = to_onnx(ticket.graph, dense=True).SerializeToString()
    return data


@lru_cache(maxsize=1)
def unrolled_bytes(ticket: Ticket, timesteps: int, batch: int) -> bytes:
    data: bytes = unrolled_onnx(ticket.graph, timesteps, batch, outputs=(LOGITS_T,)).SerializeToString()
    return data


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
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
    """Raise Unavailable after that many seconds, as soon as Python code runs again."""

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
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Unavailable(f"{module} is not installed") from error
