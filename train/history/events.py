"""The events of a search's log, field by field, and how a line becomes one. No torch.

`metrics.jsonl` holds one JSON object per line, told apart by its "event". Events and fields that are not named here
belong to later releases and are ignored.
"""

from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar

from spiketicket.train.search.phases import parse_phases, phase_at

SEARCH, FINAL = "search", "final"  # kinds of training: for the search itself, and of a reported ticket at full T


@dataclass(frozen=True)
class Stage:
    """A training of the plan. `epochs` is how many it trains, `sparsity` a share of all parameters.

    `phases` says how many timesteps these epochs have (phases.py); empty: `timesteps` in all of them.
    """

    round: int
    kind: str
    epochs: int
    timesteps: int
    sparsity: float | None = None
    phases: str = ""
    image_size: int | None = None  # of the data set

    def after(self, epochs: int) -> list[tuple[int, int | None]]:
        """Return timesteps and image size (None: the data set's) of each epoch that is left after `epochs` of them."""
        if not self.phases:
            return [(self.timesteps, None)] * (self.epochs - epochs)
        planned = parse_phases("phases", self.phases)
        left = (phase_at(planned, epoch) for epoch in range(epochs, self.epochs))
        return [(phase.timesteps, phase.image_size) for phase in left]


@dataclass(frozen=True)
class Phase:
    """A change of timesteps or image size within a training, before `epoch`; accuracy as calibrated there."""

    round: int
    kind: str
    epoch: int
    timesteps: int
    image_size: int | None = None
    validation_accuracy: float | None = None


@dataclass(frozen=True)
class Epoch:
    """A finished epoch; accuracies are shares, `seconds` its wall time, `image_size` None for images as they are."""

    round: int
    kind: str
    epoch: int
    timesteps: int
    seconds: float
    loss: float | None = None
    train_accuracy: float | None = None
    validation_accuracy: float | None = None
    lr: float | None = None
    image_size: int | None = None


@dataclass(frozen=True)
class EarlyTime:
    """Divergence of the mean prediction over t timesteps from that over T, t = 1..T, and the T chosen."""

    round: int
    epoch: int
    normalised: tuple[float | None, ...]
    chosen: int
    raw: tuple[float | None, ...] = ()
    threshold: float | None = None
    divergence: str = ""  # its name


@dataclass(frozen=True)
class EarlyBird:
    """How far an epoch's mask is from those of the window at most, and the least share of survivors in common."""

    round: int
    epoch: int
    hamming: float | None = None  # None: there was no mask before it
    overlap: float | None = None
    stop: bool = False


@dataclass(frozen=True)
class TicketFound:
    """A ticket. `search_seconds`: the trainings that its mask comes from; `final_seconds`: its own."""

    round: int
    kind: str
    sparsity: float
    search_seconds: float
    final_seconds: float = 0.0
    sparsity_prunable: float | None = None
    test_accuracy: float | None = None
    validation_accuracy: float | None = None
    timesteps: int | None = None
    fingerprint: str = ""


@dataclass(frozen=True)
class Stop:
    """The search ended before its plan did."""

    reason: str
    round: int | None = None
    epoch: int | None = None


_EVENTS: dict[str, type[Any]] = {
    "epoch": Epoch, "phase": Phase, "early_time": EarlyTime, "early_bird": EarlyBird, "ticket": TicketFound,
    "stopped": Stop,
}  # fmt: skip
T = TypeVar("T")


def parse_event(entry: dict[str, Any]) -> Any:
    """The event of a line, a tuple of stages for a plan, None for an event of a later release.

    Raises ValueError (or OverflowError) naming the field that is missing or not what it should be.
    """
    if entry["event"] == "plan":
        return _parse_plan(entry)
    cls = _EVENTS.get(entry["event"])
    return _parse(cls, entry) if cls else None


def _parse_plan(entry: dict[str, Any]) -> tuple[Stage, ...]:
    stages = entry.get("stages")
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise ValueError("stages: expected a list of objects")
    parsed = tuple(_parse(Stage, stage) for stage in stages)
    for stage in parsed:
        if stage.phases:
            parse_phases("phases", stage.phases)
    return parsed


def _parse(cls: type[T], entry: dict[str, Any]) -> T:
    """An event from its line, each field held against the type that its class declares. Raises ValueError."""
    values = {}
    for field in fields(cls):  # type: ignore[arg-type]  # every class that comes here is a dataclass
        if field.name in entry:
            values[field.name] = _convert(field.name, field.type, entry[field.name])
        elif field.default is MISSING:
            raise ValueError(f"{field.name} is missing")
    return cls(**values)


def _convert(name: str, kind: Any, value: object) -> object:
    if kind == tuple[float | None, ...] and isinstance(value, list):
        return tuple(_convert(name, float | None, item) for item in value)
    if value is None and kind in (float | None, int | None):
        return None
    if kind in (float, float | None) and type(value) in (int, float):
        number = float(value)  # type: ignore[arg-type]
        if name == "sparsity" and not 0 <= number < 1:
            raise ValueError(f"sparsity: expected a share from 0 below 1, got {number}")
        return number
    if kind in (int, int | None) and type(value) is int and value >= (name == "timesteps"):
        return value
    if kind in (str, bool) and type(value) is kind:
        return value
    expected = getattr(kind, "__name__", None) if isinstance(kind, type) else str(kind)
    raise ValueError(f"{name}: expected {expected}, got {value!r:.80}")
