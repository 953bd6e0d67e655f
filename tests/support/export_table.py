"""The table of docs/export.md: every source of `snn-export`, written in every format.

`python -m tests.support.export_table` writes the table into the page; tests/export/test_table.py compares the two.
"""

import importlib
import importlib.util
import itertools
import pickle
import sys
import tempfile
import types
from functools import cache, partial
from pathlib import Path

import nir
import numpy as np
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn
from torch.nn.utils import prune

from spiketicket.cli.export.actions import run
from spiketicket.cli.export.options import File, Inputs, Source, Verification
from spiketicket.errors import MissingExtraError, SpikeTicketError
from spiketicket.export import export
from spiketicket.export.ticket import export_ticket
from spiketicket.model.names import OPSETS
from spiketicket.train.networks.config import ModelConfig
from spiketicket.train.networks.models import build, prunable
from spiketicket.train.pruning import masks as ticket_masks
from spiketicket.train.pruning.strategies import magnitude_masks

PAGE = Path(__file__).parents[2] / "docs" / "export.md"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"
T, N = 3, 2

FORMS = {
    "float32": {},
    "float16": {"values": "float16"},
    "int16": {"values": "int16"},
    "int8": {"values": "int8"},
    "dense": {"dense": True},
    "step": {"step": True},
    "dense step": {"dense": True, "step": True},
    "T, N fixed": {"fixed_timesteps": True, "batch": N},
    f"opset {OPSETS.stop - 1}": {"opset": OPSETS.stop - 1},
    "tensorrt-onnx": {"format": "tensorrt-onnx"},
    "its float16": {"format": "tensorrt-onnx", "values": "float16"},
    "tensorrt": {"format": "tensorrt"},
    "nir": {"format": "nir"},
}

# Reasons for which a format cannot store a source: a part of the error message, and the page's words for it.
REASONS = {
    "a": ("MaxPool", "NIR has no max-pooling"),
    "b": ("resets by subtraction", "NIR's neurons reset to a value"),
    "c": ("And", "NIR adds, it does not multiply"),
    "d": ("Unsqueeze", "NIR's one-dimensional layers are not written"),
    "e": ("Concat", "NIR does not concatenate"),
}


def zoo(name):
    """Import a module of SpikingJelly's model zoo.

    The zoo imports torchvision to download weights; they are not needed here, so an empty module takes its place.
    """
    stub = "torchvision._internally_replaced_utils"
    if stub not in sys.modules:
        sys.modules.setdefault("torchvision", types.ModuleType("torchvision"))
        sys.modules[stub] = types.ModuleType(stub)
        sys.modules[stub].load_state_dict_from_url = None
    return importlib.import_module(f"spikingjelly.activation_based.model.{name}")


def norse_torch():
    """Import norse.torch without Norse's own __init__.

    The latter imports torchvision, which cannot be loaded beside the CPU build of torch.
    """
    if "norse" not in sys.modules:
        found = importlib.util.find_spec("norse")
        sys.modules["norse"] = types.ModuleType("norse")
        sys.modules["norse"].__path__ = found.submodule_search_locations
    return importlib.import_module("norse.torch")


def with_active_neurons(network, density=0.3):
    """Return the network in evaluation mode with random sparse weights that make every layer fire.

    Batch norm is random, too. The biases of a last Linear differ so much that rounding does not change the class.
    """
    torch.manual_seed(1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0.4, 0.3)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
            elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
                fan_in = max(module.weight[0].numel() * density, 1)
                nn.init.normal_(module.weight, 0.5 / fan_in, 2 / np.sqrt(fan_in))
                module.weight *= torch.rand_like(module.weight) < density
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.copy_(50 * torch.arange(len(module.bias)))
    return network.eval()


def images(*shape):
    """Return N random images."""
    return np.random.default_rng(0).standard_normal((N, *shape)).astype(np.float32)


