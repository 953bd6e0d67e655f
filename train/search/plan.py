"""The plan of a search: its trainings, what each of them prunes, and from where to where it trains.

A plan is made before anything is trained and depends on the settings and on the number of weights alone, so that a
resumed search follows the same one.
"""

from dataclasses import dataclass, replace
from typing import Literal

from spiketicket.errors import InputError
from spiketicket.train.pruning.growth import Growth, Milestone
from spiketicket.train.search.phases import Phase, count_epochs
from spiketicket.train.search.recipes import RECIPES
from spiketicket.train.search.settings import PAPER_SPARSITIES, SearchSettings

MAX_ROUNDS = 100
SMALL_STEP = 0.02  # share of the weights; if the last round would prune fewer, it is merged with the one before

Kind = Literal["search", "final"]
Pick = Literal["magnitude", "random"]


@dataclass(frozen=True)
class Stage:
    """One training: prune what the round before left down to `keep`, go back to a start, train.

    A training of kind "search" serves the rounds after it (and, at full T, its ticket is reported as well); one of kind
    "final" is a reported ticket's own training at full T.
    """

    round: int
    kind: Kind
    pick: Pick | None  # how the weights to keep are picked; None: nothing is pruned
    keep: int  # surviving weights
    first_epoch: int  # 0 starts from init, another epoch from the rewind point
    end: int  # it trains epochs first_epoch..end - 1
    schedule: int  # epochs over which the learning rate falls; `end` may come before
    lr_factor: float = 1.0
    schedule_steps: int = 1  # steps of the schedule per epoch
    until_mask_settles: bool = False  # Early-Bird: may end before `end`
    phases: tuple[Phase, ...] = ()  # timesteps by epoch; empty: the settings' in all epochs
    growth: Growth | None = None  # gradual: how the mask grows within this training
    on_the_way: bool = False  # gradual: no training of its own, the ticket is taken within the one that grows
    continues: bool = False  # gradual: from the weights and the mask of the round's ticket on the way


def plan_stages(settings: SearchSettings, prunable: int, total: int, alive: int | None = None) -> list[Stage]:
    """Return the trainings of a search over `prunable` weights of `total` parameters, in order.

    `alive` is the number of these weights that survive at the start (default: all). From a dense start, sparsity over
    all parameters after n prunings is (1 - (1 - prune_rate)^n) * prunable / total. Raises InputError if the asked
    sparsity exceeds what pruning every weight would give, or is below that of the start.
    """
    alive = prunable if alive is None else alive
    phases = settings.training_phases()
    stages = _stages(settings, prunable, total, alive)
    return [replace(stage, phases=phases) if stage.end and not stage.phases else stage for stage in stages]


def _stages(s: SearchSettings, prunable: int, total: int, alive: int) -> list[Stage]:
    dense = Stage(0, "search", None, alive, 0, s.epochs, s.epochs)
    last = _last_keep(s, prunable, total, alive)
    if s.method == "imp":
        return _iterative(s, dense, _prunings(s, last, alive))
    if s.method == "gradual":
        return _gradual(s, dense, last, [prunable - round(p / 100 * total) for p in PAPER_SPARSITIES])
    if s.method == "eb":
        drawn = replace(dense, lr_factor=s.eb_lr_factor, until_mask_settles=True)
        steps = 2 if RECIPES[s.recipe].schedule_twice else 1
        return [drawn, Stage(1, "final", "magnitude", last, 0, s.epochs, s.epochs, schedule_steps=steps)]
    point = rewind_point(s)
    if s.method == "random":
        if s.early_time and point <= 2:
            raise InputError(
                f"early_time: expected a rewind_epoch of 3 or more for random, got {s.rewind_epoch}: it chooses "
                "after two epochs of the dense training"
            )
        until_rewind = [replace(dense, end=point)] if point else []
        return [*until_rewind, _rewound(s, len(until_rewind), "final", "random", last)]
    if not s.epochs:
        return [Stage(0, "search", "magnitude", last, 0, 0, 0)]
    return [dense, _rewound(s, 1, "final", "magnitude", last)]


