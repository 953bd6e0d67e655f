"""The engine's kernels inside onnxruntime, from any language.

    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(spiketicket.runtime.onnxruntime_library())

A session with these options runs SparseConv, SparseLinear and LIF of a model file by sparse kernels;
without them it runs the operators' dense bodies. The library links against no onnxruntime.
"""

from importlib.util import find_spec
from pathlib import Path

from spiketicket.errors import NotBuiltError

LIBRARY = "libspiketicket_onnxruntime.so"


def onnxruntime_library() -> str:
    """Return the path of the library of custom operators, for onnxruntime 1.18 or later.

    Raises NotBuiltError if this installation was built without onnxruntime's headers.
    """
    native = find_spec(
        "spiketicket.runtime.engines.native._native"
    )  # the library is beside the engine, also in an editable install
    if native is not None and native.origin is not None:
        library = Path(native.origin).with_name(LIBRARY)
        if library.is_file():
            return str(library)
    raise NotBuiltError(
        f"{LIBRARY} was not built: it needs onnxruntime's C headers, 1.18 or later, when spiketicket is built "
        "(apt install libonnxruntime-dev, or pip install -C cmake.define.SPIKETICKET_ONNXRUNTIME_INCLUDE=FOLDER .)"
    )
