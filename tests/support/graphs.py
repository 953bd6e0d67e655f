"""Small random graphs and images for the tests. Needs no torch."""

from pathlib import Path

import numpy as np

from spiketicket.csr import Csr
from spiketicket.export.check.check import oracle_run
from spiketicket.graph import (
    Add,
    And,
    AvgPool,
    Concat,
    Conv,
    Flatten,
    Graph,
    Li,
    Lif,
    Linear,
    MaxPool,
    Repeat,
    Unsqueeze,
    window,
)
from spiketicket.model.writer import to_onnx

TAU = 4 / 3
NO_LEAK = float("inf")


def random_csr(rng, shape, density, gain=2.0):
    """Return random weights that give currents of about unit size for sparse binary input."""
    fan_in = max(1.0, density * np.prod(shape[1:]))
    weight = rng.standard_normal(shape) * gain / np.sqrt(fan_in)
    return Csr.from_dense((weight * (rng.random(shape) < density)).astype(np.float32))


def random_bias(rng, size):
    """Return a random float32 bias."""
    return (0.3 * rng.standard_normal(size)).astype(np.float32)


def write(graph, folder, name="model.onnx", **options):
    """Write a graph as a model file and return its path."""
    path = Path(folder) / name
    path.write_bytes(to_onnx(graph, **options).SerializeToString())
    return path


def everything(rng, channels=(3, 5, 17), size=(16, 16), density=0.3, timesteps=5):
    """Build a graph with strides, a residual, both kinds of pooling, and soft and hard reset."""
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
    """Build a graph of one convolution of spikes, to test kernels of packed spikes by themselves.

    The LIF in front of it fires exactly where the image is 1.
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
            "conv",
            ("s0",),
            "x3",
            random_csr(rng, (out, channels // group, *kernel), density),
            random_bias(rng, out),
            **geometry,
        ),
        Lif("lif", ("x3",), "s1", 2.0),
        Flatten("flat", ("s1",), "f"),
        Linear("readout", ("f",), "y", random_csr(rng, (3, out * out_h * out_w), 1.0), random_bias(rng, 3)),
    )
    return Graph("x", (channels, h, w), nodes, "y", timesteps)


def images(rng, count, shape):
    """Return smooth random images (or signals, or vectors) with about unit variance."""
    noise = rng.standard_normal((count, *shape)).astype(np.float32)
    for axis in range(2, noise.ndim):
        noise = (noise + np.roll(noise, 1, axis) + np.roll(noise, -1, axis)) / np.float32(np.sqrt(3))
    return np.ascontiguousarray(noise, dtype=np.float32)


def poolings_and_views(rng, timesteps=4):
    """Build a graph with what `everything` leaves out.

    It has padded pooling, pooling and adding of static and of real values, and a convolution and a pooling of a current
    that is the same at every timestep.
    """
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
    """Build a graph with residuals of every kind: identity, a strided 1 x 1 shortcut, and several in a row.

    Some of them add spikes that a constant current causes.
    """
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
    """Build a graph that adds a Linear's currents and the flattened spikes that it reads, before a LIF."""
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
    """Build a graph whose Linear reads so many periodic spikes that their lists are made for a few images at a time."""
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
    """Return the float64 oracle's trace of a graph in memory."""
    return oracle_run(graph, timesteps)(x)


def feed(rng, model, count, timesteps):
    """Make input for a graph or a session: `count` images, or a frame of each per timestep if its input is timed."""
    frames = timesteps if model.timed_input else 1
    x = images(rng, frames * count, model.input_shape)
    return x.reshape(frames, count, *model.input_shape) if model.timed_input else x


