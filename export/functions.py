"""The standard-ONNX bodies of the domain's operators.

An engine that does not know `ai.spiketicket` inlines these. All of the CSR decoding depends on
initializers alone, so onnxruntime folds it to a dense weight when it loads the file.
"""

import onnx
import onnx.parser

from spiketicket.domain import (
    AND,
    AND_NOT,
    DOMAIN,
    HARD_RESET,
    LI,
    LIF,
    OPSET,
    REPEAT,
    SOFT_RESET,
    SPARSE_CONV,
    SPARSE_LINEAR,
)

DENSE_CONV = "DenseConv"
DENSE_LINEAR = "DenseLinear"

# Row of each nonzero: count how many rows start at or before it (rows without a nonzero start twice
# at one place, hence the adding scatter), then cumulate. O(nnz), whatever the density.
_DECODE = """
  shape = Constant <value_ints: ints = @weight_shape> ()
  zero = Constant <value = int64[1] {0}> ()
  one = Constant <value = int64[1] {1}> ()
  last = Constant <value = int64[1] {-1}> ()
  axis = Constant <value = int64 {0}> ()
  size = ReduceProd (shape)
  rows = Gather (shape, zero)
  columns = Div (size, rows)
  inner_starts = Slice (indptr, one, last, zero)
  inner_starts_long = Cast <to: int = 7> (inner_starts)
  nonzeros = Shape (indices)
  marks_shape = Add (nonzeros, one)
  no_marks = ConstantOfShape <value = int64[1] {0}> (marks_shape)
  starts_shape = Shape (inner_starts_long)
  ones = ConstantOfShape <value = int64[1] {1}> (starts_shape)
  marks = ScatterElements <axis: int = 0, reduction: string = "add"> (no_marks, inner_starts_long, ones)
  row_of_mark = CumSum (marks, axis)
  row = Slice (row_of_mark, zero, last, zero)
  row_start = Mul (row, columns)
  column = Cast <to: int = 7> (indices)
  place = Add (row_start, column)
  no_weights = ConstantOfShape (size)
  weights = Cast <to: int = 1> (values)
  flat_weight = ScatterElements <axis: int = 0> (no_weights, place, weights)
  W = Reshape (flat_weight, shape)
"""

# Time folds into the batch: one body for static [N, C, H, W] and timed [T, N, C, H, W].
_CONV = """
  fold = Constant <value = int64[1] {-1}> ()
  leading = Shape <end: int = -3> (X)
  image = Shape <start: int = -3> (X)
  folded_shape = Concat <axis: int = 0> (fold, image)
  folded = Reshape (X, folded_shape)
  convolved = Conv <strides: ints = @strides, pads: ints = @pads, dilations: ints = @dilations,
                    group: int = @group> (folded, W, bias)
  out_image = Shape <start: int = -3> (convolved)
  out_shape = Concat <axis: int = 0> (leading, out_image)
  Y = Reshape (convolved, out_shape)
"""

_LINEAR = """
  Wt = Transpose <perm: ints = [1, 0]> (W)
  product = MatMul (X, Wt)
  Y = Add (product, bias)
"""

# What one timestep keeps of a potential and takes of a current. An infinite tau has rate 0 and keeps all of it.
_LEAK = """
  tau = Constant <value_float: float = @tau> ()
  decays = Constant <value_int: int = @decay_input> ()
  decays_bool = Cast <to: int = 9> (decays)
  one = Constant <value_float: float = 1.0> ()
  rate = Div (one, tau)
  keep = Sub (one, rate)
  gain = Where (decays_bool, rate, one)
"""

# u is the potential above rest. The equations are those of spiketicket.graph.Lif.
_LIF = """
  threshold = Constant <value_float: float = @v_threshold> ()
  level = Sub (threshold, rest)
  state_shape = Shape <start: int = 1> (X)
  u_first = ConstantOfShape (state_shape)
  u_last, S = Scan <num_scan_inputs: int = 1, body: graph = step (float[] u, float[] x) =>
                    (float[] u_next, float[] s) {
    kept = Mul (u, keep)
    driven = Mul (x, gain)
    h = Add (kept, driven)
    fired = GreaterOrEqual (h, level)
    s = Cast <to: int = 1> (fired)
    after = RESET
    u_next = Where (fired, after, h)
  }> (u_first, X)
"""

