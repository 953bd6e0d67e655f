import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from spiketicket.errors import InputError
from spiketicket.train.masks import emptied, magnitude_masks, pack_mask, random_masks, survivors, unpack_mask


def ones(weights):
    return {name: np.ones(tuple(w.shape), bool) for name, w in weights.items()}


def test_the_largest_over_all_layers_survive():
    weights = {"a": torch.tensor([[0.1, -5.0], [0.3, 0.2]]), "b": torch.tensor([[4.0, -0.25]])}
    masks = magnitude_masks(weights, ones(weights), 3)
    assert masks["a"].tolist() == [[False, True], [True, False]]
    assert masks["b"].tolist() == [[True, False]]


def test_ties_are_cut_exactly_and_always_alike():
    weights = {"a": torch.ones(3, 3), "b": torch.ones(2, 2)}
    masks = magnitude_masks(weights, ones(weights), 6)
    assert survivors(masks) == 6
    assert masks["b"].all() and masks["a"].ravel().tolist() == [False] * 7 + [True] * 2


@given(st.data())
def test_counts_are_exact_and_masks_only_shrink(data):
    values = data.draw(
        arrays(np.float32, array_shapes(min_dims=2, max_dims=2), elements=st.sampled_from([0, 1, -1, 2.5]))
    )
    weights = {"w": torch.from_numpy(values)}
    masks = ones(weights)
    alive = values.size
    while alive:
        alive = data.draw(st.integers(0, alive - 1))
        for smaller in (
            magnitude_masks(weights, masks, alive),
            random_masks(masks, alive, np.random.SeedSequence(data.draw(st.integers(0, 9)))),
        ):
            assert survivors(smaller) == alive
            assert not (smaller["w"] & ~masks["w"]).any()
        masks = smaller


def test_pruned_weights_do_not_come_back_as_zeros():
    weights = {"w": torch.zeros(2, 2)}
    masks = {"w": np.array([[True, False], [False, True]])}
    assert np.array_equal(magnitude_masks(weights, masks, 2)["w"], masks["w"])


def test_random_masks_come_from_the_seed():
    masks = {"w": np.ones((50, 50), bool)}
    draw = lambda seed: random_masks(masks, 600, np.random.SeedSequence(seed))["w"]  # noqa: E731
    assert np.array_equal(draw(1), draw(1)) and not np.array_equal(draw(1), draw(2))


def test_cannot_keep_more_than_there_are():
    with pytest.raises(InputError, match="cannot keep 5 weights of 4"):
        magnitude_masks({"w": torch.ones(2, 2)}, {"w": np.ones((2, 2), bool)}, 5)


def test_emptied_layers_are_named():
    assert emptied({"a": np.zeros((2, 2), bool), "b": np.ones((1, 1), bool)}) == ["a"]


@given(arrays(bool, array_shapes(min_dims=1, max_dims=4)))
def test_packing(mask):
    packed = pack_mask(mask)
    assert packed.nbytes == (mask.size + 7) // 8
    assert np.array_equal(unpack_mask(packed, mask.shape), mask)


def test_bits_past_the_end_are_refused():
    with pytest.raises(InputError, match="past the last weight"):
        unpack_mask(np.array([255], np.uint8), (3,))
    with pytest.raises(InputError, match="expected 1 packed bytes"):
        unpack_mask(np.array([1, 1], np.uint8), (3,))
