"""Check the leading dimensions (batch, time) of a layer's input against what the layer takes."""

from spikingjelly.activation_based import base, layer
from torch import nn

from spiketicket.errors import ModelError
from spiketicket.export.torch.rules.modules import is_linear, is_neuron
from spiketicket.export.torch.traced import LeadingDims, LeadingDimsError, Traced
from spiketicket.train.networks import layers, norms

# Modules that compute the same whatever the leading dimensions are.
ANY_LEADING_DIMS = (nn.Linear, nn.Identity, nn.modules.dropout._DropoutNd, layer.Dropout, nn.Flatten, layers.Repeat)


def leading_dims(module: nn.Module, x: Traced) -> LeadingDims:
    """Return the leading dimensions of the output of `module` on `x`, which are those of `x`.

    Raises LeadingDimsError if the module does not take them, and ModelError if `x` is 1 - spikes.
    """
    if x.inverted:
        raise ModelError("gets 1 - spikes, which only a product can take")
    if x.leading is LeadingDims.MEAN and is_linear(module) and getattr(module, "step_mode", "s") == "s":
        return x.leading  # for a linear layer, the output of the mean is the mean of the outputs
    if isinstance(module, ANY_LEADING_DIMS) and x.leading not in (LeadingDims.MEAN, LeadingDims.SUM):
        return x.leading
    if isinstance(module, norms.TimestepBatchNorm2d) and not isinstance(module, norms.StaticBatchNorm2d):
        return _require_leading(x, LeadingDims.TIME).leading
    if isinstance(module, base.StepModule) and module.step_mode == "m":
        return _require_leading(x, LeadingDims.TIME, " in multi-step mode").leading
    if is_neuron(module):
        return _require_leading(x, LeadingDims.BATCH, " in single-step mode").leading
    if x.leading not in (LeadingDims.BATCH, LeadingDims.FOLDED):
        _require_leading(x, LeadingDims.BATCH, "")
    return x.leading


def _require_leading(x: Traced, leading: LeadingDims, mode: str = "") -> Traced:
    if x.leading is not leading:
        raise LeadingDimsError(f"takes {leading.value}{mode}, gets {x}")
    return x
