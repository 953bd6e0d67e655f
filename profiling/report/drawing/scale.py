"""Axes in pixels: their range, and round ticks with their texts."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, isfinite, log10

from spiketicket.profiling.report.document import Axis
from spiketicket.profiling.report.drawing.labels import text_width

GAP = 20  # pixels between the labels of ticks
MARGIN = 0.05  # share of the axis that is empty beyond the outermost values


@dataclass(frozen=True)
class Scale:
    """A map of values from `low` to `high` onto pixels from `start` to `end`."""

    axis: Axis
    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        low, high = _place(self.low, self.axis), _place(self.high, self.axis)
        return self.start + (self.end - self.start) * (_place(value, self.axis) - low) / (high - low)

    def write(self, tick: float) -> str:
        """Return a tick in the form of its axis, with more decimals if ticks would look equal otherwise."""
        form = self.axis.form
        fixed = re.fullmatch(r"(\D*)\.(\d+)([f%])", form)
        if fixed:
            step = min((b - a for a, b in pairwise(self.ticks)), default=1.0)
            needed = ceil(-log10(step) - 1e-9) - (2 if fixed[3] == "%" else 0)
            form = f"{fixed[1]}.{max(int(fixed[2]), needed)}{fixed[3]}"
        return write_number(tick, form)


def scale(axis: Axis, values: Sequence[float], start: float, end: float, room: float, zero: bool = False) -> Scale:
    """Return a scale over all `values` with ticks at least `room` pixels apart on average.

    With `zero`, a linear axis begins at 0 if that leaves less than half of it empty. Raises ValueError for values that
    are not finite, and for values of zero or less on a log axis.
    """
    if not all(map(isfinite, values)):
        raise ValueError(f"axis {axis.label}: not every value is finite")
    if axis.log and min(values) <= 0:
        raise ValueError(f"axis {axis.label} is logarithmic and has a value of {min(values)}")
    low, high = min(values), max(values)
    if low == high:
        low, high = (low / 2, high * 2) if axis.log else (low - abs(low) / 2, high + abs(high) / 2 or 1.0)
    from_zero = zero and not axis.log and 0 <= low <= high / 2
    margin = MARGIN * (_place(high, axis) - _place(0.0 if from_zero else low, axis))
    bottom = 0.0 if from_zero else _value(_place(low, axis) - margin, axis)
    top = _value(_place(high, axis) + margin, axis)
    count = max(2, floor(abs(end - start) / room))
    whole = axis.form.endswith("d") or all(float(value).is_integer() for value in values)
    ticks = _log_ticks(bottom, top, count) if axis.log else _linear_ticks(bottom, top, count, whole)
    return Scale(axis, bottom, top, start, end, tuple(ticks))


def write_number(value: float, form: str) -> str:
    """Return a figure as text; if `form` is just `g`, with three digits, and without an exponent for large ones."""
    if form == "g":
        form = ",.0f" if abs(value) >= 1000 else ".3g"
    return format(round(value) if form.endswith("d") else value, form)


def label_room(axis: Axis, values: Sequence[float]) -> float:
    """Return the pixels that ticks of a horizontal axis need from one to the next."""
    return GAP + max(text_width(write_number(value, axis.form)) for value in (min(values), max(values)))


def tip(axis: Axis, value: float) -> str:
    """Return a value with its name and unit, more exact than the ticks."""
    return f"{axis.label} {write_number(value, '.2%' if axis.form.endswith('%') else 'g')} {axis.unit}".strip()


def _place(value: float, axis: Axis) -> float:
    return log10(value) if axis.log else value


def _value(place: float, axis: Axis) -> float:
    return float(10.0**place) if axis.log else place


def _linear_ticks(low: float, high: float, count: int, whole: bool = False) -> list[float]:
    """Return at most about `count` multiples of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** floor(log10((high - low) / count))
    step = next(m * power for m in (1, 2, 5, 10) if m * power * count >= (high - low) * (1 - 1e-9))
    if whole:
        step = max(1.0, step)
    return [i * step for i in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    """Return 1, 2 and 5 of each decade, or its beginning, or every few decades; within less than a decade, linear
    ticks.
    """
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    ticks: list[float] = []
    for mantissas in ((1, 2, 5), (1, 3), (1,)):
        ticks = [t for e in decades for m in mantissas if low <= (t := m * 10.0**e) <= high]
        if len(ticks) <= count:
            break
    if len(ticks) > count:
        return ticks[:: ceil(len(ticks) / count)]
    return ticks if len(ticks) >= 3 else [tick for tick in _linear_ticks(low, high, count) if tick > 0]
