"""Ticket search: train, prune, rewind, again.

`search` is the whole method: for each stage of the plan it loads the ticket if there is one, else prunes what the
stages before left, goes back to the start of the training, trains, and saves the ticket. Every step is a function of
the settings and of files in the run folder, so a search that was interrupted goes on with the same command.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spiketicket.data import Dataset
from spiketicket.train.history.events import PlanRecord, TicketRecord
from spiketicket.train.loop.distributed import Group
from spiketicket.train.loop.loop import CALIBRATION_IMAGES, Weights, accuracy, weights_of
from spiketicket.train.loop.time_limit import TimeLimit
from spiketicket.train.networks.models import build
from spiketicket.train.pruning.growth import Milestone
from spiketicket.train.pruning.masks import Masks, mask_bytes, survivors
from spiketicket.train.pruning.strategies import random_scores, strategy
from spiketicket.train.search.experiment import Experiment, Start, model_config, prepare
from spiketicket.train.search.plan import Stage
from spiketicket.train.search.recipes import RECIPES
from spiketicket.train.search.run import Run, open_run
from spiketicket.train.search.settings import SAVE_MINUTES, SearchSettings
from spiketicket.train.search.ticket import Ticket, environment
from spiketicket.train.search.training import Context, Training, TrainingResult, calibrated_network

__all__ = ["Control", "Progress", "RunOptions", "Start", "model_config", "search"]

_MASK_STREAM = 1_000_000  # stream of random numbers, apart from those of the stages
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Progress:
    """How far a search has come: reported after every epoch, and once a second within one."""

    stage: str
    done: float  # epochs, over all stages
    total: int
    loss: float


@dataclass(frozen=True)
class RunOptions:
    """How a search is run. Nothing here changes its tickets."""

    report: Callable[[Progress], None] = lambda _: None
    group: Group = field(default_factory=Group)
    max_minutes: float | None = None  # minutes after which OutOfTimeError is raised
    save_minutes: float = SAVE_MINUTES
    tensorboard: bool = False


Control = RunOptions  # the old name


def search(
    settings: SearchSettings,
    dataset: Dataset,
    folder: Path,
    options: RunOptions | None = None,
    start: Start | None = None,
) -> list[Ticket]:
    """Run (or resume) a search in `folder`; return the tickets of all its trainings, the last one the sparsest.

    With `start`, its weights and mask, or its mask, take the place of the dense initial network.
    The same settings end in the same tickets, bit for bit on one machine's CPU, however often the search was
    interrupted. Raises SpikeTicketError if the folder cannot be used, InputError if the settings do not fit the
    network, and OutOfTimeError when `options.max_minutes` are over (the state is on disk then).
    """
    options = options or RunOptions()
    experiment = prepare(settings, dataset, options.group.device, start)  # refuses bad settings before the folder
    identity, threads = experiment.identity(), torch.get_num_threads()
    with open_run(folder, settings, threads, identity, options.group, options.tensorboard) as run:
        torch.set_num_threads(run.threads)  # sums depend on it, and a resumed run must end in the same bits
        current = _Search(experiment, run, options)
        for stage in experiment.stages:
            if current.load(stage) or stage.on_the_way:  # the training that grows the mask takes tickets on the way
                continue
            masks = current.prune(stage)
            weights = current.rewind(stage)
            result = current.train(stage, masks, weights)
            current.save(stage, result)
        return current.finish()


class _Search:
    """A search in its run folder: the tickets that it has come to, and the steps to the next one."""

    def __init__(self, experiment: Experiment, run: Run, options: RunOptions) -> None:
        self.experiment, self.settings, self.run, self.options = experiment, experiment.settings, run, options
        self.group = options.group
        self.tickets: dict[Stage, Ticket] = {}
        limit = TimeLimit(options.max_minutes, options.save_minutes, self.group)
        self.context = Context(experiment, run, self.group, limit, self.report, self.save_on_the_way)
        if not run.lines():
            run.log(PlanRecord(stages=experiment.outline(self.settings.timesteps)))

    def load(self, stage: Stage) -> bool:
        """Load the ticket of a stage, and return whether there was one."""
        ticket = self.group.share(lambda: self.run.load_ticket(stage))
        if ticket is not None:
            self.tickets[stage] = ticket
        return ticket is not None

    def prune(self, stage: Stage) -> Masks:
        """Return the masks that a stage trains under: those before it, cut down to the weights that it keeps."""
        if stage.continues:
            return self.continued(stage).masks
        before = self.before(stage)
        alive = before.masks if before else self.experiment.masks
        if stage.pick is None:
            return alive
        choose = strategy(self.settings.strategy)
        keep = min(stage.keep, survivors(alive))  # N:M may have left fewer than asked
        if stage.pick == "random":
            return choose(random_scores(alive, self.seed(_MASK_STREAM)), alive, keep)
        return choose(before.state if before else self.experiment.weights, alive, keep)

    def rewind(self, stage: Stage) -> Weights:
        """Return the tensors that a training begins with: init, the rewind point, or a ticket on the way."""
        if stage.continues:
            return self.continued(stage).state
        initial = self.experiment.weights
        if not (stage.round and stage.first_epoch):
            start = dict(initial)
        else:
            start = self.group.share(self.run.load_rewind)
            if {name: t.shape for name, t in start.items()} != {name: t.shape for name, t in initial.items()}:
                raise self.run.damaged("rewind.pt", "it does not fit the network")
        # The paper rewinds every tensor. The released code forgets some (recipes.py), which then stay as trained.
        recipe, before = RECIPES[self.settings.recipe], self.before(stage)
        if before is not None and self.settings.method == "imp":
            for name in start:
                stays = recipe.statistics_stay and name.endswith(_STATISTICS)
                stays |= recipe.biases_stay and stage.round > 1 and name.endswith("bias")
                start[name] = before.state[name] if stays else start[name]
        return start

    def train(self, stage: Stage, masks: Masks, weights: Weights) -> TrainingResult:
        """Train a stage to its end. If it has no epochs, only batch norm's statistics are calibrated."""
        self.group.agree("mask", hashlib.sha256(mask_bytes(masks)).hexdigest())
        if stage.end:
            index = self.experiment.stages.index(stage)
            return Training(self.context, stage, index, len(self.tickets), masks, weights).run()
        self.run.restart_log(tickets=len(self.tickets))
        model = calibrated_network(self.context, weights, masks, self.seed(0), CALIBRATION_IMAGES)
        return TrainingResult(weights_of(model), masks, self.settings.timesteps, 0.0, None, 0)

    def save(self, stage: Stage, result: TrainingResult) -> None:
        self.tickets[stage] = ticket = self.ticket(stage, result)
        self.run.log(_record(stage, ticket))
        self.run.save_ticket(stage, ticket)

    def save_on_the_way(self, milestone: Milestone, result: TrainingResult) -> None:
        """Save the ticket that a growing mask has come to; an interrupted training may have saved it already."""
        stage = next(s for s in self.experiment.stages if s.on_the_way and s.round == milestone.round)
        if stage not in self.tickets:
            self.tickets[stage] = self.ticket(stage, result)
            self.run.save_ticket(stage, self.tickets[stage])
        self.run.log(_record(stage, self.tickets[stage]))

    def finish(self) -> list[Ticket]:
        """Save the last ticket once more, as the result; return all of them by round."""
        stages = sorted(self.tickets, key=lambda stage: (stage.round, stage.kind == "final"))
        self.run.save_last(self.tickets[stages[-1]])
        return [self.tickets[stage] for stage in stages]

    def before(self, stage: Stage) -> Ticket | None:
        """Return the ticket that a stage prunes: of the last search training of an earlier round."""
        earlier = self.searched(stage)
        return earlier[-1] if earlier else None

    def searched(self, stage: Stage) -> list[Ticket]:
        """Return the tickets of the search trainings of earlier rounds."""
        return [ticket for s, ticket in self.tickets.items() if s.kind == "search" and s.round < stage.round]

    def continued(self, stage: Stage) -> Ticket:
        """Return the ticket on the way that the final training of its round goes on with."""
        for other, ticket in self.tickets.items():
            if other.on_the_way and other.round == stage.round:
                return ticket
        raise self.run.damaged(f"rounds/{stage.round:02d}.pt", "it is missing")

    def seed(self, stream: int) -> np.random.SeedSequence:
        return np.random.SeedSequence([self.settings.seed, stream, 0])

    def report(self, stage: Stage, epoch: float, loss: float) -> None:
        stages = self.experiment.stages
        epochs = [s.end - s.first_epoch for s in stages]
        done = sum(epochs[: stages.index(stage)]) + epoch - stage.first_epoch
        self.options.report(Progress(f"round {stage.round}, {stage.kind}", done, sum(epochs), loss))

    def ticket(self, stage: Stage, result: TrainingResult) -> Ticket:
        """Return the ticket of a training, tested on the test images."""
        experiment, dataset = self.experiment, self.experiment.dataset
        config = replace(experiment.config, timesteps=result.timesteps)
        model = build(config)
        model.load_state_dict(result.weights)
        model.to(self.group.device)
        # The accuracy of an untrained network says nothing.
        tested = accuracy(model, experiment.batches, dataset.test, self.group) if result.epochs else None
        searched = result.growth_seconds + sum(float(ticket.search["seconds"]) for ticket in self.searched(stage))
        if stage.continues:
            searched = float(self.continued(stage).search["search_seconds"])
        norm = dataset.normalisation
        facts: dict[str, Any] = {
            "method": self.settings.method,
            "recipe": self.settings.recipe,
            "kind": stage.kind,
            "round": stage.round,
            "rounds": experiment.stages[-1].round + 1,
            "epochs": result.epochs,
            "mask_settled": result.settled,
            "official_data": dataset.official,
            "rewind_epoch": stage.first_epoch,
            "seed": self.settings.seed,
            "seconds": result.seconds - result.growth_seconds,  # seconds of the ticket's own training
            "search_seconds": searched,  # seconds of the trainings that its mask comes from
            "validation_accuracy": result.validation_accuracy,
            "test_accuracy": tested,
            "dataset": dataset.name,
            "classes": list(dataset.classes),
            "normalisation": {"scale": norm.scale, "mean": list(norm.mean), "std": list(norm.std)},
            "settings": self.settings.to_dict(),
            **({"start": experiment.start.to_dict()} if experiment.start else {}),
        }
        return Ticket(config, result.weights, result.masks, facts, environment())


def _record(stage: Stage, ticket: Ticket) -> TicketRecord:
    """Return the facts of a ticket that the log records."""
    return TicketRecord(
        round=stage.round,
        kind=stage.kind,
        sparsity=ticket.sparsity,
        sparsity_prunable=ticket.sparsity_prunable,
        test_accuracy=ticket.search["test_accuracy"],
        validation_accuracy=ticket.search["validation_accuracy"],
        search_seconds=ticket.search["search_seconds"],
        final_seconds=ticket.search["seconds"],
        timesteps=ticket.model.timesteps,
        fingerprint=ticket.fingerprint,
    )
