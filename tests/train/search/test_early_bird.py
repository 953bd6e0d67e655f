"""Early-Bird on sequences made by hand."""

from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spiketicket.errors import InputError
from spiketicket.train.search.early_bird import EarlyBird, Stability, hamming, overlap


def masks(*kept, size=100):
    """A network of one layer, of which the weights at these positions survive."""
    mask = np.zeros(size, bool)
    mask[list(kept)] = True
    return {"w": mask.reshape(10, -1)}


def test_measures_by_hand():
    """Ten survivors of 100, seven in common: three are only here, three only there."""
    a, b = masks(*range(10)), masks(*range(3, 13))
    assert hamming(a, b) == hamming(b, a) == 6 / 100
    assert overlap(a, b) == overlap(b, a) == 7 / 10
    assert hamming(a, a) == 0 and overlap(a, a) == 1
    assert overlap(a, masks()) == 0 and overlap(masks(), masks()) == 1
    assert overlap(masks(0, 1, 2, 3), masks(0)) == 1 / 4, "of the larger one"


def test_layers_count_by_their_size():
    a = {"small": np.array([[True, False]]), "large": np.ones((2, 4), bool)}
    b = {"small": np.array([[False, True]]), "large": np.ones((2, 4), bool)}
    assert hamming(a, b) == 2 / 10 and overlap(a, b) == 8 / 9


@given(st.integers(0, 50), st.integers(0, 50))
def test_hamming_is_the_overlap_scaled_by_density(count, shift):
    a, b = masks(*range(count)), masks(*range(min(shift, count), count + min(shift, count)))
    assert hamming(a, b) == pytest.approx(2 * count / 100 * (1 - overlap(a, b)))


def test_half_of_the_weights_in_common_pass_the_papers_distance():
    """What METHOD.md warns of, at 98% sparsity: the distance is 0.02, the overlap a half."""
    a, b = masks(*range(20), size=1000), masks(*range(10, 30), size=1000)
    assert hamming(a, b) == pytest.approx(0.02) and overlap(a, b) == 0.5


def test_stops_when_the_window_is_full_and_still():
    bird = EarlyBird(window=3, threshold=0.05)
    assert bird.update(masks(0, 1, 2)) == Stability(None, None, False)
    assert bird.update(masks(0, 1, 2)) == Stability(0.0, 1.0, False), "the window is not full"
    assert bird.update(masks(0, 1, 3)) == Stability(0.02, 2 / 3, True)


def test_every_mask_of_the_window_counts_and_older_ones_do_not():
    far, near = masks(50, 51, 52), masks(0, 1, 2)
    bird = EarlyBird(window=3, threshold=0.05)
    stops = [bird.update(mask).stop for mask in (near, far, near, near, near)]
    assert stops == [False, False, False, False, True]
    assert bird.stability.hamming == 0


def test_the_newest_is_compared_not_the_others_with_each_other():
    """Each is 0.02 from the last one but 0.04 from one another."""
    bird = EarlyBird(window=3, threshold=0.03)
    for mask in (masks(0, 1, 2, 3), masks(2, 3, 4, 5), masks(1, 2, 3, 4)):
        stable = bird.update(mask)
    assert stable == Stability(0.02, 3 / 4, True)


def test_a_distance_at_the_threshold_is_not_below_it():
    for threshold, stop in ((0.02, False), (0.0201, True)):
        bird = EarlyBird(window=2, threshold=threshold)
        bird.update(masks(0, 1))
        assert bird.update(masks(0, 2)).stop is stop


def test_overlap_as_criterion():
    for threshold, stop in ((0.5, False), (0.49, True)):
        bird = EarlyBird(window=2, criterion="overlap", threshold=threshold)
        bird.update(masks(0, 1))
        assert bird.update(masks(0, 2)) == Stability(0.02, 0.5, stop)


def test_the_least_overlap_of_the_window_counts():
    bird = EarlyBird(window=3, criterion="overlap", threshold=0.6)
    for kept in ((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5)):
        stable = bird.update(masks(*kept))
    assert stable == Stability(0.04, 0.5, False)


