"""Early-Time: how few timesteps a ticket search needs, from how soon a network's predictions settle.

With logits z_1..z_T of a batch, in evaluation mode,

    P_t = softmax((z_1 + ... + z_t) / t)                   one distribution over the classes per image
    D_t = mean over images of
          KL(P_t || P_T)                                   `forward`: the paper's eq. (1)
          KL(P_T || P_t)                                   `reverse`: what the authors' code computes
          (KL(P_t || M) + KL(P_T || M)) / 2, M their mean  `jensen-shannon`, at most log 2
    T_early = the smallest candidate t with D_t / norm < threshold, else T

where norm is D_2 (`second`, the paper) or the largest D_t of the candidates (`maximum`, the authors' code). Natural
logarithm, float64, from log-probabilities: no logarithm of 0 is ever taken. Source: Kim et al., arXiv 2207.01382.
Needs no torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, isfinite, log
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spiketicket.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

_Array = NDArray[np.float64]


def _kl(log_p: _Array, log_q: _Array) -> _Array:
    """Return KL(P || Q) over the last axis, from logarithms."""
    divergence: _Array = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    return divergence


def _jensen_shannon(log_p: _Array, log_q: _Array) -> _Array:
    log_m = np.logaddexp(log_p, log_q) - log(2)
    return (_kl(log_p, log_m) + _kl(log_q, log_m)) / 2


DIVERGENCES: dict[str, Callable[[_Array, _Array], _Array]] = {
    "forward": _kl,
    "reverse": lambda log_p, log_q: _kl(log_q, log_p),
    "jensen-shannon": _jensen_shannon,
}
NORMALISERS = ("second", "maximum")


@dataclass(frozen=True)
class EarlyTime:
    """How T_early is chosen. The authors' code: `EarlyTime("reverse", "maximum")`. Raises InputError for bad values."""

    divergence: str = "forward"
    normaliser: str = "second"
    threshold: float = 0.6
    candidates: tuple[int, ...] | None = None  # None: 2..T-1

    def __post_init__(self) -> None:
        if self.divergence not in DIVERGENCES:
            raise InputError(f"divergence: expected one of {', '.join(DIVERGENCES)}, got {self.divergence!r}")
        if self.normaliser not in NORMALISERS:
            raise InputError(f"normaliser: expected one of {', '.join(NORMALISERS)}, got {self.normaliser!r}")
        if not 0 < self.threshold <= 1:
            raise InputError(f"Early-Time threshold: expected above 0, at most 1, got {self.threshold}")
        if self.candidates is not None and (not self.candidates or min(self.candidates) < 1):
            raise InputError(f"Early-Time candidates: expected timesteps of 1 or more, got {list(self.candidates)}")

    def candidates_of(self, timesteps: int) -> list[int]:
        """Return the candidates in rising order. Raises InputError if one is not below `timesteps`."""
        if self.candidates is None:
            return list(range(2, timesteps))
        if max(self.candidates) >= timesteps:
            raise InputError(f"Early-Time candidates: expected 1..{timesteps - 1}, got {list(self.candidates)}")
        return sorted(set(self.candidates))


@dataclass(frozen=True)
class EarlyTimeChoice:
    """D_1..D_T (the last is 0), the same over the normaliser, and T_early."""

    divergences: tuple[float, ...]
    normalised: tuple[float, ...]
    timesteps: int

    def to_dict(self) -> dict[str, Any]:
        """Return the choice for JSON, which knows no infinity: None is in its place."""
        return {
            "divergences": list(self.divergences),
            "normalised": [value if isfinite(value) else None for value in self.normalised],
            "timesteps": self.timesteps,
        }


def early_time(logits: "Tensor", options: EarlyTime) -> EarlyTimeChoice:
    """Return T_early from the logits `[T, N, classes]` of a batch in evaluation mode.

    Raises InputError if `divergences` or `choose` does.
    """
    return choose(divergences(logits, options.divergence), options)


def divergences(logits: "Tensor", divergence: str) -> list[float]:
    """Return D_1..D_T in nats, from logits `[T, N, classes]`; D_T is 0.

    Raises InputError if the logits have another rank or an empty axis, are not finite, or are too large for float64.
    """
    from scipy.special import log_softmax  # here: commands that only look at settings start faster

    values = logits.detach().double().cpu().numpy()
    if values.ndim != 3 or 0 in values.shape:
        raise InputError(f"Early-Time: expected logits [T, N, classes], got the shape {list(values.shape)}")
    if not np.isfinite(values).all():
        step, image, _ = np.argwhere(~np.isfinite(values))[0]
        raise InputError(f"Early-Time: logits are not finite, first at timestep {step + 1}, image {image}")
    with np.errstate(over="ignore", invalid="ignore"):
        means = np.cumsum(values, axis=0) / np.arange(1, len(values) + 1)[:, None, None]
        log_p = log_softmax(means, axis=2)
        curve = DIVERGENCES[divergence](log_p[:-1], log_p[-1]).mean(axis=1)
    if not np.isfinite(curve).all():
        raise InputError(f"Early-Time: logits up to {abs(values).max():.3g} are too large")
    return [*np.maximum(curve, 0.0).tolist(), 0.0]  # rounding may leave -1e-17


def choose(curve: Sequence[float], options: EarlyTime) -> EarlyTimeChoice:
    """Return T_early from D_1..D_T. If the normaliser is 0, what is above 0 counts as infinite, and 0 stays 0.

    Raises InputError if the curve is empty, a value is below 0 or not finite, or a candidate is not below T.
    """
    if not curve or not all(isfinite(value) and value >= 0 for value in curve):
        raise InputError(f"Early-Time: expected finite divergences of 0 or more, got {list(curve)}")
    timesteps = len(curve)
    candidates = options.candidates_of(timesteps)
    compared = [2] if options.normaliser == "second" else candidates
    norm = max((curve[t - 1] for t in compared if t <= timesteps), default=0.0)
    normalised = tuple(value / norm if norm else (inf if value else 0.0) for value in curve)
    chosen = next((t for t in candidates if normalised[t - 1] < options.threshold), timesteps)
    return EarlyTimeChoice(tuple(curve), normalised, chosen)
