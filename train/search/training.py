"""One training of a search: epochs from where it starts, or from where a checkpoint left it, to its end."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import floor, isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spiketicket.data import Split
from spiketicket.errors import OutOfTimeError, SpikeTicketError
from spiketicket.train.loop.batches import Batches
from spiketicket.train.loop.distributed import Group
from spiketicket.train.loop.loop import (
    Tally,
    Trainee,
    accuracy,
    calibrate,
    learning_rate,
    sample_logits,
    weights_of,
)  # fmt: skip
from spiketicket.train.loop.pace import Pace
from spiketicket.train.networks.config import ModelConfig
from spiketicket.train.networks.models import build
from spiketicket.train.pruning.growth import Milestone
from spiketicket.train.pruning.masks import Masks, pack_mask, survivors, unpack_mask
from spiketicket.train.pruning.strategies import strategy
from spiketicket.train.search.early_bird import EarlyBird
from spiketicket.train.search.early_time import DIVERGENCES, divergences, early_time
from spiketicket.train.search.phases import Phase, phase_at
from spiketicket.train.search.plan import Stage, rewind_point
from spiketicket.train.search.run import Run
from spiketicket.train.search.settings import Settings

EARLY_TIME_EPOCHS = 2  # at full T, before Early-Time chooses
EARLY_TIME_IMAGES = 1000  # by whose logits
REPORTED = 1.0  # seconds between two reports within an epoch
CALIBRATION_STREAM = 2_000_000  # of random numbers: training images that calibrate batch norm, by epoch
CALIBRATION_IMAGES = 2048  # of a network that has been trained
ASKED = 10  # batches after which several processes ask the first whether to save or stop

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Context:
    """What all trainings of a search share."""

    settings: Settings
    config: ModelConfig
    batches: Batches
    training_split: Split
    validation: Split | None
    run: Run
    group: Group
    pace: Pace
    report: Callable[[Stage, float, float], None]  # how many epochs are over, and the mean loss of the last
    outline: Callable[[int], list[dict[str, Any]]]  # the plan, for the log, by the timesteps of search trainings
    coming_keep: int | None  # of the first pruning, whose mask Early-Bird watches
    on_the_way: Callable[[Milestone, "Trained"], None]  # takes a ticket while the mask grows


@dataclass(frozen=True)
class Trained:
    """Result of a training, or of a part of one."""

    weights: Weights
    masks: Masks
    timesteps: int
    seconds: float
    validation_accuracy: float | None
    epochs: int  # at its end
    settled: bool = True  # Early-Bird: whether the mask stopped changing
    growth_seconds: float = 0.0  # gradual: of `seconds`, those in which the mask grew


@dataclass
class Best:
    """The epoch that the validation split likes best, the later of equals."""

    accuracy: float
    weights: Weights


class Training:
    """One training of a search, from its start or from its checkpoint; `run` trains.

    `index` is the place of the stage in the search, `tickets` how many tickets the log has from the stages before it;
    `start` holds the tensors to begin with, under `masks`.
    """

    def __init__(self, context: Context, stage: Stage, index: int, tickets: int, masks: Masks, start: Weights) -> None:
        self.context, self.stage, self.index, self.masks = context, stage, index, masks
        self.settings = context.settings
        self.epoch, self.batch, self.ended = stage.first_epoch, 0, False
        self.seconds = self.seconds_before = 0.0  # of training: in all, and before this epoch
        self.asked = stage.growth.start if stage.growth else 0  # what the last pruning was asked to keep
        self.growth_seconds = 0.0  # of training, until the mask had grown
        self.reported = time.monotonic()
        self.best: Best | None = None
        self.early_bird: EarlyBird | None = None
        if stage.until_mask_settles:
            self.early_bird = EarlyBird(criterion=self.settings.eb_criterion, threshold=self.settings.eb_threshold)
        self.tally = Tally.empty(context.group.device)
        torch.manual_seed(int(self.seed(stage.first_epoch).generate_state(1)[0]))  # for networks that draw numbers
        checkpoint = self._checkpoint()
        if checkpoint is None:
            context.run.restart_log(tickets)
            self.trainee = self._trainee(self.timesteps(self.epoch), self._image_size(self.epoch), start)
        else:
            self._take_up(checkpoint)

    def run(self) -> Trained:
        for epoch in range(self.epoch, self.stage.end):
            if self.ended:
                break
            if self.batch == 0:
                self._before(epoch)
            rate = self._learning_rate(epoch)
            self._train(epoch)
            self._after(epoch, rate)
        self._keep_rewind_point(self.stage.end)
        return self._last_epoch() if self._is_phased else self._best_epoch()

    def _best_epoch(self) -> Trained:
        weights = self.best.weights if self.best else self.trainee.weights()
        settled = self.early_bird is None or self.ended
        reached = self.best.accuracy if self.best else None
        return Trained(
            weights, self.masks, self.timesteps(self.epoch), self.seconds, reached, self.epoch, settled,
        )  # fmt: skip

    def _last_epoch(self) -> Trained:
        """The epochs of phases, or under a growing mask, cannot be compared: the last one counts, at full T."""
        if self.stage.growth:
            self._prune(self.stage.end)
        self._calibrate(self.settings.timesteps, None, self.stage.end)
        settled = self.early_bird is None or self.ended
        return Trained(
            self.trainee.weights(), self.masks, self.settings.timesteps, self.seconds, self._validated(), self.epoch,
            settled, self.growth_seconds,
        )  # fmt: skip

    @property
    def _is_phased(self) -> bool:
        return bool(self.stage.phases) or self.stage.growth is not None

    @property
    def _chooses_timesteps(self) -> bool:
        """Early-Time does so within the first training of a search."""
        return self.settings.early_time and self.stage.round == 0 and self.stage.kind == "search"

    def timesteps(self, epoch: int) -> int:
        """Return the timesteps of an epoch: its phase's, or all of them, or as few as Early-Time has chosen."""
        if self.stage.phases:
            return self._phase(epoch).timesteps
        if self.stage.kind == "final" or not self.settings.early_time:
            return self.settings.timesteps
        if self.stage.round == 0 and epoch < EARLY_TIME_EPOCHS:
            return self.settings.timesteps
        chosen = self.context.group.share(self.context.run.load_early_time)
        return self.settings.timesteps if chosen is None else chosen

    def seed(self, epoch: int) -> np.random.SeedSequence:
        return np.random.SeedSequence([self.settings.seed, self.index, epoch])

    def _log(self, event: str, **facts: object) -> None:
        self.context.run.log(event, round=self.stage.round, kind=self.stage.kind, **facts)

    def _before(self, epoch: int) -> None:
        self._keep_rewind_point(epoch)
        if self._chooses_timesteps and epoch == EARLY_TIME_EPOCHS:
            self._choose_early_time(epoch)
            self.best = None  # of other timesteps
        if self.stage.phases and epoch > self.stage.first_epoch and self._phase(epoch) != self._phase(epoch - 1):
            phase = self._phase(epoch)
            self._calibrate(phase.timesteps, phase.image_size, epoch)
            self._log(
                "phase", epoch=epoch, timesteps=phase.timesteps, image_size=phase.image_size,
                validation_accuracy=self._validated(),
            )  # fmt: skip

    def _phase(self, epoch: int) -> Phase:
        return phase_at(self.stage.phases, epoch)

    def _image_size(self, epoch: int) -> int | None:
        """Pixels along a side to which an epoch's images are made smaller; None where they stay as they are."""
        return self._phase(epoch).image_size if self.stage.phases else None

    def _calibrate(self, timesteps: int, image_size: int | None, epoch: int) -> None:
        """Go on with those timesteps and images, and with batch norm's statistics as they are then."""
        self._change(timesteps, image_size)
        seed = self._calibration_seed(epoch)
        calibrate(self.trainee.model, self.batches, self.settings.batch_size, seed, CALIBRATION_IMAGES)

    def _calibration_seed(self, *place: int) -> np.random.SeedSequence:
        return np.random.SeedSequence([self.settings.seed, CALIBRATION_STREAM + self.index, *place])

    def _choose_early_time(self, epoch: int) -> None:
        split, rng = self.context.training_split, np.random.default_rng(self.seed(epoch))
        rows = rng.permutation(len(split.labels))[:EARLY_TIME_IMAGES]
        sample, batches = Split(split.images[rows], split.labels[rows]), self.context.batches
        in_training = self.trainee.recipe.early_time_in_training
        found = sample_logits(self.trainee, batches, sample, training=in_training)
        if in_training:
            for timesteps in range(2, self.settings.timesteps):
                self._change(timesteps)
                sample_logits(self.trainee, batches, sample, training=True)
        options = self.settings.early_time_options()
        choice = self.context.group.share(lambda: early_time(found, options))
        self._log(
            "early_time", epoch=epoch, raw=choice.to_dict()["divergences"], normalised=choice.to_dict()["normalised"],
            divergence=options.divergence, normaliser=options.normaliser, threshold=options.threshold,
            chosen=choice.timesteps, curves={name: divergences(found, name) for name in DIVERGENCES},
        )  # fmt: skip
        self._log("plan", stages=self.context.outline(choice.timesteps))
        self.context.run.save_early_time(choice.timesteps)
        self._change(choice.timesteps)

    def _change(self, timesteps: int, image_size: int | None = None) -> None:
        state = self.trainee.state()
        self.trainee = self._trainee(timesteps, image_size)
        self.trainee.load(state)

    def _learning_rate(self, epoch: float) -> float:
        if self.settings.schedule != "one-cycle":  # all others change with the epoch
            epoch = floor(epoch)
        steps = self.stage.schedule_steps * (epoch - self.stage.first_epoch)
        return self.stage.lr_factor * learning_rate(self.settings, steps, self.stage.schedule)

    def _train(self, epoch: int) -> None:
        settings, group, pace = self.settings, self.context.group, self.context.pace
        images_in_all = len(self.context.training_split.labels)
        start = time.monotonic()
        batches = self.batches.epoch(
            settings.batch_size, self.seed(epoch), first=self.batch, rank=group.rank, world=group.world
        )
        count, rate = self.context.batches.count(settings.batch_size, group.world), None
        for images, labels in batches:
            done = epoch + self.batch / count
            if self.stage.growth and self.stage.growth.is_due(self.batch, count):
                self.seconds += time.monotonic() - start
                self._prune(done)
                start = time.monotonic()
            before, rate = rate, self._learning_rate(done)
            if rate != before:
                self.trainee.set_learning_rate(rate)
            self.trainee.soften(self._softness(done))
            whole = min(settings.batch_size, images_in_all - self.batch * settings.batch_size)
            self.trainee.step(images, labels, self.tally, share=len(labels) * group.world / whole)
            self.batch += 1
            self._report_batch(epoch)
            if (group.world == 1 or self.batch % ASKED == 0) and pace.due():
                self.seconds += time.monotonic() - start
                self._refuse_nonsense()
                self._save(epoch)
                start = time.monotonic()
        self.seconds += time.monotonic() - start

    def _softness(self, epoch: float) -> float:
        """Return how soft neurons are after `epoch` epochs: 1 in the first half of the soft start, then down to 0."""
        if self.stage.continues or epoch >= self.settings.soft_epochs:
            return 0.0
        return min(1.0, 2 * (1 - epoch / self.settings.soft_epochs))

    def _prune(self, epoch: float) -> None:
        """Let the mask grow as far as it should by then; take the tickets that are due."""
        growth, prune = self.stage.growth, strategy(self.settings.strategy)
        assert growth is not None
        for keep, milestone in growth.steps(self.asked, epoch):
            start = time.monotonic()
            self.masks = prune(self.trainee.weights(), self.masks, min(keep, survivors(self.masks)))
            self.trainee.prune(self.masks)
            self.asked = keep
            self.seconds += time.monotonic() - start
            self.growth_seconds = self.seconds
            if milestone is not None:
                self.context.on_the_way(milestone, self._so_far(int(epoch)))

    def _so_far(self, epoch: int) -> Trained:
        """The ticket of this moment, batch norm calibrated at full T; the training goes on untouched by it."""
        model = build(self.context.config)
        model.load_state_dict(self.trainee.weights())
        model.to(self.context.group.device)
        seed = self._calibration_seed(epoch, self.batch)
        batches, group, split = self.context.batches, self.context.group, self.context.validation
        calibrate(model, batches, self.settings.batch_size, seed, CALIBRATION_IMAGES)
        found = None if split is None else accuracy(model, batches, split, group)
        return Trained(
            weights_of(model), self.masks, self.settings.timesteps, self.seconds, found, epoch + 1,
            growth_seconds=self.growth_seconds,
        )  # fmt: skip

    def _report_batch(self, epoch: int) -> None:
        """Within an epoch; its end is reported when it is on disk."""
        group, now = self.context.group, time.monotonic()
        done = self.batch / self.context.batches.count(self.settings.batch_size, group.world)
        if done < 1 and now - self.reported > REPORTED:
            self.reported = now
            self.context.report(self.stage, epoch + done, float(self.tally.loss) / self.tally.seen)

    def _after(self, epoch: int, rate: float) -> None:
        loss, train_accuracy = self.tally.mean(self.context.group)
        self._refuse_nonsense(loss)
        found = self._validate()
        self.epoch, self.batch = epoch + 1, 0
        self.tally = Tally.empty(self.context.group.device)
        seconds, self.seconds_before = self.seconds - self.seconds_before, self.seconds
        self._log(
            "epoch", epoch=epoch, timesteps=self.timesteps(epoch), image_size=self._image_size(epoch), lr=rate,
            loss=loss, train_accuracy=train_accuracy, validation_accuracy=found,
            seconds=seconds,
        )  # fmt: skip
        if self.early_bird is not None:
            self._watch_mask(epoch)
        self._save(self.epoch)
        self.context.report(self.stage, self.epoch, loss)

    def _validate(self) -> float | None:
        found = self._validated()
        if found is None or self.early_bird is not None or self._is_phased:
            return found
        if self.best is None or found >= self.best.accuracy:
            self.best = Best(found, self.trainee.weights())
        return found

    def _validated(self) -> float | None:
        """Return the accuracy of the spiking network on the validation split; None where there is no split."""
        if self.context.validation is None:
            return None
        self.trainee.soften(0.0)
        return accuracy(self.trainee.model, self.batches, self.context.validation, self.context.group)

    def _watch_mask(self, epoch: int) -> None:
        assert self.early_bird is not None and self.context.coming_keep is not None
        weights = self.trainee.weights()
        prune = strategy(self.settings.strategy)
        seen = self.early_bird.update(prune(weights, self.masks, self.context.coming_keep))
        self.ended = seen.stop
        self._log("early_bird", epoch=epoch, **seen.to_dict())

    def _refuse_nonsense(self, loss: float = 0.0) -> None:
        if not isfinite(loss) or not self.trainee.finite():
            reason = "the loss is no longer a number"
            self._log("stopped", reason=reason, epoch=self.epoch)
            raise SpikeTicketError(f"{reason}: lower --lr, in another folder; the last good state is kept")

    def _keep_rewind_point(self, epoch: int) -> None:
        """Save the dense network as it is after that many epochs: weights, biases, batch norm."""
        if self.stage.round == 0 and 0 < epoch == rewind_point(self.settings):
            self.context.run.save_rewind(self.trainee.weights())

    def _trainee(self, timesteps: int, image_size: int | None, weights: Weights | None = None) -> Trainee:
        """The network for those timesteps and images; `self.batches` are such images from then on."""
        config = self.context.config
        self.batches = self.context.batches.resized(image_size)
        model = build(replace(config, timesteps=timesteps, image_size=image_size or config.image_size))
        if weights is not None:
            model.load_state_dict(weights)
        return Trainee(model, self.masks, self.settings, self.context.group)

    def _save(self, epoch: int) -> None:
        """Write a checkpoint: at `epoch`, after self.batch batches of it. What is no number must be refused before."""
        run, group, best = self.context.run, self.context.group, self.best
        tally = self.tally.state(group)
        if group.leads:
            run.save_checkpoint(
                stage=self.index, epoch=epoch, batch=self.batch, ended=self.ended, tally=tally,
                seconds=[self.seconds, self.seconds_before],
                training=self.trainee.state(), best=None if best is None else vars(best),
                early_bird=None if self.early_bird is None else self.early_bird.state(), lines=run.lines(),
                growth=None if self.stage.growth is None else self._growth_state(),
            )  # fmt: skip
        try:
            self.context.pace.written()
        except OutOfTimeError:
            self._log("stopped", reason="out of time", epoch=epoch)
            raise

    def _checkpoint(self) -> dict[str, Any] | None:
        """The checkpoint, if it belongs to this stage."""
        checkpoint = self.context.group.share(self.context.run.load_checkpoint)
        return checkpoint if checkpoint is not None and checkpoint["stage"] == self.index else None

    def _take_up(self, checkpoint: dict[str, Any]) -> None:
        try:
            self.epoch, self.batch, self.ended = checkpoint["epoch"], checkpoint["batch"], checkpoint["ended"]
            self.seconds, self.seconds_before = checkpoint["seconds"]
            self.best = None if checkpoint["best"] is None else Best(**checkpoint["best"])
            if self.early_bird is not None:
                self.early_bird.restore(checkpoint["early_bird"])
            if self.stage.growth:
                self._restore_growth(checkpoint["growth"])
            if self.context.group.leads:
                self.tally.restore(checkpoint["tally"])
            self.trainee = self._trainee(self._timesteps_of_checkpoint(), self._image_size(self.epoch))
            self.trainee.load(checkpoint["training"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self.context.run.damaged("checkpoint.pt", "it does not fit the network") from error
        self.context.run.cut_log(checkpoint["lines"])

    def _growth_state(self) -> dict[str, Any]:
        masks = {name: torch.from_numpy(pack_mask(mask)) for name, mask in self.masks.items()}
        return {"asked": self.asked, "seconds": self.growth_seconds, "masks": masks}

    def _restore_growth(self, state: dict[str, Any]) -> None:
        self.asked, self.growth_seconds = state["asked"], state["seconds"]
        self.masks = {n: unpack_mask(state["masks"][n].numpy(), mask.shape) for n, mask in self.masks.items()}

    def _timesteps_of_checkpoint(self) -> int:
        """Where Early-Time is about to choose, it chooses again, by all timesteps."""
        at_choice = self._chooses_timesteps and (self.epoch, self.batch) == (EARLY_TIME_EPOCHS, 0)
        return self.settings.timesteps if at_choice else self.timesteps(self.epoch)