def test_defaults_are_the_papers():
    bird = EarlyBird()
    stops = [bird.update(masks(*range(50), size=1000)).stop for _ in range(4)]
    assert stops == [False] * 4
    assert bird.update(masks(*range(9, 59), size=1000)) == Stability(0.018, 0.82, True)
    bird = EarlyBird(criterion="overlap")
    for kept in (range(50),) * 4 + (range(9, 59),):
        stable = bird.update(masks(*kept, size=1000))
    assert not stable.stop and bird.threshold == 0.9
    assert stable.to_dict() == {"hamming": 0.018, "overlap": 0.82, "stop": False}


def stored(bird):
    """What a checkpoint does to the state."""
    file = BytesIO()
    torch.save(bird.state(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@given(st.integers(0, 7), st.integers(0, 9))
def test_a_restored_one_goes_on_as_if_nothing_had_happened(seen, seed):
    rng = np.random.default_rng(seed)
    sequence = [{"a": rng.random((3, 7)) < 0.5, "b": rng.random((2, 3, 3, 3)) < 0.9} for _ in range(12)]
    straight, killed = EarlyBird(threshold=0.45), EarlyBird(threshold=0.45)
    for mask in sequence[:seen]:
        straight.update(mask)
        killed.update(mask)
    resumed = EarlyBird(threshold=0.45)
    resumed.restore(stored(killed))
    assert resumed.stability == straight.stability
    if seen:
        assert all(np.array_equal(resumed.newest[name], sequence[seen - 1][name]) for name in ("a", "b"))
    assert [resumed.update(mask) for mask in sequence[seen:]] == [straight.update(mask) for mask in sequence[seen:]]


def test_restoring_replaces_what_was_seen():
    fresh, bird = EarlyBird(), EarlyBird()
    fresh.update(masks(0))
    bird.update(masks(5))
    bird.restore(fresh.state())
    assert bird.stability == fresh.stability == Stability(None, None, False)


def test_state_takes_a_bit_per_weight():
    bird = EarlyBird(window=2)
    for _ in range(3):
        bird.update(masks(0, size=8000))
    assert [packed["w"].nbytes for packed in bird.state()["window"]] == [1000, 1000]


def test_damaged_states_are_refused():
    bird = EarlyBird(window=2)
    bird.update(masks(0))
    good = bird.state()
    packed = good["window"][0]["w"]
    damaged = [
        None,
        {},
        {**good, "window": None},
        {**good, "window": [{}]},
        {**good, "window": [{"w": None}]},
        {**good, "window": [{"w": packed[1:]}]},
        {**good, "window": [{"w": packed.float()}]},
        {**good, "shapes": {"w": [3]}},
        {**good, "shapes": {}},
        {**good, "shapes": {"w": None}},
    ]
    for state in damaged:
        with pytest.raises(InputError, match="damaged Early-Bird state"):
            bird.restore(state)
    with pytest.raises(InputError, match="expected at most 2 masks, got 3"):
        bird.restore({**good, "window": good["window"] * 3})
    assert bird.newest["w"].sum() == 1, "nothing is lost by a refusal"


def test_wrong_settings_and_masks_are_refused():
    with pytest.raises(InputError, match="window: expected 2 masks or more, got 1"):
        EarlyBird(window=1)
    with pytest.raises(InputError, match="criterion: expected one of hamming, overlap, got 'cosine'"):
        EarlyBird(criterion="cosine")
    for threshold in (0, 1, -0.1, float("nan")):
        with pytest.raises(InputError, match="threshold: expected a number between 0 and 1"):
            EarlyBird(threshold=threshold)
    with pytest.raises(InputError, match="has seen no mask yet"):
        _ = EarlyBird().newest
    bird = EarlyBird()
    bird.update(masks(0))
    with pytest.raises(InputError, match=r"different networks: w is \(10, 10\) in one, \(10, 20\) in the other"):
        bird.update(masks(0, size=200))
    with pytest.raises(InputError, match="masks of different networks: v is None in one"):
        hamming(masks(0), {**masks(0), "v": np.ones(3, bool)})
