"""One training of a search: epochs from where it starts, or from where a checkpoint left it, to its end.

An interrupted training must end in the same bits as one that was not. Three rules ensure that:

- Random numbers are never drawn from a running generator. Every epoch's order, every augmentation and every calibration
  has a seed made of (seed of the search, place of the stage, epoch, batch), so that a resumed training draws the same.
- A checkpoint holds everything else that an iteration depends on: network, momentum, masks, the best epoch so far. It
  also holds how many lines the log had. A resumed training drops the lines after those, for it will write them again.
- A checkpoint is written between two iterations, and never holds weights that are not numbers.

Seconds are those of training steps alone. The clock pauses for checkpoints and tickets on the way, since their cost
depends on the disk and on the user's options.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import nn

from spiketicket.data import Split
from spiketicket.errors import OutOfTimeError, SpikeTicketError
from spiketicket.train.history.events import (
    EarlyBirdRecord,
    EarlyTimeRecord,
    EpochRecord,
    NewPlanRecord,
    PhaseRecord,
    StopRecord,
    TrainingRecord,
)
from spiketicket.train.loop.distributed import Group
from spiketicket.train.loop.loop import (
    EpochMean,
    TrainingState,
    Weights,
    accuracy,
    calibrate,
    sample_logits,
    weights_of,
)
from spiketicket.train.loop.time_limit import TimeLimit
from spiketicket.train.networks.models import build
from spiketicket.train.pruning.growth import Milestone
from spiketicket.train.pruning.masks import Masks, apply_masks
from spiketicket.train.pruning.strategies import strategy
from spiketicket.train.search.early_bird import EarlyBird
from spiketicket.train.search.early_time import DIVERGENCES, divergences, early_time
from spiketicket.train.search.experiment import Experiment
from spiketicket.train.search.growing_mask import GrowingMask
from spiketicket.train.search.plan import Stage, rewind_point
from spiketicket.train.search.run import Run
from spiketicket.train.search.schedule import EARLY_TIME_EPOCHS, Schedule

EARLY_TIME_IMAGES = 1000  # number of images whose logits Early-Time compares
REPORTED = 1.0  # seconds between two reports within an epoch
CALIBRATION_STREAM = 2_000_000  # stream of random numbers that choose the images for calibrating batch norm
TRAINED_CALIBRATION_IMAGES = 2048  # images that calibrate batch norm of a trained network
ASKED = 10  # batches after which several processes ask the first whether to save or stop


@dataclass(frozen=True)
class Context:
    """What all trainings of a search share."""

    experiment: Experiment
    run: Run
    group: Group
    time_limit: TimeLimit
    report: Callable[
        [Stage, float, float], None
    ]  # called with the number of epochs done, and the mean loss of the last
    take_on_the_way: Callable[[Milestone, "TrainingResult"], None]  # takes a ticket while the mask grows


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training, or of a part of one."""

    weights: Weights
    masks: Masks
    timesteps: int
    seconds: float
    validation_accuracy: float | None
    epochs: int  # epochs done at its end
    settled: bool = True  # Early-Bird: whether the mask stopped changing
    growth_seconds: float = 0.0  # gradual: of `seconds`, those in which the mask grew


@dataclass
class Best:
    """The epoch with the highest validation accuracy, the later of equals."""

    accuracy: float
    weights: Weights


def calibrated_network(
    context: Context, weights: Weights, masks: Masks, seed: np.random.SeedSequence, images: int
) -> nn.Module:
    """Return the network at full T with `weights` under `masks`, batch norm calibrated on `images` training images."""
    experiment = context.experiment
    model = build(experiment.config)
    model.load_state_dict(weights)
    apply_masks(model, masks)
    model.to(context.group.device)
    calibrate(model, experiment.batches, experiment.settings.batch_size, seed, images)
    return model


