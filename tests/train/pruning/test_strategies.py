"""Strategies: exact counts, deterministic ties, and promises that hold however often a network is pruned."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spiketicket.errors import InputError
from spiketicket.train.pruning.masks import survivors
from spiketicket.train.pruning.strategies import allot, magnitude_masks, random_scores, strategy

NAMES = ("global", "uniform", "erk", "2:4", "1:3", "5:8", "balanced", "balanced:2", "balanced:1")


def ones(weights):
    return {name: np.ones(tuple(w.shape), bool) for name, w in weights.items()}


def counts(masks):
    return [int(mask.sum()) for mask in masks.values()]


@st.composite
def networks(draw):
    """Shapes of one to three layers, with odd numbers of channels."""
    channels, kernels = st.integers(1, 9), st.sampled_from([(), (1, 1), (3, 3), (2, 1)])
    return [(draw(channels), draw(channels), *draw(kernels)) for _ in range(draw(st.integers(1, 3)))]


def trained(shapes, seed):
    """Weights of few different magnitudes, so that most cuts run through ties."""
    rng = np.random.default_rng(seed)
    return {
        f"layer{i}": torch.from_numpy(rng.choice([0, -0.5, 0.5, 1, -2, 3], shape).astype(np.float32))
        for i, shape in enumerate(shapes)
    }


def largest_n_of_m(weights, masks, keep, n, m):
    """The oracle of N:M: weights in falling order, each taken if its group has room."""
    order = [
        (abs(float(weights[name][tuple(index)])), layer, tuple(index))
        for layer, (name, mask) in enumerate(masks.items())
        for index in np.argwhere(mask)
    ]
    taken = {name: np.zeros(mask.shape, bool) for name, mask in masks.items()}
    filled = {}
    for _, layer, (out, channel, *kernel) in sorted(order, reverse=True):
        group = (layer, out, channel // m, *kernel)
        if filled.get(group, 0) < n and sum(filled.values()) < keep:
            filled[group] = filled.get(group, 0) + 1
            taken[list(masks)[layer]][(out, channel, *kernel)] = True
    return taken


def in_proportion(counts, shares, rooms):
    """Whether one factor gives every count as the nearest integer to factor * share, or as its room if less."""
    least = max(Fraction(2 * c - 1, 2 * s) for c, s in zip(counts, shares, strict=True))
    most = [Fraction(2 * c + 1, 2 * s) for c, s, room in zip(counts, shares, rooms, strict=True) if c < room]
    return all(least <= bound for bound in most)


def keeps_promise(name, masks):
    """Whether masks that come from dense ones by any number of prunings are what the strategy promises."""
    sizes = [mask.size for mask in masks.values()]
    if name == "uniform":
        return in_proportion(counts(masks), sizes, sizes)
    if name == "erk":
        return in_proportion(counts(masks), [sum(mask.shape) for mask in masks.values()], sizes)
    if name.startswith("balanced"):
        block = int(name.partition(":")[2] or 16)
        for mask in masks.values():
            blocks = [mask[start : start + block] for start in range(0, len(mask), block)]
            kept, sizes = [int(b.sum()) for b in blocks], [b.size for b in blocks]
            whole = [k for k, size in zip(kept, sizes, strict=True) if size == sizes[0]]
            if max(whole) - min(whole) > 1 or not in_proportion(kept, sizes, sizes):
                return False
    if ":" in name and name[0].isdigit():
        n, m = map(int, name.split(":"))
        return all(
            mask[:, start : start + m].sum(axis=1).max() <= n
            for mask in masks.values()
            for start in range(0, mask.shape[1], m)
        )
    return True


@pytest.mark.parametrize("chance", [False, True], ids=["magnitude", "random"])
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_promises_hold_over_repeated_prunings(name, chance, data):
    shapes = data.draw(networks())
    masks = ones(trained(shapes, 0))
    prune, first = strategy(name), True
    for seed in range(data.draw(st.integers(1, 5))):
        weights = random_scores(masks, np.random.SeedSequence(seed)) if chance else trained(shapes, seed)
        alive = survivors(masks)
        keep = data.draw(st.integers(0, alive))
        cut = prune(weights, masks, keep)
        assert all((cut[layer] <= masks[layer]).all() for layer in masks), "masks only shrink"
        assert all(cut[layer].dtype == bool and cut[layer].shape == masks[layer].shape for layer in masks)
        assert survivors(cut) == keep or (name[0].isdigit() and first), "exact, but for the first cut to N:M"
        assert keeps_promise(name, cut)
        again = prune(weights, masks, keep)
        assert all(np.array_equal(cut[layer], again[layer]) for layer in masks)
        if name[0].isdigit():
            oracle = largest_n_of_m(weights, masks, keep, *map(int, name.split(":")))
            assert all(np.array_equal(cut[layer], oracle[layer]) for layer in masks)
        if name.startswith("balanced"):
            assert counts(cut) == counts(magnitude_masks(weights, masks, keep))
        masks, first = cut, False


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_counts_are_exact_from_masks_of_any_kind(name, data):
    """What a layer or block cannot keep, because too much of it is gone, the others keep."""
    shapes = data.draw(networks())
    weights = trained(shapes, 1)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    masks = {layer: rng.random(mask.shape) < rng.random() for layer, mask in ones(weights).items()}
    keep = data.draw(st.integers(0, survivors(masks)))
    cut = strategy(name)(weights, masks, keep)
    assert all((cut[layer] <= masks[layer]).all() for layer in masks)
    assert survivors(cut) == keep or name[0].isdigit()


@pytest.mark.parametrize("name", ["global", "uniform", "erk", "balanced:1"])
def test_the_largest_survive(name):
    """Within a layer (or block), whatever is kept is at least as large as what is cut."""
    weights = {"a": torch.randn(6, 5, 3, 3), "b": torch.randn(4, 7)}
    cut = strategy(name)(weights, ones(weights), 90)
    for layer, mask in cut.items():
        values = abs(weights[layer].numpy())
        parts = zip(values, mask, strict=True) if name == "balanced:1" else [(values, mask)]
        assert all(part[kept].min(initial=9) > part[~kept].max(initial=0) for part, kept in parts)


def test_the_largest_over_all_layers_survive():
    weights = {"a": torch.tensor([[0.1, -5.0], [0.3, 0.2]]), "b": torch.tensor([[4.0, -0.25]])}
    masks = strategy("global")(weights, ones(weights), 3)
    assert masks["a"].tolist() == [[False, True], [True, False]]
    assert masks["b"].tolist() == [[True, False]]


def test_of_equal_weights_the_later_survive():
    weights = {"a": torch.ones(3, 4), "b": torch.ones(2, 2)}
    masks = strategy("global")(weights, ones(weights), 6)
    assert masks["b"].all() and masks["a"].ravel().tolist() == [False] * 10 + [True] * 2
    masks = strategy("uniform")(weights, ones(weights), 8)
    assert masks["a"].ravel().tolist() == [False] * 6 + [True] * 6 and masks["b"].tolist() == [[False] * 2, [True] * 2]
    assert strategy("2:4")(weights, ones(weights), 16)["a"].tolist() == [[False, False, True, True]] * 3


def test_pruned_weights_do_not_come_back_as_zeros():
    weights = {"w": torch.zeros(2, 2)}
    masks = {"w": np.array([[True, False], [False, True]])}
    for name in NAMES:
        if not name[0].isdigit():
            assert np.array_equal(strategy(name)(weights, masks, 2)["w"], masks["w"]), name


def test_uniform_by_hand():
    """100 of 400 weights: a quarter of each layer, 68.75 -> 69, 25, 6.25 -> 6."""
    weights = {"a": torch.randn(25, 11), "b": torch.randn(10, 10), "c": torch.randn(5, 5)}
    assert counts(strategy("uniform")(weights, ones(weights), 100)) == [69, 25, 6]


def test_erk_by_hand():
    """Survivors in proportion to the sums of dimensions: 4 + 3 + 3 + 3 = 13, 10 + 20 = 30, 2 + 3 = 5."""
    weights = {"a": torch.randn(4, 3, 3, 3), "b": torch.randn(10, 20)}
    assert counts(strategy("erk")(weights, ones(weights), 86)) == [26, 60]
    # Of c's 6 weights 96 * 5 / 48 = 10 would be kept: it stays dense, and 90 go to a and b: 27.2 and 62.8.
    weights["c"] = torch.randn(2, 3)
    assert counts(strategy("erk")(weights, ones(weights), 96)) == [27, 63, 6]


def test_n_of_m_by_hand():
    """Groups of four consecutive inputs, the last one shorter; other layouts would keep other weights."""
    weights = {"w": torch.tensor([[1.0, -2, 3, 4, 9, 8, 7]])}
    expected = [[False, False, True, True, True, True, False]]
    assert strategy("2:4")(weights, ones(weights), 7)["w"].tolist() == expected, "all that the constraint leaves"
    assert strategy("2:4")(weights, ones(weights), 3)["w"].tolist() == [[False] * 3 + [True] * 3 + [False]]


def test_two_of_four_along_the_input_channels_of_each_kernel_position():
    weights = {"w": torch.randn(8, 12, 3, 3)}
    mask = torch.from_numpy(strategy("2:4")(weights, ones(weights), 432)["w"])
    rows = mask.permute(2, 3, 0, 1).reshape(3 * 3 * 8, 12)  # as a convolution becomes a matrix product
    assert (rows.reshape(-1, 4).sum(1) == 2).all()


def test_balanced_by_hand():
    """Six of twelve weights, all large ones in the first rows: three in each block of two rows, each the largest."""
    weights = {"w": torch.tensor([[9.0, 8, 7], [6, 5, 4], [0.1, 0.2, 0.3], [0.6, 0.5, 0.4]])}
    mask = strategy("balanced:2")(weights, ones(weights), 6)["w"]
    assert mask.tolist() == [[True] * 3, [False] * 3, [False] * 3, [True] * 3]


@given(st.data())
def test_allot_gives_one_after_another_to_whom_most_is_due(data):
    shares = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    room = [data.draw(st.integers(0, 40)) for _ in shares]
    given_away = [0] * len(shares)
    for keep in range(sum(room) + 1):
        assert allot(keep, shares, room) == given_away
        if keep < sum(room):
            due = [(Fraction(2 * c + 1, s), -i) for i, (c, s) in enumerate(zip(given_away, shares, strict=True))]
            given_away[-min(d for d, c, r in zip(due, given_away, room, strict=True) if c < r)[1]] += 1


def test_memory_layout_type_and_precision_do_not_matter():
    torch.manual_seed(0)
    plain = {"w": torch.randn(8, 6, 3, 3, dtype=torch.bfloat16).float()}
    for name in NAMES:
        expected = strategy(name)(plain, ones(plain), 100)["w"]
        w = plain["w"]
        others = (w.to(memory_format=torch.channels_last), w.bfloat16(), w.double(), torch.nn.Parameter(w))
        for weight in others:
            assert np.array_equal(strategy(name)({"w": weight}, ones(plain), 100)["w"], expected), name
    close = torch.tensor([[1.0 + 1e-12, 1.0]], dtype=torch.float64)
    assert strategy("global")({"w": close}, ones({"w": close}), 1)["w"].tolist() == [[True, False]]


def test_random_scores_come_from_the_seed_and_spread_evenly():
    masks = {"a": np.ones((50, 50), bool), "b": np.ones((30, 10, 3, 3), bool)}
    masks["b"][:15] = False

    def draw(seed):
        return magnitude_masks(random_scores(masks, np.random.SeedSequence(seed)), masks, 1000)

    assert all(np.array_equal(draw(1)[name], draw(1)[name]) for name in masks)
    assert not np.array_equal(draw(1)["a"], draw(2)["a"])
    expected = 1000 * 2500 / 3850
    assert abs(sum(counts(draw(seed))[0] for seed in range(50)) / 50 - expected) < 10  # 5 standard deviations


def test_names():
    weights = {"w": torch.arange(40.0).reshape(20, 2)}
    default, written_out = (strategy(name)(weights, ones(weights), 10)["w"] for name in ("balanced", "balanced:16"))
    assert np.array_equal(default, written_out) and default[:16].sum() == 8
    for name in ("", "magnitude", "2:4:8", "balanced:", "global ", "-1:4", "balanced:-1", "2:99999"):
        with pytest.raises(InputError) as caught:
            strategy(name)
        expected = "expected one of global, uniform, erk, N:M, balanced[:B]"
        assert str(caught.value) == f"unknown strategy {name!r}: {expected}"
    for name in ("0:4", "4:4", "5:4", "16:64"):
        with pytest.raises(InputError, match=f"expected 1 <= N < M <= 32, got {name}"):
            strategy(name)
    with pytest.raises(InputError, match="expected a block of 1 output channel or more, got 0"):
        strategy("balanced:0")


@pytest.mark.parametrize("name", NAMES)
def test_what_does_not_fit_is_refused(name):
    prune, weights = strategy(name), {"w": torch.ones(2, 2)}
    for keep in (5, -1):
        with pytest.raises(InputError, match=f"cannot keep {keep} weights of 4"):
            prune(weights, ones(weights), keep)
    with pytest.raises(InputError, match="mask v: there is no such weight"):
        prune(weights, {"v": np.ones((2, 2), bool)}, 1)
    with pytest.raises(InputError, match=r"mask w: expected the shape \[2, 2\], got \[2, 3\]"):
        prune(weights, {"w": np.ones((2, 3), bool)}, 1)
    for bad in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(InputError, match="weight w holds NaN or infinity"):
            prune({"w": torch.tensor([[1, bad], [1, 1]])}, ones(weights), 1)


def test_allot_refuses_more_than_there_is_room_for():
    with pytest.raises(InputError, match="cannot keep 4 weights of 3"):
        allot(4, [1, 1], [1, 2])
