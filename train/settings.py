"""The settings of a search, and the rounds they ask for. No torch."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from spiketicket.errors import InputError
from spiketicket.train.config import BATCH_NORMS

MAX_ROUNDS = 100

METHODS = {
    "imp": "Iterative magnitude pruning with late rewinding: train, prune, rewind, again.",
    "random": "The same number of weights pruned at random, from the rewind point (epoch 0: from init).",
    "oneshot": "One global magnitude cut; with --epochs 0 of the initial weights, batch norm calibrated.",
}


@dataclass(frozen=True)
class Settings:
    """Everything that decides which tickets a search ends in. `sparsity` is the paper's p, in percent."""

    method: str
    arch: str
    dataset: str
    timesteps: int = 5
    rounds: int | None = None
    sparsity: float | None = None
    epochs: int = 300
    rewind_epoch: int = 20
    prune_rate: float = 0.25
    batch_size: int = 128
    lr: float = 0.3
    weight_decay: float = 5e-4
    width: float = 1.0
    batch_norm: str = "per-timestep"
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.method in METHODS, "method", f"one of {', '.join(METHODS)}", self.method)
        _require(
            (self.rounds is None) != (self.sparsity is None), "rounds and sparsity", "exactly one of them",
            f"rounds {self.rounds}, sparsity {self.sparsity}",
        )  # fmt: skip
        _require(
            self.rounds is None or 2 <= self.rounds <= 100,
            "rounds",
            "2 to 100, the dense one included",
            self.rounds,
        )
        if self.sparsity is not None and 0 < self.sparsity < 1:
            raise InputError(
                f"sparsity is in percent: {self.sparsity} means {self.sparsity}%, did you mean {100 * self.sparsity:g}?"
            )
        _require(
            self.sparsity is None or 0 <= self.sparsity < 100,
            "sparsity",
            "a percentage from 0 below 100",
            self.sparsity,
        )
        _require(0 <= self.epochs <= 10**6, "epochs", "0 to 1,000,000", self.epochs)
        _require(self.epochs > 0 or self.method == "oneshot", "epochs", f"1 or more for {self.method}", self.epochs)
        _require(
            0 <= self.rewind_epoch <= self.epochs,
            "rewind_epoch",
            f"from 0 to epochs ({self.epochs})",
            self.rewind_epoch,
        )
        _require(0 < self.prune_rate < 1, "prune_rate", "between 0 and 1", self.prune_rate)
        _require(1 <= self.timesteps <= 4096, "timesteps", "1 to 4096", self.timesteps)
        _require(2 <= self.batch_size <= 2**20, "batch_size", "2 to 1,048,576 (batch norm needs two)", self.batch_size)
        _require(math.isfinite(self.lr) and self.lr > 0, "lr", "above 0", self.lr)
        _require(
            math.isfinite(self.weight_decay) and self.weight_decay >= 0,
            "weight_decay",
            "0 or more",
            self.weight_decay,
        )
        _require(0 < self.width <= 16, "width", "above 0, at most 16", self.width)
        _require(self.batch_norm in BATCH_NORMS, "batch_norm", f"one of {', '.join(BATCH_NORMS)}", self.batch_norm)
        _require(0 <= self.seed < 2**32, "seed", "0 to 4,294,967,295", self.seed)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _require(good: bool, name: str, expected: str, value: object) -> None:
    if not good:
        raise InputError(f"{name}: expected {expected}, got {value}")


@dataclass(frozen=True)
class Round:
    """One training: prune the weights of the round before down to `keep`, rewind, train."""

    pick: str | None  # magnitude, random, or nothing to prune
    keep: int  # surviving weights
    first_epoch: int  # where it starts: 0 is init, otherwise the rewind point
    end: int  # it trains epochs first_epoch..end - 1
    schedule: int  # epochs over which the learning rate falls to 0; `end` may come before


def plan_rounds(settings: Settings, prunable: int, total: int) -> list[Round]:
    """The rounds of a search over `prunable` weights of `total` parameters.

    Sparsity over all parameters after n prunings is (1 - (1 - prune_rate)^n) * prunable / total.
    Raises InputError where the asked sparsity exceeds what pruning every weight would give.
    """
    s = settings
    dense = Round(None, prunable, 0, s.epochs, s.epochs)

    def rewound(pick: str, keep: int) -> Round:
        return Round(pick, keep, s.rewind_epoch, s.epochs, s.epochs - s.rewind_epoch)

    if s.method == "imp":
        return [dense, *(rewound("magnitude", keep) for keep in _prunings(s, prunable, total))]
    last = _last_keep(s, prunable, total)
    if s.method == "random":
        until_rewind = [replace(dense, end=s.rewind_epoch)] if s.rewind_epoch else []
        return [*until_rewind, rewound("random", last)]
    return [*([dense] if s.epochs else []), rewound("magnitude", last)]


def _last_keep(settings: Settings, prunable: int, total: int) -> int:
    """Surviving weights of the sparsest ticket."""
    if settings.rounds is not None:
        keep = round(prunable * (1 - settings.prune_rate) ** (settings.rounds - 1))
        asked = f"{settings.rounds} rounds at prune_rate {settings.prune_rate}"
    else:
        assert settings.sparsity is not None
        keep = prunable - round(settings.sparsity / 100 * total)
        asked = f"sparsity {settings.sparsity}%"
    if keep < 1:
        most = 100 * prunable / total
        raise InputError(f"{asked} cannot be reached: without any prunable weight it is {most:.2f}% of all parameters")
    return keep


def _prunings(settings: Settings, prunable: int, total: int) -> list[int]:
    """Surviving weights after each pruning; the last one may prune less than `prune_rate`."""
    last = _last_keep(settings, prunable, total)
    share = 1 - settings.prune_rate
    if prunable * share**MAX_ROUNDS > last:
        raise InputError(
            f"prune_rate {settings.prune_rate} needs more than {MAX_ROUNDS} rounds to leave {last} weights"
        )
    keeps: list[int] = []
    while (keeps or [prunable])[-1] > last:
        keeps.append(max(last, round(prunable * share ** (len(keeps) + 1))))
    return keeps
