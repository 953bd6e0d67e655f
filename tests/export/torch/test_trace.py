"""Torch network -> graph: whatever way it takes its timesteps, the same numbers; what has no place is refused."""

import re

import pytest
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from spiketicket.errors import ModelError
from spiketicket.export.torch.rules.modules import find_rule
from spiketicket.export.torch.trace import trace
from spiketicket.export.torch.traced import LeadingDims
from spiketicket.graph import Add, And, Concat, Conv, Lif, Linear, Repeat
from spiketicket.train.networks.config import ModelConfig, NeuronConfig
from spiketicket.train.networks.layers import Repeat as RepeatLayer
from spiketicket.train.networks.layers import conv, lif
from spiketicket.train.networks.models import build
from spiketicket.train.networks.norms import TimestepBatchNorm2d
from tests.support.traced_networks import T, assert_same, listed, sj, small, with_active_neurons


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


NEURONS = [
    (neuron.LIFNode, {}),
    (neuron.LIFNode, {"tau": 3.0, "decay_input": False, "v_threshold": 0.7, "v_reset": None}),
    (neuron.LIFNode, {"tau": 1.5, "v_threshold": 0.5, "v_reset": -0.2}),
    (neuron.IFNode, {}),
    (neuron.IFNode, {"v_threshold": 1.3, "v_reset": None}),
    (neuron.IFNode, {"v_reset": 0.1}),
    (neuron.ParametricLIFNode, {"init_tau": 1.7}),
    (neuron.ParametricLIFNode, {"init_tau": 2.5, "decay_input": False, "v_reset": None}),
]


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize(("node", "kwargs"), NEURONS)
def test_neurons_in_both_step_modes(node, kwargs, mode, timed):
    graph, calls = assert_same(sj(*small(node, **kwargs), mode=mode), (2, 8, 8), timed=timed)
    assert calls.per_step == (mode == "s") and calls.repeated == (mode == "m" and not timed)
    assert sum(isinstance(n, Repeat) for n in graph.nodes) == (0 if timed else 1) and graph.timed_input == timed
    assert sum(isinstance(n, Conv | Linear) for n in graph.nodes) == 3, "batch norm is folded"


def test_what_is_the_same_at_every_timestep_is_computed_once():
    graph, _ = assert_same(sj(*small(), mode="m"), (2, 8, 8))
    assert [type(node).__name__ for node in graph.nodes[:3]] == ["Conv", "Repeat", "Lif"]


class Loop(nn.Module):
    """As many training scripts are written: single-step neurons in a loop over the timesteps."""

    def __init__(self, result, timed=False):
        super().__init__()
        self.conv, self.norm, self.fire = nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), neuron.LIFNode()
        self.conv2, self.norm2, self.fire2 = nn.Conv2d(5, 6, 3, stride=2), nn.BatchNorm2d(6), neuron.IFNode()
        self.fc = nn.Linear(6 * 9, 4)
        self.result, self.timed = result, timed

    def forward(self, x):
        static = None if self.timed else self.norm(self.conv(x))
        out = []
        for t in range(T):
            y = self.fire(self.norm(self.conv(x[t])) if self.timed else static)
            y = self.fire2(self.norm2(self.conv2(y)))
            out.append(self.fc(y.view(y.size(0), -1)))
        if self.result == "list":
            return out
        return torch.stack(out) if self.result == "stack" else torch.stack(out).mean(0)


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("result", ["list", "stack", "mean"])
def test_a_loop_over_timesteps_is_one_computation(result, timed):
    graph, calls = assert_same(with_active_neurons(Loop(result, timed)), (2, 8, 8), timed=timed)
    assert not calls.per_step and len(graph.nodes) == (6 if timed else 7)


