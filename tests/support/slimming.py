"""A check by the float64 oracle that removing channels of a graph does not change its results."""

from pathlib import Path

import numpy as np

from spiketicket.export.channels import remove_channels
from spiketicket.graph import Lif
from spiketicket.runtime.engine import Model, Options
from spiketicket.runtime.engines.reference import ReferenceEngine


def values_of(graph, x, timesteps):
    """Return every value of the graph by name."""
    return ReferenceEngine(Model(Path(), b"", graph), Options(1, "fixed", "float32")).compute_values(x, timesteps)


def check(graph, timesteps=(1, 2, 7), batch=2, seed=0):
    """Remove channels, assert that the logits and the spikes of kept channels stay the same, and return the result."""
    slim = remove_channels(graph)
    rng = np.random.default_rng(seed)
    for t in timesteps:
        leading = (t, batch) if graph.timed_input else (batch,)
        x = rng.standard_normal((*leading, *graph.input_shape)).astype(np.float32)
        before, after = values_of(graph, x, t), values_of(slim.graph, x, t)
        scale = max(np.abs(before[graph.output]).max(), 1e-3)
        assert np.abs(before[graph.output] - after[graph.output]).max() <= 1e-6 * scale
        for lif in (node for node in graph.nodes if isinstance(node, Lif)):
            assert np.array_equal(before[lif.output][:, :, slim.kept[lif.name]], after[lif.output])
    return slim
