"""The styles in which forward passes are written: read rightly, or refused."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

from spiketicket.errors import ModelError
from spiketicket.export.check.agreement import compare
from spiketicket.export.torch.original import run_torch
from spiketicket.export.torch.trace import trace, trace_calls
from spiketicket.export.torch.traced import LeadingDims
from spiketicket.runtime.engine import Trace
from tests.support.graphs import oracle
from tests.support.traced_networks import T, listed, with_active_neurons


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


class Style(nn.Module):
    """A convolution, its neuron and a Linear, called by `forward(self, x)`."""

    def __init__(self, forward, mode="s"):
        super().__init__()
        self.c, self.n, self.l = layer.Conv2d(2, 4, 3, padding=1), layer.BatchNorm2d(4), neuron.LIFNode()
        self.d, self.m, self.f = layer.Conv2d(4, 4, 1), neuron.IFNode(), nn.Linear(4 * 36, 3)
        self.q, self.empty = nn.Sequential(layer.Conv2d(4, 4, 1), neuron.LIFNode(), nn.Flatten()), nn.Sequential()
        self.d2 = layer.Conv2d(2, 2, 1)
        self.logits, self.input, self.add = nn.Linear(3, 3), neuron.IFNode(), neuron.IFNode()
        self._forward = forward
        functional.set_step_mode(self, mode)

    def forward(self, x):
        return self._forward(self, x)


def fire(s, x):
    return s.l(s.n(s.c(x)))


def read_out(s, x):
    return s.f(s.m(s.d(x)).flatten(1))


def accumulated(s, x):
    total = 0.0
    for _ in range(T):
        total += read_out(s, fire(s, x))
    return total / T


def divided(s, x):
    out = torch.stack([read_out(s, fire(s, x)) for _ in range(T)]).sum(0)
    out /= T
    return out


def in_place(s, x):
    y = fire(s, x)
    kept = y
    y += s.q[:2](y)
    return s.f((s.m(y + kept)).flatten(1))


def in_place_method(s, x):
    y = s.d(fire(s, x))
    y.add_(s.q[0](fire_of(s, y)))
    return s.f(s.m(y).flatten(1))


def fire_of(s, y):
    return s.q[1](y)


STYLES = {
    "sum over a loop": accumulated,
    "sum, divided in place": lambda s, x: divided(s, x),
    "sum of a list": lambda s, x: sum([read_out(s, fire(s, x)) for _ in range(T)]) / T,
    "stack, sum": lambda s, x: torch.stack([read_out(s, fire(s, x)) for _ in range(T)]).sum(0) / T,
    "cat of unsqueezed": lambda s, x: torch.cat([read_out(s, fire(s, x)).unsqueeze(0) for _ in range(T)]),
    "keyword arguments": lambda s, x: s.f(input=s.m(x=s.d(x=fire(s, x))).flatten(1)),
    "part of a Sequential": lambda s, x: s.f(s.q[2](s.q[:2](fire(s, x)))),
    "an empty Sequential as shortcut": lambda s, x: read_out(s, s.empty(fire(s, x))),
    "in place": in_place,
    "in place, by method": in_place_method,
    "shapes": lambda s, x: s.f(s.m(s.d(fire(s, x))).view(x.shape[0], *[4 * x.shape[2] * x.size(3)])),
    "names of the file's own": lambda s, x: s.logits(s.add(s.input(s.f(fire(s, x).flatten(1))) + 0)),
    "on another device, as float": lambda s, x: read_out(s, fire(s, x.to(x.device).float())),
    "dropout outside training": lambda s, x: read_out(s, F.dropout(fire(s, x), 0.5, s.training)),
}


@pytest.mark.parametrize("style", STYLES)
def test_styles(style):
    assert_alike(with_active_neurons(Style(STYLES[style])))


def assert_alike(network, timed=False):
    """As `assert_same`, whatever the spikes are like."""
    graph, calls = trace_calls(network, (2, 6, 6), T, timed=timed)
    x = np.random.default_rng(0).standard_normal((T, 3, 2, 6, 6) if timed else (3, 2, 6, 6)).astype(np.float32)
    got, wanted = run_torch(network, calls, x, T, timed), oracle(graph, x, T)
    logits = wanted.logits_t if calls.output is not LeadingDims.MEAN else wanted.logits_t.mean(axis=0, keepdims=True)
    compare("torch", got, "reference", Trace(wanted.spikes, logits)).require_exact()
    return calls


MULTI_STEP_STYLES = {
    "x[None]": lambda s, x: s.l(s.n(s.c(x[None].expand(T, -1, -1, -1, -1)))).flatten(2),
    "the mean of images, then a Linear": lambda s, x: s.q[2](fire(s, x.repeat(T, 1, 1, 1, 1)).mean(0)),
    "iterated": lambda s, x: torch.stack([y.flatten(1) for y in fire(s, x.unsqueeze(0).repeat(T, 1, 1, 1, 1))]),
}


@pytest.mark.parametrize("style", MULTI_STEP_STYLES)
def test_multi_step_styles(style):
    assert_alike(with_active_neurons(Style(MULTI_STEP_STYLES[style], "m")))


def test_frames_in_order():
    assert_alike(
        with_active_neurons(Style(lambda s, x: [read_out(s, fire(s, x[t])) for t in range(x.shape[0])])), timed=True
    )


STYLES_REFUSED = {
    "one frame always": (lambda s, x: [read_out(s, fire(s, x[0])) for _ in range(T)], "gets timestep 0 in its call 1"),
    "frames backwards": (
        lambda s, x: [read_out(s, fire(s, x[-1 - t])) for t in range(T)],
        "gets timestep 3 in its call 0",
    ),
    "outputs backwards": (lambda s, x: [read_out(s, fire(s, x[t])) for t in range(T)][::-1], "in their order"),
    "neighbours": (lambda s, x: [s.c(x[t]) + s.c(x[max(t - 1, 0)]) for t in range(T)], "combines tensors of different"),
    "the last": (lambda s, x: [read_out(s, fire(s, x[t])) for t in range(T)][-1], "expected logits of every timestep"),
    "values": (lambda s, x: fire(s, x) if x[0].max() > 0 else x, "operation max"),
    "the batch": (lambda s, x: fire(s, x[0]) if x.shape[1] > 4 else x, "computes with the batch size"),
    "dropout": (lambda s, x: [read_out(s, F.dropout(fire(s, x[t]))) for t in range(T)], "training=self.training"),
    "unknown errors": (lambda s, x: 1 // 0, "cannot be followed: ZeroDivisionError"),
    "a product of means": (lambda s, x: x.mean(0) * x.mean(0), "gets the mean over T"),
    "a view changed": (
        lambda s, x: change_view(fire(s, x[0])),
        "changes a tensor in place that another tensor is a view of",
    ),
}


def change_view(y):
    flat = y.flatten(1)
    flat += flat
    return y


@pytest.mark.parametrize("style", STYLES_REFUSED)
def test_styles_that_are_refused(style):
    forward, message = STYLES_REFUSED[style]
    with pytest.raises(ModelError) as caught:
        trace(Style(forward).eval(), (2, 6, 6), T, timed=True)
    assert message in str(caught.value)


def test_comparing_the_number_of_timesteps_is_noted():
    plain, compared = (
        trace_calls(Style(f, "m").eval(), (2, 6, 6), T, timed=True)[1]
        for f in (lambda s, x: fire(s, x).flatten(2), lambda s, x: (fire(s, x) if x.shape[0] > 2 else x).flatten(2))
    )
    assert compared.depends_on_timesteps and not plain.depends_on_timesteps


@pytest.mark.parametrize("odd", [lambda x: x.shape[0] % 2, lambda x: len(x) > T])
def test_what_depends_on_the_number_of_timesteps_is_noted(odd):
    network = Style(lambda s, x: fire(s, s.d2(x) if odd(x) else x).flatten(2), "m").eval()
    assert trace_calls(network, (2, 6, 6), T, timed=True)[1].depends_on_timesteps


def test_functional_layers_in_a_loop_are_one_computation():
    assert_alike(
        with_active_neurons(
            Style(lambda s, x: [s.f(s.m(F.avg_pool2d(s.d(fire(s, x)), 3, 1, 1)).flatten(1)) for _ in range(T)])
        )
    )


def test_other_types_are_refused():
    with pytest.raises(ModelError, match=r"converts to torch.int32"):
        trace(Style(lambda s, x: read_out(s, fire(s, x.to(torch.int32)))).eval(), (2, 6, 6), T)


def test_a_start_other_than_the_reset_is_refused():
    node = neuron.LIFNode(v_reset=0.0)
    node.v_reset = -0.5
    with pytest.raises(ModelError, match="its potential starts at 0.0, expected -0.5"):
        trace(listed(node), (2, 4, 4), T)


def test_a_surrogate_that_is_no_step_is_refused():
    node = neuron.LIFNode(surrogate_function=surrogate.Sigmoid(spiking=False))
    with pytest.raises(ModelError, match="surrogate_function is no step function"):
        trace(listed(node), (2, 4, 4), T)
