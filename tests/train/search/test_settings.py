"""What settings are refused, and how they are stored."""

import json
from dataclasses import replace

import pytest

from spiketicket.errors import InputError
from spiketicket.train.search.settings import SearchSettings


def settings(method="imp", **options):
    return SearchSettings(method, "vgg16", "cifar10", **options)


def test_settings_are_plain_json():
    chosen = settings(rounds=15, early_time=True, finals=(4, 8))
    assert json.loads(json.dumps(chosen.to_dict()))["finals"] == [4, 8]


def test_the_released_recipe_measures_early_time_its_own_way():
    paper, released = (settings(rounds=3, early_time=True, recipe=recipe) for recipe in ("paper", "released"))
    assert (paper.early_time_options().divergence, paper.early_time_options().normaliser) == ("forward", "second")
    assert (released.early_time_options().divergence, released.early_time_options().normaliser) == (
        "reverse",
        "maximum",
    )
    assert replace(released, et_divergence="forward").early_time_options().divergence == "forward"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "rounds, sparsity: expected exactly one of the two, got neither"),
        ({"rounds": 1}, "rounds: expected 2 to 100"),
        ({"sparsity": 100.0}, "a percentage from 0 below 100"),
        ({"sparsity": 0.9831}, "did you mean 98.31"),
        ({"rounds": 3, "rewind_epoch": 301}, "rewind_epoch"),
        ({"rounds": 3, "epochs": 0, "rewind_epoch": 0}, "epochs: expected 1 or more for imp"),
        ({"rounds": 3, "prune_rate": 1.0}, "prune_rate"),
        ({"rounds": 3, "lr": float("nan")}, "lr: expected above 0"),
        ({"rounds": 3, "optimizer": "adam"}, "lr: expected at most 0.1 with adam, got 0.3"),
        ({"rounds": 3, "optimizer": "adam", "lr": 0.01, "recipe": "released"}, "sgd with recipe released, got adam"),
        ({"rounds": 3, "optimizer": "lion"}, "optimizer: expected one of sgd, adam, got lion"),
        ({"rounds": 3, "deep_supervision": -0.1}, "deep_supervision: expected a weight of 0 or more, got -0.1"),
        ({"rounds": 3, "batch_norm": "layer"}, "batch_norm: expected one of per-timestep, folded"),
        ({"rounds": 3, "seed": -1}, "seed"),
        ({"rounds": 3, "seed": 2**32}, "seed"),
        ({"rounds": 3, "batch_size": 1}, "batch norm needs two"),
        ({"rounds": 3, "batch_size": 10**23}, "batch_size: expected 2 to"),
        ({"rounds": 3, "recipe": "mine"}, "recipe: expected one of paper, released, got mine"),
        ({"rounds": 3, "strategy": "magic"}, "unknown strategy 'magic'"),
        ({"rounds": 3, "schedule": "linear"}, "schedule: expected one of cosine, step"),
        ({"rounds": 3, "precision": "int8"}, "precision: expected one of float32, bfloat16, float16"),
        ({"rounds": 3, "cutout": -1}, "cutout: expected 0 to 4096 pixels, got -1"),
        ({"rounds": 3, "clip": 0.0}, "clip: expected above 0"),
        ({"rounds": 3, "validation": 1.0}, "validation: expected a share"),
        ({"rounds": 3, "finals": (2,)}, "finals: expected none without early_time"),
        ({"rounds": 3, "early_time": True, "timesteps": 2}, "early_time: expected 3 timesteps and 3 epochs"),
        ({"rounds": 3, "early_time": True, "et_candidates": (5,)}, r"candidates: expected 1..4, got \[5\]"),
        ({"rounds": 3, "early_time": True, "et_divergence": "distance"}, "divergence: expected one of forward"),
        ({"rounds": 3, "et_threshold": 0.5}, "et_threshold: expected early_time with it, got none"),
        ({"method": "eb", "sparsity": 90.0, "eb_criterion": "taste"}, "criterion: expected one of hamming, overlap"),
        ({"method": "eb", "sparsity": 90.0, "eb_threshold": 1.0}, "threshold: expected a number between 0 and 1"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(InputError, match=message):
        settings(**options)


def test_early_bird_is_asked_for_a_sparsity():
    """It has no rounds on the command line: a message must not ask for them."""
    with pytest.raises(InputError, match="^sparsity: expected a percentage, got none$"):
        SearchSettings("eb", "vgg16", "cifar10")
