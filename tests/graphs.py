"""Small random graphs and images for the tests. Needs no torch."""

from pathlib import Path

import numpy as np

from spiketicket.csr import Csr
from spiketicket.export.onnx_writer import to_onnx
from spiketicket.export.verify import Trace
from spiketicket.graph import Add, AvgPool, Conv, Flatten, Graph, Lif, Linear, MaxPool, Repeat, window
from spiketicket.runtime.engine import Model, Options
from spiketicket.runtime.planner import FIXED
from spiketicket.runtime.reference import ReferenceEngine

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
        Linear("hidden", ("x7",), "x8", random_csr(rng, (20, b), 0.5, gain=8.0), random_bias(rng, 20)),
        Lif("lif3", ("x8",), "s4", 2.0, 1.0, None, False),
        Linear("readout", ("s4",), "y", random_csr(rng, (4, 20), 0.9), random_bias(rng, 4)),
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


def poolings_and_views(rng, timesteps=4):
    """What `everything` leaves out: padded pooling, pooling and adding of static and of real values, and a
    convolution and a pooling of the same current at every timestep."""
    nodes = (
        MaxPool("static max", ("x",), "p0", (3, 2), (1, 2), (1, 0, 2, 1)),
        AvgPool("static mean", ("p0",), "p1", (2, 1), (2, 1)),
        Add("static add", ("p1", "p1"), "p2"),
        Repeat("repeat", ("p2",), "r0"),
        Conv(
            "same at every step",
            ("r0",),
            "r1",
            random_csr(rng, (6, 3, 3, 3), 0.8),
            random_bias(rng, 6),
            (2, 1),
            (1,) * 4,
        ),
        MaxPool("real max", ("r1",), "r2", (2, 2), (1, 1)),
        Add("real add", ("r2", "r2"), "r3"),
        Lif("lif0", ("r3",), "s0", TAU),
        MaxPool("spike max", ("s0",), "s1", (3, 3), (2, 1), (1, 2, 0, 1)),
        AvgPool("spike mean", ("s1",), "m0", (2, 2), (1, 2)),
        Conv("real conv", ("m0",), "m1", random_csr(rng, (7, 6, 2, 2), 0.6), random_bias(rng, 7), (1, 2), (1, 0, 0, 1)),
        MaxPool("timed max", ("m1",), "m2", (2, 2), (1, 1), (1, 1, 1, 1)),
        Lif("lif1", ("m2",), "s2", 2.0, 0.8, None),
        Add("spike add", ("s2", "s2"), "m3"),
        Flatten("flat", ("m3",), "f"),
        Linear("readout", ("f",), "y", random_csr(rng, (5, 42), 0.7), random_bias(rng, 5)),
    )
    return Graph("x", (3, 19, 14), nodes, "y", timesteps)


def residual_blocks(rng, timesteps=5, size=(13, 10)):
    """Residuals of every sort, of spikes of a constant current too: identity, a strided 1x1 shortcut, several."""
    h, w = size
    h2, w2 = window(h, 3, 2, 1, 1), window(w, 3, 2, 1, 1)
    same = {"pads": (1, 1, 1, 1)}
    nodes = (
        Conv("stem", ("x",), "x1", random_csr(rng, (21, 3, 3, 3), 1.0), random_bias(rng, 21), **same),
        Repeat("repeat", ("x1",), "x2"),
        Lif("lif0", ("x2",), "s0", TAU),
        Conv("conv1", ("s0",), "a1", random_csr(rng, (21, 21, 3, 3), 0.3), random_bias(rng, 21), **same),
        Add("identity", ("a1", "s0"), "a2"),
        Lif("lif1", ("a2",), "s1", TAU),
        Conv("down", ("s1",), "b1", random_csr(rng, (70, 21, 3, 3), 0.2), random_bias(rng, 70), (2, 2), (1, 1, 1, 1)),
        Lif("lif2", ("b1",), "s2", 2.0),
        Conv("conv2", ("s2",), "b2", random_csr(rng, (70, 70, 3, 3), 0.1), random_bias(rng, 70), **same),
        Conv("shortcut", ("s0",), "b3", random_csr(rng, (70, 21, 1, 1), 0.5), random_bias(rng, 70), (2, 2)),
        Add("projection", ("b3", "b2"), "b4"),
        Lif("lif3", ("b4",), "s3", TAU),
        Conv("conv3", ("s3",), "c1", random_csr(rng, (70, 70, 1, 1), 0.3), random_bias(rng, 70)),
        Add("once", ("s3", "c1"), "c2"),
        Add("twice", ("c2", "s2"), "c3"),
        Lif("lif4", ("c3",), "s4", 2.0, 1.0, None),
        Flatten("flat", ("s4",), "f"),
        Linear("readout", ("f",), "y", random_csr(rng, (4, 70 * h2 * w2), 0.3), random_bias(rng, 4)),
    )
    return Graph("x", (3, h, w), nodes, "y", timesteps)


def flattened_residual(rng):
    """A Linear's currents and the flattened spikes that it reads, added before a LIF."""
    nodes = (
        Repeat("repeat", ("x",), "r"),
        Lif("lif0", ("r",), "s", 1.0),
        Flatten("flat", ("s",), "f"),
        Linear("fc", ("f",), "l", random_csr(rng, (36, 36), 0.5), random_bias(rng, 36)),
        Add("residual", ("l", "f"), "a"),
        Lif("lif1", ("a",), "s1", TAU),
        Linear("readout", ("s1",), "y", random_csr(rng, (3, 36), 0.8), random_bias(rng, 3)),
    )
    return Graph("x", (4, 3, 3), nodes, "y", 4)


def wide_linear(rng, inputs=45_000):
    """A layer that reads so many periodic spikes that its lists are made for a few images at a time."""
    nodes = (
        Repeat("repeat", ("x",), "r"),
        Lif("lif0", ("r",), "s", TAU),
        Flatten("flat", ("s",), "f"),
        Linear("fc", ("f",), "l", random_csr(rng, (64, inputs), 0.02), random_bias(rng, 64)),
        Lif("lif1", ("l",), "s1", TAU),
        Linear("readout", ("s1",), "y", random_csr(rng, (3, 64), 0.8), random_bias(rng, 3)),
    )
    return Graph("x", (inputs, 1, 1), nodes, "y", 4)


def oracle(graph, x, timesteps):
    """What the float64 oracle computes of a graph in memory."""
    engine = ReferenceEngine(Model(Path(), b"", graph), Options(1, FIXED, "float32"))
    return Trace(engine.spikes(x, timesteps), engine.run(x, timesteps))
