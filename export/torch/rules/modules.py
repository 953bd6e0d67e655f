"""Rules that translate torch modules into nodes of the graph, one for each class.

A rule takes the builder, the module, its name and its input value, and returns the output value. It raises ModelError,
which says what to do, if the graph cannot express the module's settings.
"""

from collections.abc import Callable
from math import inf
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from spikingjelly.activation_based import layer, neuron
from torch import nn

from spiketicket.csr import Csr, index_type
from spiketicket.errors import ModelError
from spiketicket.export.torch.builder import Builder
from spiketicket.graph import AvgPool, Flatten, Lif, MaxPool, same_pads, window
from spiketicket.train.networks import layers, neurons, norms

Array = NDArray[np.float64]
Rule = Callable[[Builder, Any, str, str], str]

HARMLESS = ("extra_repr", "reset_parameters")  # methods that a subclass may override and still compute the same


def find_rule(module: nn.Module) -> Rule | None:
    """Return the rule of a module's class, or of the base class that it inherits all its behaviour from.

    Returns None if there is no such rule: the module cannot be exported.
    """
    for kind in type(module).__mro__:
        if kind in _RULES:
            return _RULES[kind]
        if any(callable(m) and not n.startswith("__") and n not in HARMLESS for n, m in vars(kind).items()):
            return None  # it overrides a method, so it may compute something else than its base class
    return None


def is_neuron(module: nn.Module) -> bool:
    """Return whether a module is a spiking neuron that can be exported."""
    return find_rule(module) in (_lif, _if, _parametric_lif)


def is_linear(module: nn.Module) -> bool:
    """Return whether a module maps the mean of its inputs over time to the mean of its outputs."""
    return find_rule(module) in (_conv, _linear, _batch_norm, _avg_pool, _flatten, _voting, _unchanged) or isinstance(
        module, nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d
    )


def array(tensor: torch.Tensor) -> Array:
    return tensor.detach().cpu().numpy().astype(np.float64)


def _expect(b: Builder, x: str, *ranks: int) -> None:
    """Raise ModelError unless the rank of `x` is in `ranks`: 1 for `[F]`, 2 for `[C, L]`, 3 for `[C, H, W]`."""
    shape = b.torch_shape(x)
    kinds = {1: "features [F]", 2: "signals [C, L]", 3: "images [C, H, W]"}
    if len(shape) not in ranks:
        hint = " (if these are frames over time: timed=True, --timed)" if len(shape) > 3 else ""
        raise ModelError(f"takes {' or '.join(kinds[rank] for rank in ranks)}, gets {list(shape)}{hint}")
    if len(shape) > len(b.shape(x)):
        raise ModelError("adaptive pooling to sizes that do not divide the image can be followed by a Flatten only")


def _conv(b: Builder, module: nn.Conv2d | nn.Conv1d, name: str, x: str) -> str:
    _expect(b, x, module.weight.dim() - 1)
    padded = module.padding not in ("valid", (0, 0), (0,), 0)
    if padded and module.padding_mode != "zeros":
        raise ModelError(f"padding_mode={module.padding_mode!r}: only zero padding can be exported")
    weight = array(module.weight)
    if weight.ndim == 3:
        x, weight = b.image(x), weight[:, :, None, :]
    strides, dilations = _pair(module.stride), _pair(module.dilation)
    if module.padding == "same":
        pads = same_pads(weight.shape[2:], dilations)
    else:
        vertical, horizontal = (0, 0) if module.padding == "valid" else _pair(module.padding, missing=0)
        pads = (vertical, horizontal, vertical, horizontal)
    return b.conv(name, x, weight, _optional(module.bias), strides, pads, dilations, module.groups)


def _linear(b: Builder, module: nn.Linear, name: str, x: str) -> str:
    if len(b.torch_shape(x)) != 1:
        raise ModelError(f"a Linear takes features [F], gets {list(b.torch_shape(x))}: put a Flatten before it")
    if module.out_features == 0:
        raise ModelError("it has no outputs")
    return b.linear(name, x, array(module.weight), _optional(module.bias))


def _batch_norm(b: Builder, norm: Any, name: str, x: str) -> str:
    _expect(b, x, *((1, 2) if isinstance(norm, nn.BatchNorm1d) else (3,)))
    if norm.running_mean is None or norm.running_var is None:
        raise ModelError(
            "a batch norm without running statistics depends on the batch: train with track_running_stats=True"
        )
    std = np.sqrt(array(norm.running_var) + norm.eps)
    factors = (array(norm.weight) if norm.affine else np.ones_like(std)) / std
    bias = (array(norm.bias) if norm.affine else 0.0) - array(norm.running_mean) * factors
    return b.scale(name, b.image(x), factors, bias)


