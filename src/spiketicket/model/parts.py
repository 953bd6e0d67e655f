"""Read parts of an ONNX file that may be damaged: attributes of nodes, tensors."""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from spiketicket.csr import MAX_ELEMENTS
from spiketicket.errors import ModelError


class Attributes:
    """The attributes of one node. Each is read once, and an attribute that remains was not understood."""

    def __init__(self, node: onnx.NodeProto) -> None:
        self.name = node.name
        self.left: dict[str, onnx.AttributeProto] = {attribute.name: attribute for attribute in node.attribute}

    def has(self, key: str) -> bool:
        return key in self.left

    def take(self, key: str, kind: int) -> onnx.AttributeProto:
        if key not in self.left:
            raise ModelError(f"layer {self.name}: attribute {key} is missing")
        attribute = self.left.pop(key)
        if attribute.type != kind:
            raise ModelError(f"layer {self.name}: attribute {key} has the wrong type")
        return attribute

    def integer(self, key: str) -> int:
        return int(self.take(key, onnx.AttributeProto.INT).i)

    def real(self, key: str) -> float:
        return float(self.take(key, onnx.AttributeProto.FLOAT).f)

    def integers(self, key: str) -> tuple[int, ...]:
        return tuple(int(value) for value in self.take(key, onnx.AttributeProto.INTS).ints)

    def pair(self, key: str) -> tuple[int, int]:
        values = self.integers(key)
        if len(values) != 2:
            raise ModelError(f"layer {self.name}: attribute {key} must have 2 entries, got {len(values)}")
        return values[0], values[1]

    def finish(self) -> None:
        if self.left:
            raise ModelError(f"layer {self.name}: attribute {sorted(self.left)[0]} is unknown")


def quad(pads: tuple[int, ...], name: str) -> tuple[int, int, int, int]:
    if len(pads) != 4:
        raise ModelError(f"layer {name}: attribute pads must have 4 entries, got {len(pads)}")
    return pads[0], pads[1], pads[2], pads[3]


def array(tensor: onnx.TensorProto) -> NDArray[np.generic]:
    if tensor.data_location == TensorProto.EXTERNAL:
        raise ModelError(f"initializer {tensor.name!r} is in another file; a spiketicket model is one file")
    if any(size < 0 for size in tensor.dims) or np.prod(tensor.dims, dtype=float) > MAX_ELEMENTS:
        raise ModelError(f"initializer {tensor.name!r} has the impossible shape {list(tensor.dims)}")
    try:
        return np.ascontiguousarray(numpy_helper.to_array(tensor)).reshape(tuple(tensor.dims))
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"initializer {tensor.name!r} is damaged: {error}") from error
