"""Ticket search: trainings, prunings, rewinding. What is done is on disk; running again goes on."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spiketicket.train.batches import Batches
from spiketicket.train.config import ModelConfig
from spiketicket.train.data import Dataset
from spiketicket.train.distributed import Group
from spiketicket.train.loop import accuracy, calibrate, weights_of
from spiketicket.train.masks import Masks, apply_masks, dense_masks, mask_bytes, survivors
from spiketicket.train.models import build, prunable
from spiketicket.train.pace import Pace
from spiketicket.train.plan import Stage, plan_stages
from spiketicket.train.recipes import RECIPES
from spiketicket.train.run import Run, open_run
from spiketicket.train.settings import Settings
from spiketicket.train.strategies import random_scores, strategy
from spiketicket.train.ticket import Ticket, environment
from spiketicket.train.training import Context, Trained, Training, Weights

_MASK_STREAM = 1_000_000  # of random numbers, beside those of the stages


@dataclass(frozen=True)
class Progress:
    """Where the search stands: after every epoch, and once a second within one."""

    stage: str
    done: float  # epochs, over all stages
    total: int
    loss: float


@dataclass(frozen=True)
class Control:
    """What a search does beside searching: nothing here changes its tickets."""

    report: Callable[[Progress], None] = lambda _: None
    group: Group = field(default_factory=Group)
    max_minutes: float | None = None  # OutOfTimeError after that many
    save_minutes: float = 10.0  # between two checkpoints within an epoch
    tensorboard: bool = False


def search(settings: Settings, dataset: Dataset, folder: Path, control: Control | None = None) -> list[Ticket]:
    """Run (or resume) a search in `folder`; returns the tickets of all its trainings, the last one the sparsest.

    The same settings end in the same tickets, bit for bit on one machine's CPU, however often the search was
    interrupted. Raises SpikeTicketError for a folder that cannot be used, InputError for settings that do not fit the
    network, OutOfTimeError where `control.max_minutes` are over (the state is on disk).
    """
    control = control or Control()
    prepared = _Search(settings, dataset, control)  # refuses bad settings before a folder is touched
    threads, data = torch.get_num_threads(), dataset.fingerprint()
    with open_run(folder, settings, threads, data, control.group, control.tensorboard) as run:
        return prepared.tickets(run)


class _Search:
    context: Context

    def __init__(self, settings: Settings, dataset: Dataset, control: Control) -> None:
        self.settings, self.control, self.group = settings, control, control.group
        self.config = model_config(settings, dataset)
        torch.manual_seed(settings.seed)
        model = build(self.config)
        self.init = weights_of(model)
        self.unpruned = dense_masks(model)
        prunable_weights = sum(weight.numel() for weight in prunable(model).values())
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.stages = plan_stages(settings, prunable_weights, self.parameters)
        self.dataset, self.training_set, self.validation = dataset, dataset, None
        if settings.validation:
            self.training_set, self.validation = dataset.hold_out(settings.validation, settings.seed)
        held_out = [] if self.validation is None else [self.validation]
        self.batches = Batches(self.training_set, self.group.device, *held_out)
        self.pace = Pace(control.max_minutes, control.save_minutes, self.group)
        self.found: dict[Stage, Ticket] = {}

    def tickets(self, run: Run) -> list[Ticket]:
        torch.set_num_threads(run.threads)  # sums depend on it, and a resumed run must end in the same bits
        self.context = Context(
            self.settings, self.config, self.batches, self.training_set.train, self.validation, run, self.group,
            self.pace, self.report, self.outline, self.stages[1].keep if len(self.stages) > 1 else None,
        )  # fmt: skip
        if not run.lines():
            run.log("plan", stages=self.outline(self.settings.timesteps))
        for index, stage in enumerate(self.stages):
            ticket = self.group.share(lambda stage=stage: run.load_ticket(stage))  # type: ignore[misc]
            self.found[stage] = self.train(index, stage) if ticket is None else ticket
        run.save_last(self.found[self.stages[-1]])
        return list(self.found.values())

    def train(self, index: int, stage: Stage) -> Ticket:
        """One stage: prune what the round before left, go back, train."""
        run = self.context.run
        masks = self.masks(stage)
        self.group.agree("mask", hashlib.sha256(mask_bytes(masks)).hexdigest())
        start = self.start(stage)
        if stage.end:
            trained = Training(self.context, stage, index, masks, start).run()
        else:
            run.restart_log(tickets=index)
            trained = self.calibrated(masks, start)
        ticket = self.ticket(stage, masks, trained)
        run.log("ticket", round=stage.round, kind=stage.kind, **_facts(ticket))
        run.save_ticket(stage, ticket)
        return ticket

    def masks(self, stage: Stage) -> Masks:
        before = self.before(stage)
        alive = before.masks if before else self.unpruned
        if stage.pick is None:
            return alive
        prune = strategy(self.settings.strategy)
        keep = min(stage.keep, survivors(alive))  # N:M may have left fewer than asked
        if stage.pick == "random":
            return prune(random_scores(alive, self.seed(_MASK_STREAM)), alive, keep)
        return prune(before.state if before else self.init, alive, keep)

    def before(self, stage: Stage) -> Ticket | None:
        """The ticket that this one is pruned from: of the last search training of an earlier round."""
        earlier = self.searched(stage)
        return earlier[-1] if earlier else None

    def searched(self, stage: Stage) -> list[Ticket]:
        """Those of the search trainings of earlier rounds."""
        return [ticket for s, ticket in self.found.items() if s.kind == "search" and s.round < stage.round]

    def start(self, stage: Stage) -> Weights:
        """The tensors that a training begins with: init, or the rewind point."""
        if not (stage.round and stage.first_epoch):
            start = dict(self.init)
        else:
            start = self.group.share(self.context.run.load_rewind)
            if {name: t.shape for name, t in start.items()} != {name: t.shape for name, t in self.init.items()}:
                raise self.context.run.damaged("rewind.pt", "it does not fit the network")
        recipe, before = RECIPES[self.settings.recipe], self.before(stage)
        if before is not None and self.settings.method == "imp":
            for name in start:
                stays = recipe.statistics_stay and name.endswith(("running_mean", "running_var", "num_batches_tracked"))
                stays |= recipe.biases_stay and stage.round > 1 and name.endswith("bias")
                start[name] = before.state[name] if stays else start[name]
        return start

    def outline(self, search_timesteps: int) -> list[dict[str, Any]]:
        """What is to be trained, for the log."""
        weights = sum(mask.size for mask in self.unpruned.values())
        return [
            {
                "round": stage.round, "kind": stage.kind, "epochs": stage.end - stage.first_epoch,
                "timesteps": search_timesteps if stage.kind == "search" else self.settings.timesteps,
                "sparsity": (weights - stage.keep) / self.parameters,
            }
            for stage in self.stages
        ]  # fmt: skip

    def calibrated(self, masks: Masks, start: Weights) -> Trained:
        """Not trained at all: under its mask, with batch norm's statistics from a few batches."""
        model = build(self.config)
        model.load_state_dict(start)
        apply_masks(model, masks)
        model.to(self.group.device)
        calibrate(model, self.batches, self.settings.batch_size, self.seed(0))
        return Trained(weights_of(model), self.settings.timesteps, 0.0, None, 0)

    def seed(self, stream: int) -> np.random.SeedSequence:
        return np.random.SeedSequence([self.settings.seed, stream, 0])

    def report(self, stage: Stage, epoch: float, loss: float) -> None:
        epochs = [s.end - s.first_epoch for s in self.stages]
        place = self.stages.index(stage)
        done = sum(epochs[:place]) + epoch - stage.first_epoch
        self.control.report(Progress(f"round {stage.round}, {stage.kind}", done, sum(epochs), loss))

    def ticket(self, stage: Stage, masks: Masks, trained: Trained) -> Ticket:
        norm = self.dataset.normalisation
        config = replace(self.config, timesteps=trained.timesteps)
        model = build(config)
        model.load_state_dict(trained.weights)
        model.to(self.group.device)
        # An untrained network's accuracy is no news.
        tested = accuracy(model, self.batches, self.dataset.test, self.group) if stage.end else None
        searched = sum(float(ticket.search["seconds"]) for ticket in self.searched(stage))
        return Ticket(
            config,
            trained.weights,
            masks,
            {
                "method": self.settings.method,
                "recipe": self.settings.recipe,
                "kind": stage.kind,
                "round": stage.round,
                "rounds": self.stages[-1].round + 1,
                "epochs": trained.epochs,
                "mask_settled": trained.settled,
                "official_data": self.dataset.official,
                "rewind_epoch": stage.first_epoch,
                "seed": self.settings.seed,
                "seconds": trained.seconds,  # of its own training
                "search_seconds": searched,  # of those that its mask comes from
                "validation_accuracy": trained.validation_accuracy,
                "test_accuracy": tested,
                "dataset": self.dataset.name,
                "classes": list(self.dataset.classes),
                "normalisation": {"scale": norm.scale, "mean": list(norm.mean), "std": list(norm.std)},
                "settings": self.settings.to_dict(),
            },
            environment(),
        )


def model_config(settings: Settings, dataset: Dataset) -> ModelConfig:
    """The network of `settings` for the images of `dataset`."""
    channels, height, _ = dataset.image_shape
    return ModelConfig(
        arch=settings.arch,
        in_channels=channels,
        image_size=height,
        num_classes=len(dataset.classes),
        timesteps=settings.timesteps,
        width=settings.width,
        batch_norm=settings.batch_norm,
    )


def _facts(ticket: Ticket) -> dict[str, Any]:
    """Of a ticket, for the log."""
    names = ("test_accuracy", "validation_accuracy", "search_seconds")
    return {
        "sparsity": ticket.sparsity, "sparsity_prunable": ticket.sparsity_prunable,
        **{name: ticket.search[name] for name in names},
        "final_seconds": ticket.search["seconds"],
        "timesteps": ticket.model.timesteps, "fingerprint": ticket.fingerprint,
    }  # fmt: skip
