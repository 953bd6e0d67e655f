"""The engines, and the names of what they offer. Importing this imports no optional package."""

from spiketicket.errors import InputError
from spiketicket.runtime.engine import AUTO, FIXED, Engine
from spiketicket.runtime.engines.cuda.engine import CudaEngine
from spiketicket.runtime.engines.native.engine import NativeEngine
from spiketicket.runtime.engines.onnxruntime import OnnxRuntimeEngine
from spiketicket.runtime.engines.reference import ReferenceEngine
from spiketicket.runtime.engines.tensorrt.engine import TensorRTEngine

_CLASSES: tuple[type[Engine], ...] = (NativeEngine, OnnxRuntimeEngine, ReferenceEngine, CudaEngine, TensorRTEngine)
ENGINES = {engine.name: engine for engine in _CLASSES}
DEFAULT_ENGINE = NativeEngine.name

MODEL_ENGINES = tuple(engine.name for engine in _CLASSES if engine.reads_models)
ENGINE_NAMES = tuple(name for name in MODEL_ENGINES if not ENGINES[name].needs_gpu)  # run models on any machine
PLANS = (AUTO, FIXED, *(kernel for engine in _CLASSES for kernel in engine.kernels))
VALUES = tuple(dict.fromkeys(values for engine in _CLASSES for values in engine.values))


def find_engine(name: str) -> type[Engine]:
    """Return the engine class of `name`. Raises InputError for an unknown name."""
    if name not in ENGINES:
        raise InputError(f"unknown engine {name!r}: expected one of auto, {', '.join(ENGINES)}")
    return ENGINES[name]


def check_choices(engine: type[Engine], plan: str, values: str) -> None:
    """Raise InputError unless `engine` has the plan and the values."""
    if plan not in PLANS:
        raise InputError(f"plan: expected one of {', '.join(PLANS)}, got {plan!r}")
    if values not in VALUES:
        raise InputError(f"values: expected one of {', '.join(VALUES)}, got {values!r}")
    if plan == "events-int16" and values != "int16":
        raise InputError("plan events-int16 rounds weights: it needs values int16")
    for choice in (plan, values):
        if choice not in (AUTO, FIXED, *engine.kernels, *engine.values):
            owner = next(other.name for other in _CLASSES if choice in (*other.kernels, *other.values))
            raise InputError(f"{choice} is a choice of engine {owner}, not of {engine.name}")
