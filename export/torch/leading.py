"""What stands before a layer's own shape in its input, and whether the layer can take it."""

from spikingjelly.activation_based import base, layer
from torch import nn

from spiketicket.errors import ModelError
from spiketicket.export.torch.rules.modules import is_linear, is_neuron
from spiketicket.export.torch.traced import LeadError, LeadingDims, Traced
from spiketicket.train.networks import layers, norms

# Modules that take whatever stands before the shape.
ANY_LEAD = (nn.Linear, nn.Identity, nn.modules.dropout._DropoutNd, layer.Dropout, nn.Flatten, layers.Repeat)


def leading_dims(module: nn.Module, x: Traced) -> LeadingDims:
    """Checks what stands before the input's shape; modules leave it as it is."""
    if x.inverted:
        raise ModelError("gets 1 - spikes, which only a product can take")
    if x.lead is LeadingDims.MEAN and is_linear(module) and getattr(module, "step_mode", "s") == "s":
        return x.lead  # the mean of what it makes of every timestep
    if isinstance(module, ANY_LEAD) and x.lead not in (LeadingDims.MEAN, LeadingDims.SUM):
        return x.lead
    if isinstance(module, norms.TimestepBatchNorm2d) and not isinstance(module, norms.StaticBatchNorm2d):
        return _need(x, LeadingDims.TIME).lead
    if isinstance(module, base.StepModule) and module.step_mode == "m":
        return _need(x, LeadingDims.TIME, " in multi-step mode").lead
    if is_neuron(module):
        return _need(x, LeadingDims.BATCH, " in single-step mode").lead
    if x.lead not in (LeadingDims.BATCH, LeadingDims.FOLDED):
        _need(x, LeadingDims.BATCH, "")
    return x.lead


def _need(x: Traced, lead: LeadingDims, mode: str = "") -> Traced:
    if x.lead is not lead:
        raise LeadError(f"takes {lead.value}{mode}, gets {x}")
    return x