class Builder:
    """Builder of a graph, node by node, with random weights.

    Each method adds a node `name` and returns the name of its value, `name`.out.
    """

    def __init__(self, rng, sizes):
        self.rng, self.nodes, self.sizes = rng, [], sizes  # channels or features by value

    def add(self, kind, name, *inputs, size=None, **fields):
        """Add a node of any kind. It has as many channels or features as its first input, unless `size` is given."""
        self.nodes.append(kind(name, inputs, f"{name}.out", **fields))
        self.sizes[f"{name}.out"] = self.sizes[inputs[0]] if size is None else size
        return f"{name}.out"

    def conv(self, name, x, out, kernel=(3, 3), density=0.4, gain=2.0, **geometry):
        geometry = {"pads": (1, 1, 1, 1)} | geometry
        weight = random_csr(self.rng, (out, self.sizes[x], *kernel), density, gain)
        return self.add(Conv, name, x, size=out, weight=weight, bias=random_bias(self.rng, out), **geometry)

    def linear(self, name, x, features, out, gain=3.0):
        weight = random_csr(self.rng, (out, features), 0.4, gain)
        return self.add(Linear, name, x, size=out, weight=weight, bias=random_bias(self.rng, out))

    def concat(self, name, *inputs):
        return self.add(Concat, name, *inputs, size=sum(self.sizes[x] for x in inputs))

    def flatten(self, name, x):
        return self.add(Flatten, name, x)

    def read_out(self, logits):
        """Add an integrator after the logits; return all nodes and the name of its value."""
        output = self.add(Li, "integrated", logits, tau=2.0)
        return tuple(self.nodes), output


def gates_and_joins(rng, timesteps=5):
    """Build a graph of images with And, Concat, Li and neurons of every kind.

    They read periodic, static and timed values, and spikes that cross words; they precede convolutions and follow
    flattening; their inputs have one size or several.
    """
    b = Builder(rng, {"x": 3})
    still = b.concat("static reals", b.conv("stem", "x", 5, density=1.0), "x")
    current = b.add(Repeat, "repeat", b.conv("second", still, 5, density=1.0))
    periodic = b.add(Lif, "periodic", current, tau=TAU)
    other = b.add(Lif, "periodic without leak", current, tau=NO_LEAK, decay_input=False, v_threshold=1.3)
    synapse = b.add(Li, "of a static current", current, tau=2.0)
    slow = b.add(Lif, "hard without leak", b.conv("slow", synapse, 17), tau=NO_LEAK, decay_input=False, v_reset=-0.25)
    fast = b.add(
        Lif,
        "soft without leak",
        b.conv("fast", periodic, 66),
        tau=NO_LEAK,
        decay_input=False,
        v_reset=None,
        v_threshold=1.2,
        v_drop=0.9,
    )
    words = b.concat("odd words", periodic, slow, fast)
    lif = b.add(Lif, "current-based", b.add(Li, "synapse", b.conv("joined", words, 17), tau=3.0), tau=TAU)
    both = b.add(And, "and", lif, slow)
    one = b.add(And, "and not", slow, lif, negated=True)
    residual = b.add(Add, "residual", b.conv("after and", both, 17), one)
    soft = b.add(Lif, "soft", residual, tau=2.0, v_reset=None, v_threshold=0.9, v_drop=1.1)
    trace = b.add(Li, "of periodic spikes", b.add(And, "of periodic ones", periodic, other), tau=1.5, decay_input=False)
    mixed = b.concat("mixed", periodic, synapse, current, one, trace)
    reals = b.add(Lif, "of mixed", b.conv("after mixed", mixed, 9, gain=1.5), tau=TAU)
    pooled = b.add(MaxPool, "max", b.concat("again", both, reals), kernel=(2, 2), strides=(2, 2))
    mean = b.add(AvgPool, "mean", words, kernel=(3, 4), strides=(3, 4))
    flat = [b.flatten(f"flat {i}", x) for i, x in enumerate((lif, soft, pooled, mean))]
    b.sizes |= dict(zip(flat, (17 * 72, 17 * 72, 26 * 16, 88 * 6), strict=True))
    hidden = []
    for name, gain, x in (
        ("of one size", 8.0, b.concat("of one size", flat[0], flat[1])),
        ("of several", 3.0, b.concat("of several", flat[2], flat[0])),
        ("of several reals", 3.0, b.concat("of several reals", flat[3], flat[1], flat[2])),
        ("flat and", 40.0, b.add(And, "flat and", flat[1], flat[0])),
    ):
        currents = b.linear(f"fc {name}", x, b.sizes[x], 11 + len(hidden), gain)
        hidden.append(b.add(Lif, f"hidden {name}", currents, tau=2.0))
    vector = b.concat("features", *hidden)
    logits = b.linear("readout", vector, b.sizes[vector], 4)
    return Graph("x", (3, 9, 8), *b.read_out(logits), timesteps)


