"""Masks: packed and back, held on a network, importable without torch."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch import nn

from spiketicket.errors import InputError
from spiketicket.train.pruning.masks import (
    apply_masks,
    dense_masks,
    emptied,
    pack_mask,
    survivors,
    unpack_mask,
    zero_pruned_weights,
)


def test_masks_hold_on_what_is_prunable():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 2))
    masks = dense_masks(model)
    assert set(masks) == {"0.weight", "3.weight"} and survivors(masks) == 3 * 2 * 9 + 6
    masks["3.weight"][0] = False
    held = apply_masks(model, masks)
    assert not model[3].weight[0].any() and model[3].weight[1].all() and model[0].weight.all()
    with torch.no_grad():
        model[3].weight.fill_(1)
    zero_pruned_weights(model, held)
    assert model[3].weight.tolist() == [[0, 0, 0], [1, 1, 1]]


def test_emptied_layers_are_named():
    assert emptied({"a": np.zeros((2, 2), bool), "b": np.ones((1, 1), bool)}) == ["a"]


@given(st.data())
def test_packing(data):
    mask = data.draw(arrays(bool, array_shapes(min_dims=1, max_dims=4)))
    packed = pack_mask(mask)
    assert packed.nbytes == (mask.size + 7) // 8
    assert np.array_equal(unpack_mask(packed, mask.shape), mask)


def test_bits_past_the_end_are_refused():
    with pytest.raises(InputError, match="past the last weight"):
        unpack_mask(np.array([255], np.uint8), (3,))
    with pytest.raises(InputError, match="expected 1 packed bytes"):
        unpack_mask(np.array([1, 1], np.uint8), (3,))


def test_settings_can_ask_for_strategies_and_criteria_without_torch():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'spikingjelly']))\n"
        "from spiketicket.train.pruning import masks, strategies\n"
        "from spiketicket.train.search import early_bird, early_time\n"
        "strategies.strategy('2:4'); early_bird.EarlyBird(); early_time.EarlyTime()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
