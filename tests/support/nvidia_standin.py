"""A stand-in for NVIDIA's packages. It shows which calls are made, not that TensorRT or CUDA accept them.

Its "engine" is the ONNX model itself, which onnxruntime runs; the memory of its "GPU" is this process's own.
"""

import ctypes
import sys
import time
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
import onnxruntime

GPU = "Stand-in GPU"


def install(monkeypatch, version="10.9.0.34", devices=1, refuses=()):
    """Make `import` find the stand-ins. `refuses` names the steps at which TensorRT fails: parse, build or load."""
    trt, cudart = ModuleType("tensorrt"), ModuleType("cuda.bindings.runtime")
    trt.__version__ = version
    trt.__dict__.update(vars(TensorRT(refuses)))
    cudart.__dict__.update(vars(Cuda(devices)))
    for name, module in (
        ("tensorrt", trt),
        ("cuda", ModuleType("cuda")),
        ("cuda.bindings", ModuleType("cuda.bindings")),
        ("cuda.bindings.runtime", cudart),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    return trt, cudart


class Cuda:
    """The functions of the CUDA runtime that are used. Each returns a status, and some a result."""

    def __init__(self, devices):
        ok, self.blocks = (0,), {}
        self.cudaError_t = SimpleNamespace(cudaSuccess=0, cudaErrorMemoryAllocation=2)
        self.cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
        self.cudaGetErrorString = lambda status: (0, {2: b"out of memory", 100: b"no CUDA-capable device"}[status])
        self.cudaGetDevice = lambda: (0, 0) if devices else (100, None)
        self.cudaSetDevice = lambda device: ok
        self.cudaGetDeviceProperties = lambda device: (0, SimpleNamespace(name=GPU.encode()))
        self.cudaStreamCreate = lambda: (0, 7)
        self.cudaStreamSynchronize = self.cudaStreamDestroy = lambda stream: (0 if stream == 7 else 400,)
        self.cudaMalloc = self.malloc
        self.cudaFree = lambda address: (0 if self.blocks.pop(address) else 1,)
        self.cudaMemcpyAsync = self.copy

    def malloc(self, nbytes):
        if nbytes > 1 << 30:
            return 2, None
        block = ctypes.create_string_buffer(nbytes)
        self.blocks[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    def copy(self, target, source, nbytes, kind, stream):
        device = self.blocks[target if kind == 1 else source]
        assert nbytes <= len(device) and stream == 7
        ctypes.memmove(target, source, nbytes)
        return (0,)


class TensorRT:
    """The module `tensorrt`; `calls` has the calls that build an engine."""

    def __init__(self, refuses):
        self.calls = calls = []
        self.ILogger = type("ILogger", (), {"ERROR": 1})
        self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
        self.BuilderFlag = SimpleNamespace(SPARSE_WEIGHTS="SPARSE_WEIGHTS", TF32="TF32")
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="WORKSPACE")
        self.Builder = lambda log: Builder(log, calls, refuses)
        self.OnnxParser = lambda network, log: Parser(network, refuses)
        self.Runtime = lambda log: SimpleNamespace(
            deserialize_cuda_engine=lambda data: None if "load" in refuses else Engine(data)
        )


class Builder:
    """A builder whose engine is the ONNX model itself."""

    def __init__(self, log, calls, refuses):
        self.log, self.calls, self.refuses = log, calls, refuses

    def create_network(self, flags):
        self.calls.append(("create_network", flags))
        return SimpleNamespace(model=None)

    def create_optimization_profile(self):
        return SimpleNamespace(set_shape=lambda *shapes: self.calls.append(("set_shape", *shapes)))

    def create_builder_config(self):
        return Config(self.calls)

    def build_serialized_network(self, network, config):
        config.cache["data"] += b"+"  # as if a timing were added
        if "build" not in self.refuses:
            return network.model
        self.log.log(1, "no kernel for lif0")
        self.log.log(2, "a mere warning")
        return None


class Config:
    """A builder configuration that records its calls and has a cache of timings."""

    def __init__(self, calls):
        for name in ("set_flag", "clear_flag", "set_memory_pool_limit"):
            setattr(self, name, lambda *arguments, name=name: calls.append((name, *arguments)))
        self.add_optimization_profile = lambda profile: calls.append(("add_optimization_profile",))

    def create_timing_cache(self, data):
        return None if data.startswith(b"damaged") else {"data": data}

    def set_timing_cache(self, cache, ignore_mismatch):
        self.cache = cache
        return not cache["data"].startswith(b"foreign")

    def get_timing_cache(self):
        return SimpleNamespace(serialize=lambda: self.cache["data"])


class Parser:
    """A parser that checks the ONNX model, or reports two errors."""

    def __init__(self, network, refuses):
        self.network, self.refuses = network, refuses
        self.num_errors = 2 if "parse" in refuses else 0

    def parse(self, data):
        onnx.checker.check_model(onnx.load_model_from_string(data), full_check=True)
        self.network.model = data
        return "parse" not in self.refuses

    def get_error(self, index):
        name = ("Split:lif0.0.x", "Conv:value:x3")[index]
        return SimpleNamespace(
            node_operator=lambda: name.split(":")[0], node_name=lambda: name, desc=lambda: "not supported"
        )


class Engine:
    """An engine, and its own execution context, that runs the model in onnxruntime."""

    def __init__(self, data):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
        self.addresses, self.busy = {}, False
        self.set_tensor_address = self.addresses.__setitem__

    def create_execution_context(self):
        return self

    def set_input_shape(self, name, shape):
        self.shape = shape
        return True

    def execute_async_v3(self, stream):
        if self.busy:  # TensorRT allows one thread per context
            return False
        self.busy = True
        time.sleep(1e-3)
        floats = ctypes.POINTER(ctypes.c_float)
        x = np.ctypeslib.as_array(ctypes.cast(self.addresses["input"], floats), self.shape)
        names = [output.name for output in self.session.get_outputs()]
        for name, result in zip(names, self.session.run(names, {"input": x}), strict=True):
            ctypes.memmove(self.addresses[name], result.ctypes.data, result.nbytes)
        self.busy = False
        return stream == 7
