"""Hours of a search, projected from the seconds of an epoch at each T.

Two ways to count its epochs:

- *as the paper counts*: Table 3's hours are, within 5%, prunings times the epochs of a training times Table 1's seconds
  of an epoch. The ticket's own training is left out, and rounds count in full, though they go back to an epoch, not to
  the start. For Early-Bird, the epochs until the mask settles.
- *all trainings*: the plan of `snn-search` (train/search/plan.py) up to a trained ticket: rounds train from the rewind
  point on, Early-Time chooses after two epochs at full T, and the ticket has its own training at full T.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from spiketicket.profiling.search import paper
from spiketicket.train.search.plan import Stage, plan_stages
from spiketicket.train.search.settings import SearchSettings

METHODS = ("IMP", "IMP+ET", "EB", "EB+ET")
EARLY_TIME_EPOCHS = 2  # at full T, before Early-Time chooses

Epochs = Mapping[int, float]  # T -> number of epochs


@dataclass(frozen=True)
class SearchPlan:
    """The search whose hours are projected: trainings of `epochs` at `timesteps`, or at `early_timesteps` if Early-Time
    has chosen so.
    """

    arch: str
    dataset: str
    epochs: int
    rewind_epoch: int
    timesteps: int
    early_timesteps: int
    prunable: int
    parameters: int

    def sparsity(self, prunings: int) -> float:
        """Share of zeros among all parameters."""
        return (1 - 0.75**prunings) * self.prunable / self.parameters


@dataclass(frozen=True)
class Projection:
    """Projected hours. `stop` is that of Early-Bird's mask search; `paper_epochs` and `all_epochs` are epochs by T,
    counted in the two ways.
    """

    plan: SearchPlan
    method: str
    prunings: int
    stop: paper.EarlyBirdStop | None
    paper_epochs: Epochs
    all_epochs: Epochs

    @property
    def printed_hours(self) -> float | None:
        """Return the hours of the paper's Table 3, or None if it has none, as for searches at another T."""
        return self._printed(paper.HOURS)

    @property
    def printed_gain(self) -> float | None:
        return self._printed(paper.GAINS)

    def _printed(self, table: Mapping[paper.Key, float]) -> float | None:
        plan = self.plan
        if (plan.timesteps, plan.early_timesteps) != (paper.TIMESTEPS, paper.EARLY_TIMESTEPS):
            return None
        return table.get((plan.dataset, plan.arch, self.method, self.prunings))

    def to_dict(self, seconds_per_epoch: Mapping[int, float]) -> dict[str, Any]:
        used = {*self.paper_epochs, *self.all_epochs}
        return {
            "basis": "projected",
            "arch": self.plan.arch,
            "dataset": self.plan.dataset,
            "method": self.method,
            "prunings": self.prunings,
            "sparsity": self.plan.sparsity(self.prunings),
            "inputs": {
                "epochs": self.plan.epochs,
                "rewind_epoch": self.plan.rewind_epoch,
                "timesteps": self.plan.timesteps,
                "early_timesteps": self.plan.early_timesteps if self.method.endswith("+ET") else None,
                "early_bird_stop": None if self.stop is None else asdict(self.stop),
                "seconds_per_epoch": {str(t): seconds_per_epoch[t] for t in sorted(used)},
            },
            "paper_accounting": {
                "epochs": _plain(self.paper_epochs),
                "hours": hours(self.paper_epochs, seconds_per_epoch),
            },
            "all_trainings": {
                "epochs": _plain(self.all_epochs),
                "hours": hours(self.all_epochs, seconds_per_epoch),
            },
            "paper_hours": self.printed_hours,
        }


def hours(epochs: Epochs, seconds_per_epoch: Mapping[int, float]) -> float:
    return sum(number * seconds_per_epoch[t] for t, number in epochs.items()) / 3600


def project(plan: SearchPlan, method: str, prunings: int) -> Projection | None:
    """Project IMP or EB, with or without ET, to the sparsity after so many prunings of 25%.

    Early-Bird's stop is the epoch that the paper's hours amount to; returns None for a network and data set without
    one.
    """
    early = plan.early_timesteps if method.endswith("+ET") else plan.timesteps
    if method.startswith("IMP"):
        return Projection(
            plan, method, prunings, None, {early: float(prunings * plan.epochs)}, _planned(plan, method, prunings)
        )
    stop = paper.early_bird_stop(plan.dataset, plan.arch, prunings)
    if stop is None:
        return None
    return Projection(plan, method, prunings, stop, {early: stop.epochs}, _planned(plan, method, prunings, stop))


def _planned(plan: SearchPlan, method: str, prunings: int, stop: paper.EarlyBirdStop | None = None) -> Epochs:
    """Return the epochs by T of the trainings that the real plan has."""
    early_time = method.endswith("+ET")
    settings = SearchSettings(
        "imp" if stop is None else "eb",
        plan.arch,
        plan.dataset,
        timesteps=plan.timesteps,
        rounds=prunings + 1,
        epochs=plan.epochs,
        rewind_epoch=plan.rewind_epoch,
        early_time=early_time,
    )
    found: dict[int, float] = {}
    for stage in plan_stages(settings, plan.prunable, plan.parameters):
        length: float = stage.end - stage.first_epoch
        if stage.until_mask_settles and stop is not None:
            length = min(length, stop.epochs)
        for t, number in _by_timesteps(stage, length, plan, early_time).items():
            found[t] = found.get(t, 0.0) + number
    return found


def _by_timesteps(stage: Stage, length: float, plan: SearchPlan, early_time: bool) -> Epochs:
    if stage.kind == "final" or not early_time:
        return {plan.timesteps: length}
    before = min(length, EARLY_TIME_EPOCHS) if stage.round == 0 else 0.0
    return {plan.timesteps: before, plan.early_timesteps: length - before}


def _plain(epochs: Epochs) -> dict[str, float]:
    return {str(t): number for t, number in sorted(epochs.items())}
