"""Ticket search: trainings, prunings, rewinding. What is done is on disk; running again goes on."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from spiketicket.data import Dataset
from spiketicket.errors import InputError
from spiketicket.train.loop.batches import Batches
from spiketicket.train.loop.distributed import Group
from spiketicket.train.loop.loop import accuracy, calibrate, weights_of
from spiketicket.train.loop.pace import Pace
from spiketicket.train.networks.config import ModelConfig
from spiketicket.train.networks.models import build, prunable
from spiketicket.train.pruning.growth import Milestone
from spiketicket.train.pruning.masks import Masks, apply_masks, dense_masks, mask_bytes, survivors
from spiketicket.train.pruning.strategies import random_scores, strategy
from spiketicket.train.search.phases import format_phases, phases_from
from spiketicket.train.search.plan import Stage, plan_stages
from spiketicket.train.search.recipes import RECIPES
from spiketicket.train.search.run import Run, open_run
from spiketicket.train.search.settings import Settings
from spiketicket.train.search.ticket import Ticket, build_meta, environment
from spiketicket.train.search.training import Context, Trained, Training, Weights

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


@dataclass(frozen=True)
class Start:
    """What a search begins with instead of a freshly initialised dense network: a ticket, or its mask alone."""

    ticket: Ticket
    mask_only: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return what identifies it, for settings.json and the tickets."""
        return {"fingerprint": self.ticket.fingerprint, "mask_only": self.mask_only}


def search(
    settings: Settings, dataset: Dataset, folder: Path, control: Control | None = None, start: Start | None = None
) -> list[Ticket]:
    """Run (or resume) a search in `folder`; returns the tickets of all its trainings, the last one the sparsest.

    With `start`, its weights and mask, or its mask, take the place of the dense initial network.
    The same settings end in the same tickets, bit for bit on one machine's CPU, however often the search was
    interrupted. Raises SpikeTicketError for a folder that cannot be used, InputError for settings that do not fit the
    network, OutOfTimeError where `control.max_minutes` are over (the state is on disk).
    """
    control = control or Control()
    prepared = _Search(settings, dataset, control, start)  # refuses bad settings before a folder is touched
    identity = {"data": dataset.fingerprint(), **({"start": start.to_dict()} if start else {})}
    with open_run(folder, settings, torch.get_num_threads(), identity, control.group, control.tensorboard) as run:
        return prepared.tickets(run)


