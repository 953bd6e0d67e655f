"""The configuration of a network: plain values that a ticket stores and that rebuild the same network. No torch."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from spiketicket.errors import InputError

LARGEST = 1e6  # largest constant of a neuron
BATCH_NORMS = ("per-timestep", "folded")


@dataclass(frozen=True)
class NeuronConfig:
    """A LIF neuron, in SpikingJelly's names; the defaults are the paper's."""

    tau: float = 4 / 3
    v_threshold: float = 1.0
    v_reset: float | None = 0.0
    decay_input: bool = True
    detach_reset: bool = True
    surrogate_alpha: float = 2.0

    def __post_init__(self) -> None:
        for name in ("tau", "v_threshold", "surrogate_alpha"):
            _check(self, name, (int, float), lambda value: abs(value) < LARGEST)
        _check(self, "v_reset", (int, float, type(None)), lambda value: value is None or abs(value) < LARGEST)
        _check(self, "decay_input", (bool,))
        _check(self, "detach_reset", (bool,))
        if self.tau <= 1:
            raise InputError(f"tau must be above 1, got {self.tau}")
        rest = self.v_reset or 0.0
        if rest >= self.v_threshold:
            raise InputError(f"v_reset must lie below v_threshold, got {rest} and {self.v_threshold}")


@dataclass(frozen=True)
class ModelConfig:
    """A network: architecture, sizes, neuron. `width` multiplies every hidden layer's channels."""

    arch: str
    in_channels: int
    image_size: int
    num_classes: int
    timesteps: int = 5
    width: float = 1.0
    batch_norm: str = "per-timestep"
    neuron: NeuronConfig = field(default_factory=NeuronConfig)

    def __post_init__(self) -> None:
        for name in ("in_channels", "image_size", "num_classes", "timesteps"):
            _check(self, name, (int,), lambda value: 1 <= value <= 4096)
        _check(self, "arch", (str,))
        _check(self, "width", (int, float), lambda value: 0 < value <= 16)
        _check(self, "batch_norm", (str,), lambda value: value in BATCH_NORMS)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: object) -> "ModelConfig":
        """Undo `to_dict`. Raises InputError if a field is missing, unknown or implausible."""
        plain = _fields(cls, values)
        return cls(**{**plain, "neuron": NeuronConfig(**_fields(NeuronConfig, plain["neuron"]))})


def _fields(cls: Any, values: object) -> dict[str, Any]:
    expected = {f.name for f in fields(cls)}
    if not isinstance(values, dict) or set(values) != expected:
        got = sorted(map(str, values)) if isinstance(values, dict) else type(values).__name__
        raise InputError(f"{cls.__name__} needs exactly {', '.join(sorted(expected))}; got {got}")
    return values


def _check(config: object, name: str, types: tuple[type, ...], good: Any = lambda value: True) -> None:
    value = getattr(config, name)
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types) or not good(value):
        raise InputError(f"bad {name} for a network: {value!r}")
