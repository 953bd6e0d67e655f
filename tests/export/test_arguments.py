"""Arguments of `export` and options of `snn-export` that do not fit: one message, and nothing written."""

import pickle

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import nn
from typer.testing import CliRunner

from spiketicket.cli.export.command import app
from spiketicket.errors import InputError, SpikeTicketError
from spiketicket.export import export
from spiketicket.export.torch import sources

SOURCE = (
    "from spikingjelly.activation_based import neuron\nfrom torch import nn\n\n"
    "def make():\n    return nn.Sequential(nn.Linear(4, 3), neuron.LIFNode(), nn.Linear(3, 2))\n"
)
X = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
ONES = torch.ones(3, 4)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), neuron.LIFNode(), nn.Linear(3, 2))


MASKS = [None, "ones", [[1.0], [1.0, 0.0]], ONES.to_sparse(), ONES.to("meta"), np.full((3, 4), "1"), {1: 2}]

WRONG = [
    ({"module": "net"}, "module must be a torch.nn.Module, got 'net'"),
    ({"masks": [ONES]}, "masks must be a mapping of parameter names to masks, got"),
    *(({"masks": {"0.weight": mask}}, "mask '0.weight': expected zeros and ones in a dense array") for mask in MASKS),
    ({"masks": {0: ONES}}, "mask 0: the network has no such parameter"),
    ({"sample": torch.ones(2, 4).bfloat16()}, r"must be float32 \[N, ...\], dense, got torch.bfloat16 \[2, 4\]"),
    ({"sample": torch.ones(2, 4).double()}, "got torch.float64"),
    ({"sample": torch.ones(2, 4).to_sparse()}, "got torch.float32 .*sparse_coo"),
    ({"sample": torch.ones(2, 4, device="meta")}, "on meta"),
    ({"sample": X.astype(np.float64)}, "got float64"),
    ({"timesteps": 4097}, "timesteps must be a whole number from 1 to 4096, got 4097"),
    ({"timesteps": 2.0}, "got 2.0"),
    ({"timed": 1}, "timed must be True or False, got 1"),
    ({"check": "no"}, "check must be True or False, got 'no'"),
    ({"metadata": {"a": 1}}, "metadata must be a mapping of str to str"),
    ({"metadata": {1: "a"}}, "metadata must be"),
    ({"metadata": [("a", "b")]}, "metadata must be"),
    ({"batch": 0}, "batch must be a whole number from 1 to 2147483647, or None, got 0"),
    ({"batch": True}, "batch must be"),
    ({"batch": 2.0}, "batch must be"),
    ({"batch": 2**31}, "batch must be"),
    ({"dense": 1}, "dense must be True or False, got 1"),
    ({"step": "yes"}, "step must be"),
    ({"fixed_timesteps": None}, "fixed_timesteps must be"),
    ({"format": ["onnx"]}, "format: expected one of"),
    ({"dt": float("nan")}, "dt must be a positive number of seconds, got nan"),
    ({"dt": 0.0}, "dt must be"),
    ({"dt": "1"}, "dt must be"),
    ({"atol": float("inf")}, "atol must be a finite number of at least 0, got inf"),
    ({"rtol": -1e-4, "check": False}, "rtol must be"),
    ({"rtol": "1e-4"}, "rtol must be"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_wrong_arguments(network, tmp_path, wrong, message):
    arguments = {"module": network, "sample": X, "timesteps": 3, "path": tmp_path / "m.onnx", **wrong}
    with pytest.raises(InputError, match=message):
        export(**arguments)
    assert not list(tmp_path.iterdir()) and network.training


@pytest.mark.parametrize("kind", [torch.bool, torch.bfloat16, torch.int64, None])
def test_masks_of_any_type(network, tmp_path, kind):
    mask = (torch.arange(12) % 2).view(3, 4).float().requires_grad_() if kind is None else ONES.to(kind)
    result = export(network, X, 3, tmp_path / "m.onnx", {"0.weight": mask}, check=False)
    assert next(result.graph.weighted()).weight.nnz == mask.sum()


def test_a_path_that_cannot_be(network, tmp_path):
    with pytest.raises(SpikeTicketError, match="cannot write .*null"):
        export(network, X, 3, f"{tmp_path}/m\0.onnx", check=False)


# --- snn-export -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(network, tmp_path, monkeypatch):
    (tmp_path / "nets_here.py").write_text(SOURCE)
    (tmp_path / "link.onnx").symlink_to("nets_here.py")
    np.save(tmp_path / "x.npy", X)
    weight = {"0.weight": torch.ones(3, 4, dtype=torch.complex64)}
    torch.save({**network.state_dict(), **weight}, tmp_path / "complex.pt")
    for name, mask in (("ragged", [[1], [1, 0]]), ("text", "ones"), ("object", np.array([[1], None], object))):
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps([mask, None]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


OPTIONS = [
    ("--timesteps 99999999999999999999", "timesteps must be a whole number from 1 to 4096"),
    (f"--timesteps {'9' * 5000}", "--timesteps: expected a number from 1"),
    (f"--batch {'9' * 5000}", "--batch: expected a number from 1"),
    ("--batch 99999999999999999999", "batch must be a whole number from 1 to 2147483647"),
    ("--masks ragged.pkl", "mask '0.weight': expected zeros and ones"),
    ("--masks text.pkl", "mask '0.weight': expected zeros and ones"),
    ("--masks object.pkl", "mask '0.weight': expected zeros and ones"),
    ("-o nets_here.py", "would be written as a Python source, nets_here.py"),
    ("-o link.onnx", "would be written as a Python source, link.onnx"),
    ("--dialect foo", "--dialect: expected one of nir, snntorch, norse, got 'foo'"),
    ("--dt nan", "dt must be a positive number of seconds, got nan"),
    ("--atol nan", "atol must be a finite number of at least 0"),
    ("--weights complex.pt", "0.weight: torch.complex64, torch.strided, on cpu: expected a dense tensor of real"),
    ("--format nir --timesteps 4", "a NIR graph does not fix T: use --timesteps dynamic:4"),
]


@pytest.mark.parametrize(("options", "message"), OPTIONS)
def test_wrong_options(folder, options, message):
    always = ["--module", "nets_here:make", "--samples", "x.npy", "-o", "m.onnx", "--timesteps", "3"]
    result = CliRunner().invoke(app, [*always, *options.split()])
    assert result.exit_code == 1 and message in " ".join(result.stderr.split())
    assert not (folder / "m.onnx").exists() and (folder / "nets_here.py").read_text() == SOURCE


def test_names_of_compiled_networks(network, tmp_path):
    for prefix in ("_orig_mod.", "module._orig_mod.", "_orig_mod.module."):
        torch.save({f"{prefix}{name}": t for name, t in network.state_dict().items()}, tmp_path / "sd.pt")
        assert list(sources.read_state(tmp_path / "sd.pt")) == list(network.state_dict())
