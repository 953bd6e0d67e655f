"""NVIDIA's packages, which building and running TensorRT engines share, imported when needed, and the present GPU."""

from importlib import import_module
from typing import Any

from spiketicket.errors import DeviceError, MissingExtraError

OLDEST = 10  # major version of TensorRT


class Nvidia:
    """TensorRT, the CUDA runtime, and the errors that TensorRT logs (its calls return no more than a failure).

    `purpose` says in the messages what they are needed for. Raises MissingExtraError if a package is missing or too
    old, DeviceError if its libraries or the GPU are.
    """

    def __init__(self, purpose: str) -> None:
        self.trt = _import("tensorrt", "tensorrt", purpose)
        if int(self.trt.__version__.split(".")[0]) < OLDEST:
            found = f"tensorrt {OLDEST} or later (here is {self.trt.__version__})"
            raise MissingExtraError(found, "tensorrt", purpose)
        self.cudart = _import("cuda.bindings.runtime", "cuda-python", purpose)
        try:
            self.device: int = self.cuda("cudaGetDevice")
            self.gpu: str = self.cuda("cudaGetDeviceProperties", self.device).name.decode()
        except DeviceError as error:
            raise DeviceError(f"{purpose} needs an NVIDIA GPU: {error}") from error
        self.log = _make_log(self.trt)

    def cuda(self, function: str, *arguments: Any) -> Any:
        """Call a function of the CUDA runtime and return its result. Raises MemoryError, or DeviceError with CUDA's own
        message.
        """
        status, *results = getattr(self.cudart, function)(*arguments)
        if status != self.cudart.cudaError_t.cudaSuccess:
            _, text = self.cudart.cudaGetErrorString(status)
            if status == self.cudart.cudaError_t.cudaErrorMemoryAllocation:
                raise MemoryError(text.decode())
            raise DeviceError(f"{function}: {text.decode()}")
        return results[0] if results else None

    def failure(self) -> str:
        """Return the errors that TensorRT has logged so far, for a message."""
        return "; ".join(self.log.errors) or "TensorRT does not say why"


def _import(module: str, package: str, purpose: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(package, "tensorrt", purpose) from error
    except (ImportError, OSError) as error:
        raise DeviceError(f"{purpose}: {package} is installed, but does not load: {error}") from error


def _make_log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.ERROR):
                self.errors.append(message)

    return Log()
