"""Early-Time: divergences against scipy, the choice on curves made by hand."""

import json
from math import inf, log

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr, softmax

from spiketicket.errors import InputError
from spiketicket.train.search.early_time import DIVERGENCES, NORMALISERS, EarlyTime, choose, divergences, early_time

CURVE = [4.0, 1.0, 0.32, 0.2, 0.0]  # D_3 and D_4 as in the paper's Table 2
SCIPY = {
    "forward": lambda p, last: rel_entr(p, last).sum(),
    "reverse": lambda p, last: rel_entr(last, p).sum(),
    "jensen-shannon": lambda p, last: jensenshannon(p, last) ** 2,
}


def random_logits(timesteps, images=7, classes=10, seed=0):
    return 3 * torch.randn(timesteps, images, classes, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("timesteps", [1, 2, 5])
def test_divergences_are_those_of_scipy(divergence, timesteps):
    logits = random_logits(timesteps)
    curve = divergences(logits, divergence)
    probabilities = [softmax(logits[: t + 1].double().mean(0).numpy(), axis=1) for t in range(timesteps)]
    for p, value in zip(probabilities, curve, strict=True):
        images = [SCIPY[divergence](mine, last) for mine, last in zip(p, probabilities[-1], strict=True)]
        assert value == pytest.approx(np.mean(images), rel=1e-9, abs=1e-12)
    assert curve[-1] == 0


def test_divergences_by_hand():
    """Two classes; after one step P = (3/4, 1/4), after two (1/2, 1/2)."""
    logits = torch.tensor([[[log(3), 0.0]], [[-log(3), 0.0]]], dtype=torch.float64)
    forward = 3 / 4 * log(3 / 2) + 1 / 4 * log(1 / 2)
    reverse = 1 / 2 * log(2 / 3) + 1 / 2 * log(2)
    mixed = (3 / 4 * log(6 / 5) + 1 / 4 * log(2 / 3) + 1 / 2 * log(4 / 5) + 1 / 2 * log(4 / 3)) / 2
    for name, value in (("forward", forward), ("reverse", reverse), ("jensen-shannon", mixed)):
        assert divergences(logits, name) == pytest.approx([value, 0.0])


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_certain_predictions_stay_finite(divergence):
    """Probabilities of 0 in float64: the logarithm is taken before it underflows."""
    logits = torch.tensor([[[5000.0, 0.0]], [[0.0, 25000.0]]])  # the means differ by 5000, then by -10000
    expected = {"forward": 10000.0, "reverse": 5000.0, "jensen-shannon": log(2)}
    assert divergences(logits, divergence) == pytest.approx([expected[divergence], 0.0])


@given(st.integers(1, 6), st.integers(0, 99), st.sampled_from(list(DIVERGENCES)))
def test_bounds(timesteps, seed, divergence):
    curve = divergences(random_logits(timesteps, seed=seed), divergence)
    assert len(curve) == timesteps and min(curve) >= 0
    assert divergence != "jensen-shannon" or max(curve) <= log(2)
    assert divergences(torch.ones(timesteps, 2, 3) * 0.1, divergence) == pytest.approx([0.0] * timesteps, abs=1e-15)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_rounding_makes_nothing_negative(divergence):
    """The same logits at every timestep: the means differ in their last bits, and sums come out as -1e-17."""
    for seed in range(10):
        row = torch.randn(1, 1, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        same = row.repeat(6, 1, 1)
        assert min(divergences(same, divergence)) >= 0


def test_a_shift_of_all_logits_changes_nothing():
    logits = random_logits(4).double()
    assert divergences(logits + 100, "forward") == pytest.approx(divergences(logits, "forward"), rel=1e-9)
    assert divergences(logits.bfloat16(), "forward") == divergences(logits.bfloat16().double(), "forward")


def test_the_papers_choice():
    choice = choose(CURVE, EarlyTime())
    assert choice.timesteps == 3 and choice.divergences == tuple(CURVE)
    assert choice.normalised == pytest.approx((4.0, 1.0, 0.32, 0.2, 0.0))


@pytest.mark.parametrize(
    ("curve", "options", "expected"),
    [
        ([9, 2, 1.5, 1.0, 0], {}, 4),  # 0.75, 0.5
        ([9, 2, 1.5, 1.3, 0], {}, 5),  # none below 0.6: T
        ([9, 2, 1.2, 1.0, 0], {}, 4),  # 0.6 itself is not below 0.6
        ([9, 2, 1.5, 1.0, 0], {"threshold": 0.8}, 3),
        ([9, 2, 0.1, 1.9, 0], {}, 3),  # the smallest, though a later one is above again
        (CURVE, {"candidates": (4,)}, 4),
        (CURVE, {"candidates": (4, 3)}, 3),
        ([0.5, 1, 0.9, 0.8, 0], {"candidates": (1, 2)}, 1),
        ([1, 1, 3, 1, 0], {"normaliser": "maximum"}, 2),  # 1/3, 1, 1/3
        ([1, 1, 3, 1, 0], {"normaliser": "second"}, 5),  # 1, 3, 1
        ([9, 1, 0.9, 0.5, 0], {"normaliser": "maximum"}, 4),  # D_1 = 9 is no candidate
        ([9, 1, 0.9, 0.5, 0], {"normaliser": "maximum", "candidates": (1, 2)}, 2),
    ],
)
def test_choices_by_hand(curve, options, expected):
    assert choose(curve, EarlyTime(**options)).timesteps == expected


@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_few_timesteps_leave_nothing_to_choose(normaliser):
    options = EarlyTime(normaliser=normaliser)
    assert choose([0.0], options).timesteps == 1
    assert choose([0.3, 0.0], options).timesteps == 2
    assert early_time(random_logits(1), options).timesteps == 1
    assert early_time(random_logits(2), options).timesteps == 2
    assert choose([0.3, 0.0], EarlyTime(normaliser=normaliser, candidates=(1,))).timesteps == 2


def test_nothing_to_divide_by():
    """P_2 = P_T: two steps are as good as all, and a later difference is infinitely worse."""
    choice = choose([0.4, 0.0, 0.1, 0.0], EarlyTime())
    assert choice.timesteps == 2 and choice.normalised == (inf, 0.0, inf, 0.0)
    assert json.loads(json.dumps(choice.to_dict(), allow_nan=False)) == {
        "divergences": [0.4, 0.0, 0.1, 0.0],
        "normalised": [None, 0.0, None, 0.0],
        "timesteps": 2,
    }
    assert choose([0.0] * 4, EarlyTime(normaliser="maximum")).timesteps == 2


def test_a_network_that_settles_at_three_steps():
    """The first two steps say class 0, all later ones class 1."""
    logits = torch.zeros(5, 4, 2)
    logits[:2, :, 0], logits[2:, :, 1] = 1.0, 4.0
    assert early_time(logits, EarlyTime()).timesteps == 3
    assert early_time(logits, EarlyTime("reverse", "maximum")).timesteps == 3


def test_what_cannot_be_measured_is_refused():
    for bad in (float("nan"), float("inf"), -float("inf")):
        logits = random_logits(3)
        logits[1, 4, 2] = bad
        with pytest.raises(InputError, match="logits are not finite, first at timestep 2, image 4"):
            divergences(logits, "forward")
    for shape in ((3, 4), (0, 4, 2), (3, 0, 2), (3, 4, 0)):
        with pytest.raises(InputError, match=r"expected logits \[T, N, classes\]"):
            divergences(torch.zeros(shape), "forward")
    huge = torch.tensor([[[1e308, -1e308]], [[-1e308, 1e308]]], dtype=torch.float64)
    with pytest.raises(InputError, match=r"logits up to 1e\+308 are too large"):
        divergences(huge, "forward")
    for curve in ([], [float("nan"), 0.0], [-1.0, 0.0], [inf, 0.0]):
        with pytest.raises(InputError, match="expected finite divergences of 0 or more"):
            choose(curve, EarlyTime())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"divergence": "kl"}, "divergence: expected one of forward, reverse, jensen-shannon, got 'kl'"),
        ({"normaliser": "first"}, "normaliser: expected one of second, maximum, got 'first'"),
        ({"threshold": 0}, "threshold: expected above 0, at most 1, got 0"),
        ({"threshold": float("nan")}, "threshold: expected above 0"),
        ({"candidates": ()}, "expected timesteps of 1 or more, got []"),
        ({"candidates": (0, 2)}, "expected timesteps of 1 or more, got [0, 2]"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(InputError) as caught:
        EarlyTime(**options)
    assert message in str(caught.value)


def test_candidates_lie_below_all_timesteps():
    with pytest.raises(InputError, match=r"candidates: expected 1..4, got \[2, 5\]"):
        choose(CURVE, EarlyTime(candidates=(2, 5)))
