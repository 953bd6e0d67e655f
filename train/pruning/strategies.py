"""Strategies, by name: which weights are pruned (docs/pruning.md). Torch is imported only to make a tensor.

    global        the largest magnitudes over all layers together
    uniform       every layer keeps the same share of its weights
    erk           a layer's density falls with its size: Erdos-Renyi-Kernel, Evci et al. 2020 (arXiv 1911.11134)
    N:M           at most N of M consecutive input channels: NVIDIA's layout for sparse tensor cores
    balanced[:B]  blocks of B output channels keep equally many

Ties are decided by place, never at random: of equal weights, the later ones (by layer, then in C order) survive. Every
strategy keeps exactly as many weights as asked (N:M: at most), since a resumed or repeated search must end in the same
mask. A search prunes what survived before, so weights that are pruned already take part as -1, below any magnitude.
"""

import heapq
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from spiketicket.errors import InputError
from spiketicket.train.pruning.masks import Mask, Masks, survivors

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_GROUP = 32  # M of N:M: its cost grows with M
BLOCK = 16  # output channels: one vector register of float32

_Magnitudes = dict[str, NDArray[np.floating]]  # by layer: flat, in C order, -1 where a weight is pruned already


class Strategy(Protocol):
    def __call__(self, weights: "Mapping[str, Tensor]", masks: Masks, keep: int) -> Masks:
        """Return new masks of the same names and shapes with exactly `keep` of the weights that `masks` leaves.

        `weights` holds a tensor of its mask's shape for every mask, of any dtype, on any device; others are ignored.
        Raises InputError if it does not, if it holds NaN or infinity, or if `keep` is more than survive.
        """
        ...


def magnitude_masks(weights: "Mapping[str, Tensor]", masks: Masks, keep: int) -> Masks:
    """Strategy `global`: keep the `keep` weights of largest magnitude over all layers together."""
    return _cut(_magnitudes(weights, masks, keep), masks, keep)


def uniform_masks(weights: "Mapping[str, Tensor]", masks: Masks, keep: int) -> Masks:
    """Strategy `uniform`: keep the same share of every layer; within each, its largest weights."""
    return _layerwise(weights, masks, keep, [mask.size for mask in masks.values()])


def erk_masks(weights: "Mapping[str, Tensor]", masks: Masks, keep: int) -> Masks:
    """Strategy `erk`: keep the largest weights of each layer, fewer of large layers.

    The density of a layer is proportional to (sum of its dimensions) / (product of them), at most 1. Its number of
    survivors is therefore proportional to the sum: out + in + kernel height + kernel width.
    """
    return _layerwise(weights, masks, keep, [sum(mask.shape) for mask in masks.values()])


def n_of_m(n: int, m: int) -> Strategy:
    """Return the strategy `N:M`, which keeps at most `n` of every `m` consecutive input channels.

    A group has one output channel and one kernel position. The strategy keeps the `keep` largest weights under that
    constraint, or all that it leaves if they are fewer. The last group of a layer is shorter if its inputs are no
    multiple of `m`. Raises InputError unless 1 <= n < m <= 32.
    """
    if not 1 <= n < m <= LARGEST_GROUP:
        raise InputError(f"strategy N:M: expected 1 <= N < M <= {LARGEST_GROUP}, got {n}:{m}")

    def prune(weights: "Mapping[str, Tensor]", masks: Masks, keep: int) -> Masks:
        magnitudes = _magnitudes(weights, masks, keep)
        left = 0
        for name, mask in masks.items():
            values = magnitudes[name]
            np.copyto(values, -1, where=~_leaders(values.reshape(mask.shape), n, m).ravel())
            left += int(np.count_nonzero(values >= 0))
        return _cut(magnitudes, masks, min(keep, left))

    return prune


