"""The sparse graph: a pruned spiking network in memory, free of any framework.

Export builds it from a network, the model file stores it, engines run it. Nodes stand in the order
of execution and name their inputs and output. A value is *static* (`[N, ...]`, computed once) until
a `Repeat` makes it *timed* (`[T, N, ...]`, time-major); of a network for event streams, the input is timed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, prod

import numpy as np
from numpy.typing import NDArray

from spiketicket.csr import MAX_ELEMENTS, Csr
from spiketicket.errors import ModelError


@dataclass(frozen=True)
class Node:
    name: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Conv(Node):
    """2-d convolution of `[..., C, H, W]`; `weight` has shape `[out, C / group, kh, kw]`."""

    weight: Csr
    bias: NDArray[np.float32]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right, as in ONNX
    dilations: tuple[int, int] = (1, 1)
    group: int = 1


@dataclass(frozen=True)
class Linear(Node):
    """`x @ weight.T + bias` on `[..., F]`; `weight` has shape `[out, F]`."""

    weight: Csr
    bias: NDArray[np.float32]


class _Leaky:
    """The constants of one timestep of a neuron that leaks, for the potential w above rest: w = keep w + gain x."""

    tau: float
    decay_input: bool

    @property
    def keep(self) -> float:
        """Return the share of the potential that is left after one timestep."""
        return 1 - 1 / self.tau

    @property
    def gain(self) -> float:
        """Return the factor of the input current."""
        return 1 / self.tau if self.decay_input else 1.0


@dataclass(frozen=True)
class Lif(Node, _Leaky):
    """Leaky integrate-and-fire over time, order charge, fire, reset (SpikingJelly's LIFNode).

    With rest = `v_reset` (0 where the reset is soft, `v_reset` None), per timestep, from v = rest:

        h = v + (x - (v - rest)) / tau     if decay_input
        h = v - (v - rest) / tau + x       otherwise
        s = 1 if h >= v_threshold else 0
        v = rest if s else h               hard reset
        v = h - v_drop * s                 soft reset

    An infinite `tau` (without `decay_input`) is a neuron that does not leak: SpikingJelly's IFNode. `v_drop` is
    v_threshold unless given; simulators that test for h > v_threshold, or that reset at the next timestep, are
    expressed by a threshold that differs from it.
    """

    tau: float
    v_threshold: float = 1.0
    v_reset: float | None = 0.0
    decay_input: bool = True
    v_drop: float | None = None

    @property
    def soft(self) -> bool:
        """Return whether a spike subtracts from the potential (soft reset) instead of setting it to `v_reset` (hard
        reset).
        """
        return self.v_reset is None

    @property
    def rest(self) -> float:
        """Return the potential at rest, to which the neuron leaks: `v_reset`, or 0 with a soft reset."""
        return 0.0 if self.v_reset is None else self.v_reset

    @property
    def level(self) -> float:
        """Return the threshold of the potential above rest."""
        return self.v_threshold - self.rest

    @property
    def drop(self) -> float:
        """Return the potential that a soft reset subtracts."""
        return self.v_threshold if self.v_drop is None else self.v_drop


@dataclass(frozen=True)
class Li(Node, _Leaky):
    """Leaky integrator over time, without spikes (NIR's LI; the synapse of a current-based LIF). From v = 0:

        v = v + (x - v) / tau     if decay_input
        v = v - v / tau + x       otherwise

    The output is v, real-valued. An infinite `tau` (without `decay_input`) sums its input up.
    """

    tau: float
    decay_input: bool = True


@dataclass(frozen=True)
class MaxPool(Node):
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True)
class AvgPool(Node):
    kernel: tuple[int, int]
    strides: tuple[int, int]


@dataclass(frozen=True)
class Add(Node):
    """Elementwise sum of two values of one shape: a residual connection."""


@dataclass(frozen=True)
class And(Node):
    """The product of two values of spikes, that is, where both fire; with `negated`, where the first fires and the
    second does not. SEW-ResNet calls them AND and IAND.
    """

    negated: bool = False


@dataclass(frozen=True)
class Concat(Node):
    """Concatenation of two or more values of one image size along their channels (or features)."""


@dataclass(frozen=True)
class Unsqueeze(Node):
    """Signals of one dimension as images of one row: `[..., C, L]` -> `[..., C, 1, L]`."""


@dataclass(frozen=True)
class Flatten(Node):
    """`[..., C, H, W]` -> `[..., C * H * W]`."""


@dataclass(frozen=True)
class Repeat(Node):
    """Static `[N, ...]` -> timed `[T, N, ...]`: the same current at every timestep (direct encoding)."""


@dataclass(frozen=True)
class Value:
    """What is known of a value before any input is given."""

    shape: tuple[int, ...]  # without T and N
    timed: bool
    spikes: bool  # zeros and ones only


@dataclass(frozen=True)
class Graph:
    """A network from `input` to `output`, the logits `[T, N, classes]`; `timesteps` is the default T.

    The input is `[N, *input_shape]`, or `[T, N, *input_shape]` with `timed_input`. `values`, the shape and kind of
    every value, is derived. Building a graph checks it, and raises ModelError, which names the layer.
    """

    input: str
    input_shape: tuple[int, ...]
    nodes: tuple[Node, ...]
    output: str
    timesteps: int
    metadata: dict[str, str] = field(default_factory=dict)
    timed_input: bool = False
    batch: int | None = None  # N, where it is fixed
    fixed_timesteps: bool = False  # T is `timesteps` always
    values: dict[str, Value] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", _infer(self))

    @property
    def classes(self) -> int:
        return self.values[self.output].shape[0]

    def stepped(self) -> "Graph":
        """Return the same network for one frame per timestep, in which nothing is repeated over time."""
        repeats = {node.output: node.inputs[0] for node in self.nodes if isinstance(node, Repeat)}
        nodes = tuple(
            replace(node, inputs=tuple(repeats.get(name, name) for name in node.inputs))
            for node in self.nodes
            if not isinstance(node, Repeat)
        )
        return replace(self, nodes=nodes, output=repeats.get(self.output, self.output), timed_input=True)

    def weighted(self) -> Iterator[Conv | Linear]:
        """Return the layers that hold weights, in order."""
        return (node for node in self.nodes if isinstance(node, Conv | Linear))

    def macs(self, node: Conv | Linear, *, dense: bool = False) -> int:
        """Return the multiply-accumulates of one run of `node` on one image: of surviving weights only, or of all
        (`dense`).
        """
        positions = prod(self.values[node.output].shape[1:]) if isinstance(node, Conv) else 1
        return positions * (prod(node.weight.shape) if dense else node.weight.nnz)


def window(size: int, kernel: int, stride: int, before: int, after: int, dilation: int = 1) -> int:
    """Return the output size of a convolution or pooling along one axis (floor mode). Below 1, it does not fit."""
    return (size + before + after - dilation * (kernel - 1) - 1) // stride + 1


def same_pads(kernel: Sequence[int], dilations: Sequence[int]) -> tuple[int, int, int, int]:
    """Return the pads (top, left, bottom, right) with which a convolution of stride 1 keeps the image size.

    Of an odd number of rows or columns, the larger half is at the bottom or right, as in torch's `padding="same"`.
    """
    height, width = (d * (k - 1) for k, d in zip(kernel, dilations, strict=True))
    return height // 2, width // 2, height - height // 2, width - width // 2


def infer(node: Node, inputs: list[Value]) -> Value:
    """Return what is known of the output of `node`. Raises ModelError, naming the layer, if `inputs` do not fit."""
    _check_arity(node)
    return _RULES[type(node)](node, *inputs)


def _infer(graph: Graph) -> dict[str, Value]:
    if graph.timesteps < 1:
        raise ModelError(f"timesteps must be at least 1, got {graph.timesteps}")
    if graph.batch is not None and graph.batch < 1:
        raise ModelError(f"batch must be at least 1, got {graph.batch}")
    if len(graph.input_shape) not in (1, 2, 3):
        raise ModelError(f"input shape must be [C, H, W], [C, L] or [F], got {list(graph.input_shape)}")
    values: dict[str, Value] = {}
    _define(values, graph.input, Value(graph.input_shape, graph.timed_input, spikes=False))
    names: set[str] = set()
    for node in graph.nodes:
        missing = [name for name in node.inputs if name not in values]
        if missing:
            raise ModelError(f"layer {node.name}: input {missing[0]!r} is not computed by an earlier layer")
        if node.name in names:
            raise ModelError(f"two layers are named {node.name!r}")
        names.add(node.name)
        _define(values, node.output, infer(node, [values[name] for name in node.inputs]))
    if graph.output not in values or graph.output == graph.input:
        raise ModelError(f"output {graph.output!r} is not computed by any layer")
    result = values[graph.output]
    if not result.timed or len(result.shape) != 1:
        shape = ", ".join(map(str, ("T", "N", *result.shape) if result.timed else ("N", *result.shape)))
        raise ModelError(f"output {graph.output!r} must be timed logits [T, N, classes], got [{shape}]")
    return values


def _check_arity(node: Node) -> None:
    got = len(node.inputs)
    if isinstance(node, Concat):
        _require(node, got >= 2, f"expected two inputs or more, got {got}")
    else:
        expected = 2 if isinstance(node, Add | And) else 1
        _require(node, got == expected, f"expected {expected} inputs, got {got}")


def _define(values: dict[str, Value], name: str, value: Value) -> None:
    if name in values:
        raise ModelError(f"value {name!r} is computed twice")
    if not all(size >= 1 for size in value.shape) or prod(value.shape) > MAX_ELEMENTS:
        raise ModelError(f"value {name!r} has the impossible shape {list(value.shape)}")
    values[name] = value


def _require(node: Node, condition: bool, expected: str) -> None:
    if not condition:
        raise ModelError(f"layer {node.name}: {expected}")


def _check_weighted(node: Conv | Linear, rank: int) -> None:
    node.weight.check(node.name)
    _require(node, len(node.weight.shape) == rank, f"weight must have {rank} dimensions")
    _require(
        node,
        node.bias.dtype == np.float32 and node.bias.shape == (node.weight.rows,),
        f"bias must be float32 of {node.weight.rows} entries, got {node.bias.dtype} {list(node.bias.shape)}",
    )
    _require(node, bool(np.isfinite(node.bias).all()), "bias holds NaN or infinity")


def _image(node: Node, x: Value) -> tuple[int, int, int]:
    _require(node, len(x.shape) == 3, f"expects images [C, H, W], gets {list(x.shape)}")
    channels, height, width = x.shape
    return channels, height, width


def _conv(node: Conv, x: Value) -> Value:
    _check_weighted(node, 4)
    channels, height, width = _image(node, x)
    rows, columns, kh, kw = node.weight.shape
    _check_window(node, node.strides, node.pads, node.dilations)
    _require(
        node,
        node.group >= 1 and rows % node.group == 0,
        f"{rows} outputs do not split into {node.group} groups",
    )
    _require(
        node,
        columns * node.group == channels,
        f"weight {list(node.weight.shape)} in {node.group} groups does not fit {channels} input channels",
    )
    (sy, sx), (top, left, bottom, right), (dy, dx) = node.strides, node.pads, node.dilations
    fits = max(top, bottom) <= dy * (kh - 1) + 1 and max(left, right) <= dx * (kw - 1) + 1
    _require(node, fits, f"pads {node.pads} exceed the kernel")
    padded = (height + top + bottom) * (width + left + right)
    _require(node, padded <= 64 * height * width + 2**16, f"pads {node.pads} make the input 64 times larger")
    out = (rows, window(height, kh, sy, top, bottom, dy), window(width, kw, sx, left, right, dx))
    return Value(out, x.timed, spikes=False)


def _check_window(
    node: Node, strides: tuple[int, int], pads: tuple[int, int, int, int], dilations: tuple[int, int] = (1, 1)
) -> None:
    _require(node, len(strides) == 2 and min(strides) >= 1, f"strides must be 2 positive sizes, got {strides}")
    _require(node, len(pads) == 4 and min(pads) >= 0, f"pads must be 4 sizes from 0, got {pads}")
    _require(
        node,
        len(dilations) == 2 and min(dilations) >= 1,
        f"dilations must be 2 positive sizes, got {dilations}",
    )
    _require(node, max(*strides, *pads, *dilations) <= 2**15, "strides, pads and dilations end at 32,768")


def _linear(node: Linear, x: Value) -> Value:
    _check_weighted(node, 2)
    _require(
        node,
        x.shape == (node.weight.columns,),
        f"weight {list(node.weight.shape)} does not fit an input of shape {list(x.shape)}",
    )
    return Value((node.weight.rows,), x.timed, spikes=False)


def _lif(node: Lif, x: Value) -> Value:
    _check_leak(node, x)
    _require(node, isfinite(node.v_threshold), f"v_threshold must be finite, got {node.v_threshold}")
    _require(
        node,
        node.v_drop is None or (node.v_reset is None and isfinite(node.v_drop)),
        f"v_drop must be finite, and belongs to a soft reset, got {node.v_drop}",
    )
    _require(
        node,
        isfinite(node.rest) and node.rest < node.v_threshold,
        f"v_reset must lie below v_threshold, got {node.rest} and {node.v_threshold}",
    )
    return Value(x.shape, timed=True, spikes=True)


def _check_leak(node: Lif | Li, x: Value) -> None:
    _require(node, x.timed, "a neuron needs a timed input: put a Repeat before it")
    _require(node, node.tau >= 1, f"tau must be at least 1, got {node.tau}")
    _require(node, isfinite(node.tau) or not node.decay_input, "an infinite tau with decay_input takes no current")


def _li(node: Li, x: Value) -> Value:
    _check_leak(node, x)
    return Value(x.shape, timed=True, spikes=False)


def _pool(node: MaxPool | AvgPool, x: Value) -> Value:
    channels, height, width = _image(node, x)
    (kh, kw), (sy, sx) = node.kernel, node.strides
    pads = node.pads if isinstance(node, MaxPool) else (0, 0, 0, 0)
    _check_window(node, node.strides, pads)
    _require(node, min(node.kernel) >= 1, f"kernel must be 2 positive sizes, got {node.kernel}")
    top, left, bottom, right = pads
    _require(node, max(top, bottom) < kh and max(left, right) < kw, "pads must be smaller than the kernel")
    out = (channels, window(height, kh, sy, top, bottom), window(width, kw, sx, left, right))
    return Value(out, x.timed, spikes=x.spikes and isinstance(node, MaxPool))


def _add(node: Add, a: Value, b: Value) -> Value:
    _require(node, a.shape == b.shape and a.timed == b.timed, f"cannot add {list(a.shape)} and {list(b.shape)}")
    return Value(a.shape, a.timed, spikes=False)


def _and(node: And, a: Value, b: Value) -> Value:
    _require(node, a.spikes and b.spikes, "takes spikes only: zeros and ones")
    _require(node, a.shape == b.shape, f"cannot combine {list(a.shape)} and {list(b.shape)}")
    return a


def _concat(node: Concat, *inputs: Value) -> Value:
    first = inputs[0]
    same = all((x.shape[1:], x.timed) == (first.shape[1:], first.timed) for x in inputs)
    _require(node, same, f"cannot concatenate {', '.join(str(list(x.shape)) for x in inputs)}")
    channels = sum(x.shape[0] for x in inputs)
    return Value((channels, *first.shape[1:]), first.timed, all(x.spikes for x in inputs))


def _unsqueeze(node: Unsqueeze, x: Value) -> Value:
    _require(node, len(x.shape) == 2, f"expects signals [C, L], gets {list(x.shape)}")
    return Value((x.shape[0], 1, x.shape[1]), x.timed, x.spikes)


def _flatten(node: Flatten, x: Value) -> Value:
    return Value((prod(_image(node, x)),), x.timed, x.spikes)


def _repeat(node: Repeat, x: Value) -> Value:
    _require(node, not x.timed, "its input is repeated over time already")
    return Value(x.shape, timed=True, spikes=False)


_RULES: dict[type[Node], Callable[..., Value]] = {
    Conv: _conv,
    Linear: _linear,
    Lif: _lif,
    Li: _li,
    MaxPool: _pool,
    AvgPool: _pool,
    Add: _add,
    And: _and,
    Concat: _concat,
    Unsqueeze: _unsqueeze,
    Flatten: _flatten,
    Repeat: _repeat,
}
