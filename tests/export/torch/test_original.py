"""What an export leaves as it was, and what it refuses because a trace of the forward pass does not see it."""

import copy
import warnings

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, neuron
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from spiketicket.errors import InputError, ModelError, SpikeTicketError
from spiketicket.export import export
from spiketicket.runtime import Session

T = 3


class Net(nn.Module):
    """Two linear layers, of which `act` is called with the network and what the neuron gives."""

    def __init__(self, act=lambda net, y: y):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.fire, self.b = nn.Linear(6, 6), neuron.LIFNode(v_threshold=0.2), nn.Linear(6, 6)
        self.register_buffer("seen", torch.zeros(2))
        self.steps, self.kept, self.nested, self.plain = 0, [], {"rows": []}, torch.zeros(1)
        self.act = act

    def forward(self, x):
        return self.b(self.act(self, self.fire(self.a(x))))


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)


def count(net, y):
    net.steps += 1
    net.seen[0] += 1
    net.plain += 1
    net.seen = net.seen + 1
    net.kept.append(3)
    net.nested["rows"].append(net.steps)
    net.new = True
    return y


@pytest.mark.parametrize("fails", [False, True])
def test_what_a_forward_pass_changes_is_restored(x, tmp_path, fails):
    net = Net(count)
    kept, seen = net.kept, net.seen
    if fails:
        net.b = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
        with pytest.raises(ModelError, match="ReLU"):
            export(net, x, T, tmp_path / "m.onnx")
    else:
        export(net, x, T, tmp_path / "m.onnx")
    assert net.kept is kept and net.seen is seen and not hasattr(net, "new")
    assert (net.steps, net.kept, net.nested, net.plain) == (0, [], {"rows": []}, 0)
    assert not net.seen.any() and net.training and net.fire.v == 0


def keep_one(net, y):
    net.plain = y
    return y


KEPT = [
    (keep_one, "a forward pass, in the network.plain: return them"),
    (lambda net, y: net.kept.append(y) or y, "in the network.kept"),
    (lambda net, y: net.nested["rows"].append({"y": y}) or y, "in the network.nested"),
    (lambda net, y: net.a.__dict__.update(last=(y,)) or y, "in a.last"),
]


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(("act", "message"), KEPT)
def test_kept_tensors_are_refused(x, tmp_path, act, message, check):
    net = Net(act)
    with pytest.raises(ModelError, match=message):
        export(net, x, T, tmp_path / "m.onnx", check=check)
    assert (net.kept, net.nested, net.plain) == ([], {"rows": []}, 0) and not hasattr(net.a, "last")


def test_a_tied_parameter_is_masked_and_restored_once(x, tmp_path):
    net = Net()
    net.b.weight = net.a.weight
    before = net.a.weight.detach().clone()
    mask = (torch.rand(6, 6) < 0.5).float()
    result = export(net, x, T, tmp_path / "m.onnx", {"a.weight": mask, "b.weight": mask})
    assert [node.weight.nnz for node in result.graph.weighted()] == [int(mask.sum())] * 2
    assert net.b.weight is net.a.weight and torch.equal(net.a.weight, before)


def ran(net):
    with torch.no_grad():
        net(torch.zeros(1, 6))


def preset(net):
    net.fire.v = 0.7


@pytest.mark.parametrize("disturb", [ran, preset])
def test_a_refusal_leaves_the_state_of_neurons(x, tmp_path, disturb):
    net = Net()
    disturb(net)
    before = copy.deepcopy(net.fire.v)
    with pytest.raises(ModelError, match=r"fire \(LIFNode\): the neurons keep the state of an earlier run.*reset_net"):
        export(net, x, T, tmp_path / "m.onnx", check=False)
    assert net.fire.v is not None and np.array_equal(net.fire.v, before)
    functional.reset_net(net)
    export(net, x, T, tmp_path / "m.onnx")


def old_weight_norm(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        weight_norm(layer)


COMPUTED = {
    "prune": (lambda layer: prune.random_unstructured(layer, "weight", 0.5), "weight_orig", "weight_orig"),
    "weight_norm": (old_weight_norm, "weight_v", "weight_g and b.weight_v"),
    "spectral_norm": (spectral_norm, "weight_orig", "weight_orig"),
    "parametrized": (parametrizations.spectral_norm, "parametrizations.weight.original", "parametrizations.weight.ori"),
}


@pytest.mark.parametrize(("compute", "source", "listed"), COMPUTED.values(), ids=COMPUTED)
def test_computed_weights_are_those_of_the_present(x, tmp_path, compute, source, listed):
    """Of a state dict loaded afterwards, and of masks."""
    net = Net()
    compute(net.b)
    state = net.state_dict()
    state[f"b.{source}"] = torch.randn(6, 6)
    net.load_state_dict(state)
    before, weight, mask = copy.deepcopy(net.state_dict()), vars(net.b).get("weight"), torch.ones(6, 6)
    mask[:, 2] = 0
    result = export(net, x, T, tmp_path / "m.onnx", {f"b.{source}": mask})
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert vars(net.b).get("weight") is weight
    net.eval()
    with torch.no_grad():
        net.get_parameter(f"b.{source}").mul_(mask)
        expected = sum(net(torch.from_numpy(x)) for _ in range(T)).numpy() / T
    with Session(result.path) as session:
        assert np.allclose(session.run({"input": x})["logits"], expected, atol=1e-4)
    functional.reset_net(net)
    with pytest.raises(InputError, match=f"mask 'b.weight': this parameter is computed from b.{listed}"):
        export(net, x, T, tmp_path / "m.onnx", {"b.weight": mask})


def patched(net):
    net.a.forward = lambda x: 2 * x


def hooked(net):
    net.a.register_forward_hook(lambda module, inputs, out: 2 * out)


def hooked_before(net):
    net.b.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))


UNFIT = [
    (patched, r"a \(Linear\): its forward is replaced on the instance"),
    (hooked, r"a \(Linear\): forward hooks may change values"),
    (hooked_before, r"b \(Linear\): forward hooks may change values"),
    (lambda net: net.b.compile(), r"b \(Linear\): compiled: export the network as it was before"),
    (lambda net: setattr(net, "b", torch.compile(net.b)), r"b \(OptimizedModule\): compiled"),
    (lambda net: setattr(net, "b", torch.jit.script(net.b)), r"b \(RecursiveScriptModule\): compiled"),
    (lambda net: setattr(net, "b", nn.LazyLinear(3)), r"export.+:\n  b.weight, b.bias: without values yet"),
    (lambda net: net.a.double(), r"a.weight \(float64\), a.bias \(float64\): not float32: call network.float"),
    (lambda net: net.bfloat16(), r"b.bias \(bfloat16\), seen \(bfloat16\): not float32"),
    (lambda net: net.half(), "float16"),
    (lambda net: setattr(net, "seen", net.seen.double()), r"seen \(float64\): not float32"),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit
@pytest.mark.parametrize(("change", "message"), UNFIT)
def test_modules_that_a_trace_does_not_see_through(x, tmp_path, change, message):
    net = Net()
    change(net)
    with pytest.raises(ModelError, match=message):
        export(net, x, T, tmp_path / "m.onnx", check=False)


def test_all_of_it_is_listed_at_once(x, tmp_path):
    net = Net()
    for change in (patched, hooked, preset):
        change(net)
    with pytest.raises(SpikeTicketError) as caught:
        export(net, x, T, tmp_path / "m.onnx")
    assert len(str(caught.value).split("\n  ")) == 4