def balanced(block: int = BLOCK) -> Strategy:
    """Return the strategy `balanced:B`, which spreads the survivors of a layer evenly over blocks of output channels.

    A layer keeps as many weights as with `global`. Whole blocks of it differ by at most one; a shorter last block keeps
    in proportion. Raises InputError if `block` is below 1.
    """
    if block < 1:
        raise InputError(f"strategy balanced: expected a block of 1 output channel or more, got {block}")

    def prune(weights: "Mapping[str, Tensor]", masks: Masks, keep: int) -> Masks:
        magnitudes = _magnitudes(weights, masks, keep)
        chosen: Masks = {}
        for name, unbalanced in _cut(magnitudes, masks, keep).items():
            rows = magnitudes[name].reshape(len(unbalanced), -1)
            blocks = [rows[start : start + block].ravel() for start in range(0, len(rows), block)]
            counts = allot(int(unbalanced.sum()), [b.size for b in blocks], [int((b >= 0).sum()) for b in blocks])
            picked = [_largest(values, count) for values, count in zip(blocks, counts, strict=True)]
            chosen[name] = np.concatenate(picked).reshape(unbalanced.shape)
        return chosen

    return prune


@dataclass(frozen=True)
class Family:
    """Strategies of one name: how the name is written, what they promise, and how one is made of the numbers in it."""

    pattern: str
    promise: str
    make: Callable[..., Strategy]


STRATEGIES = {
    "global": Family("global", "the largest weights of all layers together", lambda: magnitude_masks),
    "uniform": Family("uniform", "the same density in every layer", lambda: uniform_masks),
    "erk": Family("erk", "Erdos-Renyi-Kernel: small layers stay denser", lambda: erk_masks),
    "N:M": Family("([0-9]{1,4}):([0-9]{1,4})", "at most N of M consecutive inputs, as in 2:4", n_of_m),
    "balanced[:B]": Family("balanced(?::([0-9]{1,4}))?", "equally many per B (16) output channels", balanced),
}


def strategy(text: str) -> Strategy:
    """Return the strategy of a name such as `global`, `2:4` or `balanced:8`. Raises InputError if it is unknown."""
    for family in STRATEGIES.values():
        if match := re.fullmatch(family.pattern, text):
            return family.make(*(int(number) for number in match.groups() if number))
    raise InputError(f"unknown strategy {text!r}: expected one of {', '.join(STRATEGIES)}")


def random_scores(masks: Masks, seed: np.random.SeedSequence) -> "dict[str, Tensor]":
    """Return uniform random numbers in place of weights: any strategy then chooses at random, within its promise."""
    import torch

    draw = np.random.default_rng(seed)  # float64, so that ties, which are not broken at random, do not occur
    return {name: torch.from_numpy(draw.random(mask.shape)) for name, mask in masks.items()}


def allot(keep: int, shares: Sequence[int], room: Sequence[int]) -> list[int]:
    """Split `keep` into counts in proportion to `shares`, each at most its `room`; the others get what does not fit.

    There is one factor such that each count is factor * share, rounded to the nearest, or its room (Webster's method;
    if rounding is a tie, later ones are larger). So counts never rise when `keep` falls, which largest remainders
    do not ensure: what was split before can be split again, without regard to `room`. Exact, in integers. Shares must
    be positive where there is room. Raises InputError if the rooms sum to less than `keep`.
    """
    if not 0 <= keep <= sum(room):
        raise InputError(f"cannot keep {keep} weights of {sum(room)}")
    counts = [0] * len(shares)
    rest = max(0, keep - len(shares))  # a first `keep` at which shares that are rounded down exceed no count
    free = [i for i in range(len(shares)) if room[i]]
    total = sum(shares[i] for i in free)
    while full := [i for i in free if rest * shares[i] >= room[i] * total]:
        for i in full:
            counts[i] = room[i]
        free = [i for i in free if counts[i] < room[i]]
        rest -= sum(room[i] for i in full)
        total -= sum(shares[i] for i in full)
    for i in free:
        counts[i] = rest * shares[i] // total

    def turn(i: int) -> tuple[Fraction, int]:
        return Fraction(2 * counts[i] + 1, shares[i]), -i  # the factor at which the count rounds up to one more

    turns = [turn(i) for i in free]
    heapq.heapify(turns)
    for _ in range(keep - sum(counts)):
        i = -turns[0][1]
        counts[i] += 1
        if counts[i] < room[i]:
            heapq.heapreplace(turns, turn(i))
        else:
            heapq.heappop(turns)
    return counts


