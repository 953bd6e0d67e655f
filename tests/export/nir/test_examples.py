"""The example graphs of NIR's repository (neuromorphs/NIR, paper/), as files of their structure.

Kinds of nodes, shapes, edges, parameters and versions are theirs, the numbers are not.
"""

from itertools import pairwise

import h5py
import numpy as np
import pytest

nir = pytest.importorskip("nir")

from spiketicket.cli.export.actions import run  # noqa: E402
from spiketicket.cli.export.options import File, Inputs, Source, Verification  # noqa: E402
from spiketicket.errors import ModelError  # noqa: E402
from spiketicket.export.nir.reader import read_nir  # noqa: E402
from tests.support.nir_simulation import logits, simulate  # noqa: E402

T, N = 40, 3
RNG = np.random.default_rng(4)


def weights(*shape):
    """Whole numbers of 64ths: sums are exact, so that no spike depends on rounding."""
    return (np.round(128 * RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))) / 64).astype(np.float32)


def full(shape, value, dtype=np.float32):
    return np.full(shape, value, dtype)


def chain(nodes):
    return nir.NIRGraph(nodes, list(pairwise(nodes)), type_check=False)


def ends(inputs, outputs, **nodes):
    """`nodes` in a row between an Input and an Output."""
    before, after = nir.Input(np.array(inputs)), nir.Output(np.array(outputs))
    return chain({"input": before, **nodes, "output": after})


def neuron(tau, r, leak, threshold, dtype=np.float32):
    return nir.LIF(*(full(1, value, dtype) for value in (tau, r, leak, threshold)))


def lif_norse():
    affine = nir.Affine(full((1, 1), 2), full(1, 0.0))
    return ends([1], [1], **{"0": affine, "1": neuron(2e-3, 1, 0, 0.25)})


def lif_rockpool():
    """Its Output is `[1, 1, 1]`, a batch and a timestep too many."""
    linear = nir.Linear(full((1, 1), 0.1))
    return ends([1], [1, 1, 1], **{"0_LinearTorch": linear, "1_LIFNeuronTorch": neuron(2e-3, 20, 0, 0.25)})


def two_lif_neurons():
    """A leak above its threshold drives the first neuron; float64."""
    linears = [nir.Linear(full((1, 1), weight, np.float64)) for weight in (1, 4)]
    lifs = [neuron(2e-3, 1, 1.5, 1, np.float64), neuron(2e-3, 4, 0, 1, np.float64)]
    names = ("in", "linear1", "lif1", "linear2", "lif2", "out")
    nodes = (nir.Input(np.array([1])), linears[0], lifs[0], linears[1], lifs[1], nir.Output(np.array([1])))
    return chain(dict(zip(names, nodes, strict=True)))


def cnn_sinabs():
    def integrate(*shape):
        return nir.IF(full(shape, 1.0), full(shape, 1.0))

    def conv(size, out, channels, kernel, stride):
        return nir.Conv2d((size, size), weights(out, channels, kernel, kernel), stride, 1, 1, 1, full(out, 0.0))

    def pool():
        return nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))

    layers = (
        conv(34, 16, 2, 5, 2),
        integrate(16, 16, 16),
        conv(16, 16, 16, 3, 1),
        integrate(16, 16, 16),
        pool(),
        conv(8, 8, 16, 3, 1),
        integrate(8, 8, 8),
        pool(),
        nir.Flatten({"input": np.array([8, 4, 4])}, 0, -1),
        nir.Affine(weights(256, 128), full(256, 0.0)),
        integrate(256),
        nir.Affine(weights(10, 256), full(10, 0.0)),
        integrate(10),
    )
    return ends([2, 34, 34], [10], **{str(i): node for i, node in enumerate(layers)})


def cuba(size, tau_mem, tau_syn):
    values = (tau_mem, tau_syn, 5.0, 0.0, 1.0)  # ..., r, v_leak, v_threshold
    return nir.CubaLIF(*(full(size, value, np.float64) for value in values), w_in=full(size, 2.0, np.float64))


def linear(out, inputs, bias):
    return nir.Affine(weights(out, inputs), weights(out, 1)[:, 0]) if bias else nir.Linear(weights(out, inputs))


def braille(hidden, bias):
    """Reads of itself: lif1.lif -> lif1.w_rec -> lif1.lif."""
    nodes = {
        "fc1": linear(hidden, 12, bias),
        "fc2": linear(7, hidden, bias),
        "input": nir.Input(np.array([12])),
        "lif1.lif": cuba(hidden, 1e-3, 2e-4),
        "lif1.w_rec": linear(hidden, hidden, bias),
        "lif2": cuba(7, 2e-4, 2e-4),
        "output": nir.Output(np.array([7])),
    }
    edges = [("input", "fc1"), ("fc1", "lif1.lif"), ("lif1.lif", "lif1.w_rec"), ("lif1.w_rec", "lif1.lif")]
    edges += [("lif1.lif", "fc2"), ("fc2", "lif2"), ("lif2", "output")]
    return nir.NIRGraph(nodes, edges, type_check=False)


