"""NVIDIA's compiler takes all kernels for the oldest and a new GPU, and needs no memory for registers."""

import ctypes
import importlib.metadata
from itertools import product
from pathlib import Path

import pytest

from spiketicket.runtime.cuda.kernels import MOST_TIMESTEPS, OPTIONS, source

FLAGS = ("false", "true")


def compiler():
    """NVRTC, which CuPy compiles with, too."""
    try:
        files = importlib.metadata.files("nvidia-cuda-nvrtc")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("nvidia-cuda-nvrtc is not installed: it comes with the extra dev")
    (library,) = [file for file in files if file.name.startswith("libnvrtc.so")]
    return ctypes.CDLL(str(Path(library.locate())))


def names(timesteps):
    yield from (f"convolve<{timesteps}, {kind}, {p}, {p}>" for kind, p in product((1, 2, 3), (1, 2)))
    yield from (f"tensor<{timesteps}, {parts}, {s}, {pool}>" for parts, s, pool in product((1, 2), FLAGS, FLAGS))
    yield from (f"pointwise<{timesteps}>", f"pool<{timesteps}>", "gate")


def compile_for(architecture, expressions):
    """The log of the compiler, with what ptxas says of each kernel. Fails where it refuses."""
    nvrtc, program, size = compiler(), ctypes.c_void_p(), ctypes.c_size_t()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source().encode(), b"kernels.cu", 0, None, None) == 0
    for name in expressions:
        assert nvrtc.nvrtcAddNameExpression(program, name.encode()) == 0
    options = [*OPTIONS, f"--gpu-architecture={architecture}", "--ptxas-options=-v"]
    given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    failed = nvrtc.nvrtcCompileProgram(program, len(options), given)
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    assert not failed, log.value.decode()
    return log.value.decode()


@pytest.mark.parametrize("timesteps", [5, MOST_TIMESTEPS])
@pytest.mark.parametrize("architecture", ["sm_75", "sm_90"])
def test_kernels_compile(architecture, timesteps):
    wanted = list(names(timesteps))
    log = compile_for(architecture, wanted)
    assert log.count("Compiling entry function") == len(wanted)
    assert log.count(" 0 bytes spill stores, 0 bytes spill loads") == len(wanted)
    assert "warning" not in log


def test_a_mistake_is_noticed():
    with pytest.raises(AssertionError, match="no_such_kernel"):
        compile_for("sm_90", ["no_such_kernel"])
