"""Ticket search: rounds of train, prune, rewind. Every finished epoch is on disk; running again resumes."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from spiketicket.train import masks as pruning
from spiketicket.train.config import ModelConfig
from spiketicket.train.data import Dataset
from spiketicket.train.loop import Batches, Optimisation, accuracy, calibrate, train_epoch
from spiketicket.train.models import build, prunable
from spiketicket.train.run import Run, open_run
from spiketicket.train.settings import Round, Settings, plan_rounds
from spiketicket.train.strategies import magnitude_masks, random_scores
from spiketicket.train.ticket import Ticket, environment, load_ticket, save_ticket

_MASK_SEED = 1_000_000  # a stream beside those of the epochs


@dataclass(frozen=True)
class Progress:
    """An epoch is over: where the search stands."""

    round: int
    rounds: int
    done: int  # epochs, over all rounds
    total: int
    loss: float


def search(
    settings: Settings, dataset: Dataset, folder: Path, report: Callable[[Progress], None] = lambda _: None
) -> list[Ticket]:
    """Run (or resume) a search in `folder`; returns the tickets of all rounds, the last one the sparsest.

    The same settings end in the same tickets, bit for bit on one machine's CPU, however often the
    search was interrupted. Raises SpikeTicketError for a folder that cannot be used, InputError for
    settings that do not fit the network.
    """
    prepared = _Search(settings, dataset, report)  # refuses bad settings before a folder is touched
    with open_run(folder, settings, torch.get_num_threads()) as run:
        return prepared.tickets(run)


class _Search:
    run: Run

    def __init__(self, settings: Settings, dataset: Dataset, report: Callable[[Progress], None]) -> None:
        self.settings, self.dataset, self.report = settings, dataset, report
        self.config = model_config(settings, dataset)
        torch.manual_seed(settings.seed)
        self.model = build(self.config)
        self.init = _copy(self.model)
        self.optimisation = Optimisation(
            lr=settings.lr, weight_decay=settings.weight_decay, batch_size=settings.batch_size
        )
        self.batches = Batches(dataset)
        sizes = [weight.numel() for weight in prunable(self.model).values()]
        total = sum(parameter.numel() for parameter in self.model.parameters())
        self.rounds = plan_rounds(settings, sum(sizes), total)
        self.epochs_before = np.cumsum([0, *(r.end - r.first_epoch for r in self.rounds)]).tolist()

    def tickets(self, run: Run) -> list[Ticket]:
        self.run = run
        torch.set_num_threads(run.threads)  # sums depend on it, and a resumed run must end in the same bits
        tickets: list[Ticket] = []
        for index, plan in enumerate(self.rounds):
            if not self.run.ticket_path(index).exists():
                self.run.save_ticket(index, self.train(index, plan, tickets[-1] if tickets else None))
            tickets.append(self.run.load_ticket(index))
        if (
            not self.run.final_ticket.exists()
            or load_ticket(self.run.final_ticket).fingerprint != tickets[-1].fingerprint
        ):
            save_ticket(self.run.final_ticket, tickets[-1])
        return tickets

    def train(self, index: int, plan: Round, before: Ticket | None) -> Ticket:
        """One round: prune what the round before left, rewind, train."""
        masks = self.prune(plan, before)
        rewound = self.run.load_rewind() if plan.first_epoch and index else self.init
        self.model.load_state_dict(rewound)
        held = pruning.apply_masks(self.model, masks)
        optimiser = self.optimisation.optimiser(self.model)
        next_epoch, seconds = self.resume(index, plan, optimiser)
        self.run.rewind_log(index, next_epoch)
        for epoch in range(next_epoch, plan.end):
            self.keep_rewind_point(index, epoch)
            start = time.monotonic()
            for group in optimiser.param_groups:
                group["lr"] = self.optimisation.rate(epoch - plan.first_epoch, plan.schedule)
            loss, train_accuracy = train_epoch(
                self.model, optimiser, held, self.batches, self.settings.batch_size, self.seed(index, epoch)
            )
            seconds += time.monotonic() - start
            self.run.log({"round": index, "epoch": epoch, "loss": loss, "train_accuracy": train_accuracy})
            self.run.save_checkpoint(
                round=index,
                epoch=epoch + 1,
                state=self.model.state_dict(),
                optimiser=optimiser.state_dict(),
                seconds=seconds,
            )
            done = self.epochs_before[index] + epoch + 1 - plan.first_epoch
            self.report(Progress(index, len(self.rounds), done, self.epochs_before[-1], loss))
        self.keep_rewind_point(index, plan.end)
        if plan.end == 0:
            calibrate(self.model, self.batches, self.settings.batch_size, self.seed(index, 0))
        return self.ticket(index, plan, masks, seconds)

    def prune(self, plan: Round, before: Ticket | None) -> pruning.Masks:
        alive = before.masks if before else pruning.dense_masks(self.model)
        weights = before.state if before else self.init
        if plan.pick == "magnitude":
            return magnitude_masks(weights, alive, plan.keep)
        if plan.pick == "random":
            return magnitude_masks(random_scores(alive, self.seed(_MASK_SEED, 0)), alive, plan.keep)
        return alive

    def resume(self, index: int, plan: Round, optimiser: torch.optim.Optimizer) -> tuple[int, float]:
        """Load the checkpoint if it belongs to this round; returns the next epoch and the seconds so far."""
        checkpoint = self.run.load_checkpoint()
        if checkpoint is None or checkpoint["round"] != index:
            return plan.first_epoch, 0.0
        try:
            self.model.load_state_dict(checkpoint["state"])
            optimiser.load_state_dict(checkpoint["optimiser"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self.run.damaged("checkpoint.pt", "it does not fit the network") from error
        return int(checkpoint["epoch"]), float(checkpoint["seconds"])

    def keep_rewind_point(self, index: int, epoch: int) -> None:
        """Save the dense network as it is after `rewind_epoch` epochs: weights, biases, batch norm."""
        if index == 0 and epoch == self.settings.rewind_epoch and epoch > 0:
            self.run.save_rewind(_copy(self.model))

    def seed(self, index: int, epoch: int) -> np.random.SeedSequence:
        return np.random.SeedSequence([self.settings.seed, index, epoch])

    def ticket(self, index: int, plan: Round, masks: pruning.Masks, seconds: float) -> Ticket:
        dataset, norm = self.dataset, self.dataset.normalisation
        return Ticket(
            self.config,
            _copy(self.model),
            masks,
            {
                "method": self.settings.method,
                "recipe": "paper",
                "round": index,
                "rounds": len(self.rounds),
                "epochs": plan.end,
                "rewind_epoch": plan.first_epoch,
                "seed": self.settings.seed,
                "seconds": seconds,
                "test_accuracy": accuracy(self.model, dataset, dataset.test)
                if plan.end
                else None,  # untrained: no news
                "dataset": dataset.name,
                "classes": list(dataset.classes),
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


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
