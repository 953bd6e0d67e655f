"""A small network that every export format can store, and its files, written and checked by `pack`."""

import numpy as np

from spiketicket.export.check.agreement import Tolerance
from spiketicket.export.check.check import Check, Samples
from spiketicket.export.formats.settings import FORMATS
from spiketicket.export.pack import pack
from spiketicket.graph import Flatten, Graph, Lif, Linear, Repeat
from tests.support.graphs import random_bias, random_csr

T = 4
METADATA = {"dataset": "none", "classes": "zero\nöne\ntwo", "exporter": "0.1.0"}


def network(**options):
    """Build a graph of two Linear layers with a LIF between them."""
    rng = np.random.default_rng(2)
    nodes = (
        Repeat("repeat", ("x",), "t"),
        Flatten("flat", ("t",), "f"),
        Linear("fc", ("f",), "a", random_csr(rng, (20, 32), 0.5), random_bias(rng, 20)),
        Lif("lif", ("a",), "s", 2.0, 0.25),
        Linear("out", ("s",), "y", random_csr(rng, (3, 20), 0.9), random_bias(rng, 3)),
    )
    return Graph("x", (2, 4, 4), nodes, "y", T, **options)


def exported(folder, form, graph=None):
    """Write and check a model file; return its path and the result of the checks."""
    x = np.random.default_rng(3).standard_normal((8, 2, 4, 4)).astype(np.float32)
    path = folder / f"model{FORMATS[form.format].suffix}"
    result = pack(graph or network(metadata=METADATA), path, form, Check(Samples(x, T), Tolerance()))
    return path, result
