"""Holds a slimmed graph against the graph that it was, by the float64 oracle."""

from pathlib import Path

import numpy as np

from spiketicket.export.channels import remove_channels
from spiketicket.graph import And, Concat, Li, Lif, Unsqueeze
from spiketicket.runtime.engine import Model, Options
from spiketicket.runtime.reference import ReferenceEngine


class Oracle(ReferenceEngine):
    """The reference engine, and the layers that it does not know."""

    def _apply(self, node, inputs, timesteps):
        x = inputs[0]
        match node:
            case Lif() | Li():
                return integrate(node, x)
            case And():
                return x * (1 - inputs[1] if node.negated else inputs[1])
            case Concat():
                rank = len(self.graph.values[node.inputs[0]].shape)
                return np.concatenate(inputs, axis=-rank)
            case Unsqueeze():
                return x[..., None, :]
        return super()._apply(node, inputs, timesteps)


def integrate(node, x):
    """Spikes of a Lif, or potentials of a Li, on the currents `x` `[T, N, ...]`; the equations of their docstrings."""
    rest = getattr(node, "v_reset", None) or 0.0
    v, out = np.full(x.shape[1:], rest), np.empty_like(x)
    for t, current in enumerate(x):
        h = v + (current - (v - rest)) / node.tau if node.decay_input else v - (v - rest) / node.tau + current
        if isinstance(node, Li):
            v = out[t] = h
            continue
        out[t] = h >= node.v_threshold
        v = h - node.drop * out[t] if node.v_reset is None else np.where(out[t] > 0, rest, h)
    return out


def values_of(graph, x, timesteps):
    return Oracle(Model(Path(), b"", graph), Options(1, "fixed", "float32"))._values(x, timesteps)


def check(graph, timesteps=(1, 2, 7), batch=2, seed=0):
    """Removes channels; the logits and the spikes of kept channels are what they were. Returns what was removed."""
    slim = remove_channels(graph)
    rng = np.random.default_rng(seed)
    for t in timesteps:
        lead = (t, batch) if graph.timed_input else (batch,)
        x = rng.standard_normal((*lead, *graph.input_shape)).astype(np.float32)
        before, after = values_of(graph, x, t), values_of(slim.graph, x, t)
        scale = max(np.abs(before[graph.output]).max(), 1e-3)
        assert np.abs(before[graph.output] - after[graph.output]).max() <= 1e-6 * scale
        for lif in (node for node in graph.nodes if isinstance(node, Lif)):
            assert np.array_equal(before[lif.output][:, :, slim.kept[lif.name]], after[lif.output])
    return slim
