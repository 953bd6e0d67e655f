"""Read NIR's weighted layers and poolings. Weights stay float64 until nothing more is folded into them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array

from spiketicket.csr import Csr, index_type
from spiketicket.errors import ModelError
from spiketicket.export.nir.graph import nir, numbers
from spiketicket.graph import AvgPool, Conv, Linear, Node, same_pads, window

Array = NDArray[np.float64]
Pair = tuple[int, int]


@dataclass
class Layer:
    """A convolution or linear layer in float64.

    `shape` is that of the weight, with four sizes for a convolution; `weight` has one row per output.
    """

    name: str
    x: str
    output: str
    weight: csr_array
    bias: Array
    shape: tuple[int, ...]
    geometry: dict[str, Any] = field(default_factory=dict)

    def fold(self, scale: Array, shift: Array) -> None:
        """Change the layer so that its output is `scale * y + shift` instead of y (arrays with one entry per row)."""
        self.weight = csr_array(diags_array(scale) @ self.weight)
        self.bias = scale * self.bias + shift

    def build(self) -> Node:
        """Return the layer as a node, rounded to float32 once."""
        rows = self.weight.astype(np.float32)
        rows.eliminate_zeros()
        rows.sort_indices()
        indices = rows.indices.astype(index_type(rows.shape[1]))
        weight = Csr(rows.data, indices, rows.indptr.astype(np.int32), self.shape)
        kind = Conv if len(self.shape) == 4 else Linear
        return kind(self.name, (self.x,), self.output, weight, self.bias.astype(np.float32), **self.geometry)


def diagonal(name: str, x: str, output: str, shape: tuple[int, ...], scale: Array, shift: Array) -> Layer:
    """Return `scale * x + shift` as a layer, per feature of `[F]` or per channel of `[C, H, W]`."""
    size = shape[0]
    if len(shape) == 1:
        return Layer(name, x, output, csr_array(diags_array(scale)), shift, (size, size))
    return Layer(name, x, output, csr_array(scale[:, None]), shift, (size, 1, 1, 1), {"group": size})


def per_channel(array: Array) -> Array:
    """Return the values of `[C, H, W]` (or `[F]`) with one entry per channel (or feature).

    Raises ModelError if the positions of a channel differ.
    """
    rows = array.reshape(len(array), -1)
    if not (rows == rows[:, :1]).all():
        raise ModelError(
            "parameters differ between the positions of a channel, but a convolution has one per channel: "
            "use one value per channel, or flatten before this layer"
        )
    return np.ascontiguousarray(rows[:, 0])


def read_layer(node: nir.NIRNode, name: str, x: str, shape: tuple[int, ...]) -> tuple[Layer | Node, tuple[int, ...]]:
    """Return a convolution, linear layer or pooling on `x`, and the shape of its output.

    Shapes are NIR's, without batch. Raises ModelError if the layer does not fit its input or cannot be expressed.
    """
    return _RULES[type(node)](node, name, x, shape)


def _linear(node: nir.NIRNode, name: str, x: str, shape: tuple[int, ...]) -> tuple[Layer, tuple[int, ...]]:
    weight = _finite(node, "weight", 2)
    rows, columns = weight.shape
    if shape != (columns,):
        hint = ": a Flatten is missing before it" if prod(shape) == columns else ""
        raise ModelError(f"weight {list(weight.shape)} does not fit an input of shape {list(shape)}{hint}")
    bias = _bias(node, rows) if isinstance(node, nir.Affine) else np.zeros(rows)
    return Layer(name, x, name, csr_array(weight), bias, (rows, columns)), (rows,)


def _conv(node: nir.NIRNode, name: str, x: str, shape: tuple[int, ...]) -> tuple[Layer, tuple[int, ...]]:
    flat = isinstance(node, nir.Conv1d)  # [C, L] is an image of one row
    weight = _finite(node, "weight", 3 if flat else 4)
    if len(shape) != weight.ndim - 1:
        expected = "[C, L]" if flat else "[C, H, W]"
        raise ModelError(f"expects an input of shape {expected}, gets {list(shape)}")
    if flat:
        weight = weight[:, :, None]
    rows, columns, *kernel = weight.shape
    group = _integers(node, "groups", 1)[0]
    if group < 1 or rows % group or columns * group != shape[0]:
        raise ModelError(f"weight {list(node.weight.shape)} in {group} groups does not fit {shape[0]} input channels")
    strides = _height_and_width(node, "stride", flat, 1)
    dilations = _height_and_width(node, "dilation", flat, 1)
    if min(*strides, *dilations) < 1:
        raise ModelError(f"stride and dilation must be positive, got {strides} and {dilations}")
    pads = _pads(node, flat, (kernel[0], kernel[1]), strides, dilations)
    size = (1, shape[1]) if flat else (shape[1], shape[2])
    out = tuple(
        window(size[i], kernel[i], strides[i], pads[i], pads[i + 2], dilations[i]) for i in ((1,) if flat else (0, 1))
    )
    _require_positive_size(out)
    geometry = {"strides": strides, "pads": pads, "dilations": dilations, "group": group}
    matrix = csr_array(weight.reshape(rows, -1))
    return Layer(name, x, name, matrix, _bias(node, rows), weight.shape, geometry), (rows, *out)


def _pads(node: nir.NIRNode, flat: bool, kernel: Pair, strides: Pair, dilations: Pair) -> tuple[int, int, int, int]:
    """Return the pads of a convolution: top, left, bottom, right."""
    if isinstance(node.padding, str):
        if node.padding == "valid":
            return 0, 0, 0, 0
        if node.padding != "same" or strides != (1, 1):
            raise ModelError(
                f"padding {node.padding!r} with stride {strides} cannot be expressed: give the padding in numbers"
            )
        return same_pads(kernel, dilations)
    vertical, horizontal = _height_and_width(node, "padding", flat, 0)
    if min(vertical, horizontal) < 0:
        raise ModelError(f"padding must not be negative, got {(vertical, horizontal)}")
    return vertical, horizontal, vertical, horizontal


def _pool(node: nir.NIRNode, name: str, x: str, shape: tuple[int, ...]) -> tuple[Layer | Node, tuple[int, ...]]:
    if len(shape) != 3:
        raise ModelError(f"expects an input of shape [C, H, W], gets {list(shape)}")
    kernel, strides, pads = (_pair(node, key) for key in ("kernel_size", "stride", "padding"))
    if min(*kernel, *strides) < 1 or min(pads) < 0:
        raise ModelError(f"kernel {kernel} and stride {strides} must be positive, and padding {pads} not negative")
    channels = shape[0]
    out = tuple(window(shape[i + 1], kernel[i], strides[i], pads[i], pads[i]) for i in (0, 1))
    _require_positive_size(out)
    average = isinstance(node, nir.AvgPool2d)
    if average and pads == (0, 0):
        return AvgPool(name, (x,), name, kernel, strides), (channels, *out)
    # Sums, and means that count the padding, are convolutions of each channel with equal weights.
    weight = csr_array(np.full((channels, prod(kernel)), 1 / prod(kernel) if average else 1.0))
    geometry = {"strides": strides, "pads": pads * 2, "group": channels}
    return Layer(name, x, name, weight, np.zeros(channels), (channels, 1, *kernel), geometry), (channels, *out)


_RULES: dict[type, Callable[..., tuple[Layer | Node, tuple[int, ...]]]] = {
    nir.Affine: _linear,
    nir.Linear: _linear,
    nir.Conv1d: _conv,
    nir.Conv2d: _conv,
    nir.AvgPool2d: _pool,
    nir.SumPool2d: _pool,
}
LAYERS = tuple(_RULES)


def _require_positive_size(out: tuple[int, ...]) -> None:
    if min(out) < 1:
        raise ModelError(f"its kernel does not fit: the output would have the size {list(out)}")


def _finite(node: nir.NIRNode, key: str, rank: int) -> Array:
    array = numbers(node, key)
    if array.ndim != rank:
        raise ModelError(f"{key} must have {rank} dimensions, got {list(array.shape)}")
    if not np.isfinite(array).all():
        raise ModelError(f"{key} holds NaN or infinity")
    return array


def _bias(node: nir.NIRNode, rows: int) -> Array:
    if node.bias is None:
        return np.zeros(rows)
    bias = _finite(node, "bias", 1)
    if len(bias) != rows:
        raise ModelError(f"bias has {len(bias)} entries, expected {rows}")
    return bias


def _integers(node: nir.NIRNode, key: str, *counts: int) -> tuple[int, ...]:
    """Return whole numbers, which exporters write as a number, a tuple or an array; `counts` is how many may come."""
    values = np.atleast_1d(numbers(node, key))
    if values.ndim != 1 or len(values) not in counts or (values != np.floor(values)).any():
        raise ModelError(f"{key} must be {' or '.join(map(str, counts))} whole numbers, got {values.tolist()}")
    return tuple(int(value) for value in values)


def _pair(node: nir.NIRNode, key: str) -> Pair:
    values = _integers(node, key, 1, 2)
    return values[0], values[-1]


def _height_and_width(node: nir.NIRNode, key: str, flat: bool, rest: int) -> Pair:
    """Return a setting along height and width; for a Conv1d (`flat`) it is `rest` along the height."""
    return (rest, _integers(node, key, 1)[0]) if flat else _pair(node, key)