def module(make, *shape, timed=False, density=0.3, mode=None):
    """Return a source that exports the network `make()` by the function `export`."""

    def write(folder, path, form):
        network = with_active_neurons(make(), density)
        if mode is not None:
            functional.set_step_mode(network, mode)
        x = np.stack([images(*shape)] * T) if timed else images(*shape)
        return export(network, x, T, path, timed=timed, **form)

    return write


def small(node, **kwargs):
    """Build a small network with neurons of the class `node`."""
    return nn.Sequential(
        layer.Conv2d(2, 8, 3, padding=1, bias=False),
        layer.BatchNorm2d(8),
        node(**kwargs),
        layer.AvgPool2d(2),
        layer.Conv2d(8, 12, 3),
        layer.BatchNorm2d(12),
        node(**kwargs),
        layer.Dropout(0.5),
        layer.Flatten(),
        layer.Linear(48, 20),
        node(**kwargs),
        layer.VotingLayer(4),
    )


class Loop(nn.Module):
    """A network that loops over timesteps in its forward pass."""

    def __init__(self):
        super().__init__()
        self.layers = small(neuron.LIFNode)

    def forward(self, x):
        return torch.stack([self.layers(x) for _ in range(T)]).mean(0)


class Dense(nn.Module):
    """A network with a concatenation, as in DenseNet."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.fa, self.fb = (
            nn.Conv2d(2, 5, 3, padding=1),
            nn.Conv2d(7, 6, 3),
            neuron.IFNode(),
            neuron.IFNode(),
        )
        self.out = nn.Linear(6 * 36, 4)

    def forward(self, x):
        y = self.fa(self.a(x))
        return self.out(self.fb(self.b(torch.cat([x, y], 1))).flatten(1))


def signals():
    """Build a network of one-dimensional signals."""
    return nn.Sequential(
        layer.Conv1d(3, 8, 5, padding=2),
        layer.BatchNorm1d(8),
        neuron.LIFNode(),
        layer.AvgPool1d(2),
        layer.Flatten(),
        layer.Linear(80, 5),
    )


def narrow_vgg():
    """Build SpikingJelly's spiking VGG with few channels."""
    vgg = zoo("spiking_vgg")
    kwargs = {"spiking_neuron": neuron.LIFNode, "num_classes": 10}
    network = vgg.SpikingVGG([8, "M", 16, "M", 16, "M", 16, "M"], True, layer.BatchNorm2d, **kwargs)
    # In the zoo these layers have 4,096 features, whatever the number of channels.
    network.classifier[0], network.classifier[3] = layer.Linear(16 * 49, 30), layer.Linear(30, 20)
    network.classifier[6] = layer.Linear(20, 10)
    return network


def shallow(package, network, **kwargs):
    """Build a residual network of SpikingJelly's zoo with one block per stage."""
    found = zoo(package)
    return getattr(found, network)(
        found.BasicBlock, [1, 1, 1, 1], num_classes=10, spiking_neuron=neuron.IFNode, **kwargs
    )


@cache
def searched():
    """Search a ticket once for all formats; return it and images for it."""
    from spiketicket.data import load_dataset
    from spiketicket.train.search.search import search
    from spiketicket.train.search.settings import SearchSettings

    settings = SearchSettings(
        method="imp", arch="vgg_digits", dataset="digits", rounds=2, epochs=2, rewind_epoch=1, batch_size=128, seed=1
    )
    digits = load_dataset("digits")
    with tempfile.TemporaryDirectory() as folder:
        found = search(settings, digits, Path(folder) / "run")[-1]
    return found, found.normalisation(digits.test.images[:N])


def ticket(folder, path, form):
    """Export the ticket of a search."""
    found, x = searched()
    return export_ticket(found, path, x, **form)


def pruned_by_torch(folder, path, form):
    """Export a network that torch.nn.utils.prune has pruned."""
    network = with_active_neurons(small(neuron.LIFNode), density=1.0)
    for part in (network[0], network[4], network[9]):
        prune.l1_unstructured(part, "weight", 0.8)
    return export(network, images(2, 8, 8), T, path, **form)


