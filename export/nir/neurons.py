"""NIR's neurons in discrete time (forward Euler, step `dt`), as Lif and Li behind a linear map.

NIR's equations are those of continuous time. With a = dt / tau, and v taken where the step ends:

    LIF      v += a (v_leak - v + r x);  s = v > v_threshold;  v = v_reset where s
    IF       v += dt r x;                s = v > v_threshold;  v = v_reset where s
    CubaLIF  i += a_syn (w_in x - i), then LIF on i: the potential sees the current of the same step
    LI, I, CubaLI: the same without spikes; the output is v
    Threshold  s = x > threshold

Of one layer, every neuron has the same a: a Lif has one tau. All else may differ from neuron to neuron: with
u = (v - v_reset) / (v_threshold - v_reset), every threshold is 1 and every reset 0, and what is left of the
parameters multiplies the current and adds to it. Where they do not differ, the thresholds move and the weights stay.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf, isclose

import numpy as np
from numpy.typing import NDArray

from spiketicket.errors import ModelError
from spiketicket.export.nir.graph import nir, numbers
from spiketicket.graph import Li, Lif, Node

Array = NDArray[np.float64]

_ROUNDING = 5e-7  # two float32 parameters multiplied or divided: tau and r = tau / dt come back as 1 ± this


@dataclass(frozen=True)
class Stage:
    """A neuron of the graph on `scale * x + shift` (arrays of the layer's shape)."""

    scale: Array
    shift: Array
    make: Callable[[str, str, str], Node]  # name, input, output
    suffix: str = ""  # of the name, where a NIR node becomes two


@dataclass(frozen=True)
class _Membrane:
    """v = v - (v - reset) / steps + gain x + drive; `steps`: tau in timesteps."""

    steps: float
    gain: Array
    drive: Array
    threshold: Array
    reset: Array


class NeuronReader:
    """The parameters of a NIR neuron `node` on values of `shape`; `stages()` says what it becomes.

    Raises ModelError, saying which parameter is wrong, what came and what to do.
    """

    def __init__(self, node: nir.NIRNode, shape: tuple[int, ...], dt: float, dialect: str) -> None:
        self.node, self.shape, self.dt, self.dialect = node, shape, dt, dialect

    def stages(self) -> list[Stage]:
        """What the neuron becomes, in order."""
        match self.node:
            case nir.Threshold():
                return [self.threshold()]
            case nir.IF():
                return [self.fire(self.membrane(inf, self.gain_without_leak(), self.zeros()))]
            case nir.I():
                return [Stage(self.gain_without_leak(), self.zeros(), _li(inf, decay_input=False))]
            case nir.LIF():
                return [self.fire(self.leaky("tau", self.parameter("r")))]
            case nir.LI():
                return [self.integrate("tau", self.parameter("r"))]
            case nir.CubaLIF():
                synapse, gain = self.synapse()
                return _commute(synapse, self.fire(self.leaky("tau_mem", gain * self.parameter("r"))))
            case nir.CubaLI():
                synapse, gain = self.synapse()
                return _commute(synapse, self.integrate("tau_mem", gain * self.parameter("r")))
        raise TypeError(f"{type(self.node).__name__} is no neuron")

    def parameter(self, name: str) -> Array:
        """Finite values of the layer's shape."""
        array = numbers(self.node, name)
        if array.size == 1:
            array = array.reshape(())
        elif array.ndim != len(self.shape) or any(
            a not in (1, s) for a, s in zip(array.shape, self.shape, strict=True)
        ):
            raise ModelError(f"{name} of shape {list(array.shape)} does not fit an input of shape {list(self.shape)}")
        if not np.isfinite(array).all():
            advice = ": a neuron without leak is an IF or I" if name in ("tau", "r") else ""
            raise ModelError(f"{name} holds NaN or infinity{advice}")
        return np.broadcast_to(array, self.shape)

    def zeros(self) -> Array:
        return np.zeros(self.shape)

    def steps(self, name: str) -> float:
        """A time constant in timesteps."""
        tau = self.parameter(name)
        low, high = float(tau.min()), float(tau.max())
        if low <= 0:
            raise ModelError(f"{name} must be positive, got {low} s")
        if not isclose(low, high, rel_tol=_ROUNDING):
            raise ModelError(
                f"{name} runs from {low} to {high} s; a layer has one time constant: split the layer, or train with one"
            )
        steps = low / self.dt
        if isclose(steps, 1, rel_tol=_ROUNDING):
            return 1.0
        if steps < 1:
            raise ModelError(f"{name} = {low} s is shorter than the timestep of {self.dt} s: read it with a smaller dt")
        short = round(steps, 6)  # a tau that float32 made of a short number of steps is that number
        return short if np.float32(short * self.dt) == np.float32(low) else steps

    def gain_without_leak(self) -> Array:
        """Of IF and I. snnTorch and Norse (and Sinabs) add the current once per step, whatever the step."""
        r = self.parameter("r")
        return r * self.dt if self.dialect == "nir" else r

    def leaky(self, tau: str, r: Array) -> _Membrane:
        steps = self.steps(tau)
        leak = self.parameter("v_leak")
        return self.membrane(steps, r / steps, (leak - self.parameter("v_reset")) / steps)

    def membrane(self, steps: float, gain: Array, drive: Array) -> _Membrane:
        threshold, reset = self.parameter("v_threshold"), self.parameter("v_reset")
        if (reset >= threshold).any():
            raise ModelError("v_reset must lie below v_threshold")
        if self.dialect == "snntorch" and (reset.any() or drive.any()):
            raise ModelError('snnTorch knows neither v_leak nor v_reset: expected zeros, or dialect "nir"')
        if self.dialect == "norse" and drive.any():
            raise ModelError('Norse starts at v_leak, which v_reset must equal here: use dialect "nir"')
        return _Membrane(steps, gain, drive, threshold, reset)

    def synapse(self) -> tuple[Stage, Array]:
        """The current of CubaLIF and CubaLI as a sum that leaks, and what to multiply it by."""
        steps, w_in = self.steps("tau_syn"), self.parameter("w_in")
        synapse = Stage(self.zeros() + 1, self.zeros(), _li(steps, decay_input=False), ".synapse")
        return synapse, w_in if self.dialect == "norse" else w_in / steps  # in Norse a spike adds w_in at once

    def integrate(self, tau: str, r: Array) -> Stage:
        """LI: v = v + (r x + v_leak - v) / steps."""
        steps, leak = self.steps(tau), self.parameter("v_leak")
        if self.dialect == "norse" and leak.any():
            raise ModelError('Norse starts at v_leak, which must be 0 here: use dialect "nir"')
        if not leak.any() and _equal(r, steps):
            return Stage(self.zeros() + 1, self.zeros(), _li(steps, decay_input=False))
        return Stage(r, leak, _li(steps, decay_input=True))

    def fire(self, m: _Membrane) -> Stage:
        ones, zeros = self.zeros() + 1, self.zeros()
        if not (_uniform(m.threshold) and _uniform(m.reset)):
            span = m.threshold - m.reset
            return Stage(m.gain / span, m.drive / span, self.lif(m.steps, 1.0, 0.0))
        threshold, reset = float(m.threshold.flat[0]), float(m.reset.flat[0])
        if m.drive.any() or not _uniform(m.gain) or m.gain.flat[0] <= 0:
            return Stage(m.gain, m.drive, self.lif(m.steps, threshold, reset))
        if _equal(m.gain * m.steps, 1):
            return Stage(ones, zeros, self.lif(m.steps, threshold, reset, decay_input=True))
        gain = 1.0 if _equal(m.gain, 1) else float(m.gain.flat[0])
        return Stage(ones, zeros, self.lif(m.steps, threshold / gain, reset / gain))

    def lif(
        self, steps: float, threshold: float, reset: float, decay_input: bool = False
    ) -> Callable[[str, str, str], Node]:
        """NIR fires above the threshold, a Lif at it: its threshold is the next number."""
        tau, above = _float32(steps), _above(threshold)
        if self.dialect != "snntorch":
            return lambda name, x, out: Lif(name, (x,), out, tau, above, _float32(reset), decay_input)
        # snnTorch subtracts the threshold one step later, when what is left of the potential has decayed.
        keep = 1 - 1 / steps
        if keep == 0:
            raise ModelError('tau is one timestep: snnTorch would subtract from nothing; use dialect "nir"')
        return lambda name, x, out: Lif(name, (x,), out, tau, above, None, decay_input, _float32(threshold / keep))

    def threshold(self) -> Stage:
        """A Lif that forgets: h = x. Its threshold must be positive."""
        threshold = self.parameter("threshold")
        uniform = _uniform(threshold) and threshold.flat[0] > 0
        above = _above(float(threshold.flat[0]) if uniform else 1.0)
        shift = self.zeros() if uniform else 1 - threshold
        return Stage(self.zeros() + 1, shift, lambda name, x, out: Lif(name, (x,), out, 1.0, above))


def _commute(synapse: Stage, membrane: Stage) -> list[Stage]:
    """Scaling behind a leaking sum is scaling before it, where the weights are; shifting has to stay between."""
    ones = np.ones_like(membrane.scale)
    return [replace(synapse, scale=membrane.scale), replace(membrane, scale=ones)]


def _li(steps: float, *, decay_input: bool) -> Callable[[str, str, str], Node]:
    return lambda name, x, out: Li(name, (x,), out, _float32(steps), decay_input)


def _uniform(array: Array) -> bool:
    return bool((array == array.flat[0]).all())


def _equal(array: Array, value: float) -> bool:
    return bool(np.allclose(array, value, rtol=_ROUNDING, atol=0))


def _float32(value: float) -> float:
    """What the model file stores."""
    return float(np.float32(value))


def _above(value: float) -> float:
    return float(np.nextafter(np.float32(value), np.float32(inf)))
