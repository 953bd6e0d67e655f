"""`export` of torch modules: masks, what it leaves behind, what it refuses; the files that users bring."""

import copy
import pickle
import sys

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn
from torch.nn.utils import parametrizations, prune

from spiketicket.errors import InputError, ModelError, VerificationError
from spiketicket.export import export
from spiketicket.export.inspect.inspect import inspect
from spiketicket.export.torch import sources
from spiketicket.runtime import Session

T = 4


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        layer.Conv2d(2, 6, 3, padding=1),
        layer.BatchNorm2d(6),
        neuron.LIFNode(),
        layer.MaxPool2d(2),
        layer.Dropout(),
        layer.Flatten(),
        layer.Linear(96, 5),
    )


@pytest.fixture
def x():
    return 2 * np.random.default_rng(0).standard_normal((8, 2, 8, 8)).astype(np.float32)


def by_hand(network, x):
    """The mean over T calls, in evaluation mode, by a copy."""
    own = copy.deepcopy(network).eval()
    functional.reset_net(own)
    with torch.no_grad():
        return sum(own(torch.from_numpy(x)) for _ in range(T)).numpy() / T


@pytest.mark.parametrize("engine", ["native", "onnxruntime"])
def test_what_the_file_computes(network, x, tmp_path, engine):
    result = export(network, torch.from_numpy(x), T, str(tmp_path / "m.onnx"), labels=np.zeros(8, int))
    with Session(result.path, engine) as session:
        assert np.allclose(session.run({"input": x})["logits"], by_hand(network, x), atol=1e-4)
        assert session.timesteps == T
    assert all(0 <= a.accuracy <= 1 for a in result.agreements)


def test_the_module_is_left_as_it_was(network, x, tmp_path):
    network[0].eval()  # frozen by hand
    before = copy.deepcopy(network.state_dict())
    mask = torch.zeros_like(network[6].weight)
    mask[:, ::3] = 1
    export(network, x, T, tmp_path / "m.onnx", {"6.weight": mask})
    assert network.training and network[1].training and not network[0].training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert network[2].v == 0.0


def test_it_is_left_as_it_was_where_the_export_fails(network, x, tmp_path):
    network.append(nn.ReLU())
    with pytest.raises(ModelError, match=r"7 \(ReLU"):
        export(network, x, T, tmp_path / "m.onnx", {"6.weight": torch.zeros_like(network[6].weight)})
    assert network.training and network[6].weight.any() and not list(tmp_path.iterdir())


def test_masks_prune(network, x, tmp_path):
    mask = (np.random.default_rng(1).random(network[6].weight.shape) < 0.25).astype(np.float32)
    result = export(network, x, T, tmp_path / "m.onnx", {"6.weight": mask})
    assert next(n for n in result.graph.weighted() if n.name == "6").weight.nnz == int(mask.sum())
    with torch.no_grad():
        network[6].weight *= torch.from_numpy(mask)
    with Session(result.path) as session:
        assert np.allclose(session.run({"input": x})["logits"], by_hand(network, x), atol=1e-4)


def test_pruned_by_torch_and_parametrized(network, x, tmp_path):
    prune.random_unstructured(network[6], "weight", 0.5)
    parametrizations.weight_norm(network[0])
    network.eval()
    functional.reset_net(network)
    with torch.no_grad():
        expected = sum(network(torch.from_numpy(x)) for _ in range(T)).numpy() / T
    functional.reset_net(network)
    result = export(network, x, T, tmp_path / "m.onnx")
    assert next(n for n in result.graph.weighted() if n.name == "6").weight.nnz == 240
    with Session(result.path) as session:
        assert np.allclose(session.run({"input": x})["logits"], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"7.weight": np.ones(1)}, "mask '7.weight': the network has no such parameter"),
        ({"6.weight": np.ones((5, 9))}, r"mask '6.weight' has shape \[5, 9\], its parameter \[5, 96\]"),
        ({"6.weight": np.full((5, 96), 0.5)}, "must hold zeros and ones only"),
    ],
)
def test_masks_that_do_not_fit(network, x, tmp_path, masks, message):
    with pytest.raises(InputError, match=message):
        export(network, x, T, tmp_path / "m.onnx", masks)