class Training:
    """One training of a search, from its start or from its checkpoint; `run` trains.

    `index` is the place of the stage in the search, `tickets` how many tickets the log has from the stages before it;
    `start` holds the tensors to begin with, under `masks`.
    """

    def __init__(self, context: Context, stage: Stage, index: int, tickets: int, masks: Masks, start: Weights) -> None:
        self.context, self.stage, self.index = context, stage, index
        self.experiment, self.settings, self.group = context.experiment, context.experiment.settings, context.group
        self.schedule = Schedule(stage, self.settings)
        self.growing = GrowingMask(stage.growth, masks, strategy(self.settings.strategy)) if stage.growth else None
        self._masks = masks
        self.epoch, self.batch, self.ended = stage.first_epoch, 0, False
        self.seconds = self.seconds_before = 0.0  # seconds of training in all, and before this epoch
        self.reported = time.monotonic()
        self.best: Best | None = None
        self.early_bird: EarlyBird | None = None
        if stage.until_mask_settles:
            self.early_bird = EarlyBird(criterion=self.settings.eb_criterion, threshold=self.settings.eb_threshold)
        self.epoch_mean = EpochMean.empty(self.group.device)
        torch.manual_seed(
            int(self.seed(stage.first_epoch).generate_state(1)[0])
        )  # for networks that draw random numbers
        checkpoint = self._checkpoint()
        if checkpoint is None:
            context.run.restart_log(tickets)
            self._build(self.timesteps(self.epoch), self.schedule.image_size(self.epoch), start)
        else:
            self._resume(checkpoint)

    def run(self) -> TrainingResult:
        """Train to the end of the stage. Raises OutOfTimeError when time is up, SpikeTicketError if the loss or a
        weight is no longer a number.
        """
        for epoch in range(self.epoch, self.stage.end):
            if self.ended:
                break
            if self.batch == 0:
                self._before(epoch)
            rate = self.schedule.learning_rate(epoch)
            self._train(epoch)
            self._after(epoch, rate)
        self._save_rewind_point(self.stage.end)
        return self._last_epoch() if self.schedule.is_phased else self._best_epoch()

    @property
    def masks(self) -> Masks:
        return self._masks if self.growing is None else self.growing.masks

    def timesteps(self, epoch: int) -> int:
        """Return the timesteps of an epoch, which Early-Time may have chosen in this search."""
        return self.schedule.timesteps(epoch, lambda: self.group.share(self.context.run.load_early_time))

    def seed(self, epoch: int) -> np.random.SeedSequence:
        return np.random.SeedSequence([self.settings.seed, self.index, epoch])

    # What a training results in

    def _best_epoch(self) -> TrainingResult:
        best = self.best
        weights, found = (self.network.weights(), None) if best is None else (best.weights, best.accuracy)
        return self._result(weights, self.timesteps(self.epoch), found)

    def _last_epoch(self) -> TrainingResult:
        """Return the last epoch, calibrated at full T: epochs of phases, or under a growing mask, do not compare."""
        if self.growing is not None:
            self._grow_mask(self.growing, self.stage.end)
        self._calibrate(self.settings.timesteps, None, self.stage.end)
        return self._result(self.network.weights(), self.settings.timesteps, self._validation_accuracy())

    def _result(self, weights: Weights, timesteps: int, found: float | None) -> TrainingResult:
        settled = self.early_bird is None or self.ended
        grown = 0.0 if self.growing is None else self.growing.seconds
        return TrainingResult(weights, self.masks, timesteps, self.seconds, found, self.epoch, settled, grown)

    # Before an epoch: rewind point, Early-Time, change of phase

    def _before(self, epoch: int) -> None:
        self._save_rewind_point(epoch)
        if self.schedule.chooses_timesteps and epoch == EARLY_TIME_EPOCHS:
            self._choose_early_time(epoch)
            self.best = None  # it was found at another number of timesteps
        if phase := self.schedule.new_phase(epoch):
            self._calibrate(phase.timesteps, phase.image_size, epoch)
            found = self._validation_accuracy()
            self._log(
                PhaseRecord,
                epoch=epoch,
                timesteps=phase.timesteps,
                image_size=phase.image_size,
                validation_accuracy=found,
            )

    def _save_rewind_point(self, epoch: int) -> None:
        """Save the dense network after `epoch` epochs, if it is the rewind point: weights, biases, batch norm."""
        if self.stage.round == 0 and 0 < epoch == rewind_point(self.settings):
            self.context.run.save_rewind(self.network.weights())

    def _choose_early_time(self, epoch: int) -> None:
        split, rng = self.experiment.training_split, np.random.default_rng(self.seed(epoch))
        rows = rng.permutation(len(split.labels))[:EARLY_TIME_IMAGES]
        sample, batches = Split(split.images[rows], split.labels[rows]), self.experiment.batches
        in_training = self.network.recipe.early_time_in_training
        found = sample_logits(self.network, batches, sample, training=in_training)
        if in_training:  # the released code measures every T anew, and each pass moves batch norm's statistics
            for timesteps in range(2, self.settings.timesteps):
                self._rebuild(timesteps)
                sample_logits(self.network, batches, sample, training=True)
        options = self.settings.early_time_options()
        choice = self.group.share(lambda: early_time(found, options))
        self._log(
            EarlyTimeRecord,
            epoch=epoch,
            raw=choice.divergences,
            normalised=tuple(value if isfinite(value) else None for value in choice.normalised),
            divergence=options.divergence,
            normaliser=options.normaliser,
            threshold=options.threshold,
            chosen=choice.timesteps,
            curves={name: tuple(divergences(found, name)) for name in DIVERGENCES},
        )
        self._log(NewPlanRecord, stages=self.experiment.outline(choice.timesteps))
        self.context.run.save_early_time(choice.timesteps)
        self._rebuild(choice.timesteps)

    def _calibrate(self, timesteps: int, image_size: int | None, epoch: int) -> None:
        """Go on with those timesteps and images, and with batch norm's statistics as they are then."""
        self._rebuild(timesteps, image_size)
        seed = self._calibration_seed(epoch)
        calibrate(self.network.model, self.batches, self.settings.batch_size, seed, TRAINED_CALIBRATION_IMAGES)

    def _calibration_seed(self, *place: int) -> np.random.SeedSequence:
        return np.random.SeedSequence([self.settings.seed, CALIBRATION_STREAM + self.index, *place])

    def _build(self, timesteps: int, image_size: int | None, weights: Weights | None = None) -> None:
        """Build the network for those timesteps and images; `self.batches` are such images from then on."""
        config = self.experiment.config
        self.batches = self.experiment.batches.resized(image_size)
        size = image_size or config.image_size
        model = build(replace(config, timesteps=timesteps, image_size=size))
        if weights is not None:
            model.load_state_dict(weights)
        image_shape = (config.in_channels, size, size)
        self.network = TrainingState(model, self.masks, self.settings, self.group, image_shape)

    def _rebuild(self, timesteps: int, image_size: int | None = None) -> None:
        """Build the network for other timesteps and images, and go on from the present state."""
        state = self.network.state()
        self._build(timesteps, image_size)
        self.network.load(state)

    # Within an epoch

    def _train(self, epoch: int) -> None:
        settings, group, limit = self.settings, self.group, self.context.time_limit
        images_in_all = len(self.experiment.training_split.labels)
        start = time.monotonic()
        batches = self.batches.epoch(
            settings.batch_size, self.seed(epoch), first=self.batch, rank=group.rank, world=group.world
        )
        count, rate = self.experiment.batches.count(settings.batch_size, group.world), None
        for images, labels in batches:
            done = epoch + self.batch / count
            if self.growing is not None and self.growing.is_due(self.batch, count):
                self.seconds += time.monotonic() - start
                self._grow_mask(self.growing, done)
                start = time.monotonic()
            before, rate = rate, self.schedule.learning_rate(done)
            if rate != before:
                self.network.set_learning_rate(rate)
            self.network.soften(self.schedule.softness(done))
            whole = min(settings.batch_size, images_in_all - self.batch * settings.batch_size)
            self.network.step(images, labels, self.epoch_mean, share=len(labels) * group.world / whole)
            self.batch += 1
            self._report_batch(epoch)
            if (group.world == 1 or self.batch % ASKED == 0) and limit.due():
                self.seconds += time.monotonic() - start
                self._refuse_nonsense()
                self._save(epoch)
                start = time.monotonic()
        self.seconds += time.monotonic() - start

    def _grow_mask(self, growing: GrowingMask, epoch: float) -> None:
        """Let the mask grow as far as it should by then; take the tickets that are due."""
        start = time.monotonic()
        for milestone in growing.grow(self.network, epoch):
            self.seconds += time.monotonic() - start
            growing.seconds = self.seconds
            if milestone is not None:
                self.context.take_on_the_way(milestone, self._ticket_on_the_way(int(epoch)))
            start = time.monotonic()

    def _ticket_on_the_way(self, epoch: int) -> TrainingResult:
        """Return the present network, calibrated at full T; the training goes on from where it was."""
        seed = self._calibration_seed(epoch, self.batch)
        model = calibrated_network(self.context, self.network.weights(), self.masks, seed, TRAINED_CALIBRATION_IMAGES)
        batches, split = self.experiment.batches, self.experiment.validation
        found = None if split is None else accuracy(model, batches, split, self.group)
        return replace(self._result(weights_of(model), self.settings.timesteps, found), epochs=epoch + 1, settled=True)

    def _report_batch(self, epoch: int) -> None:
        """Report progress within an epoch. Its end is reported only when it is on disk."""
        now = time.monotonic()
        done = self.batch / self.experiment.batches.count(self.settings.batch_size, self.group.world)
        if done < 1 and now - self.reported > REPORTED:
            self.reported = now
            self.context.report(self.stage, epoch + done, float(self.epoch_mean.loss) / self.epoch_mean.seen)

    # After an epoch: validation, log, Early-Bird, checkpoint

    def _after(self, epoch: int, rate: float) -> None:
        loss, train_accuracy = self.epoch_mean.compute(self.group)
        self._refuse_nonsense(loss)
        found = self._validate()
        self.epoch, self.batch = epoch + 1, 0
        self.epoch_mean = EpochMean.empty(self.group.device)
        seconds, self.seconds_before = self.seconds - self.seconds_before, self.seconds
        self._log(
            EpochRecord,
            epoch=epoch,
            timesteps=self.timesteps(epoch),
            image_size=self.schedule.image_size(epoch),
            lr=rate,
            loss=loss,
            train_accuracy=train_accuracy,
            validation_accuracy=found,
            seconds=seconds,
        )
        if self.early_bird is not None:
            self._update_early_bird(self.early_bird, epoch)
        self._save(self.epoch)
        self.context.report(self.stage, self.epoch, loss)

    def _validate(self) -> float | None:
        """Return the validation accuracy, and keep the network if it is the best and epochs can be compared."""
        found = self._validation_accuracy()
        if found is None or self.early_bird is not None or self.schedule.is_phased:
            return found
        if self.best is None or found >= self.best.accuracy:
            self.best = Best(found, self.network.weights())
        return found

    def _validation_accuracy(self) -> float | None:
        """Return the accuracy of the spiking network on the validation split; None if there is none."""
        if self.experiment.validation is None:
            return None
        self.network.soften(0.0)
        return accuracy(self.network.model, self.batches, self.experiment.validation, self.group)

    def _update_early_bird(self, early_bird: EarlyBird, epoch: int) -> None:
        keep = self.experiment.stages[1].keep  # number of weights that the next pruning will leave
        prune = strategy(self.settings.strategy)
        seen = early_bird.update(prune(self.network.weights(), self.masks, keep))
        self.ended = seen.stop
        self._log(EarlyBirdRecord, epoch=epoch, **seen.to_dict())

    def _refuse_nonsense(self, loss: float = 0.0) -> None:
        if not isfinite(loss) or not self.network.finite():
            reason = "the loss is no longer a number"
            self._log(StopRecord, reason=reason, epoch=self.epoch)
            raise SpikeTicketError(f"{reason}: lower --lr, in another folder; the last good state is kept")

    def _log(self, record: type[TrainingRecord], **facts: Any) -> None:
        self.context.run.log(record(round=self.stage.round, kind=self.stage.kind, **facts))

    # Checkpoints

    def _save(self, epoch: int) -> None:
        """Write a checkpoint at `epoch`, after self.batch batches of it. The weights must be finite."""
        run, best = self.context.run, self.best
        sums = self.epoch_mean.state(self.group)  # summed over all processes
        if self.group.is_main:
            run.save_checkpoint(
                stage=self.index,
                epoch=epoch,
                batch=self.batch,
                ended=self.ended,
                tally=sums,
                seconds=[self.seconds, self.seconds_before],
                training=self.network.state(),
                best=None if best is None else vars(best),
                early_bird=None if self.early_bird is None else self.early_bird.state(),
                lines=run.lines(),
                growth=None if self.growing is None else self.growing.state(),
            )
        try:
            self.context.time_limit.written()
        except OutOfTimeError:
            self._log(StopRecord, reason="out of time", epoch=epoch)
            raise

    def _checkpoint(self) -> dict[str, Any] | None:
        """Return the checkpoint, if it belongs to this stage."""
        checkpoint = self.group.share(self.context.run.load_checkpoint)
        return checkpoint if checkpoint is not None and checkpoint["stage"] == self.index else None

    def _resume(self, checkpoint: dict[str, Any]) -> None:
        try:
            self.epoch, self.batch, self.ended = checkpoint["epoch"], checkpoint["batch"], checkpoint["ended"]
            self.seconds, self.seconds_before = checkpoint["seconds"]
            self.best = None if checkpoint["best"] is None else Best(**checkpoint["best"])
            if self.early_bird is not None:
                self.early_bird.restore(checkpoint["early_bird"])
            if self.growing is not None:
                self.growing.restore(checkpoint["growth"])
            if self.group.is_main:
                self.epoch_mean.restore(checkpoint["tally"])
            self._build(self._timesteps_of_checkpoint(), self.schedule.image_size(self.epoch))
            self.network.load(checkpoint["training"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self.context.run.damaged("checkpoint.pt", "it does not fit the network") from error
        self.context.run.cut_log(checkpoint["lines"])

    def _timesteps_of_checkpoint(self) -> int:
        """Return the timesteps to go on with: all of them if Early-Time is about to choose, which it does again."""
        at_choice = self.schedule.chooses_timesteps and (self.epoch, self.batch) == (EARLY_TIME_EPOCHS, 0)
        return self.settings.timesteps if at_choice else self.timesteps(self.epoch)
