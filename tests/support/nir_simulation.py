"""A simulation of NIR's equations that does not use the sparse graph, and the oracle to compare it with."""

from pathlib import Path

import nir
import numpy as np
import torch
from torch.nn import functional

from spiketicket.runtime.engine import Model, Options
from spiketicket.runtime.engines.reference import ReferenceEngine


def simulate(graph, x, dt=1e-4, start=None):
    """Return the values `[T, N, ...]` of every node of a NIR graph without subgraphs, computed step by step.

    `start` has membrane potentials by neuron; those of other neurons start at 0.
    """
    v, i, out = dict(start or {}), {}, {name: [] for name in graph.nodes}
    for current in x:
        now = {}
        while len(now) < len(graph.nodes):
            for name, node in graph.nodes.items():
                sources = [a for a, b in graph.edges if b == name]
                if name not in now and all(source in now for source in sources):
                    inputs = current if isinstance(node, nir.Input) else sum(now[source] for source in sources)
                    now[name] = _step(node, inputs, name, v, i, dt)
        for name, value in now.items():
            out[name].append(value)
    return {name: np.stack(values) for name, values in out.items()}


def _step(node, x, name, v, i, dt):
    """Return a node's output for input `x`, and update its membrane potential `v[name]` and current `i[name]`."""
    old = v.get(name, np.zeros(x.shape))
    match node:
        case nir.Affine():
            return x @ node.weight.T + node.bias
        case nir.Linear():
            return x @ node.weight.T
        case nir.Conv1d() | nir.Conv2d():
            convolve = functional.conv1d if isinstance(node, nir.Conv1d) else functional.conv2d
            tensors = (torch.from_numpy(np.asarray(a, np.float64)) for a in (x, node.weight, node.bias))
            return convolve(*tensors, node.stride, node.padding, node.dilation, node.groups).numpy()
        case nir.SumPool2d() | nir.AvgPool2d():
            window = [tuple(int(n) for n in a) for a in (node.kernel_size, node.stride, node.padding)]
            mean = functional.avg_pool2d(torch.from_numpy(x), *window).numpy()
            return mean * np.prod(node.kernel_size) if isinstance(node, nir.SumPool2d) else mean
        case nir.Flatten():
            return x.reshape(len(x), -1)
        case nir.Scale():
            return x * node.scale
        case nir.Threshold():
            return (x > node.threshold).astype(float)
        case nir.I() | nir.IF():
            new = old + dt * node.r * x
        case nir.LI() | nir.LIF():
            new = old + dt / node.tau * (node.v_leak - old + node.r * x)
        case nir.CubaLI() | nir.CubaLIF():
            before = i.get(name, np.zeros(x.shape))
            i[name] = before + dt / node.tau_syn * (node.w_in * x - before)
            new = old + dt / node.tau_mem * (node.v_leak - old + node.r * i[name])
        case _:
            return x
    if not hasattr(node, "v_threshold"):
        v[name] = new
        return new
    spikes = new > node.v_threshold
    v[name] = np.where(spikes, node.v_reset, new)
    return spikes.astype(float)


def run(graph, x):
    """Return every value of a sparse graph on input `[T, N, ...]`, by the float64 oracle; static graphs take x[0]."""
    engine = ReferenceEngine(Model(Path("model.onnx"), b"", graph), Options(1, "auto", "float32"))
    return engine.compute_values(np.asarray(x if graph.timed_input else x[0], np.float64), len(x))


def logits(graph, x):
    """Return the logits of a sparse graph by the float64 oracle."""
    return run(graph, x)[graph.output]