# The equations of spiketicket.graph.Li. X is made [T, -1] first: onnxruntime's Scan has to know the rank of its state,
# which it does not behind an operator of a library.
_LI = """
  flat = Constant <value = int64[2] {0, -1}> ()
  currents = Reshape (X, flat)
  state_shape = Shape <start: int = 1> (currents)
  u_first = ConstantOfShape (state_shape)
  u_last, potentials = Scan <num_scan_inputs: int = 1, body: graph = step (float[] u, float[] x) =>
                             (float[] u_next, float[] v) {
    kept = Mul (u, keep)
    driven = Mul (x, gain)
    u_next = Add (kept, driven)
    v = Identity (u_next)
  }> (u_first, currents)
  shape = Shape (X)
  V = Reshape (potentials, shape)
"""

_AND = """
  Y = Mul (A, B)
"""

_AND_NOT = """
  one = Constant <value_float: float = 1.0> ()
  silent = Sub (one, B)
  Y = Mul (A, silent)
"""

_REPEAT = """
  axis = Constant <value = int64[1] {0}> ()
  fold = Constant <value = int64[1] {1}> ()
  copies = Reshape (timesteps, fold)
  once = Unsqueeze (X, axis)
  one_shape = Shape (X)
  shape = Concat <axis: int = 0> (copies, one_shape)
  Y = Expand (once, shape)
"""

_CONV_ATTRIBUTES = "strides, pads, dilations, group"


def _parse(name: str, attributes: str, inputs: str, output: str, body: str, overload: str = "") -> onnx.FunctionProto:
    tag = f', overload: "{overload}"' if overload else ""
    declared = f"<{attributes}>" if attributes else ""
    return onnx.parser.parse_function(
        f'<opset_import: ["" : {OPSET}], domain: "{DOMAIN}"{tag}>\n'
        f"{name} {declared} ({inputs}) => ({output}) {{{body}}}"
    )


def functions() -> dict[tuple[str, str], onnx.FunctionProto]:
    """All operators of the domain by (name, overload), the dense ones for plain-ONNX export included."""
    hard = "  rest = Constant <value_float: float = @v_reset> ()\n" + _LIF.replace(
        "RESET", "Constant <value_float: float = 0.0> ()"
    )
    soft = (
        "  rest = Constant <value_float: float = 0.0> ()\n  drop = Constant <value_float: float = @v_drop> ()\n"
        + _LIF.replace("RESET", "Sub (h, drop)")
    )
    every = [
        _parse(
            SPARSE_CONV,
            f"weight_shape, {_CONV_ATTRIBUTES}",
            "X, values, indices, indptr, bias",
            "Y",
            _DECODE + _CONV,
        ),
        _parse(SPARSE_LINEAR, "weight_shape", "X, values, indices, indptr, bias", "Y", _DECODE + _LINEAR),
        _parse(LIF, "tau, v_threshold, v_reset, decay_input", "X", "S", _LEAK + hard, HARD_RESET),
        _parse(LIF, "tau, v_threshold, v_drop, decay_input", "X", "S", _LEAK + soft, SOFT_RESET),
        _parse(LI, "tau, decay_input", "X", "V", _LEAK + _LI),
        _parse(AND, "", "A, B", "Y", _AND),
        _parse(AND_NOT, "", "A, B", "Y", _AND_NOT),
        _parse(REPEAT, "", "X, timesteps", "Y", _REPEAT),
        _parse(DENSE_CONV, _CONV_ATTRIBUTES, "X, W, bias", "Y", _CONV),
        _parse(DENSE_LINEAR, "", "X, W, bias", "Y", _LINEAR),
    ]
    return {(function.name, function.overload): function for function in every}
