"""Compare the spikes and logits of two engines. Needs no torch.

The order in which an engine sums decides the last bit of a sum. If a potential is that close to its threshold, a spike
flips, and everything behind it may change. So a difference is counted where it starts: in each layer, only those images
are compared for which all earlier layers agree ("clean" images). Logits are compared on images without any flip, and
may differ by atol + rtol times the largest logit of the image.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from numbers import Real
from typing import Any

import numpy as np

from spiketicket.errors import InputError, VerificationError
from spiketicket.runtime.engine import Trace

MAX_MISMATCH = 1e-5  # share of spikes that may flip by rounding
MIN_TOP1 = 0.75  # share of images with the same class, those with a flip included
MIN_TOP1_ROUNDED = 0.95  # share of images whose class rounded weights may not change
TENSORRT = "tensorrt"  # an engine that does not output spikes: only its classes are compared


def is_finite(number: object) -> bool:
    """Return whether `number` is a real, finite number."""
    return isinstance(number, Real) and isfinite(number)


@dataclass(frozen=True)
class Tolerance:
    """How far a logit may differ from the expected one: `atol` plus `rtol` times the largest logit of its image."""

    atol: float = 0.0
    rtol: float = 1e-4

    def __post_init__(self) -> None:
        for name, number in (("atol", self.atol), ("rtol", self.rtol)):
            if not is_finite(number) or number < 0:
                raise InputError(f"{name} must be a finite number of at least 0, got {number!r}")


DEFAULT = Tolerance()


@dataclass(frozen=True)
class Agreement:
    """How far `engine` agrees with what it was compared to, over `images` images."""

    engine: str
    against: str
    images: int
    clean: int  # images without a flipped spike
    mismatch: float  # flipped spikes / spikes compared, clean images only
    layers: Mapping[str, float]  # the same for every layer of neurons
    first_layer: str | None  # the first layer in which a spike flips
    logits: float  # largest difference on clean images, relative to the image's largest logit
    drift: float  # the same on all images, with the effects of flipped spikes
    max_difference: float  # of logits, on clean images
    mean_difference: float
    within: bool  # whether all logits of clean images lie within the tolerance
    top1: float  # share of images with the same class
    accuracy: float | None = None  # of `engine`, where labels are known

    @property
    def flips(self) -> str:
        """`mismatch` as text, or a dash for an engine that does not output spikes."""
        return "-" if self.engine.startswith(TENSORRT) else f"{self.mismatch:.1e}"

    @property
    def exact(self) -> bool:
        """Whether both are equal up to rounding.

        That is: few spikes flip, at least half of the images have no flip, logits of these are within the tolerance,
        and most images keep their class.
        """
        return self.mismatch < MAX_MISMATCH and self.within and 2 * self.clean >= self.images and self.top1 >= MIN_TOP1

    def require_exact(self) -> None:
        """Raise VerificationError, naming the first layer that differs, unless both are equal up to rounding."""
        if not self.exact:
            raise VerificationError(
                f"{self.engine} does not match {self.against}: spike mismatch {self.mismatch:.1e} (at most "
                f"{MAX_MISMATCH:.0e}), logits {self.logits:.1e} of the largest "
                f"({'within' if self.within else 'beyond'} the tolerance), same class {self.top1:.0%} "
                f"(at least {MIN_TOP1:.0%}), "
                f"{self.images - self.clean} of {self.images} images differ, "
                f"first in layer {self.first_layer or 'of the logits'}"
            )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def brief(self) -> dict[str, Any]:
        """Return what a model file stores: numbers with two digits, and only the layers that differ."""
        figures = {k: float(f"{v:.2g}") if isinstance(v, float) else v for k, v in self.to_dict().items()}
        layers = {name: float(f"{mismatch:.2g}") for name, mismatch in self.layers.items() if mismatch > 0}
        return {**figures, "layers": layers, "top1": round(self.top1, 4)}


def compare(
    engine: str,
    got: Trace,
    against: str,
    wanted: Trace,
    tolerance: Tolerance = DEFAULT,
    accuracy: float | None = None,
) -> Agreement:
    """Compare two traces of the same images, see the module's docstring.

    Raises VerificationError if their layers or shapes differ, or if logits are not finite.
    """
    _require_comparable(engine, got, against, wanted)
    images = wanted.logits_t.shape[1]
    clean = np.ones(images, dtype=bool)
    flips = compared = 0
    layers: dict[str, float] = {}
    for name, expected in wanted.spikes.items():
        differs = (np.asarray(got.spikes[name], dtype=bool) != expected.astype(bool)).swapaxes(0, 1)
        per_image = differs.reshape(images, -1).sum(axis=1)
        layer_flips = int(per_image[clean].sum())
        layer_spikes = int(clean.sum()) * (differs.size // images)
        layers[name] = layer_flips / max(layer_spikes, 1)
        flips, compared = flips + layer_flips, compared + layer_spikes
        clean &= per_image == 0
    largest = np.abs(wanted.logits_t).max(axis=(0, 2))
    difference = np.abs(got.logits_t - wanted.logits_t)
    error = difference.max(axis=(0, 2))
    relative = np.divide(error, largest, out=np.where(error > 0, np.inf, 0.0), where=largest > 0)
    same = got.logits_t.mean(axis=0).argmax(axis=1) == wanted.logits_t.mean(axis=0).argmax(axis=1)
    return Agreement(
        engine,
        against,
        images,
        int(clean.sum()),
        flips / max(compared, 1),
        layers,
        next((name for name, mismatch in layers.items() if mismatch > 0), None),
        float(relative[clean].max(initial=0.0)),
        float(relative.max(initial=0.0)),
        float(error[clean].max(initial=0.0)),
        float(difference[:, clean].mean()) if clean.any() else 0.0,
        bool((error <= tolerance.atol + tolerance.rtol * largest)[clean].all()),
        float(same.mean()),
        accuracy,
    )


def _require_comparable(engine: str, got: Trace, against: str, wanted: Trace) -> None:
    shapes = [{name: s.shape for name, s in t.spikes.items()} | {"": t.logits_t.shape} for t in (got, wanted)]
    if shapes[0] != shapes[1]:
        raise VerificationError(
            f"{engine} has other layers or shapes than {against}: got {shapes[0]}, expected {shapes[1]}"
        )
    for name, trace in ((engine, got), (against, wanted)):
        if not np.isfinite(trace.logits_t).all():
            raise VerificationError(f"logits of {name} hold NaN or infinity")


def join(traces: list[Trace]) -> Trace:
    """Return the traces of several batches as one."""
    return Trace(
        {name: np.concatenate([trace.spikes[name] for trace in traces], axis=1) for name in traces[0].spikes},
        np.concatenate([trace.logits_t for trace in traces], axis=1),
    )
