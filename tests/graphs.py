"""Small random graphs and images for the tests. Needs no torch."""

from pathlib import Path

import numpy as np

from spiketicket.csr import Csr
from spiketicket.export.onnx_writer import to_onnx
from spiketicket.graph import Add, AvgPool, Conv, Flatten, Graph, Lif, Linear, MaxPool, Repeat, window

TAU = 4 / 3


def random_csr(rng, shape, density, gain=2.0):
    """Random weights that give currents of about unit size for sparse binary input."""
    fan_in = max(1.0, density * np.prod(shape[1:]))
    weight = rng.standard_normal(shape) * gain / np.sqrt(fan_in)
    return Csr.from_dense((weight * (rng.random(shape) < density)).astype(np.float32))


def random_bias(rng, size):
    return (0.3 * rng.standard_normal(size)).astype(np.float32)


def write(graph, folder, name="model.onnx", **options):
    path = Path(folder) / name
    path.write_bytes(to_onnx(graph, **options).SerializeToString())
    return path


def everything(rng, channels=(3, 5, 17), size=(16, 16), density=0.3, timesteps=5):
    """A graph with every kind of layer: strides, a residual, both poolings, soft and hard reset."""
    c, a, b = channels
    h, w = size
    h2, w2 = window(h, 3, 2, 1, 1), window(w, 3, 2, 1, 1)
    h4, w4 = window(h2, 2, 2, 0, 0), window(w2, 2, 2, 0, 0)
    nodes = (
        Conv("stem", ("x",), "x1", random_csr(rng, (a, c, 3, 3), 1.0), random_bias(rng, a), pads=(1, 1, 1, 1)),
        Repeat("repeat", ("x1",), "x2"),
        Lif("lif0", ("x2",), "s0", TAU),
        Conv(
            "down",
            ("s0",),
            "x3",
            random_csr(rng, (b, a, 3, 3), density),
            random_bias(rng, b),
            (2, 2),
            (1, 1, 1, 1),
        ),
        Lif("lif1", ("x3",), "s1", TAU),
        MaxPool("max", ("s1",), "s2", (2, 2), (2, 2)),
        Conv(
            "same",
            ("s2",),
            "x4",
            random_csr(rng, (b, b, 3, 3), density),
            random_bias(rng, b),
            pads=(1, 1, 1, 1),
        ),
        Add("residual", ("x4", "s2"), "x5"),
        Lif("lif2", ("x5",), "s3", TAU),
        AvgPool("mean", ("s3",), "x6", (h4, w4), (h4, w4)),
        Flatten("flat", ("x6",), "x7"),
        Linear("hidden", ("x7",), "x8", random_csr(rng, (9, b), 0.5), random_bias(rng, 9)),
        Lif("lif3", ("x8",), "s4", 2.0, 1.0, None, False),
        Linear("readout", ("s4",), "y", random_csr(rng, (4, 9), 0.5), random_bias(rng, 4)),
    )
    return Graph("x", (c, h, w), nodes, "y", timesteps, {"dataset": "none"})


def one_conv(rng, channels, out, size, kernel, density, timesteps, **geometry):
    """A spiking layer of 0/1 currents, then one convolution with a LIF: the packed-spike kernels alone.

    The first LIF fires exactly where the image is 1.
    """
    identity = np.zeros((channels, channels, 1, 1), dtype=np.float32)
    identity[range(channels), range(channels)] = 2.0
    group = geometry.get("group", 1)
    h, w = size
    pads, strides, dilations = (
        geometry.get(key, default)
        for key, default in (("pads", (0, 0, 0, 0)), ("strides", (1, 1)), ("dilations", (1, 1)))
    )
    out_h = window(h, kernel[0], strides[0], pads[0], pads[2], dilations[0])
    out_w = window(w, kernel[1], strides[1], pads[1], pads[3], dilations[1])
    nodes = (
        Conv("identity", ("x",), "x1", Csr.from_dense(identity), np.zeros(channels, np.float32)),
        Repeat("repeat", ("x1",), "x2"),
        Lif("spikes", ("x2",), "s0", 1.0),
        Conv(
            "conv", ("s0",), "x3", random_csr(rng, (out, channels // group, *kernel), density),
            random_bias(rng, out), **geometry,
        ),
        Lif("lif", ("x3",), "s1", 2.0),
        Flatten("flat", ("s1",), "f"),
        Linear("readout", ("f",), "y", random_csr(rng, (3, out * out_h * out_w), 1.0), random_bias(rng, 3)),
    )  # fmt: skip
    return Graph("x", (channels, h, w), nodes, "y", timesteps)


def images(rng, count, shape):
    """Smooth random images with about unit variance."""
    noise = rng.standard_normal((count, *shape)).astype(np.float32)
    for axis in (2, 3):
        noise = (noise + np.roll(noise, 1, axis) + np.roll(noise, -1, axis)) / np.float32(np.sqrt(3))
    return np.ascontiguousarray(noise, dtype=np.float32)