def gated_output(rng, timesteps=4):
    """Build a graph whose logits are the flattened spikes of an And of images, of more channels than a word's bits."""
    b = Builder(rng, {"x": 2})
    current = b.add(Repeat, "repeat", "x")
    a = b.add(Lif, "a", b.conv("conv a", current, 70, gain=4.0), tau=2.0)
    c = b.add(Lif, "b", b.conv("conv b", a, 70), tau=NO_LEAK, decay_input=False)
    output = b.flatten("flat", b.add(And, "gate", a, c, negated=True))
    return Graph("x", (2, 3, 4), tuple(b.nodes), output, timesteps)


def signals(rng, timesteps=4, timed_input=False):
    """Build a graph of signals `[C, L]`, static or timed, with neurons, And, Concat and convolutions."""
    b = Builder(rng, {"x": 3})
    x = b.concat("channels", "x", "x", "x")
    if not timed_input:
        x = b.add(Repeat, "repeat", x)
    a, c = (b.add(Lif, name, x, tau=tau) for name, tau in (("first", TAU), ("other", 2.0)))
    joined = b.concat("spikes", a, c, b.add(And, "gate", a, c, negated=True))
    smooth = b.add(Li, "smooth", x, tau=2.0)
    spikes = b.conv("of spikes", b.add(Unsqueeze, "rows", joined), 21, (1, 5), strides=(1, 2), pads=(0, 2, 0, 2))
    reals = b.conv("of reals", b.add(Unsqueeze, "real rows", smooth), 21, (1, 3), strides=(1, 2), pads=(0, 1, 0, 1))
    lif = b.add(Lif, "lif", b.add(Add, "sum", spikes, reals), tau=TAU)
    flat = b.flatten("flat", b.add(MaxPool, "max", lif, kernel=(1, 2), strides=(1, 2)))
    logits = b.linear("readout", flat, 21 * 5, 4)
    return Graph("x", (3, 19), tuple(b.nodes), logits, timesteps, timed_input=timed_input)


def events(rng, timesteps=4):
    """Build a graph whose real-valued input frames are read by a convolution, a pooling, neurons, Li and Concat."""
    b = Builder(rng, {"x": 2})
    first = b.add(Lif, "first", b.conv("first conv", "x", 7, density=0.9), tau=2.0)
    direct = b.add(Lif, "direct", "x", tau=TAU, v_reset=None, v_threshold=0.8, v_drop=0.7)
    joined = b.concat("joined", "x", b.add(Li, "smoothed", "x", tau=2.0), direct)
    lif = b.add(Lif, "lif", b.add(Add, "sum", b.conv("of joined", joined, 7), b.conv("of spikes", first, 7)), tau=TAU)
    gate = b.add(And, "gate", first, lif)
    pooled = b.add(AvgPool, "mean", "x", kernel=(2, 2), strides=(2, 2))
    flat = b.concat("flat", b.flatten("flat gate", gate), b.flatten("flat mean", pooled), b.flatten("flat lif", lif))
    logits = b.linear("readout", flat, 2 * 7 * 110 + 2 * 25, 5)
    return Graph("x", (2, 11, 10), *b.read_out(logits), timesteps, timed_input=True)


def event_vectors(rng, timesteps=6):
    """Build a graph of one vector per timestep, without images, with current-based neurons."""
    b = Builder(rng, {"x": 30})
    synapse = b.add(Li, "synapse", b.linear("fc", "x", 30, 70), tau=1.5, decay_input=False)
    lif = b.add(Lif, "lif", synapse, tau=3.0, v_reset=None, v_drop=1.5)
    logits = b.linear("readout", b.concat("both", lif, "x"), 100, 3)
    return Graph("x", (30,), *b.read_out(logits), timesteps, timed_input=True)