def rewind_point(settings: SearchSettings) -> int:
    """Return the number of epochs before the snapshot that later rounds go back to; 0: init."""
    if not settings.rewind_epoch or settings.method == "eb":
        return 0
    return min(settings.rewind_epoch + RECIPES[settings.recipe].rewind_point_late, settings.epochs)


def _iterative(s: SearchSettings, dense: Stage, keeps: list[int]) -> list[Stage]:
    """Without Early-Time a round's training is at full T, its ticket's own; with it, reported tickets get another."""
    stages = [dense]
    if not keeps and s.early_time:
        raise InputError("early_time: expected something to prune, got sparsity 0")
    finals = {*s.finals, len(keeps)} if s.early_time else set()
    unknown = sorted(n for n in s.finals if not 1 <= n <= len(keeps))
    if unknown:
        raise InputError(f"finals: expected rounds from 1 to {len(keeps)}, got {unknown[0]}")
    for number, keep in enumerate(keeps, start=1):
        if not s.early_time or number < len(keeps):  # nothing is pruned after the last round
            stages.append(_rewound(s, number, "search", "magnitude", keep))
        if number in finals:
            stages.append(_rewound(s, number, "final", "magnitude", keep))
    return stages


def _gradual(s: SearchSettings, dense: Stage, last: int, reported: list[int]) -> list[Stage]:
    """One training that prunes from what `dense` has to `last` weights, and the tickets of `reported` in between."""
    milestones = [
        Milestone(number, keep)
        for number, keep in enumerate((keep for keep in reported if dense.keep > keep > last), start=1)
    ]
    taken = [Stage(m.round, "search", None, m.keep, 0, 0, 0, on_the_way=True) for m in milestones]
    growth = Growth(dense.keep, last, *s.pruning_epochs(), tuple(milestones)) if last < dense.keep else None
    grown = replace(dense, round=len(milestones) + 1, keep=last, growth=growth)
    phases = s.final_training_phases()
    epochs = count_epochs(phases)
    finals = [
        Stage(m.round, "final", None, m.keep, 0, epochs, epochs, phases=phases, continues=True) for m in milestones
    ]
    return [*taken, grown, *(finals if phases else [])]


def _rewound(s: SearchSettings, number: int, kind: Kind, pick: Pick, keep: int) -> Stage:
    return Stage(number, kind, pick, keep, s.rewind_epoch, s.epochs, s.epochs - s.rewind_epoch)


def _last_keep(settings: SearchSettings, prunable: int, total: int, alive: int) -> int:
    """Return how many weights survive in the sparsest ticket."""
    if settings.rounds is not None:
        keep = round(alive * (1 - settings.prune_rate) ** (settings.rounds - 1))
        asked = f"{settings.rounds} rounds at prune_rate {settings.prune_rate}"
    else:
        assert settings.sparsity is not None
        keep = prunable - round(settings.sparsity / 100 * total)
        asked = f"sparsity {settings.sparsity}%"
    if keep < 1:
        most = 100 * prunable / total
        raise InputError(f"{asked} cannot be reached: without any prunable weight it is {most:.2f}% of all parameters")
    if keep > alive:
        raise InputError(f"{asked}: expected more than the {100 * (prunable - alive) / total:.2f}% that the start has")
    return keep


def _prunings(settings: SearchSettings, last: int, alive: int) -> list[int]:
    """Return the surviving weights after each pruning; the last one may prune less than `prune_rate`."""
    share = 1 - settings.prune_rate
    if alive * share**MAX_ROUNDS > last:
        raise InputError(
            f"prune_rate {settings.prune_rate} needs more than {MAX_ROUNDS} rounds to leave {last} weights"
        )
    small = 0.0 if settings.sparsity is None else SMALL_STEP
    keeps: list[int] = []
    while (keeps or [alive])[-1] > last:
        keep = max(last, round(alive * share ** (len(keeps) + 1)))
        keeps.append(last if keep - last < small * keep else keep)
    return keeps
