"""The oracle itself, against numbers worked out by hand and against independent code."""

import numpy as np
import pytest
from scipy.signal import correlate

from spiketicket.csr import Csr
from spiketicket.graph import Conv, Li, Lif
from spiketicket.runtime.engines.reference import convolve, fire, integrate
from tests.support.graphs import random_csr

# tau = 4/3, threshold 1, reset 0: h = 0.25 v + 0.75 x (METHOD: fires every step from 4/3 on, every
# second from 16/15 on, every third from 64/63 on).
HARD_TRACES = [
    (4 / 3, [1, 1, 1, 1, 1, 1]),
    (1.2, [0, 1, 0, 1, 0, 1]),
    (1.02, [0, 0, 1, 0, 0, 1]),
    (0.99, [0, 0, 0, 0, 0, 0]),
]


@pytest.mark.parametrize(("current", "spikes"), HARD_TRACES)
def test_constant_current_fires_periodically(current, spikes):
    node = Lif("lif", ("x",), "s", 4 / 3)
    assert fire(node, np.full((6, 1), current))[:, 0].tolist() == spikes


def test_soft_reset_keeps_what_exceeds_the_threshold():
    # tau = 2, decay_input: h = 0.5 v + 0.5 x. h: 1.5 (fires, v 0.5), 1.75 (fires, v 0.75), 0.375
    node = Lif("lif", ("x",), "s", 2.0, 1.0, None)
    assert fire(node, np.array([[3.0], [3.0], [0.0]]))[:, 0].tolist() == [1, 1, 0]


def test_without_decay_the_input_counts_whole():
    # tau = 2: h = 0.5 v + x. h: 0.6, 0.9, 1.05 (fires), 0.6
    node = Lif("lif", ("x",), "s", 2.0, 1.0, 0.0, False)
    assert fire(node, np.full((4, 1), 0.6))[:, 0].tolist() == [0, 0, 1, 0]


def test_reset_potential_is_where_the_neuron_rests():
    # rest -1, tau 2: h = v + (x - (v + 1)) / 2. From -1 with x = 3: 0.5; then 0.5 + (3 - 1.5) / 2 = 1.25, fires.
    node = Lif("lif", ("x",), "s", 2.0, 1.0, -1.0)
    assert fire(node, np.full((4, 1), 3.0))[:, 0].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("reset", "drop", "spikes"),
    [
        (0.0, None, [0, 1, 0, 1, 0, 1]),  # 6, 12 fires, 6, 12 fires
        (None, None, [0, 1, 0, 1, 1, 0]),  # 6, 12 fires, 8, 14 fires, 10 fires, 6
        (None, 15.0, [0, 1, 0, 0, 1, 0]),  # 6, 12 fires, 3, 9, 15 fires, 6
    ],
)
def test_neurons_without_leak(reset, drop, spikes):
    node = Lif("lif", ("x",), "s", float("inf"), 10.0, reset, False, drop)
    assert fire(node, np.full((6, 1), 6.0))[:, 0].tolist() == spikes


@pytest.mark.parametrize(
    ("tau", "decay", "potentials"),
    [(2.0, True, [2, 3, 1.5, -0.25]), (2.0, False, [4, 6, 3, -0.5]), (float("inf"), False, [4, 8, 8, 6])],
)
def test_integrators_by_hand(tau, decay, potentials):
    node = Li("li", ("x",), "v", tau, decay)
    assert integrate(node, np.array([4.0, 4.0, 0.0, -2.0])[:, None])[:, 0].tolist() == potentials


def test_convolution_matches_scipy():
    rng = np.random.default_rng(0)
    weight = random_csr(rng, (4, 3, 3, 5), 0.7)
    node = Conv("c", ("x",), "y", weight, np.arange(4, dtype=np.float32))
    x = rng.standard_normal((2, 3, 8, 9))
    expected = np.stack(
        [
            [correlate(image, kernel, "valid")[0] + o for o, kernel in enumerate(weight.to_dense("float64"))]
            for image in x
        ]
    )
    assert np.allclose(convolve(node, weight.to_dense("float64"), x), expected, atol=1e-12)


def test_convolution_by_hand_with_stride_pad_dilation_and_groups():
    ones = Csr.from_dense(np.array([[[[1.0, 10.0]]], [[[1.0, 10.0]]]], dtype=np.float32))
    node = Conv("c", ("x",), "y", ones, np.zeros(2, np.float32), (1, 2), (0, 1, 0, 0), (1, 2), 2)
    x = np.array([[[[1.0, 2.0, 3.0, 4.0]], [[5.0, 6.0, 7.0, 8.0]]]])
    # Padded left by a zero: 0 1 2 3 4; taps two apart, steps of two: 0 + 10*2, 2 + 10*4.
    assert convolve(node, ones.to_dense("float64"), x).tolist() == [[[[20.0, 42.0]], [[60.0, 86.0]]]]
