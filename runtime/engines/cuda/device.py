"""CuPy, which launches the kernels, and the present GPU."""

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from spiketicket.errors import DeviceError, MissingExtraError

OLDEST = 7, 5  # compute capability
OPTIONS = ("--std=c++17",)


def load_cupy(purpose: str) -> Any:
    """Import and return CuPy. `purpose` says in the messages what it is needed for.

    Raises MissingExtraError if it is not installed, DeviceError without a GPU that the kernels are compiled for.
    """
    try:
        cupy = import_module("cupy")
    except ModuleNotFoundError as error:
        raise MissingExtraError("cupy", "gpu", purpose) from error
    except (ImportError, OSError) as error:
        raise DeviceError(f"{purpose}: cupy is installed, but does not load: {error}") from error
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise DeviceError(f"{purpose} needs an NVIDIA GPU: {error}") from error
    capability = cupy.cuda.Device().compute_capability
    if (int(capability[:-1]), int(capability[-1])) < OLDEST:
        raise DeviceError(f"{purpose} needs a GPU of compute capability 7.5 or later, here is {capability}")
    return cupy


def compiled(cupy: Any, source: str, names: Iterable[str]) -> dict[str, Any]:
    """Compile the kernels of these names for the present GPU. CuPy keeps them on disk (CUPY_CACHE_DIR).

    Raises DeviceError if they do not compile, as without NVRTC.
    """
    wanted = sorted(set(names))
    try:
        module = cupy.RawModule(code=source, options=OPTIONS, name_expressions=wanted)
        return {name: module.get_function(name) for name in wanted}
    except Exception as error:  # CuPy's are of many kinds
        raise DeviceError(f"GPU kernels do not compile here: {error}") from error
