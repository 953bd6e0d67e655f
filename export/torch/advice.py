"""Advice for layers and operations that cannot be exported: what to use instead."""

from spikingjelly.activation_based import base
from torch import nn

NEURONS = "only LIFNode, IFNode and ParametricLIFNode are exported"

_RELU = "not a spiking layer: use a neuron in its place (spikingjelly.activation_based.ann2snn converts networks)"
_NORM = "its statistics depend on the input: train with batch norm, which is folded into the layer before it"
_SYNC = "batch norm over processes: convert it to BatchNorm2d, with its parameters and statistics, which is folded"
_UPSAMPLE = "enlarging images is not exported: use strides or pooling only"
_TRANSPOSED = "transposed convolutions are not exported"
_ATTENTION = "attention is not exported: it multiplies activations with each other"
_SOFTMAX = "return logits: softmax does not change the class"
_SUM = "the sum over time is not exported: return the mean over dimension 0, or the logits of every timestep"
_MUL = "products are exported of spikes with spikes only; put constant factors into the normalisation of the input"
_3D = "volumes are not exported: one- and two-dimensional layers only"
_MATMUL = "matrix products are exported as Linear layers only, with weights that do not depend on the input"
_ORDER = "dimensions keep their order in the graph: only flattening, and folding time into the batch"
_CHOICE = "a choice by value is not exported: take max-pooling, or products of spikes with spikes"
_SUB = "differences are exported only as 1 - spikes"
_CURVE = "functions of single values are not exported, spiking neurons in their place"

# Advice by the name of a layer's class.
_LAYERS = {
    name: text
    for text, names in (
        (
            _RELU,
            "ReLU ReLU6 LeakyReLU PReLU RReLU CELU ELU SELU GELU SiLU Mish Sigmoid Hardsigmoid Hardswish Hardtanh "
            "Tanh Softplus Threshold LogSigmoid",
        ),
        (_NORM, "LayerNorm GroupNorm RMSNorm LocalResponseNorm InstanceNorm1d InstanceNorm2d InstanceNorm3d"),
        (_SYNC, "SyncBatchNorm"),
        (_UPSAMPLE, "Upsample UpsamplingNearest2d UpsamplingBilinear2d PixelShuffle Unfold Fold"),
        (_TRANSPOSED, "ConvTranspose1d ConvTranspose2d ConvTranspose3d"),
        (_ATTENTION, "MultiheadAttention TransformerEncoderLayer TransformerDecoderLayer Transformer"),
        (_SOFTMAX, "Softmax Softmax2d LogSoftmax Softmin"),
        (_3D, "Conv3d BatchNorm3d MaxPool3d AvgPool3d AdaptiveAvgPool3d AdaptiveMaxPool3d Dropout3d"),
    )
    for name in names.split()
}

# Advice by the name of a function or tensor method, without an underscore at the end.
_OPERATIONS = {
    name: text
    for text, names in (
        (
            _RELU,
            "relu relu6 leaky_relu prelu elu selu celu gelu silu mish hardswish hardtanh sigmoid hardsigmoid tanh "
            "softplus threshold logsigmoid",
        ),
        (_NORM, "layer_norm group_norm instance_norm rms_norm local_response_norm batch_norm normalize norm std var"),
        (_UPSAMPLE, "interpolate upsample pixel_shuffle grid_sample repeat_interleave"),
        (_TRANSPOSED, "conv_transpose1d conv_transpose2d conv_transpose3d"),
        (_ATTENTION, "scaled_dot_product_attention multi_head_attention_forward"),
        (_SOFTMAX, "softmax log_softmax softmin"),
        (_SUM, "sum cumsum"),
        (_MUL, "mul imul multiply div divide truediv itruediv floordiv true_divide prod"),
        (_3D, "conv3d max_pool3d avg_pool3d adaptive_avg_pool3d adaptive_max_pool3d dropout3d"),
        (_MATMUL, "matmul imatmul mm bmm mv einsum baddbmm addmm linear bilinear dot"),
        (_ORDER, "transpose permute movedim moveaxis swapaxes swapdims t flip roll"),
        (
            _CHOICE,
            "max min amax amin maximum minimum topk sort argmax argmin where masked_fill masked_select clamp "
            "clip gather eq ne gt ge lt le",
        ),
        (_SUB, "sub isub subtract rsub neg"),
        (_CURVE, "exp log sqrt rsqrt pow ipow square abs sign sin cos floor round reciprocal"),
    )
    for name in names.split()
}


def advice(name: str, module: nn.Module | None = None) -> str:
    """Return why a layer (`module`) or the operation `name` cannot be exported, and what to use instead."""
    if isinstance(module, base.MemoryModule):
        return f"its state cannot be exported: {NEURONS}"
    if module is None:
        known = [_OPERATIONS.get(name.removesuffix("_"))]
    else:
        known = [_LAYERS.get(kind.__name__) for kind in type(module).__mro__]
    return next((text for text in known if text), "a spiking graph has no such operation")