class _Search:
    context: Context

    def __init__(self, settings: Settings, dataset: Dataset, control: Control, start: Start | None) -> None:
        self.settings, self.control, self.group, self.begin = settings, control, control.group, start
        self.config = model_config(settings, dataset)
        torch.manual_seed(settings.seed)
        model = build(self.config)
        self._check_sizes(model)
        self.init = weights_of(model)
        self.unpruned = dense_masks(model)
        prunable_weights = sum(weight.numel() for weight in prunable(model).values())
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        if start is not None:
            self._begin_with(start)
        self.stages = plan_stages(settings, prunable_weights, self.parameters, survivors(self.unpruned))
        if settings.cutout is not None:
            dataset = replace(dataset, augmentation=replace(dataset.augmentation, cutout=settings.cutout))
        self.dataset, self.training_set, self.validation = dataset, dataset, None
        if settings.validation:
            self.training_set, self.validation = dataset.hold_out(settings.validation, settings.seed)
        held_out = [] if self.validation is None else [self.validation]
        self.batches = Batches(self.training_set, self.group.device, *held_out)
        self.pace = Pace(control.max_minutes, control.save_minutes, self.group)
        self.found: dict[Stage, Ticket] = {}

    def _check_sizes(self, model: nn.Module) -> None:
        """Raise InputError where the network of a phase with smaller images is another one."""
        full = self.config.image_size
        for phase in (*self.settings.training_phases(), *self.settings.final_training_phases()):
            size = phase.image_size or full
            if size > full:
                raise InputError(f"phases: expected images of at most {full}x{full} pixels, got {size}x{size}")
            smaller = build_meta(replace(self.config, image_size=size))
            shapes, its = ({n: t.shape for n, t in m.state_dict().items()} for m in (model, smaller))
            odd = [name for name in shapes if its.get(name) != shapes[name]]
            if odd:
                raise InputError(
                    f"phases: {self.config.arch} cannot train on {size}x{size} pixels: {odd[0]} would differ"
                )

    def _begin_with(self, start: Start) -> None:
        own, its = self.config, start.ticket.model
        if replace(its, timesteps=own.timesteps) != own:
            names = [
                f.name for f in fields(own) if f.name != "timesteps" and getattr(own, f.name) != getattr(its, f.name)
            ]
            raise InputError(
                f"the ticket to start from: expected a network with {names[0]} {getattr(own, names[0])}, its "
                f"{names[0]} is {getattr(its, names[0])}"
            )
        self.unpruned = start.ticket.masks
        if not start.mask_only:
            self.init = start.ticket.state

    def tickets(self, run: Run) -> list[Ticket]:
        torch.set_num_threads(run.threads)  # sums depend on it, and a resumed run must end in the same bits
        self.context = Context(
            self.settings, self.config, self.batches, self.training_set.train, self.validation, run, self.group,
            self.pace, self.report, self.outline, self.stages[1].keep if len(self.stages) > 1 else None,
            self.take_on_the_way,
        )  # fmt: skip
        if not run.lines():
            run.log("plan", stages=self.outline(self.settings.timesteps))
        for index, stage in enumerate(self.stages):
            ticket = self.group.share(lambda stage=stage: run.load_ticket(stage))  # type: ignore[misc]
            if ticket is not None:
                self.found[stage] = ticket
            elif not stage.on_the_way:
                self.found[stage] = self.train(index, stage)
        in_order = sorted(self.found, key=lambda stage: (stage.round, stage.kind == "final"))
        run.save_last(self.found[in_order[-1]])
        return [self.found[stage] for stage in in_order]

    def train(self, index: int, stage: Stage) -> Ticket:
        """One stage: prune what the round before left, go back, train."""
        run = self.context.run
        masks = self.masks(stage)
        self.group.agree("mask", hashlib.sha256(mask_bytes(masks)).hexdigest())
        start = self.start(stage)
        if stage.end:
            trained = Training(self.context, stage, index, len(self.found), masks, start).run()
        else:
            run.restart_log(tickets=len(self.found))
            trained = self.calibrated(masks, start)
        ticket = self.ticket(stage, trained)
        run.log("ticket", round=stage.round, kind=stage.kind, **_facts(ticket))
        run.save_ticket(stage, ticket)
        return ticket

    def take_on_the_way(self, milestone: Milestone, trained: Trained) -> None:
        """Save the ticket that a growing mask has come to; it is there already where a training was interrupted."""
        run = self.context.run
        stage = next(stage for stage in self.stages if stage.on_the_way and stage.round == milestone.round)
        if stage not in self.found:
            self.found[stage] = self.ticket(stage, trained)
            run.save_ticket(stage, self.found[stage])
        run.log("ticket", round=stage.round, kind=stage.kind, **_facts(self.found[stage]))

    def masks(self, stage: Stage) -> Masks:
        before = self.before(stage)
        if stage.continues:
            return self.continued(stage).masks
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

    def continued(self, stage: Stage) -> Ticket:
        """Return the ticket on the way that the final training of its round goes on with."""
        for other, ticket in self.found.items():
            if other.on_the_way and other.round == stage.round:
                return ticket
        raise self.context.run.damaged(f"rounds/{stage.round:02d}.pt", "it is missing")

    def start(self, stage: Stage) -> Weights:
        """The tensors that a training begins with: init, the rewind point, or a ticket on the way."""
        if stage.continues:
            return self.continued(stage).state
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
                "phases": format_phases(phases_from(stage.phases, stage.first_epoch)),
                "image_size": self.config.image_size,
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
        return Trained(weights_of(model), masks, self.settings.timesteps, 0.0, None, 0)

    def seed(self, stream: int) -> np.random.SeedSequence:
        return np.random.SeedSequence([self.settings.seed, stream, 0])

    def report(self, stage: Stage, epoch: float, loss: float) -> None:
        epochs = [s.end - s.first_epoch for s in self.stages]
        place = self.stages.index(stage)
        done = sum(epochs[:place]) + epoch - stage.first_epoch
        self.control.report(Progress(f"round {stage.round}, {stage.kind}", done, sum(epochs), loss))

    def ticket(self, stage: Stage, trained: Trained) -> Ticket:
        norm = self.dataset.normalisation
        config = replace(self.config, timesteps=trained.timesteps)
        model = build(config)
        model.load_state_dict(trained.weights)
        model.to(self.group.device)
        # An untrained network's accuracy is no news.
        tested = accuracy(model, self.batches, self.dataset.test, self.group) if trained.epochs else None
        searched = trained.growth_seconds + sum(float(ticket.search["seconds"]) for ticket in self.searched(stage))
        if stage.continues:
            searched = float(self.continued(stage).search["search_seconds"])
        return Ticket(
            config,
            trained.weights,
            trained.masks,
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
                "seconds": trained.seconds - trained.growth_seconds,  # of its own training
                "search_seconds": searched,  # of those that its mask comes from
                "validation_accuracy": trained.validation_accuracy,
                "test_accuracy": tested,
                "dataset": self.dataset.name,
                "classes": list(self.dataset.classes),
                "normalisation": {"scale": norm.scale, "mean": list(norm.mean), "std": list(norm.std)},
                "settings": self.settings.to_dict(),
                **({"start": self.begin.to_dict()} if self.begin else {}),
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