@pytest.mark.parametrize(
    ("sample", "options", "message"),
    [
        (np.zeros((0, 2, 8, 8), np.float32), {}, "samples must be float32"),
        (np.zeros((1, 2, 8, 8)), {}, r"got float64 \[1, 2, 8, 8\]"),
        (np.full((1, 2, 8, 8), np.nan, np.float32), {}, "samples hold NaN"),
        ([[1.0]], {}, r"sample must be float32 \[N, ...\], dense, got list"),
        (np.zeros((3, 1, 2, 8, 8), np.float32), {"timed": True}, "samples have 3 timesteps, but timesteps is 4"),
        (
            np.zeros((1, 2, 8, 8), np.float32),
            {"timesteps": 0},
            "timesteps must be a whole number from 1 to 4096, got 0",
        ),
        (np.zeros((1, 3, 8, 8), np.float32), {}, r"0 \(Conv2d, input \[3, 8, 8\]\): weight .* does not fit 3"),
        (np.zeros((2, 2, 8, 8), np.float32), {"labels": np.zeros(3, int)}, "labels must be whole numbers"),
    ],
)
def test_samples_that_do_not_fit(network, tmp_path, sample, options, message):
    with pytest.raises((InputError, ModelError), match=message):
        export(network, sample, options.pop("timesteps", T), tmp_path / "m.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_tolerances(network, x, tmp_path):
    with pytest.raises(VerificationError, match="beyond the tolerance"):
        export(network, x, T, tmp_path / "m.onnx", rtol=0.0)
    export(network, x, T, tmp_path / "m.onnx", rtol=0.0, atol=1e-3)


def test_same_input_same_bytes_and_provenance(network, x, tmp_path):
    for name in ("a", "b"):
        export(network, x, T, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found = inspect(tmp_path / "a")
    assert {"exporter", "fingerprint", "versions", "arch", "values"} <= set(
        found.metadata
    ) and "torch" in found.metadata["versions"]
    assert [a.engine for a in found.verification] == ["torch", "native", "onnxruntime", "native (int16)"]


def test_emptied_channels_are_removed_and_reported(network, x, tmp_path):
    with torch.no_grad():
        network[0].weight[2] = 0
        network[0].bias[2] = -1
        network[6].weight.view(5, 6, 16)[:, 4] = 0
        network[1].eval()
    result = export(network, x, T, tmp_path / "m.onnx")
    assert (result.removed["0"].silent, result.removed["0"].unread) == ((2,), (4,))
    assert result.to_dict()["layers"][0]["removed_channels"] == 2
    assert result.agreements[1].engine == "without idle channels" and result.agreements[1].exact
    with Session(result.path) as session:
        assert session.spikes({"input": x})["2"].shape[2] == 4
        assert np.allclose(session.run({"input": x})["logits"], by_hand(network, x), atol=1e-4)


# --- what users bring -------------------------------------------------------------------------------------------------


def test_modules_by_name(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\ndef make():\n    return nn.Linear(2, 3)\n\nready = make()\nnumber = 3\n\n"
        "def broken():\n    raise ValueError('no data here')\n"
    )
    monkeypatch.chdir(tmp_path)
    assert sources.load_module("mine:make").out_features == sources.load_module("mine:ready").out_features == 3
    for spec, message in (
        ("mine", "expected package.file:factory, got 'mine'"),
        ("mine:none", "mine has no 'none'"),
        ("nowhere:x", "cannot import nowhere"),
        ("mine:number", "gives int, expected a torch.nn.Module"),
        ("mine:broken", "mine:broken raised ValueError: no data here"),
    ):
        with pytest.raises(InputError, match=message):
            sources.load_module(spec)
    assert "" not in sys.path[:1]


def test_state_dicts(network, tmp_path):
    state = network.state_dict()
    for nested in (state, {"state_dict": {f"module.{k}": v for k, v in state.items()}}, {"net": state, "epoch": 3}):
        torch.save(nested, tmp_path / "sd.pt")
        assert list(sources.read_state(tmp_path / "sd.pt")) == list(state)
    short = {k: v for k, v in state.items() if not k.startswith("6.")} | {
        "extra": torch.ones(1),
        "0.bias": torch.ones(2),
    }
    with pytest.raises(InputError) as caught:
        sources.load_state(network, short, "sd.pt")
    for problem in ("6.weight: missing", "extra: not in the network", "0.bias: shape [2], the network has [6]"):
        assert problem in str(caught.value)


class Evil:
    def __reduce__(self):
        return (open, ("pwned", "w"))


@pytest.mark.parametrize("content", [Evil(), [Evil()]])
def test_no_code_runs(network, tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "sd.pt")
    with pytest.raises(InputError, match="would have to run code"):
        sources.read_state(tmp_path / "sd.pt")
    (tmp_path / "mask.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match="masks: .*mask.pkl: not a readable"):
        sources.read_masks(tmp_path / "mask.pkl", network)
    assert not (tmp_path / "pwned").exists()


def test_whole_models_are_refused(network, tmp_path):
    torch.save(network, tmp_path / "net.pt")
    with pytest.raises(InputError, match=r"save network.state_dict\(\) instead"):
        sources.read_state(tmp_path / "net.pt")


def test_masks_by_order_and_by_name(network, tmp_path):
    shapes = [p.shape for n, p in network.named_parameters() if "weight" in n]
    found = [np.ones(shape, np.float32) for shape in shapes]
    (tmp_path / "m.pkl").write_bytes(pickle.dumps([found[0], None, found[2]]))
    masks = sources.read_masks(tmp_path / "m.pkl", network)
    assert {name: mask.shape for name, mask in masks.items()} == {"0.weight": shapes[0], "6.weight": shapes[2]}
    torch.save({"6.weight": torch.ones(5, 96)}, tmp_path / "m.pt")
    assert list(sources.read_masks(tmp_path / "m.pt", network)) == ["6.weight"]
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(found[:2]))
    with pytest.raises(InputError, match="expected a list of 3 masks, one per weight of the network, got 2"):
        sources.read_masks(tmp_path / "m.pkl", network)


@pytest.mark.parametrize("arch", ["vgg16", "resnet19"])
def test_states_of_another_code_by_order(arch):
    """Kim et al.'s names: the same layers in the same order."""
    network = sources.build_arch(arch, (3, 32, 32), 10, T)
    other = {
        f"theirs.{i}": torch.randn_like(t.float()).to(t.dtype) for i, t in enumerate(network.state_dict().values())
    }
    sources.load_state(network, other, "theirs.pt", by_order=True)
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), other.values(), strict=True))
    with pytest.raises(InputError, match="do not fit the network"):
        sources.load_state(network, dict(list(other.items())[1:]), "theirs.pt", by_order=True)


