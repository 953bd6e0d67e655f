"""A stand-in for CuPy: kernels are compiled by g++ and run by an emulator (cuda_host/emulator.h), arrays are NumPy's.

It shows what the kernels compute and which calls are made. It does not show that CUDA accepts them, nor their speed.
"""

import ctypes
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np

from spiketicket.files import write_atomic
from spiketicket.runtime.engines.cuda import choice

MARGIN = 4096  # bytes before and after each array, which no kernel may touch
HOST = Path(__file__).parent / "cuda_host"
FLAGS = ["-std=c++17", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Werror"]


def install(monkeypatch, devices=1, capability="90"):
    """Make `import cupy` find the stand-in; return the module, whose `calls` has every launch since."""
    cupy = ModuleType("cupy")
    cupy.calls = calls = []
    cupy.__version__ = "14.0.0"
    cupy.zeros = lambda shape, dtype: Array.of(np.zeros(shape, dtype))
    cupy.asarray = Array.of
    cupy.get_default_memory_pool = lambda: SimpleNamespace(free_all_blocks=lambda: None)
    cupy.RawModule = lambda **options: Module(calls, **options)
    cupy.cuda = SimpleNamespace(
        Stream=lambda non_blocking: Stream(calls),
        Event=Event,
        Device=lambda: Device(capability),
        get_elapsed_time=lambda begin, end: 1e3 * (end.time - begin.time),
        runtime=SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError,
            getDeviceCount=lambda: count(devices),
            getDeviceProperties=lambda device: {"name": b"Stand-in GPU"},
        ),
    )
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(choice, "WARM_UP", 0)  # times of emulated kernels mean nothing
    monkeypatch.setattr(choice, "TIMED", 1)
    return cupy


class CUDARuntimeError(RuntimeError):
    pass


def count(devices):
    """Return the number of devices; raise what CuPy raises if there is none."""
    if not devices:
        raise CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
    return devices


class Array(np.ndarray):
    """An array with a margin of set bits on both sides: NaN, or spikes at every timestep.

    A kernel that reads outside of the array computes wrong results, and one that writes there changes the margin.
    """

    @classmethod
    def of(cls, array):
        memory = np.full(array.nbytes + 2 * MARGIN, 0xFF, np.uint8)
        made = memory[MARGIN : MARGIN + array.nbytes].view(array.dtype).reshape(array.shape).view(cls)
        made[...] = array
        made.memory = memory
        return made

    def __array_finalize__(self, other):
        self.memory = getattr(other, "memory", None)

    def set(self, array):
        assert self.dtype == array.dtype and self.shape == array.shape
        self[...] = array

    def get(self):
        assert self.memory[:MARGIN].min() == 0xFF and self.memory[-MARGIN:].min() == 0xFF, "written outside"
        return np.array(self)

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)


class Module:
    """Kernels of one source, compiled for the CPU."""

    def __init__(self, calls, code, options, name_expressions):
        assert options[0] == "--std=c++17"
        self.calls = calls
        self.built = build(code, list(name_expressions))

    def get_function(self, name):
        library, symbol = self.built[name]
        function = getattr(ctypes.PyDLL(library), symbol)  # one at a time: the emulator has one block

        def launch(grid, block, arguments):
            shape = (ctypes.c_uint * 6)(*(*grid, 1, 1)[:3], *(*block, 1, 1)[:3])
            values = [np.array(argument) for argument in arguments]
            pointers = (ctypes.c_void_p * len(values))(*(array.ctypes.data for array in values))
            call = partial(function, shape, pointers)
            call.values = values  # keeps the memory that the pointers point to
            if Stream.capturing is not None:
                Stream.capturing.append(call)
            else:
                call()
            self.calls.append((name, grid, block))

        return launch


def build(code, names):
    """Return the shared library and the symbol of each kernel.

    Kernels that no earlier run has compiled are compiled together, since most of the time goes into what they have in
    common.
    """
    common = (HOST / "emulator.h").read_bytes() + code.encode() + " ".join(FLAGS).encode()
    folder = Path(tempfile.gettempdir()) / f"spiketicket-cuda-host-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    symbols = {name: "launch_" + hashlib.sha256(common + name.encode()).hexdigest()[:24] for name in names}
    missing = [name for name in names if not is_built(folder / symbols[name])]
    if missing:
        calls = "\n".join(
            f'extern "C" void {symbols[name]}(unsigned *shape, void **arguments) '
            f"{{ emulator::invoke<&{name}>(&{name}, shape, arguments); }}"
            for name in missing
        )
        source = folder / f"{symbols[missing[0]]}-{os.getpid()}.cpp"
        source.write_text(f'#include "emulator.h"\n{code}\n{calls}\n')
        library = source.with_suffix(".so")
        subprocess.run(["g++", *FLAGS, f"-I{HOST}", str(source), "-o", str(library)], check=True)
        source.unlink()
        for name in missing:
            write_atomic(folder / symbols[name], str(library).encode())
    return {name: ((folder / symbol).read_text(), symbol) for name, symbol in symbols.items()}


def is_built(file):
    """Return whether the library that `file` names exists."""
    return file.exists() and Path(file.read_text()).exists()


class Stream:
    """A stream that runs launches at once, or collects them while a graph is captured."""

    capturing = None

    def __init__(self, calls):
        self.calls = calls

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False

    def synchronize(self):
        assert Stream.capturing is None, "a stream that is captured cannot be waited for"

    def begin_capture(self):
        Stream.capturing = []

    def end_capture(self):
        launches, Stream.capturing = Stream.capturing, None
        return SimpleNamespace(launch=lambda stream: [launch() for launch in launches])


class Device:
    def __init__(self, capability):
        self.compute_capability = capability

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


class Event:
    def record(self, stream):
        self.time = time.perf_counter()

    def synchronize(self):
        pass
