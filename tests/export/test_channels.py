"""Removing idle channels: each rule by itself, and what it must leave alone."""

from dataclasses import replace

import numpy as np
import pytest

from spiketicket.csr import Csr
from spiketicket.export.channels import Removed
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
)
from tests.support.slimming import check

TAU = 4 / 3
SILENT, ALWAYS, SOMETIMES = 0.9, 1.5, 1.1  # constant currents, for a LIF of tau 4/3 and threshold 1
SAME = (1, 1, 1, 1)
RNG = np.random.default_rng(3)


def dense(*shape):
    return RNG.uniform(0.2, 1.0, shape).astype(np.float32) * RNG.choice([-1, 1], shape)


def conv(name, x, y, out, inputs, kernel=1, empty=(), bias=None, unread=(), **geometry):
    """A convolution all of whose weights live, but those of the outputs `empty` (with this `bias`) and of the inputs
    `unread`."""
    weight = dense(out, inputs // geometry.get("group", 1), kernel, kernel)
    weight[list(empty)] = 0
    weight[:, list(unread)] = 0
    biases = dense(out)
    biases[list(empty)] = bias
    return Conv(name, (x,), y, Csr.from_dense(weight), biases.astype(np.float32), **geometry)


def linear(name, x, y, out, inputs, empty=(), bias=None, unread=()):
    node = conv(name, x, y, out, inputs, 1, empty, bias, unread)
    weight = node.weight.to_dense()[:, :, 0, 0]
    return Linear(name, (x,), y, Csr.from_dense(weight), node.bias)


STEM = (conv("stem", "x", "c", 4, 2), Repeat("repeat", ("c",), "r"), Lif("lif", ("r",), "s", TAU))


def chain(*middle, features=64):
    """The stem from an image `[2, 4, 4]` to spikes `s` `[4, 4, 4]`; the nodes `middle` from there to `m`; a readout."""
    nodes = (
        *STEM,
        *middle,
        Flatten("flat", ("m",), "f"),
        linear("readout", "f", "y", 3, features),
    )
    return Graph("x", (2, 4, 4), nodes, "y", 4)


def middle(bias, pads=(0, 0, 0, 0), kernel=1, neuron=None, **options):
    """Conv `a`, whose channels 1 and 2 are empty with `bias`, a LIF, and conv `b` that reads it."""
    return (
        conv("a", "s", "a1", 4, 4, empty=(1, 2), bias=bias),
        neuron or Lif("lif a", ("a1",), "sa", TAU),
        conv("b", "sa", "b1", 4, 4, kernel, pads=pads, **options),
        Lif("lif b", ("b1",), "m", TAU),
    )


def shapes(slim):
    return {node.name: node.weight.shape for node in slim.graph.weighted()}


@pytest.mark.parametrize(("pads", "kernel"), [((0, 0, 0, 0), 1), (SAME, 3)])
def test_silent_channels_go_with_all_that_reads_them(pads, kernel):
    graph = chain(*middle(SILENT, pads, kernel))
    slim = check(graph)
    assert slim.removed == {"a": Removed(4, silent=(1, 2))} and slim.removed["a"].count == 2
    assert slim.kept["lif a"].tolist() == [0, 3] and slim.kept["lif b"].tolist() == [0, 1, 2, 3]
    assert shapes(slim)["a"] == (2, 4, 1, 1) and shapes(slim)["b"] == (4, 2, kernel, kernel)
    old, new = ({node.name: node for node in g.weighted()} for g in (graph, slim.graph))
    assert np.array_equal(old["b"].bias, new["b"].bias), "zero needs no rounding"
    assert np.array_equal(old["b"].weight.to_dense()[:, [0, 3]], new["b"].weight.to_dense())


def test_channels_that_always_fire_become_bias():
    graph = chain(*middle(ALWAYS))
    slim = check(graph)
    assert slim.removed == {"a": Removed(4, constant=(1, 2))}
    old, new = ({node.name: node for node in g.weighted()} for g in (graph, slim.graph))
    effect = old["b"].weight.to_dense("float64")[:, [1, 2], 0, 0].sum(axis=1)
    assert np.array_equal(new["b"].bias, (old["b"].bias + effect).astype(np.float32))


def test_channels_that_always_fire_stay_before_padding():
    assert not check(chain(*middle(ALWAYS, SAME, 3))).removed


def test_an_unpadded_window_folds_the_sum_of_its_taps():
    slim = check(chain(*middle(ALWAYS, (0, 0, 0, 0), 3, strides=(2, 1), dilations=(1, 1)), features=4 * 1 * 2))
    assert slim.removed == {"a": Removed(4, constant=(1, 2))}


def test_channels_that_fire_sometimes_stay():
    assert not check(chain(*middle(SOMETIMES))).removed


def test_currents_that_no_neuron_takes_fold_as_they_are():
    slim = check(chain(*middle(-0.7, neuron=MaxPool("max", ("a1",), "sa", (1, 1), (1, 1)))))
    assert slim.removed == {"a": Removed(4, constant=(1, 2))}


def test_channels_that_nobody_reads_go_and_so_do_those_before_them():
    nodes = (
        conv("a", "s", "a1", 4, 4),
        Lif("lif a", ("a1",), "sa", TAU),
        conv("b", "sa", "b1", 4, 4, 3, pads=SAME, unread=(3,)),
        Lif("lif b", ("b1",), "m", TAU),
    )
    assert check(chain(*nodes)).removed == {"a": Removed(4, unread=(3,))}
    diagonal = np.eye(4, dtype=np.float32)[:, :, None, None] * 2
    nodes = (replace(nodes[0], weight=Csr.from_dense(diagonal)), *nodes[1:])
    slim = check(chain(*nodes))
    assert slim.removed == {"stem": Removed(4, unread=(3,)), "a": Removed(4, unread=(3,))}, "round after round"
    assert slim.kept["lif"].tolist() == [0, 1, 2]


def test_two_readers_must_both_do_without():
    def nodes(unread, pads):
        kernel = 3 if any(pads) else 1
        return (
            conv("a", "s", "a1", 4, 4, empty=(1,), bias=ALWAYS),
            Lif("lif a", ("a1",), "sa", TAU),
            conv("b", "sa", "b1", 4, 4),
            conv("c", "sa", "c1", 4, 4, kernel, pads=pads, unread=unread),
            Add("sum", ("b1", "c1"), "bc"),
            Lif("lif b", ("bc",), "m", TAU),
        )

    assert check(chain(*nodes((), (0,) * 4))).removed == {"a": Removed(4, constant=(1,))}
    assert check(chain(*nodes((1,), SAME))).removed == {"a": Removed(4, constant=(1,))}
    assert not check(chain(*nodes((), SAME))).removed


POOLS = [MaxPool("pool", ("sa",), "p", (3, 3), (1, 1), SAME), AvgPool("pool", ("sa",), "p", (2, 2), (1, 1))]


@pytest.mark.parametrize("bias", [SILENT, ALWAYS])
@pytest.mark.parametrize("pool", POOLS)
def test_channels_pass_poolings_and_flattening(pool, bias):
    """The average of ones is one; a MaxPool's padding is minus infinity and never shows."""
    size = 16 if isinstance(pool, MaxPool) else 9
    nodes = (
        *STEM,
        conv("a", "s", "a1", 4, 4, empty=(1, 2), bias=bias),
        Lif("lif a", ("a1",), "sa", TAU),
        pool,
        Flatten("flat", ("p",), "f"),
        linear("hidden", "f", "h", 5, 4 * size),
        Lif("lif h", ("h",), "sh", TAU),
        linear("readout", "sh", "y", 3, 5),
    )
    slim = check(Graph("x", (2, 4, 4), nodes, "y", 4))
    assert slim.removed["a"].count == 2 and shapes(slim)["hidden"] == (5, 2 * size)


def test_a_block_of_features_goes_only_as_a_whole():
    graph = chain(Lif("again", ("s",), "m", TAU))
    weight = dense(3, 64)
    weight[:, 16:31] = 0  # channel 1, all but one position
    readout = replace(graph.nodes[-1], weight=Csr.from_dense(weight))
    assert not check(replace(graph, nodes=(*graph.nodes[:-1], readout))).removed
    weight[:, 31] = 0
    readout = replace(graph.nodes[-1], weight=Csr.from_dense(weight))
    assert check(replace(graph, nodes=(*graph.nodes[:-1], readout))).removed == {"stem": Removed(4, unread=(1,))}


def test_a_static_current_of_several_neurons():
    """Channel 1 of the stem is silent in one LIF and always fires in the other; 2 fires sometimes in the other."""
    nodes = (
        conv("stem", "x", "c", 4, 2, empty=(1, 2), bias=0.9),
        Repeat("repeat", ("c",), "r"),
        Lif("high", ("r",), "s0", TAU, 1.0),
        Lif("low", ("r",), "s1", TAU, 0.5),
        conv("a", "s0", "a1", 4, 4),
        conv("b", "s1", "b1", 4, 4),
        Add("sum", ("a1", "b1"), "ab"),
        Lif("lif", ("ab",), "m", TAU),
        Flatten("flat", ("m",), "f"),
        linear("readout", "f", "y", 3, 16),
    )
    nodes[0].bias[2] = 0.55
    slim = check(Graph("x", (2, 2, 2), nodes, "y", 4))
    assert slim.removed == {"stem": Removed(4, constant=(1,))}
    assert slim.kept["high"].tolist() == slim.kept["low"].tolist() == [0, 2, 3]


def residual(empty_a, empty_b, bias_a, bias_b, kernel=1, pads=(0,) * 4):
    """Two branches, added before a LIF."""
    return chain(
        conv("a", "s", "a1", 4, 4, empty=empty_a, bias=bias_a),
        conv("b", "s", "b1", 4, 4, empty=empty_b, bias=bias_b),
        Add("sum", ("a1", "b1"), "ab"),
        Lif("lif ab", ("ab",), "sab", TAU),
        conv("c", "sab", "c1", 4, 4, kernel, pads=pads),
        Lif("lif c", ("c1",), "m", TAU),
    )


def test_added_channels_go_together_or_not_at_all():
    assert not check(residual((1,), (), -3.0, 0)).removed, "the other branch still drives it"
    slim = check(residual((1, 2), (2, 3), -3.0, 3.5))
    assert slim.removed == {name: Removed(4, silent=(2,)) for name in "ab"}, "0.5 together, whatever each is"
    slim = check(residual((1, 2), (2, 3), -3.0, 5.0))
    assert slim.removed == {name: Removed(4, constant=(2,)) for name in "ab"}
    assert not check(residual((1, 2), (2, 3), -3.0, 5.0, 3, SAME)).removed


def test_a_sum_that_cancels_is_in_doubt():
    """What float32 makes of 1e6 - 999,999.0625 depends on the order of its additions where there are more of them."""
    assert not check(residual((2,), (2,), 1e6, -999_999.0625)).removed


def test_a_shortcut_of_spikes_keeps_what_it_carries():
    nodes = (
        conv("a", "s", "a1", 4, 4, empty=(1,), bias=-9.0),
        Add("sum", ("a1", "s"), "as"),
        Lif("lif a", ("as",), "m", TAU),
    )
    assert not check(chain(*nodes)).removed


@pytest.mark.parametrize("negated", [False, True])
def test_gates(negated):
    def graph(empty_a, bias_a, empty_b, bias_b):
        return chain(
            conv("a", "s", "a1", 4, 4, empty=empty_a, bias=bias_a),
            Lif("lif a", ("a1",), "sa", TAU),
            conv("b", "s", "b1", 4, 4, empty=empty_b, bias=bias_b),
            Lif("lif b", ("b1",), "sb", TAU),
            And("and", ("sa", "sb"), "m", negated),
        )

    closed = check(graph((1,), SILENT, (2,), ALWAYS if negated else SILENT))
    assert {name: closed.removed[name].silent for name in "ab"} == {"a": (1, 2), "b": (1, 2)}
    opened = check(graph((1,), ALWAYS, (1, 2), SILENT if negated else ALWAYS))
    assert {name: opened.removed[name].constant for name in "ab"} == {"a": (1,), "b": (1,)}, "2 passes a's spikes"


def test_concatenated_channels_are_found_behind_their_offset():
    nodes = (
        conv("a", "s", "a1", 3, 4, empty=(1,), bias=SILENT),
        conv("b", "s", "b1", 5, 4, empty=(0, 4), bias=ALWAYS),
        Concat("cat", ("a1", "b1"), "ab"),
        Lif("lif ab", ("ab",), "sab", TAU),
        conv("c", "sab", "c1", 4, 8),
        Lif("lif c", ("c1",), "m", TAU),
    )
    slim = check(chain(*nodes))
    assert slim.removed == {"a": Removed(3, silent=(1,)), "b": Removed(5, constant=(0, 4))}
    assert slim.kept["lif ab"].tolist() == [0, 2, 4, 5, 6]
    assert shapes(slim)["c"] == (4, 5, 1, 1)


def test_an_image_beside_spikes_stays():
    """Channels of the input that nobody reads are the user's."""
    nodes = (
        conv("stem", "x", "c", 4, 2, unread=(1,)),
        Concat("cat", ("c", "x"), "cx"),
        Repeat("repeat", ("cx",), "r"),
        conv("a", "r", "a1", 4, 6, unread=(0, 5)),
        Lif("lif", ("a1",), "m", TAU),
        Flatten("flat", ("m",), "f"),
        linear("readout", "f", "y", 3, 16),
    )
    slim = check(Graph("x", (2, 2, 2), nodes, "y", 4))
    assert slim.removed == {"stem": Removed(4, unread=(0,))} and slim.graph.input_shape == (2, 2, 2)


def test_groups_are_left_alone():
    nodes = (
        conv("a", "s", "a1", 4, 4, empty=(1,), bias=SILENT),
        Lif("lif a", ("a1",), "sa", TAU),
        conv("b", "sa", "b1", 4, 4, empty=(1, 2), bias=SILENT, group=2),
        Lif("lif b", ("b1",), "m", TAU),
    )
    assert not check(chain(*nodes)).removed


def test_logits_stay_even_if_nothing_drives_them():
    graph = chain(Lif("again", ("s",), "m", TAU))
    readout = linear("readout", "f", "y", 3, 64, empty=(0, 2), bias=-1.0)
    for last in ((readout,), (replace(readout, output="z"), Lif("last", ("z",), "y", TAU))):
        slim = check(replace(graph, nodes=(*graph.nodes[:-1], *last)))
        assert not slim.removed and slim.graph.classes == 3


def test_logits_that_are_read_again_stay():
    """The value of the logits has a reader of its own."""
    graph = chain(Lif("again", ("s",), "m", TAU))
    readout = linear("readout", "f", "y", 3, 64, empty=(1,), bias=2.0)
    beside = linear("beside", "y", "z", 2, 3)
    slim = check(replace(graph, nodes=(*graph.nodes[:-1], readout, beside)))
    assert slim.graph.classes == 3 and shapes(slim)["readout"] == (3, 64)


def test_a_dead_layer_keeps_one_channel():
    slim = check(chain(conv("a", "s", "a1", 4, 4, empty=range(4), bias=-1.0), Lif("lif a", ("a1",), "m", TAU)))
    assert slim.removed["a"] == Removed(4, silent=(1, 2, 3)) and shapes(slim)["readout"] == (3, 16)
    assert slim.removed["stem"] == Removed(4, unread=(1, 2, 3)), "nobody reads the stem either"


def test_leaky_integrators_follow():
    nodes = (
        conv("a", "s", "a1", 4, 4, empty=(1,), bias=0.0),
        Li("li", ("a1",), "l", 2.0),
        conv("b", "l", "b1", 4, 4, 3, pads=SAME),
        Lif("lif b", ("b1",), "m", TAU),
    )
    assert check(chain(*nodes)).removed == {"a": Removed(4, silent=(1,))}
    nodes[0].bias[1] = 0.1  # charges up: no constant
    assert not check(chain(*nodes)).removed


def test_signals_of_one_dimension():
    nodes = (
        Unsqueeze("unsqueeze", ("x",), "u"),
        conv("a", "u", "a1", 4, 3, empty=(2,), bias=ALWAYS),
        Lif("lif", ("a1",), "m", TAU),
        Flatten("flat", ("m",), "f"),
        linear("readout", "f", "y", 3, 20),
    )
    slim = check(Graph("x", (3, 5), nodes, "y", 4, timed_input=True))
    assert slim.removed == {"a": Removed(4, constant=(2,))}


def test_a_stored_zero_is_no_weight():
    graph = chain(*middle(SILENT))
    stored = graph.nodes[3].weight
    zero = Csr(
        np.insert(stored.values, stored.indptr[1], 0).astype(np.float16),
        np.insert(stored.indices, stored.indptr[1], 2).astype(np.uint16),
        stored.indptr + (np.arange(5) > 1).astype(np.int32),
        stored.shape,
    )
    nodes = (*graph.nodes[:3], replace(graph.nodes[3], weight=zero), *graph.nodes[4:])
    slim = check(replace(graph, nodes=nodes))
    assert slim.removed == {"a": Removed(4, silent=(1, 2))}
    assert next(n for n in slim.graph.weighted() if n.name == "a").weight.values.dtype == np.float16