def released(arch, folder, path, form):
    """Export a state dict with other names and a pickled list of masks, as the scripts of Kim et al. write them."""
    torch.manual_seed(0)
    model = build(ModelConfig(arch, 1, 8 if arch == "vgg_digits" else 16, 10, T))
    found = magnitude_masks(prunable(model), ticket_masks.dense_masks(model), 2000)
    state = {
        f"layer{i}.{name.rpartition('.')[2]}": t
        for i, (name, t) in enumerate(with_active_neurons(model, 1.0).state_dict().items())
    }
    torch.save(state, folder / "sd.pth.tar")
    weights = [name for name, _ in model.named_parameters() if "weight" in name]
    (folder / "mask.pkl").write_bytes(
        pickle.dumps([np.asarray(found[n], np.float32) if n in found else None for n in weights])
    )
    source = Source(arch=arch, weights=folder / "sd.pth.tar", masks=folder / "mask.pkl")
    return run(source, Inputs(dataset="digits"), file_options(path, **form), Verification())


def file_options(path, *, step=False, fixed_timesteps=False, batch=None, **form):
    """Return the options of snn-export for the arguments of an ExportFormat."""
    return File(
        str(T) if fixed_timesteps else f"dynamic:{T}",
        path,
        mode="step" if step else "multi-step",
        batch="dynamic" if batch is None else str(batch),
        **form,
    )


def spikes(*shape):
    """Return random spikes `[T, N, ...]`, of which 40% are 1."""
    return (np.random.default_rng(0).random((T, N, *shape)) < 0.4).astype(np.float32)


def from_nir(make, *shape, dialect="nir", dt=1e-4):
    """Return a source that exports the NIR graph `make()` from its file."""

    def write(folder, path, form):
        torch.manual_seed(3)
        nir.write(folder / "net.nir", make())
        np.save(folder / "x.npy", spikes(*shape))
        source = Source(nir=folder / "net.nir", dialect=dialect, dt=dt)
        return run(source, Inputs(samples=folder / "x.npy"), file_options(path, **form), Verification())

    return write


def nir_graph():
    """Build a NIR graph with convolution, pooling, neurons of two kinds and a leaky readout."""
    rng = np.random.default_rng(0)

    def full(size, value):
        return np.full(size, value)

    conv = nir.Conv2d((8, 8), rng.standard_normal((4, 2, 3, 3)), 1, 1, 1, 1, rng.standard_normal(4))
    size = full(20, 1.0)
    nodes = {
        "input": nir.Input({"input": np.array([2, 8, 8])}),
        "conv": conv,
        "if": nir.IF(full((4, 8, 8), 1e4), full((4, 8, 8), 1.0)),
        "pool": nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        "flat": nir.Flatten({"input": np.array([4, 4, 4])}, 0, -1),
        "affine": nir.Affine(rng.standard_normal((20, 64)) / 4, rng.standard_normal(20)),
        "cuba": nir.CubaLIF(3e-4 * size, 4e-4 * size, 9 * size, 0 * size, 0.6 * size),
        "readout": nir.Linear(rng.standard_normal((5, 20))),
        "li": nir.LI(full(5, 1e-3), full(5, 5.0), full(5, 0.0)),
        "output": nir.Output({"output": np.array([5])}),
    }
    names = list(nodes)
    return nir.NIRGraph(nodes, list(itertools.pairwise(names)))


def snntorch_graph():
    """Build the NIR graph of a network of snnTorch."""
    import snntorch
    from snntorch.export_nir import export_to_nir

    network = nn.Sequential(
        nn.Linear(30, 20),
        snntorch.Leaky(torch.full((20,), 0.8), torch.full((20,), 0.5), init_hidden=True),
        nn.Linear(20, 4),
        snntorch.Leaky(torch.full((4,), 0.9), torch.full((4,), 0.5), init_hidden=True),
    )
    return export_to_nir(network, torch.zeros(1, 30), ignore_dims=[0])


