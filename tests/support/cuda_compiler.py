"""NVRTC, the compiler by NVIDIA that CuPy uses. It needs no GPU."""

import ctypes
import importlib.metadata
import re
from pathlib import Path

import pytest

from spiketicket.runtime.engines.cuda.device import OPTIONS

ARCHITECTURES = ["sm_75", "sm_90"]  # the oldest that is supported, and a new one


def compiler():
    """Load NVRTC; skip the test if it is not installed."""
    try:
        files = importlib.metadata.files("nvidia-cuda-nvrtc")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("nvidia-cuda-nvrtc is not installed: it comes with the extra dev")
    (library,) = [file for file in files if file.name.startswith("libnvrtc.so")]
    return ctypes.CDLL(str(Path(library.locate())))


def compile_for(architecture, source, expressions):
    """Compile kernels and return the log, with the lines of ptxas on each; fail if the source does not compile."""
    nvrtc, program, size = compiler(), ctypes.c_void_p(), ctypes.c_size_t()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None) == 0
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


def assert_compiles(architecture, source, expressions, spilled=0):
    """Assert that the kernels compile without a warning and spill at most `spilled` bytes of registers."""
    log = compile_for(architecture, source, expressions)
    assert log.count("Compiling entry function") == len(expressions)
    spills = [int(count) for count in re.findall(r"(\d+) bytes spill stores", log)]
    assert len(spills) >= len(expressions) and max(spills) <= spilled
    assert "warning" not in log