class ForManySteps(nn.Module):
    def __init__(self):
        super().__init__()
        self.f, self.l = nn.Linear(4, 3), neuron.LIFNode(step_mode="m")

    def forward(self, x):
        return self.l(self.f(x)) if x.shape[0] > 2 else self.f(x)


def test_a_network_that_compares_t_has_a_fixed_t(tmp_path):
    x = np.random.default_rng(0).standard_normal((T, 8, 4)).astype(np.float32)
    with pytest.raises(ModelError, match="fix T"):
        export(ForManySteps(), x, T, tmp_path / "m.onnx", timed=True)
    assert export(ForManySteps(), x, T, tmp_path / "m.onnx", timed=True, fixed_timesteps=True).graph.fixed_timesteps


def test_a_state_dict_that_was_pruned_fits_the_network_that_was_not(network, tmp_path):
    pruned = copy.deepcopy(network)
    prune.l1_unstructured(pruned[6], "weight", 0.5)
    torch.save(pruned.state_dict(), tmp_path / "sd.pt")
    sources.load_state(network, sources.read_state(tmp_path / "sd.pt"), "sd.pt")
    assert torch.equal(network[6].weight, pruned[6].weight)


def test_layers_whose_names_collide_in_the_file(x, tmp_path):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.lif, self.lif_out, self.fc = neuron.LIFNode(), neuron.LIFNode(), nn.Linear(128, 3)

        def forward(self, x):
            return self.lif_out(self.fc(self.lif(x).flatten(1)))

    with pytest.raises(ModelError, match="names of layers collide"):
        export(Named(), x, T, tmp_path / "m.onnx", step=True)
    assert "lif" not in export(Named(), x, T, tmp_path / "m.onnx").silent
