"""The events of a search's log: a search writes them, histories read them. No torch.

`metrics.jsonl` holds one JSON object per line. Its "event" names a class here, its other keys are the fields of that
class in their order. Fields that have a default may be missing, for logs of older releases lack them; events and fields
that are not named here belong to later releases and are ignored.
"""

from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, TypeVar

from spiketicket.train.search.phases import parse_phases, phase_at

SEARCH, FINAL = "search", "final"  # kinds of training: for the search itself, and of a reported ticket at full T


@dataclass(frozen=True)
class StageRecord:
    """A training of the plan. `epochs` is how many it trains, `sparsity` a share of all parameters.

    `phases` says how many timesteps these epochs have (phases.py); empty: `timesteps` in all of them.
    """

    round: int
    kind: str
    epochs: int
    timesteps: int
    phases: str = ""
    image_size: int | None = None  # None: that of the data set
    sparsity: float | None = None

    def after(self, epochs: int) -> list[tuple[int, int | None]]:
        """Return timesteps and image size (None: the data set's) of each epoch that is left after `epochs` of them."""
        if not self.phases:
            return [(self.timesteps, None)] * (self.epochs - epochs)
        planned = parse_phases("phases", self.phases)
        left = (phase_at(planned, epoch) for epoch in range(epochs, self.epochs))
        return [(phase.timesteps, phase.image_size) for phase in left]


@dataclass(frozen=True, kw_only=True)
class PlanRecord:
    """All trainings that are planned."""

    stages: tuple[StageRecord, ...]


@dataclass(frozen=True, kw_only=True)
class NewPlanRecord:
    """The plan as it has changed within a training. The log has both kinds under the name "plan"."""

    round: int
    kind: str
    stages: tuple[StageRecord, ...]


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """A finished epoch; accuracies are shares, `seconds` its wall time, `image_size` None for images as they are."""

    round: int
    kind: str
    epoch: int
    timesteps: int
    image_size: int | None = None
    lr: float | None = None
    loss: float | None = None
    train_accuracy: float | None = None
    validation_accuracy: float | None = None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class PhaseRecord:
    """A change of timesteps or image size within a training, before `epoch`; accuracy as calibrated there."""

    round: int
    kind: str
    epoch: int
    timesteps: int
    image_size: int | None = None
    validation_accuracy: float | None = None


@dataclass(frozen=True, kw_only=True)
class EarlyTimeRecord:
    """Divergence of the mean prediction over t timesteps from that over T, t = 1..T, and the T chosen."""

    round: int
    kind: str = SEARCH
    epoch: int
    raw: tuple[float | None, ...] = ()
    normalised: tuple[float | None, ...]  # None: infinite
    divergence: str = ""  # name of the divergence
    normaliser: str = ""
    threshold: float | None = None
    chosen: int
    curves: dict[str, tuple[float | None, ...]] = field(default_factory=dict)  # raw, by the name of the divergence


@dataclass(frozen=True, kw_only=True)
class EarlyBirdRecord:
    """How far an epoch's mask is from those of the window at most, and the least share of survivors in common."""

    round: int
    kind: str = SEARCH
    epoch: int
    hamming: float | None = None  # None: there was no mask before it
    overlap: float | None = None
    stop: bool = False


@dataclass(frozen=True, kw_only=True)
class TicketRecord:
    """A ticket. `search_seconds` are those of the trainings that its mask comes from, `final_seconds` of its own."""

    round: int
    kind: str
    sparsity: float
    sparsity_prunable: float | None = None
    test_accuracy: float | None = None
    validation_accuracy: float | None = None
    search_seconds: float
    final_seconds: float = 0.0
    timesteps: int | None = None
    fingerprint: str = ""


@dataclass(frozen=True, kw_only=True)
class StopRecord:
    """The search ended before its plan did."""

    round: int | None = None
    kind: str = ""
    reason: str
    epoch: int | None = None


TrainingRecord = (
    NewPlanRecord | EpochRecord | PhaseRecord | EarlyTimeRecord | EarlyBirdRecord | TicketRecord | StopRecord
)
Record = PlanRecord | TrainingRecord

_RECORDS: dict[str, type[Record]] = {
    "plan": PlanRecord,
    "epoch": EpochRecord,
    "phase": PhaseRecord,
    "early_time": EarlyTimeRecord,
    "early_bird": EarlyBirdRecord,
    "ticket": TicketRecord,
    "stopped": StopRecord,
}
_NAMES = {record: name for name, record in _RECORDS.items()} | {NewPlanRecord: "plan"}
T = TypeVar("T")


def to_entry(record: Record) -> dict[str, Any]:
    """Return the JSON object that the log has of a record; `parse_event` reads it."""
    return {"event": _NAMES[type(record)], **asdict(record)}


def parse_event(entry: dict[str, Any]) -> Record | None:
    """Return the record of a line; None for an event of a later release.

    Raises ValueError or OverflowError, naming the field, if one is missing or is not what it should be.
    """
    if entry["event"] == "plan":
        return _parse_plan(entry)
    record = _RECORDS.get(entry["event"])
    return _parse(record, entry) if record else None


def _parse_plan(entry: dict[str, Any]) -> PlanRecord:
    stages = entry.get("stages")
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise ValueError("stages: expected a list of objects")
    plan = PlanRecord(stages=tuple(_parse(StageRecord, stage) for stage in stages))
    for stage in plan.stages:
        if stage.phases:
            parse_phases("phases", stage.phases)
    return plan


def _parse(cls: type[T], entry: dict[str, Any]) -> T:
    """Return an object of `cls` with the fields in `entry`. Raises ValueError if one has another type than declared."""
    values = {}
    for declared in fields(cls):  # type: ignore[arg-type]  # every class that comes here is a dataclass
        if declared.name in entry:
            values[declared.name] = _convert(declared.name, declared.type, entry[declared.name])
        elif declared.default is MISSING and declared.default_factory is MISSING:
            raise ValueError(f"{declared.name} is missing")
    return cls(**values)


def _convert(name: str, kind: Any, value: object) -> object:
    if kind == tuple[float | None, ...] and isinstance(value, list):
        return tuple(_convert(name, float | None, item) for item in value)
    if kind == dict[str, tuple[float | None, ...]] and isinstance(value, dict):
        return {key: _convert(f"{name} {key}", tuple[float | None, ...], item) for key, item in value.items()}
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
