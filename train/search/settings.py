"""The settings of a search, checked. No torch.

The options of snn-search, settings.json and the settings in a ticket are made from the fields of one dataclass, so that
a name, a default and a help text are written once, here.
"""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from spiketicket.errors import InputError
from spiketicket.train.networks.config import BATCH_NORMS
from spiketicket.train.pruning.strategies import strategy
from spiketicket.train.search.early_bird import EarlyBird
from spiketicket.train.search.early_time import EarlyTime
from spiketicket.train.search.phases import Phase, count_epochs, parse_phases
from spiketicket.train.search.recipes import RECIPES

METHODS = {
    "imp": "Iterative magnitude pruning with late rewinding: train, prune, rewind, again.",
    "eb": "Early-Bird: train until the mask of the coming cut stops changing, cut, and train again from init.",
    "random": "As many weights as imp prunes by the same options, at random, from the rewind point (0: init).",
    "oneshot": "One cut of the smallest weights; with --epochs 0 of the initial weights, batch norm calibrated.",
    "gradual": "One training in which the mask grows to the sparsity, with tickets on the way (not in the paper).",
}
OPTIMIZERS = ("sgd", "adam")
SCHEDULES = ("cosine", "step", "one-cycle")
PAPER_SPARSITIES = (68.30, 89.91, 95.69, 98.13)
PRECISIONS = ("float32", "bfloat16", "float16")
MOST_EPOCHS = 10**6
LARGEST_ADAM_LR = 0.1  # far above what trains; the default of SGD is a likely mistake
SAVE_MINUTES = 10.0  # between two checkpoints within an epoch


def _option(default: Any, text: str, *methods: str, early_time: bool = False) -> Any:
    """Return a field of SearchSettings: its default, its help text, and the methods that know it (none: all)."""
    return field(
        default=default, metadata={"help": text, "methods": methods or tuple(METHODS), "early_time": early_time}
    )