def _spiking(b: Builder, module: Any, name: str, x: str, tau: float, decay_input: bool) -> str:
    reset = None if module.v_reset is None else _number(module.v_reset, "v_reset")
    threshold = _number(module.v_threshold, "v_threshold")
    start, rest = module._memories_rv["v"], 0.0 if reset is None else reset
    if isinstance(start, torch.Tensor) or start != rest:
        raise ModelError(f"its potential starts at {start}, expected {rest}, its v_reset (0 without one)")
    x, name = b.timed(x), b.unique(name)
    probes = torch.tensor([-1.0, -1e-3, 0.0, 1e-3, 1.0])
    if module.surrogate_function(probes).tolist() != [0, 0, 1, 1, 1]:
        raise ModelError(
            "its surrogate_function is no step function (spiking=False?): expected 0 below the threshold, else 1"
        )
    return b.emit(Lif(name, (x,), name, tau, threshold, reset, decay_input))


def _lif(b: Builder, module: neuron.LIFNode, name: str, x: str) -> str:
    return _spiking(b, module, name, x, _number(module.tau, "tau"), bool(module.decay_input))


def _parametric_lif(b: Builder, module: neuron.ParametricLIFNode, name: str, x: str) -> str:
    rate = float(torch.sigmoid(module.w.detach().double()))
    return _spiking(b, module, name, x, 1 / rate if rate > 0 else inf, bool(module.decay_input))


def _if(b: Builder, module: neuron.IFNode, name: str, x: str) -> str:
    return _spiking(b, module, name, x, inf, False)


def _max_pool(b: Builder, module: nn.MaxPool2d | nn.MaxPool1d, name: str, x: str) -> str:
    kernel, strides, pads = _windows(b, module, x)
    if _pair(module.dilation) != (1, 1) or module.return_indices:
        raise ModelError("max-pooling with dilation or return_indices cannot be exported")
    x, name = b.image(x), b.unique(name)
    return b.emit(MaxPool(name, (x,), name, kernel, strides, pads))


def _avg_pool(b: Builder, module: nn.AvgPool2d | nn.AvgPool1d, name: str, x: str) -> str:
    kernel, strides, pads = _windows(b, module, x)
    divisor = getattr(module, "divisor_override", None)
    top, left, bottom, right = pads
    if (top, left) != (bottom, right) or (any(pads) and not module.count_include_pad):
        raise ModelError(
            "average pooling whose windows count differently at the border cannot be exported: no "
            "ceil_mode, and count_include_pad=True"
        )
    x = b.image(x)
    if not any(pads) and divisor is None:
        name = b.unique(name)
        return b.emit(AvgPool(name, (x,), name, kernel, strides))
    channels = b.shape(x)[0]  # any other average is a convolution of each channel alone
    weight = np.full((channels, 1, *kernel), 1 / (divisor or kernel[0] * kernel[1]))
    return b.conv(name, x, weight, None, strides, pads, group=channels)