class Repeating(nn.Module):
    """Multi-step layers behind a repetition of the image."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.rest = sj(*small(), mode="m")
        self.repeat = RepeatLayer(T)

    def forward(self, x):
        if self.how == "repeat":
            x = x.unsqueeze(0).repeat(T, 1, 1, 1, 1)
        elif self.how == "repeat of one":
            x = x.repeat(T, 1, 1, 1, 1)
        elif self.how == "expand":
            x = x.unsqueeze(0).expand(T, -1, -1, -1, -1)
        elif self.how == "stack":
            x = torch.stack([x] * T)
        else:
            x = self.repeat(x)
        return self.rest(x).mean(0)


@pytest.mark.parametrize("how", ["repeat", "repeat of one", "expand", "stack", "layer"])
def test_a_network_that_repeats_its_input(how):
    _, calls = assert_same(Repeating(how).eval(), (2, 8, 8))
    assert not calls.repeated and calls.output is LeadingDims.MEAN


@pytest.mark.parametrize("mode", ["s", "m"])
def test_containers_of_spikingjelly(mode):
    network = with_active_neurons(
        nn.Sequential(
            layer.SeqToANNContainer(nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5)),
            layer.MultiStepContainer(neuron.LIFNode()),
            layer.StepModeContainer(False, mode, nn.Flatten(), nn.Linear(5 * 64, 6)),
            neuron.LIFNode(step_mode="m"),
        )
        if mode == "m"
        else nn.Sequential(
            layer.StepModeContainer(False, mode, nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5)),
            layer.StepModeContainer(True, mode, neuron.LIFNode()),
            nn.Flatten(),
            nn.Linear(5 * 64, 6),
            neuron.LIFNode(),
        )
    )
    graph, _ = assert_same(network, (2, 8, 8))
    assert len(graph.nodes) == 6


class Joined(nn.Module):
    """Residual, concatenation, gates, views and functional layers."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 6, 3, padding="same", bias=False), nn.Conv2d(2, 6, 1, padding="valid")
        self.na, self.fa, self.fb, self.fc = nn.BatchNorm2d(6), neuron.LIFNode(), neuron.LIFNode(), neuron.LIFNode()
        self.both, self.fd = nn.Conv2d(18, 4, 3, groups=2, dilation=(1, 2)), neuron.LIFNode()
        self.out = nn.Linear(24, 3)

    def forward(self, x):
        a, b = self.fa(self.na(self.a(x))), self.fb(self.b(x))
        c = torch.cat([a, self.fc(a + b), b * (1 - a)], dim=1)
        y = self.fd(self.both(c))
        y = F.dropout(F.avg_pool2d(F.max_pool2d(y, 2), 1), training=False)
        return self.out(torch.flatten(y, 1))


def test_joins_and_functional_layers():
    graph, _ = assert_same(with_active_neurons(Joined()), (2, 8, 9))
    assert {type(node) for node in graph.nodes} >= {Add, And, Concat}