@dataclass(frozen=True)
class SearchSettings:
    """Everything that decides which tickets a search ends in. `sparsity` is the paper's p, in percent."""

    method: str
    arch: str
    dataset: str
    timesteps: int = _option(5, "Timesteps T.")
    rounds: int | None = _option(
        None, "Trainings, the dense one included (the paper: 15). This or --sparsity.", "imp", "random", "oneshot"
    )
    sparsity: float | None = _option(None, "Zeros among all parameters, in percent (the paper's p).")
    strategy: str = _option(
        "global", "Where weights are pruned: global, uniform, erk, N:M such as 2:4, balanced (docs/pruning.md)."
    )
    epochs: int = _option(300, "Epochs of the dense training, and of a ticket's.")
    phases: str | None = _option(
        None,
        "TIMESTEPSxEPOCHS[@PIXELS], as in 1x8@16,1x6,2x2,5x1: train at few timesteps, or on small images, first; "
        "batch norm is calibrated at each change. Sets --epochs.",
    )
    soft_epochs: float = _option(
        0.0,
        "Epochs at the start in which neurons are smooth: in the first half the surrogate's primitive, then a blend "
        "that turns into spikes (docs/search.md).",
    )
    deep_supervision: float = _option(
        0.0,
        "Weight of the loss of a linear classifier at every layer of neurons, which helps deep networks to begin to "
        "learn and is not part of the ticket; 0: none.",
    )
    prune_epochs: str | None = _option(
        None,
        "FIRST-LAST: the epochs between which the mask grows; by default from the end of --soft-epochs to 3/4 of "
        "the training.",
        "gradual",
    )
    final_phases: str | None = _option(
        None,
        "Train each ticket on the way in such phases, from its weights; by default only its batch norm is calibrated.",
        "gradual",
    )
    rewind_epoch: int = _option(20, "Epoch that later rounds go back to (0: init).", "imp", "random", "oneshot")
    prune_rate: float = _option(0.25, "Share of the surviving weights pruned per round.", "imp", "random", "oneshot")
    finals: tuple[int, ...] = _option(
        (), "With --early-time: rounds whose tickets are trained at full T, beside the last, as in 4,8,11.", "imp"
    )
    eb_criterion: str = _option(
        "hamming", "What must stop changing: hamming (the paper) or overlap of survivors.", "eb"
    )
    eb_threshold: float | None = _option(
        None, "Largest Hamming distance (the paper: 0.02), or smallest overlap (0.9).", "eb"
    )
    eb_lr_factor: float = _option(2.0, "Learning rate of Early-Bird's search, in multiples of --lr.", "eb")
    early_time: bool = _option(
        False,
        "Search with fewer timesteps, as few as the logits allow after two epochs.",
        early_time=True,
    )
    et_divergence: str | None = _option(
        None,
        "forward: KL(P_t || P_T), the paper; reverse: KL(P_T || P_t), the released code; jensen-shannon.",
        early_time=True,
    )
    et_normaliser: str | None = _option(
        None, "Divergences in units of that at t = 2 (second, the paper) or of the largest (maximum).", early_time=True
    )
    et_threshold: float = _option(0.6, "Take the smallest t whose divergence is below it.", early_time=True)
    et_candidates: tuple[int, ...] = _option(
        (), "Which t to choose from, as in 2,3; empty: all from 2 on.", early_time=True
    )
    recipe: str = _option("paper", "paper, or released: as the authors' code behaves (docs/search.md).")
    batch_size: int = _option(128, "Images per iteration, over all processes.")
    optimizer: str = _option("sgd", "sgd with a momentum of 0.9 (the paper), or adam (AdamW); set --lr for it.")
    lr: float = _option(0.3, "First learning rate; 0.3 suits sgd, 0.002 adam.")
    schedule: str = _option(
        "cosine",
        "How the learning rate falls: cosine, to 0; step, to a tenth after 1/2 and again after 3/4; "
        "one-cycle, up to --lr in a quarter of the training and down to 0, batch by batch.",
    )
    weight_decay: float = _option(5e-4, "L2 penalty.")
    cutout: int | None = _option(
        None, "Side of the square that is blanked in a training image, in pixels; 0: none. Not given: the data set's."
    )
    clip: float | None = _option(None, "Largest norm of the gradient; longer ones are scaled down.")
    validation: float = _option(
        0.1, "Share of the training images held out to choose the best epoch; 0: take the last."
    )
    width: float = _option(1.0, "Multiplier of all hidden channels.")
    batch_norm: str = _option("per-timestep", "per-timestep (the paper) or folded (time folded into the batch).")
    precision: str = _option("float32", "float32; bfloat16 or, on GPUs, float16 where matrices are multiplied.")
    seed: int = _option(0, "Decides init, data order and random masks.")

    def __post_init__(self) -> None:
        _one_of(self, "method", METHODS)
        _one_of(self, "recipe", RECIPES)
        self._check_pruning()
        self._check_early_time()
        self._check_training()
        self._check_phases()

    def _check_pruning(self) -> None:
        sparsity_only = self.method in ("eb", "gradual")  # they have no rounds
        _require(not sparsity_only or (self.rounds, self.sparsity) != (None, None), "sparsity", "a percentage", "none")
        _require(
            (self.rounds is None) != (self.sparsity is None),
            "rounds, sparsity",
            "exactly one of the two",
            "neither" if self.rounds is None else "both",
        )
        _require(
            self.rounds is None or 2 <= self.rounds <= 100, "rounds", "2 to 100, the dense one included", self.rounds
        )
        if self.sparsity is not None and 0 < self.sparsity < 1:
            raise InputError(
                f"sparsity is in percent: {self.sparsity} means {self.sparsity}%, did you mean {100 * self.sparsity:g}?"
            )
        good = self.sparsity is None or 0 <= self.sparsity < 100
        _require(good, "sparsity", "a percentage from 0 below 100", self.sparsity)
        _require(0 < self.prune_rate < 1, "prune_rate", "a share between 0 and 1", self.prune_rate)
        _require(
            not self.finals or self.early_time,
            "finals",
            "none without early_time: every round trains at full T then",
            self.finals,
        )
        strategy(self.strategy)
        EarlyBird(criterion=self.eb_criterion, threshold=self.eb_threshold)
        _require(0 < self.eb_lr_factor < math.inf, "eb_lr_factor", "above 0", self.eb_lr_factor)

    def _check_phases(self) -> None:
        for name in ("phases", "final_phases"):
            text = getattr(self, name)
            largest = max((phase.timesteps for phase in parse_phases(name, text)), default=0) if text is not None else 0
            _require(largest <= self.timesteps, name, f"at most the {self.timesteps} timesteps of tickets", largest)
        _require(
            not self.early_time or not self.phases, "early_time", "none with phases, which set the timesteps", "both"
        )
        if self.phases is not None:
            planned = count_epochs(self.training_phases())
            _require(self.epochs == planned, "epochs", f"{planned}, the sum of phases", self.epochs)
        good = 0 <= self.soft_epochs <= self.epochs
        _require(good, "soft_epochs", f"from 0 to epochs ({self.epochs})", self.soft_epochs)
        self.pruning_epochs()

    def training_phases(self) -> tuple[Phase, ...]:
        """Return the phases of the training from init; empty where all epochs have the same timesteps."""
        return () if self.phases is None else parse_phases("phases", self.phases)

    def final_training_phases(self) -> tuple[Phase, ...]:
        """Return the phases in which `gradual` trains its tickets on the way; empty if it does not."""
        return () if self.final_phases is None else parse_phases("final_phases", self.final_phases)

    def pruning_epochs(self) -> tuple[float, float]:
        """Return the epochs between which `gradual` prunes. Raises InputError if they are outside the training."""
        if self.prune_epochs is None:
            return self.soft_epochs, max(self.soft_epochs, 0.75 * self.epochs)
        try:
            first, last = (float(number) for number in self.prune_epochs.split("-"))
        except ValueError:
            first, last = math.nan, math.nan
        good = 0 <= first < last <= self.epochs
        _require(good, "prune_epochs", f"FIRST-LAST within the {self.epochs} epochs, as in 2-12", self.prune_epochs)
        return first, last

    def _check_early_time(self) -> None:
        _require(
            not self.early_time or (self.timesteps >= 3 and self.epochs >= 3),
            "early_time",
            "3 timesteps and 3 epochs at least",
            f"{self.timesteps} and {self.epochs}",
        )
        options = (f for f in fields(self) if f.metadata.get("early_time") and f.name != "early_time")
        chosen = [f.name for f in options if getattr(self, f.name) != f.default]
        _require(self.early_time or not chosen, "".join(chosen[:1]), "early_time with it", "none")
        self.early_time_options().candidates_of(self.timesteps)

    def early_time_options(self) -> EarlyTime:
        """Return how Early-Time chooses; options that are not set are those of the recipe."""
        recipe = RECIPES[self.recipe]
        return EarlyTime(
            self.et_divergence or recipe.divergence,
            self.et_normaliser or recipe.normaliser,
            self.et_threshold,
            self.et_candidates or None,
        )

    def _check_training(self) -> None:
        _require(0 <= self.epochs <= MOST_EPOCHS, "epochs", "0 to 1,000,000", self.epochs)
        _require(self.epochs > 0 or self.method == "oneshot", "epochs", f"1 or more for {self.method}", self.epochs)
        good = 0 <= self.rewind_epoch <= self.epochs or self.method in ("eb", "gradual")
        default = " (the default)" if self.rewind_epoch == SearchSettings.rewind_epoch else ""
        _require(good, "rewind_epoch", f"from 0 to epochs ({self.epochs})", f"{self.rewind_epoch}{default}")
        _require(1 <= self.timesteps <= 4096, "timesteps", "1 to 4096", self.timesteps)
        _require(2 <= self.batch_size <= 2**20, "batch_size", "2 to 1,048,576 (batch norm needs two)", self.batch_size)
        _require(0 < self.lr < math.inf, "lr", "above 0", self.lr)
        _one_of(self, "optimizer", OPTIMIZERS)
        adam = self.optimizer == "adam"
        _require(not adam or self.lr <= LARGEST_ADAM_LR, "lr", f"at most {LARGEST_ADAM_LR} with adam", self.lr)
        _require(not adam or self.recipe == "paper", "optimizer", "sgd with recipe released", "adam")
        good = 0 <= self.deep_supervision < math.inf
        _require(good, "deep_supervision", "a weight of 0 or more", self.deep_supervision)
        _one_of(self, "schedule", SCHEDULES)
        _require(0 <= self.weight_decay < math.inf, "weight_decay", "0 or more", self.weight_decay)
        _require(self.cutout is None or 0 <= self.cutout <= 4096, "cutout", "0 to 4096 pixels", self.cutout)
        _require(self.clip is None or 0 < self.clip < math.inf, "clip", "above 0", self.clip)
        _require(0 <= self.validation < 1, "validation", "a share from 0 below 1", self.validation)
        _require(0 < self.width <= 16, "width", "above 0, at most 16", self.width)
        _one_of(self, "batch_norm", BATCH_NORMS)
        _one_of(self, "precision", PRECISIONS)
        _require(0 <= self.seed < 2**32, "seed", "0 to 4,294,967,295", self.seed)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain types, as JSON has them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


Settings = SearchSettings  # the old name


def _one_of(settings: SearchSettings, name: str, known: Any) -> None:
    value = getattr(settings, name)
    _require(value in known, name, f"one of {', '.join(known)}", value)


def _require(good: bool, name: str, expected: str, value: object) -> None:
    if not good:
        raise InputError(f"{name}: expected {expected}, got {value}")