def _windows(b: Builder, module: Any, x: str) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int]]:
    """Return kernel, strides and pads (top, left, bottom, right) of a pooling; ceil_mode becomes larger end pads."""
    flat = isinstance(module, nn.MaxPool1d | nn.AvgPool1d)
    _expect(b, x, 2 if flat else 3)
    size = (1, b.shape(x)[-1]) if flat else b.shape(x)[-2:]
    kernel, pads = _pair(module.kernel_size, flat), _pair(module.padding, flat, missing=0)
    strides = kernel if module.stride is None else _pair(module.stride, flat)
    ends = list(pads)
    for axis in (0, 1) if module.ceil_mode else ():
        n, k, s, p = size[axis], kernel[axis], strides[axis], pads[axis]
        outputs = -(-(n + 2 * p - k) // s) + 1
        outputs -= (outputs - 1) * s >= n + p  # the last window starts inside the image or its left padding
        ends[axis] = max(p, (outputs - 1) * s + k - n - p) if outputs > window(n, k, s, p, p) else p
    return kernel, strides, (pads[0], pads[1], ends[0], ends[1])


def _adaptive_pool(b: Builder, module: Any, name: str, x: str) -> str:
    """Add a pooling with windows of equal size if the image divides evenly.

    Otherwise averages become a Linear on the flattened image, and ModelError is raised for maxima.
    """
    _expect(b, x, 2 if isinstance(module, nn.AdaptiveAvgPool1d | nn.AdaptiveMaxPool1d) else 3)
    x = b.image(x)
    size = b.shape(x)[1:]
    out = _output_size(module, size)
    if any(n % o for n, o in zip(size, out, strict=True)):
        if isinstance(module, nn.AdaptiveMaxPool2d | nn.AdaptiveMaxPool1d):
            raise ModelError(f"adaptive max-pooling of {list(size)} to {list(out)}: the image must divide evenly")
        return _uneven_average(b, name, x, out)
    kernel = size[0] // out[0], size[1] // out[1]
    name = b.unique(name)
    if isinstance(module, nn.AdaptiveMaxPool2d | nn.AdaptiveMaxPool1d):
        return b.emit(MaxPool(name, (x,), name, kernel, kernel))
    return b.emit(AvgPool(name, (x,), name, kernel, kernel))


def _output_size(module: Any, size: tuple[int, ...]) -> tuple[int, int]:
    if isinstance(module, nn.AdaptiveAvgPool1d | nn.AdaptiveMaxPool1d):
        asked = module.output_size
        return 1, asked if isinstance(asked, int) else asked[0]
    asked = module.output_size
    height, width = (asked, asked) if isinstance(asked, int) else asked
    return height or size[0], width or size[1]


def _uneven_average(b: Builder, name: str, x: str, out: tuple[int, int]) -> str:
    """Add a Linear from the flattened `[C, H, W]` to the mean of each window, `[C * H' * W']`; return its output.

    The output is recorded as `[C, H', W']` for torch, so that only a Flatten can follow, which then adds no node.
    """
    channels, height, width = b.shape(x)
    one = np.kron(_averaging(height, out[0]), _averaging(width, out[1]))  # the weights of one channel, [H' W', H W]
    rows, columns = np.nonzero(one)
    shift = np.arange(channels)[:, None] * one.shape[1]
    per_row = np.bincount(rows, minlength=len(one))
    total = channels * one.shape[1]
    weight = Csr(
        np.tile(one[rows, columns], channels).astype(np.float32),
        (columns + shift).ravel().astype(index_type(total)),
        np.concatenate([[0], np.cumsum(np.tile(per_row, channels))]).astype(np.int32),
        (channels * len(one), total),
    )
    flat = b.unique(f"{name}.flatten")
    averages = b.linear(name, b.emit(Flatten(flat, (x,), flat)), weight)
    return b.view(averages, (channels, *out))


def _averaging(size: int, out: int) -> Array:
    """Return torch's adaptive windows along one axis, `[out, size]`.

    Row i averages the positions from floor(i size / out) up to, but not including, ceil((i + 1) size / out).
    """
    matrix = np.zeros((out, size))
    for i in range(out):
        start, end = i * size // out, -(-(i + 1) * size // out)
        matrix[i, start:end] = 1 / (end - start)
    return matrix


def _voting(b: Builder, module: layer.VotingLayer, name: str, x: str) -> str:
    """Add the mean over each class's neurons, as a Linear."""
    size, shape = module.voting_size, b.shape(x)
    if len(shape) != 1 or shape[0] < size:
        raise ModelError(f"a VotingLayer of {size} needs at least {size} features, gets {list(shape)}")
    classes, left_over = divmod(shape[0], size)
    votes = np.kron(np.eye(classes), np.full((1, size), 1 / size))
    return b.linear(name, x, np.pad(votes, ((0, 0), (0, left_over))))


def _flatten(b: Builder, module: Any, name: str, x: str) -> str:
    return flatten(b, name, x)


def flatten(b: Builder, name: str, x: str) -> str:
    """Add a Flatten of images and return its output; features are returned unchanged."""
    if len(b.shape(x)) == 1:
        return b.view(x, b.shape(x))
    x, name = b.image(x), b.unique(name)
    return b.emit(Flatten(name, (x,), name))


def _unchanged(b: Builder, module: Any, name: str, x: str) -> str:
    return x


_RULES: dict[type, Rule] = {
    kind: rule
    for rule, kinds in (
        (_conv, (nn.Conv1d, nn.Conv2d, layer.Conv1d, layer.Conv2d, layers.Conv2d)),
        (_linear, (nn.Linear, layer.Linear)),
        (_batch_norm, (nn.BatchNorm1d, nn.BatchNorm2d, layer.BatchNorm1d, layer.BatchNorm2d)),
        (_batch_norm, (norms.TimestepBatchNorm2d, norms.FoldedBatchNorm2d, norms.StaticBatchNorm2d)),
        (_lif, (neuron.LIFNode, neurons.LIFNode)),
        (_parametric_lif, (neuron.ParametricLIFNode,)),
        (_if, (neuron.IFNode,)),
        (_max_pool, (nn.MaxPool1d, nn.MaxPool2d, layer.MaxPool1d, layer.MaxPool2d)),
        (_avg_pool, (nn.AvgPool1d, nn.AvgPool2d, layer.AvgPool1d, layer.AvgPool2d)),
        (_adaptive_pool, (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d)),
        (_adaptive_pool, (layer.AdaptiveAvgPool1d, layer.AdaptiveAvgPool2d)),
        (_flatten, (nn.Flatten, layer.Flatten)),
        (_voting, (layer.VotingLayer,)),
        (_unchanged, (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, layer.Dropout, layer.Dropout2d)),
        (_unchanged, (layers.Repeat,)),
    )
    for kind in kinds
}


def _number(value: object, what: str) -> float:
    if isinstance(value, torch.Tensor) and value.numel() != 1:
        raise ModelError(f"{what} differs from neuron to neuron: expected one number per layer")
    return float(value)  # type: ignore[arg-type]


def _optional(bias: torch.Tensor | None) -> Array | None:
    return None if bias is None else array(bias)


def _pair(value: Any, flat: bool = False, missing: int = 1) -> tuple[int, int]:
    """Return a module's size for height and width.

    One size stands for both. For a signal (`flat`, or a tuple of one) it is the width, and the height is `missing`.
    """
    if isinstance(value, int):
        return (missing, value) if flat else (value, value)
    return (missing, value[0]) if len(value) == 1 else (value[0], value[1])
