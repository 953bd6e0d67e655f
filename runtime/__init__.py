"""Run exported models: `Session(path).run({"input": x})`. Needs neither torch nor onnxruntime."""

from spiketicket.runtime.custom_ops import onnxruntime_library
from spiketicket.runtime.session import LayerInfo, Session

__all__ = ["LayerInfo", "Session", "onnxruntime_library"]
