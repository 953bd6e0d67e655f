"""Small torch networks, and a check by the oracle that their graphs compute the same as torch."""

import numpy as np
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from spiketicket.export.check.agreement import compare
from spiketicket.export.torch.original import run_torch
from spiketicket.export.torch.trace import trace_calls
from spiketicket.export.torch.traced import LeadingDims
from spiketicket.runtime.engine import Trace
from tests.support.graphs import oracle

T = 4


def with_active_neurons(network):
    """Return the network in evaluation mode, with random batch norm and with weights that make every layer fire."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0.4, 0.3)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
            elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                nn.init.normal_(module.weight, 0.5 / fan_in, 2 / np.sqrt(fan_in))
    return network.eval()


def assert_same(network, shape, *, timed=False, batch=3, timesteps=T):
    """Assert that the oracle of the graph computes torch's spikes of every layer and logits; return graph and calls."""
    graph, calls = trace_calls(network, shape, timesteps, timed=timed)
    leading = (timesteps, batch) if timed else (batch,)
    x = np.random.default_rng(0).standard_normal((*leading, *shape)).astype(np.float32)
    got, wanted = run_torch(network, calls, x, timesteps, timed), oracle(graph, x, timesteps)
    spikes = {name: got.spikes[name].reshape(s.shape) for name, s in wanted.spikes.items()}
    logits = wanted.logits_t if calls.output is not LeadingDims.MEAN else wanted.logits_t.mean(axis=0, keepdims=True)
    agreement = compare("torch", Trace(spikes, got.logits_t), "reference", Trace(wanted.spikes, logits))
    agreement.require_exact()
    assert agreement.clean == batch and all(0 < s.mean() < 1 for s in wanted.spikes.values())
    return graph, calls


def sj(*modules, mode):
    """Return SpikingJelly's layers as a Sequential, in one step mode."""
    network = with_active_neurons(nn.Sequential(*modules))
    functional.set_step_mode(network, mode)
    return network


def small(node=neuron.LIFNode, **kwargs):
    """Return the layers of a small network with neurons of the class `node`."""
    return [
        layer.Conv2d(2, 5, 3, padding=1, bias=False),
        layer.BatchNorm2d(5),
        node(**kwargs),
        layer.MaxPool2d(2),
        layer.Dropout(0.5),
        layer.Flatten(),
        layer.Linear(5 * 16, 20),
        node(**kwargs),
        layer.VotingLayer(4),
    ]


def listed(*modules):
    """Return the modules and a readout of 32 features as a Sequential in evaluation mode."""
    return nn.Sequential(*modules, nn.Flatten(), nn.Linear(32, 3)).eval()