def braille_subgraph(hidden, bias, name="lif1"):
    """The same in a subgraph, whose edges speak of `lif`, whatever the node's name."""
    inner = {
        "input": nir.Input(np.array([hidden])),
        name: cuba(hidden, 1e-3, 2e-4),
        "lin": linear(hidden, hidden, bias),
        "output": nir.Output(np.array([hidden])),
    }
    edges = [("input", "lif"), ("lif", "lin"), ("lin", "lif"), ("lif", "output")]
    recurrent = nir.NIRGraph(inner, edges, type_check=False)
    return ends(
        [12], [7], fc1=linear(hidden, 12, bias), lif1=recurrent, fc2=linear(7, hidden, bias), lif2=cuba(7, 2e-4, 2e-4)
    )


def as_then(graph, path, version):
    """`graph` as a file of NIR `version`, in which neurons had no v_reset."""

    def strip(group):
        group.pop("v_reset", None)
        for child in group.values():
            if isinstance(child, h5py.Group):
                strip(child)

    nir.write(path, graph)
    with h5py.File(path, "a") as file:
        strip(file["node"])
        del file["version"]
        file["version"] = version
    return path


# The graph, its version, the dt and dialect it is read with, and the input's share of ones and their size.
VERIFIED = {
    "lif_norse": (lif_norse, "0.1.1", 1e-4, "nir", 0.5, 3.0),
    "lif_rockpool": (lif_rockpool, "0.2.0", 1e-4, "nir", 0.5, 3.0),
    "two_lif_neurons": (two_lif_neurons, "0.2.0", 1e-4, "nir", 0.5, 3.0),
    "cnn_sinabs": (cnn_sinabs, "0.2.0", 1.0, "nir", 0.3, 1.0),
    "cnn_sinabs, dialect norse": (cnn_sinabs, "0.2.0", 1e-4, "norse", 0.3, 1.0),
}


@pytest.mark.parametrize("name", VERIFIED)
def test_verified(name, tmp_path):
    """Exported and verified in every engine, all layers firing, and what a simulation of NIR's equations says."""
    make, version, dt, dialect, rate, size = VERIFIED[name]
    nodes, rng = make(), np.random.default_rng(5)
    path = as_then(nodes, tmp_path / "example.nir", version)
    graph = read_nir(path, T, dt, dialect)
    x = (size * (rng.random((T, N, *graph.input_shape)) < rate)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    source, inputs = Source(nir=path, dialect=dialect, dt=dt), Inputs(samples=tmp_path / "x.npy")
    result = run(source, inputs, File(f"dynamic:{T}", tmp_path / "model.onnx"), Verification())
    exact = [a for a in result.agreements if "(" not in a.engine]
    assert [a.engine for a in exact] == ["native", "onnxruntime"] and all(a.exact for a in exact)
    assert result.silent == []
    last = nodes.edges[-1][0]  # the Output passes on what it gets
    expected = simulate(nodes, x.astype(np.float64), dt if dialect == "nir" else 1.0)[last]  # Norse's IF adds r x
    assert np.array_equal(logits(graph, x), expected) and 0 < expected.mean() < 1


@pytest.mark.parametrize("hidden, bias", [(38, True), (40, False)], ids=["bias_zero", "noBias_subtract"])
def test_braille_is_recurrent(hidden, bias, tmp_path):
    kind = "Affine" if bias else "Linear"
    for graph, synapse in ((braille(hidden, bias), "w_rec"), (braille_subgraph(hidden, bias, "lif"), "lin")):
        with pytest.raises(ModelError) as refusal:
            read_nir(as_then(graph, tmp_path / "braille.nir", "0.2.0"), T)
        why = "on a cycle: recurrent connections cannot be expressed: unroll them or train without"
        named = (f"lif1.lif (CubaLIF [{hidden}])", f"lif1.{synapse} ({kind} [{hidden}, {hidden}])")
        assert str(refusal.value).splitlines()[1:] == [f"  {node}: {why}" for node in named]


@pytest.mark.parametrize("hidden, bias", [(38, True), (40, False)], ids=["bias_zero", "noBias_subtract"])
def test_edges_of_the_braille_subgraphs_lead_nowhere(hidden, bias, tmp_path):
    with pytest.raises(ModelError, match="edge lif -> lin: there is no node 'lif1.lif', there are input, lif1, lin, "):
        read_nir(as_then(braille_subgraph(hidden, bias), tmp_path / "braille.nir", "0.2.0"), T)
