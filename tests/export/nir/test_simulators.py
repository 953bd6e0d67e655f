"""Networks of snnTorch and Norse, exported and run by themselves, against the sparse graph of what they wrote."""

import importlib.util
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from spiketicket.export.nir.reader import read_nir
from spiketicket.runtime import Session
from spiketicket.runtime.engines.registry import ENGINE_NAMES
from tests.support.graphs import write
from tests.support.nir_simulation import run

T, N = 20, 8


def assert_same_spikes(graph, x, expected, folder):
    """Every engine against the simulator, layer by layer: a potential at its threshold may differ by rounding."""
    path = write(graph, folder)
    for engine in ENGINE_NAMES:
        with Session(path, engine) as session:
            values = session.spikes({"input": x})
        for name, spikes in expected.items():
            assert 0.02 < spikes.mean() < 0.9
            assert (values[name] != spikes).mean() < 1e-3, (engine, name)


def spikes(*shape, seed=3):
    return (torch.rand(T, N, *shape, generator=torch.Generator().manual_seed(seed)) < 0.4).float()


# --- snnTorch ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def snntorch():
    pytest.importorskip("nirtorch")
    return pytest.importorskip("snntorch")


def snn_network(snn, **options):
    torch.manual_seed(0)

    def leaky(shape, beta):
        return snn.Leaky(torch.full(shape, beta), torch.full(shape, 0.9), init_hidden=True, **options)

    synaptic = snn.Synaptic(
        torch.full((20,), 0.6), torch.full((20,), 0.85), torch.ones(20), init_hidden=True, **options
    )
    network = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        leaky((6, 8, 8), 0.8),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(96, 20, bias=False),
        synaptic,
        nn.Linear(20, 4),
        leaky((4,), 0.95),
    )
    with torch.no_grad():
        for layer in (0, 4, 6):
            network[layer].weight *= 2.5
    return network


def run_snntorch(network, x):
    """Spikes of every neuron layer, by its name in the NIR graph."""
    found = {name: [] for name in ("1", "5", "7")}
    with torch.no_grad():
        for current in x:
            for name, layer in network.named_children():
                current = layer(current)
                if name in found:
                    found[name].append(current.numpy())
    return {name: np.stack(values) for name, values in found.items()}


@pytest.mark.parametrize(
    ("dialect", "options"),
    [("snntorch", {}), ("nir", {"reset_mechanism": "zero", "reset_delay": False})],
    ids=["its default, subtracting late", "reset to zero"],
)
def test_snntorch(snntorch, dialect, options, tmp_path):
    from snntorch.export_nir import export_to_nir

    network = snn_network(snntorch, **options)
    exported = export_to_nir(network, torch.zeros(1, 2, 8, 8), ignore_dims=[0])
    graph = read_nir(exported, T, dialect=dialect)
    assert np.array_equal(graph.nodes[0].weight.to_dense(), network[0].weight.detach().numpy())
    x = spikes(2, 8, 8)
    fresh = snn_network(snntorch, **options)  # the export has run the first one: its potentials are not zero
    assert_same_spikes(graph, x.numpy(), run_snntorch(fresh, x), tmp_path)


def test_snntorch_dialects_differ(snntorch):
    """The file does not say how it resets; who reads it has to."""
    from snntorch.export_nir import export_to_nir

    exported = export_to_nir(snn_network(snntorch), torch.zeros(1, 2, 8, 8), ignore_dims=[0])
    x = spikes(2, 8, 8).numpy()
    soft, hard = (run(read_nir(exported, T, dialect=dialect), x)["1"] for dialect in ("snntorch", "nir"))
    assert (soft != hard).mean() > 0.01


# --- Norse ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def norse(monkeypatch):
    """norse.torch. Norse's own __init__ imports torchvision, which does not load beside torch's CPU wheel."""
    pytest.importorskip("nirtorch")
    found = importlib.util.find_spec("norse")
    if found is None:
        pytest.skip("norse is not installed")
    if "norse" not in sys.modules:
        package = types.ModuleType("norse")
        package.__path__ = found.submodule_search_locations
        monkeypatch.setitem(sys.modules, "norse", package)
    return importlib.import_module("norse.torch")


def norse_network(norse, *neurons):
    torch.manual_seed(1)
    layers = [layer for neuron in neurons for layer in (nn.Linear(10, 10), neuron)]
    with torch.no_grad():
        for layer in layers[::2]:
            layer.weight *= 4
    return norse.SequentialState(*layers)


def run_norse(network, x):
    state, found = None, {}
    with torch.no_grad():
        for current in x:
            state = [None] * len(network) if state is None else state
            for i, layer in enumerate(network.children()):
                current = layer(current) if isinstance(layer, nn.Linear) else layer(current, state[i])
                if isinstance(current, tuple):
                    current, state[i] = current
                    found.setdefault(str(i), []).append(current.numpy())
    return {name: np.stack(values) for name, values in found.items()}


def test_norse(norse, tmp_path):
    """All the neurons that Norse writes. It multiplies tau by its dt, hence dt = 0.001 ** 2."""
    one = torch.ones(10)
    network = norse_network(
        norse,
        norse.LIFBoxCell(norse.LIFBoxParameters(200 * one, 0 * one, 0.5 * one)),
        norse.IAFCell(norse.IAFParameters(1.5 * one)),
        norse.LIFCell(norse.LIFParameters(300 * one, 150 * one, 0 * one, 0.4 * one)),
        norse.LIBoxCell(norse.LIBoxParameters(100 * one, 0 * one)),
    )
    exported = norse.to_nir(network, torch.zeros(10))
    graph = read_nir(exported, T, dt=1e-6, dialect="norse")
    x = spikes(10)
    expected = run_norse(network, x)
    potentials = expected.pop("7")
    assert_same_spikes(graph, x.numpy(), expected, tmp_path)
    values = run(graph, x.numpy())
    clean = np.all([(values[name] == s).all(axis=(0, 2)) for name, s in expected.items()], axis=0)
    assert clean.sum() > N / 2
    np.testing.assert_allclose(values[graph.output][:, clean], potentials[:, clean], rtol=1e-4, atol=1e-5)


def test_norse_in_its_own_units(norse, tmp_path):
    """Told that dt is 1, Norse writes tau in seconds, and its dt is the reader's."""
    one = torch.ones(10)
    network = norse_network(norse, norse.LIFBoxCell(norse.LIFBoxParameters(200 * one, 0 * one, 0.5 * one)))
    graph = read_nir(norse.to_nir(network, torch.zeros(10), dt=1), T, dt=0.001, dialect="norse")
    assert graph.nodes[1].tau == 5
    x = spikes(10)
    assert_same_spikes(graph, x.numpy(), run_norse(network, x), tmp_path)