def norse_graph():
    """Build the NIR graph of a network of Norse."""
    norse, one = norse_torch(), torch.ones(20)
    network = norse.SequentialState(
        nn.Linear(30, 20),
        norse.LIFBoxCell(norse.LIFBoxParameters(200 * one, 0 * one, 0.1 * one)),
        nn.Linear(20, 20),
        norse.LIBoxCell(norse.LIBoxParameters(100 * one, 0 * one)),
    )
    return norse.to_nir(network, torch.zeros(30))


SOURCES = {
    "ticket of snn-search": ticket,
    "single-step module, LIF": module(partial(small, neuron.LIFNode), 2, 8, 8, mode="s"),
    "multi-step module, IF": module(partial(small, neuron.IFNode), 2, 8, 8, mode="m"),
    "parametric LIF, soft reset": module(
        partial(small, neuron.ParametricLIFNode, init_tau=1.5, v_reset=None, decay_input=False), 2, 8, 8, mode="m"
    ),
    "loop over timesteps": module(Loop, 2, 8, 8),
    "event frames `[T, N, C, H, W]`": module(partial(small, neuron.LIFNode), 2, 8, 8, timed=True, mode="m"),
    "one-dimensional signals": module(signals, 3, 20, mode="m"),
    "concatenation": module(Dense, 2, 8, 8),
    "torch.nn.utils.prune": pruned_by_torch,
    "spiking VGG": module(narrow_vgg, 3, 32, 32, density=0.2),
    "spiking ResNet": module(partial(shallow, "spiking_resnet", "SpikingResNet"), 3, 32, 32, density=0.05),
    "SEW-ResNet, ADD": module(partial(shallow, "sew_resnet", "SEWResNet", cnf="ADD"), 3, 32, 32, density=0.05),
    "SEW-ResNet, AND": module(partial(shallow, "sew_resnet", "SEWResNet", cnf="AND"), 3, 32, 32, density=0.05),
    "SEW-ResNet, IAND": module(partial(shallow, "sew_resnet", "SEWResNet", cnf="IAND"), 3, 32, 32, density=0.05),
    "parametric-LIF network (MNIST)": module(
        lambda: zoo("parametric_lif_net").MNISTNet(8, neuron.ParametricLIFNode), 1, 28, 28, density=0.1
    ),
    "parametric-LIF network (DVS Gesture)": module(
        lambda: zoo("parametric_lif_net").DVSGestureNet(4, neuron.ParametricLIFNode), 2, 128, 128, timed=True
    ),
    "VGG of Kim et al., with masks": partial(released, "vgg_digits"),
    "NIR": from_nir(nir_graph, 2, 8, 8),
    "snnTorch, by NIR": from_nir(snntorch_graph, 30, dialect="snntorch"),
    "Norse, by NIR": from_nir(norse_graph, 30, dialect="norse", dt=1e-6),
}


def cell(source, form):
    """Return the cell of a source in a format.

    It is "verified", "refused" with the letters of the REASONS, or "no GPU" if the format cannot be written here.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out"
        try:
            result = SOURCES[source](Path(folder), path, FORMS[form])
        except MissingExtraError:
            return "no GPU"
        except SpikeTicketError as error:
            assert not path.exists()
            found = [letter for letter, (part, _) in REASONS.items() if part in str(error)]
            if not found:
                raise
            return f"refused ({', '.join(found)})"
        assert path.stat().st_size == result.nbytes and result.agreements
        return "verified"


def row(source):
    """Return the row of a source, in Markdown."""
    return f"| {source} | {' | '.join(cell(source, form) for form in FORMS)} |"


def header():
    """Return the head of the table, in Markdown."""
    return f"| | {' | '.join(FORMS)} |\n|---|{'---|' * len(FORMS)}"


def main():
    """Write the table into the page."""
    text = PAGE.read_text()
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    rows = []
    for source in SOURCES:
        rows.append(row(source))
        sys.stdout.write(f"{rows[-1]}\n")
    reasons = "; ".join(f"({letter}) {text}" for letter, (_, text) in REASONS.items())
    PAGE.write_text("\n".join([before, header(), *rows, "", f"{reasons}.", after]))


if __name__ == "__main__":
    main()
