"""What a training does at which epoch: timesteps, image size, learning rate, softness of the neurons. No state."""

from collections.abc import Callable
from dataclasses import dataclass
from math import floor

from spiketicket.train.loop.loop import learning_rate
from spiketicket.train.search.phases import Phase, phase_at
from spiketicket.train.search.plan import Stage
from spiketicket.train.search.settings import SearchSettings

EARLY_TIME_EPOCHS = 2  # at full T, before Early-Time chooses


@dataclass(frozen=True)
class Schedule:
    """The course of one stage. Epochs are counted from init; a fraction says how much of an epoch is over."""

    stage: Stage
    settings: SearchSettings

    @property
    def is_phased(self) -> bool:
        """Whether epochs differ in more than the learning rate, so that their accuracies cannot be compared."""
        return bool(self.stage.phases) or self.stage.growth is not None

    @property
    def chooses_timesteps(self) -> bool:
        """Whether Early-Time chooses within this training: the first one of a search."""
        return self.settings.early_time and self.stage.round == 0 and self.stage.kind == "search"

    def timesteps(self, epoch: int, chosen: Callable[[], int | None]) -> int:
        """Return the timesteps of an epoch: its phase's, or all of them, or as few as Early-Time has chosen.

        `chosen` returns Early-Time's choice, None before there is one; it is called only if it matters.
        """
        if self.stage.phases:
            return self._phase(epoch).timesteps
        if self.stage.kind == "final" or not self.settings.early_time:
            return self.settings.timesteps
        if self.stage.round == 0 and epoch < EARLY_TIME_EPOCHS:
            return self.settings.timesteps
        found = chosen()
        return self.settings.timesteps if found is None else found

    def image_size(self, epoch: int) -> int | None:
        """Return the pixels along a side to which an epoch's images are made smaller; None where they stay."""
        return self._phase(epoch).image_size if self.stage.phases else None

    def new_phase(self, epoch: int) -> Phase | None:
        """Return the phase that begins with this epoch, if another one comes before it in the same training."""
        if self.stage.phases and epoch > self.stage.first_epoch and self._phase(epoch) != self._phase(epoch - 1):
            return self._phase(epoch)
        return None

    def learning_rate(self, epoch: float) -> float:
        """Return the learning rate when `epoch` epochs are over."""
        if self.settings.schedule != "one-cycle":  # all others change with the epoch
            epoch = floor(epoch)
        steps = self.stage.schedule_steps * (epoch - self.stage.first_epoch)
        return self.stage.lr_factor * learning_rate(self.settings, steps, self.stage.schedule)

    def softness(self, epoch: float) -> float:
        """Return how soft neurons are after `epoch` epochs: 1 in the first half of the soft start, then down to 0."""
        if self.stage.continues or epoch >= self.settings.soft_epochs:
            return 0.0
        return min(1.0, 2 * (1 - epoch / self.settings.soft_epochs))

    def _phase(self, epoch: int) -> Phase:
        return phase_at(self.stage.phases, epoch)
