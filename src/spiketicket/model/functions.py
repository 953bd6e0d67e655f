"""The standard-ONNX bodies of the domain's operators.

An engine that does not know `ai.spiketicket` inlines these. All of the CSR decoding depends on
initializers alone, so onnxruntime folds it to a dense weight when it loads the file.
"""

import onnx
import onnx.parser

from spiketicket.model.names import (
    AND,
    AND_NOT,
    DOMAIN,
    HARD_RESET,
    LI,
    LI_STEP,
    LIF,
    LIF_STEP,
    OPSET,
    REPEAT,
    SCALED,
    SOFT_RESET,
    SPARSE_CONV,
    SPARSE_LINEAR,
)

DENSE_CONV = "DenseConv"
DENSE_LINEAR = "DenseLinear"

# The row of each nonzero: count how many rows start at its position, and take the cumulative sum. Rows without a
# nonzero start at the same position as the next, hence the scatter that adds. This is O(nnz) at any density.
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
  WEIGHTS
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

_SCALE = """
  scale_of = Gather (scales, row)
  values_float = Cast <to: int = 1> (values)
  weights = Mul (values_float, scale_of)
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

# u is the potential above rest, and becomes u_next. The equations are those of spiketicket.graph.Lif and Li.
_FIRE = """
    kept = Mul (u, keep)
    driven = Mul (x, gain)
    h = Add (kept, driven)
    fired = GreaterOrEqual (h, level)
    s = Cast <to: int = 1> (fired)
    after = RESET
    u_next = Where (fired, after, h)
"""

_INTEGRATE = """
    kept = Mul (u, keep)
    driven = Mul (x, gain)
    u_next = Add (kept, driven)
"""

_LEVEL = """
  threshold = Constant <value_float: float = @v_threshold> ()
  level = Sub (threshold, rest)
"""

_LIF = """
  state_shape = Shape <start: int = 1> (X)
  u_first = ConstantOfShape (state_shape)
  u_last, S = Scan <num_scan_inputs: int = 1, body: graph = step (float[] u, float[] x) =>
                    (float[] u_next, float[] s) {FIRE  }> (u_first, X)
""".replace("FIRE", _FIRE)

# X is made [T, -1] first: onnxruntime's Scan has to know the rank of its state, which it does not behind an operator of
# a library.
_LI = """
  flat = Constant <value = int64[2] {0, -1}> ()
  currents = Reshape (X, flat)
  state_shape = Shape <start: int = 1> (currents)
  u_first = ConstantOfShape (state_shape)
  u_last, potentials = Scan <num_scan_inputs: int = 1, body: graph = step (float[] u, float[] x) =>
                             (float[] u_next, float[] v) {INTEGRATE    v = Identity (u_next)
  }> (u_first, currents)
  shape = Shape (X)
  V = Reshape (potentials, shape)
""".replace("INTEGRATE", _INTEGRATE)

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

# Overload: its attributes, the constants it makes of them, and the potential after a spike.
_RESETS = {
    HARD_RESET: (
        "v_reset",
        "  rest = Constant <value_float: float = @v_reset> ()\n",
        "Constant <value_float: float = 0.0> ()",
    ),
    SOFT_RESET: (
        "v_drop",
        "  rest = Constant <value_float: float = 0.0> ()\n  drop = Constant <value_float: float = @v_drop> ()\n",
        "Sub (h, drop)",
    ),
}

_CONV_ATTRIBUTES = "strides, pads, dilations, group"


def functions(opset: int = OPSET) -> dict[tuple[str, str], onnx.FunctionProto]:
    """Return all operators of the domain by (name, overload), including the dense ones for the export of plain ONNX."""

    def parse(
        name: str, attributes: str, inputs: str, outputs: str, body: str, overload: str = ""
    ) -> onnx.FunctionProto:
        tag = f', overload: "{overload}"' if overload else ""
        declared = f"<{attributes}>" if attributes else ""
        return onnx.parser.parse_function(
            f'<opset_import: ["" : {opset}], domain: "{DOMAIN}"{tag}>\n'
            f"{name} {declared} ({inputs}) => ({outputs}) {{{body}}}"
        )

    csr, decode = (
        "X, values, indices, indptr, bias",
        _DECODE.replace("WEIGHTS", "weights = Cast <to: int = 1> (values)"),
    )
    scaled = _DECODE.replace("WEIGHTS", _SCALE)
    convolution, linear, leak = f"weight_shape, {_CONV_ATTRIBUTES}", "weight_shape", "tau, decay_input"
    every = [
        parse(SPARSE_CONV, convolution, csr, "Y", decode + _CONV),
        parse(SPARSE_LINEAR, linear, csr, "Y", decode + _LINEAR),
        parse(SPARSE_CONV, convolution, f"{csr}, scales", "Y", scaled + _CONV, SCALED),
        parse(SPARSE_LINEAR, linear, f"{csr}, scales", "Y", scaled + _LINEAR, SCALED),
        parse(LI, leak, "X", "V", _LEAK + _LI),
        parse(LI_STEP, leak, "x, u", "v, u_next", _LEAK + _INTEGRATE + "v = Identity (u_next)\n"),
        parse(AND, "", "A, B", "Y", _AND),
        parse(AND_NOT, "", "A, B", "Y", _AND_NOT),
        parse(REPEAT, "", "X, timesteps", "Y", _REPEAT),
        parse(DENSE_CONV, _CONV_ATTRIBUTES, "X, W, bias", "Y", _CONV),
        parse(DENSE_LINEAR, "", "X, W, bias", "Y", _LINEAR),
    ]
    for overload, (attributes, constants, after) in _RESETS.items():
        declared, before = f"v_threshold, {attributes}, {leak}", _LEAK + constants + _LEVEL
        every.append(parse(LIF, declared, "X", "S", before + _LIF.replace("RESET", after), overload))
        every.append(parse(LIF_STEP, declared, "x, u", "s, u_next", before + _FIRE.replace("RESET", after), overload))
    return {(function.name, function.overload): function for function in every}