def _layerwise(weights: "Mapping[str, Tensor]", masks: Masks, keep: int, shares: list[int]) -> Masks:
    """Keep the largest weights of each layer, as many as its share allows."""
    magnitudes = _magnitudes(weights, masks, keep)
    counts = allot(keep, shares, [int(np.count_nonzero(mask)) for mask in masks.values()])
    return {
        name: _largest(magnitudes[name], count).reshape(mask.shape)
        for (name, mask), count in zip(masks.items(), counts, strict=True)
    }


def _magnitudes(weights: "Mapping[str, Tensor]", masks: Masks, keep: int) -> _Magnitudes:
    """Check what every strategy is given, and return the magnitudes of the weights."""
    alive = survivors(masks)
    if not 0 <= keep <= alive:
        raise InputError(f"cannot keep {keep} weights of {alive}")
    magnitudes: _Magnitudes = {}
    for name, mask in masks.items():
        if name not in weights:
            raise InputError(f"mask {name}: there is no such weight")
        weight = weights[name].detach()
        if tuple(weight.shape) != mask.shape:
            raise InputError(f"mask {name}: expected the shape {list(weight.shape)}, got {list(mask.shape)}")
        exact = weight if weight.element_size() == 8 else weight.float()  # NumPy has no bfloat16
        values = np.abs(exact.cpu().numpy()).ravel()
        np.copyto(values, -1, where=~mask.ravel())
        if not np.isfinite(values.max(initial=0)):
            raise InputError(f"weight {name} holds NaN or infinity")
        magnitudes[name] = values
    return magnitudes


def _cut(magnitudes: _Magnitudes, masks: Masks, keep: int) -> Masks:
    """Return masks of the `keep` largest magnitudes over all layers together."""
    if not masks:
        return {}
    chosen = _largest(np.concatenate([magnitudes[name] for name in masks]), keep)
    parts = np.split(chosen, np.cumsum([mask.size for mask in masks.values()])[:-1])
    return {name: part.reshape(mask.shape) for (name, mask), part in zip(masks.items(), parts, strict=True)}


def _largest(values: NDArray[np.floating], count: int) -> Mask:
    """Return a mask of the `count` largest values, of which none is below 0; of equal values the later ones."""
    alive: Mask = values >= 0
    # Pruned weights are left out: np.partition takes ten times as long if many values are equal.
    candidates = values if alive.all() else values[alive]
    if count == len(candidates):
        return alive
    threshold = np.partition(candidates, len(candidates) - count - 1)[len(candidates) - count - 1]
    chosen: Mask = values > threshold
    ties = np.flatnonzero(values == threshold)
    chosen[ties[len(ties) - (count - int(np.count_nonzero(chosen))) :]] = True
    return chosen


def _leaders(values: NDArray[np.floating], n: int, m: int) -> Mask:
    """Return a mask of the `n` largest of every `m` consecutive inputs (axis 1); of equal values the later ones."""
    leaders = np.empty(values.shape, dtype=bool)
    by_input = np.ascontiguousarray(values.swapaxes(0, 1))  # a group is then one piece of memory
    for start in range(0, len(by_input), m):
        group = by_input[start : start + m]
        beaten = np.zeros(group.shape, dtype=np.uint8)  # number of larger weights in the group
        for i, j in combinations(range(len(group)), 2):
            later_wins = group[j] >= group[i]
            beaten[i] += later_wins
            beaten[j] += ~later_wins
        leaders[:, start : start + m] = (beaten < n).swapaxes(0, 1)
    return leaders
