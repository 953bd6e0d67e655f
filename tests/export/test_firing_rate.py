"""Firing rates of neurons on a constant current, which hold for every way of rounding in float32."""

from math import inf

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spiketicket.export.channels import Constants, firing_rate
from spiketicket.graph import Lif

TAU = 4 / 3


def simulate(node, current, timesteps, kind):
    """Did it ever fire, did it always: float32, in both forms of the equations that engines use."""
    f = np.float32
    tau, threshold, drop, x = f(node.tau), f(node.v_threshold), f(node.drop), f(current)
    rest = f(0 if node.v_reset is None else node.v_reset)
    rate = f(1) / tau
    v, fired = (rest if kind == "v" else f(0)), []
    for _ in range(timesteps):
        if kind == "v":
            h = v + (x - (v - rest)) / tau if node.decay_input else v - (v - rest) / tau + x
            spike = h >= threshold
            v = (h - drop if node.v_reset is None else rest) if spike else h
        else:
            h = v * (f(1) - rate) + x * (rate if node.decay_input else f(1))
            spike = h >= threshold - rest
            v = (h - drop if node.v_reset is None else f(0)) if spike else h
        fired.append(bool(spike))
    return any(fired), all(fired)


NEURONS = st.builds(
    lambda tau, threshold, reset, decay, drop: Lif(
        "n", ("x",), "s", tau, threshold, reset, decay and tau < inf, drop if reset is None else None
    ),
    st.sampled_from([1.0, TAU, 2.0, 7.3, 100.0, 3e4, 1e9, inf]),
    st.sampled_from([1.0, 0.1, 3.0, 1e-3]),
    st.sampled_from([None, None, 0.0, -1.0, 0.05, -50.0, 0.0009999]),
    st.booleans(),
    st.sampled_from([None, 0.0, 0.5, 1.1, 3.0, -1.0]),
)


@settings(max_examples=400, deadline=None)
@given(
    NEURONS, st.sampled_from([1.0, -1.0, 1 + 1e-7, 1 - 1e-7, 1 + 1e-4, 1 - 1e-4, 1.5, 0.5, 0.0, 30.0]), st.booleans()
)
def test_rounding_changes_no_firing_rate(node, factor, long):
    """Currents at, just beside, and far from where the rate changes."""
    rest = 0.0 if node.v_reset is None else node.v_reset
    assume(node.v_threshold > rest)
    gain = 1 / node.tau if node.decay_input else 1.0
    level = node.v_threshold - rest
    current = np.float32(factor * (level / (gain * node.tau) if long and node.tau < inf else level / gain))
    (rate,) = firing_rate(node, Constants.of(np.array([current], dtype=np.float64)))
    for kind in "uv":
        ever, always = simulate(node, current, 400, kind)
        assert not (rate == 0 and ever) and not (rate == 1 and not always)


@pytest.mark.parametrize(
    ("node", "current", "rate"),
    [
        (Lif("n", ("x",), "s", TAU), 0.9999, 0),
        (Lif("n", ("x",), "s", TAU), 1.0, None),
        (Lif("n", ("x",), "s", TAU), 1.3333, None),
        (Lif("n", ("x",), "s", TAU), 1.3334, 1),
        (Lif("n", ("x",), "s", 2.0, decay_input=False), 0.4999, 0),
        (Lif("n", ("x",), "s", 2.0, decay_input=False), 0.5001, None),
        (Lif("n", ("x",), "s", 2.0, decay_input=False), 1.0001, 1),
        (Lif("n", ("x",), "s", inf, decay_input=False), 0.0, 0),
        (Lif("n", ("x",), "s", inf, decay_input=False), 1e-9, None),
        (Lif("n", ("x",), "s", inf, decay_input=False), -1e-9, 0),
        (Lif("n", ("x",), "s", inf, decay_input=False), 1.001, 1),
        (Lif("n", ("x",), "s", 2.0, v_reset=-1.0), 1.999, 0),  # 2 above rest
        (Lif("n", ("x",), "s", 2.0, v_reset=-1.0), 3.999, None),
        (Lif("n", ("x",), "s", 2.0, v_reset=-1.0), 4.001, 1),
        (Lif("n", ("x",), "s", 1.0), 0.999, 0),
        (Lif("n", ("x",), "s", 1.0), 1.001, 1),
        # soft, tau 2: h from x / 2 to 2 (x / 2 - drop / 2) = x - drop
        (Lif("n", ("x",), "s", 2.0, v_reset=None), 2.001, 1),
        (Lif("n", ("x",), "s", 2.0, v_reset=None), 1.999, None),
        (Lif("n", ("x",), "s", 2.0, v_reset=None, v_drop=2.5), 3.499, None),
        (Lif("n", ("x",), "s", 2.0, v_reset=None, v_drop=2.5), 3.501, 1),
        (Lif("n", ("x",), "s", inf, v_reset=None, decay_input=False), 1.001, 1),
        (Lif("n", ("x",), "s", inf, v_reset=None, decay_input=False, v_drop=2.0), 1.9, None),
        (Lif("n", ("x",), "s", inf, v_reset=None, decay_input=False, v_drop=2.0), 2.001, 1),
        (Lif("n", ("x",), "s", inf, v_reset=None, decay_input=False, v_drop=-1.0), 0.9, None),
        (Lif("n", ("x",), "s", TAU, 1.0, 1 - 1e-9), 0.0, None),  # float32 cannot tell rest from threshold
        (Lif("n", ("x",), "s", 1e9), 0.9, None),  # float32 hardly knows that it leaks
    ],
)
def test_firing_rate(node, current, rate):
    (got,) = firing_rate(node, Constants.of(np.array([current])))
    assert np.isnan(got) if rate is None else got == rate


def test_a_current_in_doubt_decides_nothing():
    """A sum of constants that nearly cancel may round to more than it is."""
    rates = firing_rate(Lif("n", ("x",), "s", TAU), Constants(np.array([0.9, 1.5, 0.9]), np.array([0.2, 0.2, 0.05])))
    assert np.isnan(rates[:2]).all() and rates[2] == 0