class Sequences(nn.Module):
    """Time folded into the batch by hand, and batch norm that is shared or cannot be folded."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.fire, self.fire2 = neuron.LIFNode(step_mode="m"), neuron.LIFNode(step_mode="m")
        self.fc, self.norm1 = nn.Linear(4 * 36, 5), nn.BatchNorm1d(5)

    def forward(self, x):
        steps, batch = x.shape[0], x.shape[1]
        y = self.conv(x.flatten(0, 1))
        y = self.norm(y) + self.other(y)
        y = self.fire(y.view(steps, batch, *y.shape[1:]))
        y = self.fc(y.reshape(x.size(0) * x.size(1), -1))
        y = self.norm1(y).unflatten(0, (steps, y.shape[0] // steps))
        return self.fire2(y).mean(dim=0)


def test_folded_time_and_batch_norm_in_two_places():
    graph, _ = assert_same(with_active_neurons(Sequences()), (2, 8, 8))
    assert sum(isinstance(node, Conv) for node in graph.nodes) == 3, "two batch norms read one convolution"
    assert sum(isinstance(node, Linear) for node in graph.nodes) == 1


@pytest.mark.parametrize("mode", ["s", "m"])
def test_signals_of_one_dimension(mode):
    network = sj(
        layer.Conv1d(3, 6, 5, stride=2, padding=2, dilation=1),
        layer.BatchNorm1d(6),
        neuron.LIFNode(),
        layer.MaxPool1d(2),
        layer.Conv1d(6, 6, 3, padding=1, groups=3),
        neuron.IFNode(),
        layer.AvgPool1d(3, 2, 1),
        layer.AdaptiveAvgPool1d(2),
        layer.Flatten(),
        layer.Linear(12, 4),
        mode=mode,
    )
    assert_same(network, (3, 33))


POOLINGS = [
    nn.MaxPool2d(3, 2, 1),
    nn.MaxPool2d(2, ceil_mode=True),
    nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    nn.MaxPool2d((2, 3), (1, 2)),
    nn.AvgPool2d(2),
    nn.AvgPool2d(3, 2, 1),
    nn.AvgPool2d(2, divisor_override=3),
    nn.AdaptiveAvgPool2d(1),
    nn.AdaptiveAvgPool2d((3, None)),
    nn.AdaptiveMaxPool2d((3, 3)),
    nn.AdaptiveAvgPool2d((4, 2)),
    nn.AdaptiveAvgPool2d((12, 11)),
]


@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
def test_poolings(pooling):
    network = nn.Sequential(nn.Conv2d(2, 3, 1), neuron.LIFNode(), pooling, nn.Flatten(), nn.LazyLinear(4))
    network[-1].eval()
    functional.reset_net(network)
    with torch.no_grad():
        network(torch.zeros(1, 2, 9, 9))
    functional.reset_net(network)
    assert_same(with_active_neurons(network), (2, 9, 9))


def test_batch_norm_folds_into_weight_and_bias():
    module = with_active_neurons(
        nn.Sequential(
            RepeatLayer(3),
            conv(2, 4, 3, bias=True),
            TimestepBatchNorm2d(4),
            lif(NeuronConfig()),
            layer.Flatten(step_mode="m"),
            layer.Linear(64, 3, step_mode="m"),
        )
    )
    folded = next(node for node in trace(module, (2, 4, 4), 3).nodes if isinstance(node, Conv))
    x = torch.randn(5, 2, 4, 4)
    with torch.no_grad():
        expected = module[2](module[1](x[None]))[0]
        got = torch.conv2d(x, torch.from_numpy(folded.weight.to_dense()), torch.from_numpy(folded.bias), padding=1)
    assert torch.allclose(got, expected, atol=1e-5)


def test_batch_norm_before_any_weight_is_a_layer_of_its_own():
    network = with_active_neurons(
        nn.Sequential(nn.BatchNorm2d(2), neuron.LIFNode(), nn.Flatten(), nn.BatchNorm1d(32), nn.Linear(32, 3))
    )
    graph, _ = assert_same(network, (2, 4, 4))
    assert [n.group for n in graph.nodes if isinstance(n, Conv)] == [2]


def test_pruned_weights_are_not_stored():
    model = build(ModelConfig("vgg16", 3, 32, 10, width=0.1)).eval()
    with torch.no_grad():
        model.features[1].weight[:, 1:] = 0
    first = next(node for node in trace(model, (3, 32, 32), 5).nodes if node.name == "features.1")
    assert first.weight.nnz == model.features[1].weight[:, :1].numel()


def test_residual_network():
    model = build(ModelConfig("resnet19", 3, 32, 10, width=0.1, timesteps=4)).eval()
    graph = trace(model, (3, 32, 32), 4, metadata={"k": "v"})
    kinds = [type(node) for node in graph.nodes]
    assert kinds.count(Add) == 8 and kinds.count(Conv) == 20 and kinds.count(Lif) == 18
    assert graph.timesteps == 4 and graph.classes == 10 and graph.metadata == {"k": "v"}


def test_behaviour_is_not_taken_over_from_a_base_class():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    class Named(nn.Linear):
        def __init__(self):
            super().__init__(3, 2)

    assert find_rule(Named()) is find_rule(nn.Linear(3, 2)) is not None
    assert find_rule(Doubled(3, 2)) is None and find_rule(neuron.ILIFNode()) is None
    assert find_rule(layer.WSConv2d(2, 2, 3)) is None


class Wrong(nn.Module):
    def __init__(self, forward, *modules):
        super().__init__()
        self.m = nn.ModuleList(modules)
        self._forward = forward

    def forward(self, x):
        return self._forward(self.m, x)


REFUSALS = [
    (lambda: listed(neuron.LIFNode()).train(), "training mode: call network.eval()"),
    (lambda: listed(nn.ReLU()), r"0 (ReLU, input [2, 4, 4]): not a spiking layer"),
    (lambda: listed(nn.GroupNorm(1, 2)), "0 (GroupNorm, input [2, 4, 4]): its statistics depend on the input"),
    (lambda: listed(neuron.ILIFNode()), "only LIFNode, IFNode and ParametricLIFNode"),
    (lambda: listed(nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")), "padding_mode='circular'"),
    (lambda: listed(nn.MaxPool2d(3, 1, 1, dilation=2)), "with dilation"),
    (lambda: listed(nn.AvgPool2d(3, 1, 1, count_include_pad=False)), "count differently at the border"),
    (lambda: listed(nn.BatchNorm2d(2, track_running_stats=False)), "without running statistics"),
    (lambda: listed(nn.Flatten(2)), "flattens dimensions 2 to -1"),
    (
        lambda: listed(nn.Linear(4, 4)),
        "0 (Linear, input [2, 4, 4]): a Linear takes features [F], gets [2, 4, 4]: put a Flatten",
    ),
    (lambda: listed(nn.Conv2d(3, 2, 1)), "0 (Conv2d, input [2, 4, 4]): weight [2, 3, 1, 1] in 1 groups does not fit 2"),
    (lambda: listed(nn.AdaptiveMaxPool2d(3)), "the image must divide evenly"),
    (lambda: listed(), "no spiking neuron"),
    (lambda: Wrong(lambda m, x: x * 2), "products are exported of spikes with spikes"),
    (lambda: Wrong(lambda m, x: torch.relu(x)), "operation relu): not a spiking layer"),
    (lambda: Wrong(lambda m, x: m[0](x) if x.max() > 0 else x, neuron.LIFNode()), "operation max)"),
    (
        lambda: Wrong(lambda m, x: m[0](x.view(x.shape[0] + 0, -1)), neuron.LIFNode()),
        "cannot be followed: it computes with the batch size",
    ),
    (lambda: Wrong(lambda m, x: m[0](m[0](x).flatten(1)), neuron.LIFNode()), "is used in two places"),
    (lambda: Wrong(lambda m, x: m[0](x).view(8, -1), neuron.LIFNode()), "reshapes [N, 2, 4, 4] to [8, -1]"),
    (
        lambda: Wrong(lambda m, x: [m[0](x.flatten(1)) for _ in range(3)], neuron.LIFNode()),
        "runs 3 timesteps by itself",
    ),
    (lambda: Wrong(lambda m, x: x.unsqueeze(0).repeat(7, 1, 1, 1, 1)), "only 4 timesteps along dimension 0"),
    (
        lambda: Wrong(lambda m, x: m[1](m[0](x)), RepeatLayer(3), neuron.LIFNode(step_mode="m")),
        "repeats by [3, 1, 1, 1, 1]",
    ),
    (
        lambda: Wrong(lambda m, x: m[0](x).sum(0), neuron.LIFNode(step_mode="m")),
        "returns the sum of its logits over time",
    ),
    (lambda: Wrong(lambda m, x: torch.cat([m[0](x)] * 2, 2), neuron.LIFNode()), "only along channels"),
    (lambda: Wrong(lambda m, x: (m[0](x), x), neuron.LIFNode()), "must return one tensor of logits"),
]


@pytest.mark.parametrize(("make", "message"), REFUSALS)
def test_refusals(make, message):
    with pytest.raises(ModelError, match="|".join(map(re.escape, message.split("|")))):
        trace(make().eval() if "training" not in message else make(), (2, 4, 4), T)


def test_all_problems_are_listed_at_once():
    network = listed(nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1), nn.LayerNorm(4), neuron.LIFNode(), nn.Softmax(1))
    with pytest.raises(ModelError) as caught:
        trace(network, (2, 4, 4), T)
    lines = str(caught.value).split("\n  ")
    assert [line.split(":")[0] for line in lines[1:]] == [
        "0 (ReLU, input [2, 4, 4])",
        "2 (LayerNorm, input [2, 4, 4])",
        "4 (Softmax, input [2, 4, 4])",
    ]


def test_shapes_of_signals_are_those_of_torch():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fire, self.out = nn.Conv1d(3, 4, 3), neuron.LIFNode(), nn.Linear(24, 2)

        def forward(self, x):
            y = self.fire(self.conv(x))
            assert y.dim() == 3 and y.shape[1:] == (4, 6)
            return self.out(y.view(y.shape[0], y.shape[1] * y.shape[2]))

    assert_same(with_active_neurons(Net()), (3, 8))


def test_nan_weights_are_refused():
    network = sj(*small(), mode="s")
    with torch.no_grad():
        network[0].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"0 \(Conv2d, input \[2, 8, 8\]\): weights hold NaN or infinity"):
        trace(network, (2, 8, 8), T)


def test_a_parameter_of_its_own_for_every_neuron_is_refused():
    node = neuron.LIFNode()
    node.v_threshold = torch.ones(2, 4, 4)
    with pytest.raises(ModelError, match="v_threshold differs from neuron to neuron"):
        trace(listed(node), (2, 4, 4), T)
