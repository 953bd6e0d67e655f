"""Translate NIR's neurons to discrete time (forward Euler, step `dt`): each becomes a Lif or Li behind a linear map.

NIR's equations are those of continuous time. With a = dt / tau, and v at the end of each step:

    LIF      v += a (v_leak - v + r x);  s = v > v_threshold;  v = v_reset where s
    IF       v += dt r x;                s = v > v_threshold;  v = v_reset where s
    CubaLIF  i += a_syn (w_in x - i), then LIF on i: the potential sees the current of the same step
    LI, I, CubaLI: the same without spikes; the output is v
    Threshold  s = x > threshold

All neurons of one layer have the same a, because a Lif has one tau. All other parameters may differ from neuron to
neuron: with u = (v - v_reset) / (v_threshold - v_reset), every threshold is 1 and every reset 0, and the parameters
become a factor and a summand of the input current, which are folded into the weights before. If no parameter differs
between neurons, the threshold and the reset are scaled instead, so that the weights stay as they are.
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

_ROUNDING = 5e-7  # relative error of a product or quotient of two float32 parameters, such as tau and r = tau / dt


@dataclass(frozen=True)
class NeuronStep:
    """One neuron node of the graph, whose input is `scale * x + shift` (arrays of the layer's shape).

    A NIR neuron becomes one of them, or two if it has a synapse and a membrane.
    """

    scale: Array
    shift: Array
    make: Callable[[str, str, str], Node]  # makes the node from its name, input and output
    suffix: str = ""  # appended to the name of the NIR node, if that becomes two


@dataclass(frozen=True)
class _Membrane:
    """A membrane with v = v - (v - reset) / steps + gain x + drive, where `steps` is tau in timesteps."""

    steps: float
    gain: Array
    drive: Array
    threshold: Array
    reset: Array


class NeuronReader:
    """A reader of one NIR neuron, `node`, on inputs of `shape`; `neuron_steps` translates it.

    Its methods raise ModelError, which names the parameter that cannot be expressed, its value and what to do.
    """

    def __init__(self, node: nir.NIRNode, shape: tuple[int, ...], dt: float, dialect: str) -> None:
        self.node, self.shape, self.dt, self.dialect = node, shape, dt, dialect

    def neuron_steps(self) -> list[NeuronStep]:
        """Return the neuron nodes that the neuron becomes, in order of execution."""
        match self.node:
            case nir.Threshold():
                return [self.threshold()]
            case nir.IF():
                return [self.spiking(self.membrane(inf, self.gain_without_leak(), self.zeros()))]
            case nir.I():
                return [NeuronStep(self.gain_without_leak(), self.zeros(), _li(inf, decay_input=False))]
            case nir.LIF():
                return [self.spiking(self.leaky("tau", self.parameter("r")))]
            case nir.LI():
                return [self.integrate("tau", self.parameter("r"))]
            case nir.CubaLIF():
                synapse, gain = self.synapse()
                return _commute(synapse, self.spiking(self.leaky("tau_mem", gain * self.parameter("r"))))
            case nir.CubaLI():
                synapse, gain = self.synapse()
                return _commute(synapse, self.integrate("tau_mem", gain * self.parameter("r")))
        raise TypeError(f"{type(self.node).__name__} is no neuron")

    def parameter(self, name: str) -> Array:
        """Return a parameter, finite and broadcast to the layer's shape. Raises ModelError if that is not possible."""
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
        """Return a time constant in timesteps. Raises ModelError if it differs between neurons or is below one."""
        tau = self.parameter(name)
        low, high = float(tau.min()), float(tau.max())
        if low <= 0:
            raise ModelError(f"{name} must be positive, got {low} s")
        if not isclose(low, high, rel_tol=_ROUNDING):
            raise ModelError(
                f"{name} runs from {low} to {high} s, but a layer has one time constant: split the layer, or train "
                "with one"
            )
        steps = low / self.dt
        if isclose(steps, 1, rel_tol=_ROUNDING):
            return 1.0
        if steps < 1:
            raise ModelError(f"{name} = {low} s is shorter than the timestep of {self.dt} s: read it with a smaller dt")
        # tau is stored as float32: if a number of steps with few digits has that tau, it is the one that was meant.
        short = round(steps, 6)
        return short if np.float32(short * self.dt) == np.float32(low) else steps

    def gain_without_leak(self) -> Array:
        """Return the gain of IF and I per timestep. snnTorch, Norse and Sinabs add the current whatever dt is."""
        r = self.parameter("r")
        return r * self.dt if self.dialect == "nir" else r

    def leaky(self, tau: str, r: Array) -> _Membrane:
        """Return the membrane of LIF or CubaLIF, with the time constant of the parameter named `tau`."""
        steps = self.steps(tau)
        leak = self.parameter("v_leak")
        return self.membrane(steps, r / steps, (leak - self.parameter("v_reset")) / steps)

    def membrane(self, steps: float, gain: Array, drive: Array) -> _Membrane:
        """Return the membrane after checking that the dialect's simulator computes the same."""
        threshold, reset = self.parameter("v_threshold"), self.parameter("v_reset")
        if (reset >= threshold).any():
            raise ModelError("v_reset must be below v_threshold")
        if self.dialect == "snntorch" and (reset.any() or drive.any()):
            raise ModelError('snnTorch has neither v_leak nor v_reset: expected zeros, or dialect "nir"')
        if self.dialect == "norse" and drive.any():
            raise ModelError('Norse starts at v_leak, which v_reset must equal here: use dialect "nir"')
        return _Membrane(steps, gain, drive, threshold, reset)

    def synapse(self) -> tuple[NeuronStep, Array]:
        """Return the synapse of CubaLIF and CubaLI, a leaky sum of its input, and the gain of its current."""
        steps, w_in = self.steps("tau_syn"), self.parameter("w_in")
        synapse = NeuronStep(self.zeros() + 1, self.zeros(), _li(steps, decay_input=False), ".synapse")
        return synapse, w_in if self.dialect == "norse" else w_in / steps  # in Norse a spike adds w_in at once

    def integrate(self, tau: str, r: Array) -> NeuronStep:
        """Return the leaky integrator v = v + (r x + v_leak - v) / steps."""
        steps, leak = self.steps(tau), self.parameter("v_leak")
        if self.dialect == "norse" and leak.any():
            raise ModelError('Norse starts at v_leak, which must be 0 here: use dialect "nir"')
        if not leak.any() and _equal(r, steps):
            return NeuronStep(self.zeros() + 1, self.zeros(), _li(steps, decay_input=False))
        return NeuronStep(r, leak, _li(steps, decay_input=True))

    def spiking(self, m: _Membrane) -> NeuronStep:
        """Return the Lif of a membrane; its weights are scaled only if the threshold cannot be scaled instead."""
        ones, zeros = self.zeros() + 1, self.zeros()
        if not (_uniform(m.threshold) and _uniform(m.reset)):
            span = m.threshold - m.reset
            return NeuronStep(m.gain / span, m.drive / span, self.lif(m.steps, 1.0, 0.0))
        threshold, reset = float(m.threshold.flat[0]), float(m.reset.flat[0])
        if m.drive.any() or not _uniform(m.gain) or m.gain.flat[0] <= 0:
            return NeuronStep(m.gain, m.drive, self.lif(m.steps, threshold, reset))
        if _equal(m.gain * m.steps, 1):
            return NeuronStep(ones, zeros, self.lif(m.steps, threshold, reset, decay_input=True))
        gain = 1.0 if _equal(m.gain, 1) else float(m.gain.flat[0])
        return NeuronStep(ones, zeros, self.lif(m.steps, threshold / gain, reset / gain))

    def lif(
        self, steps: float, threshold: float, reset: float, decay_input: bool = False
    ) -> Callable[[str, str, str], Node]:
        """Return a function that makes a Lif.

        NIR's neurons fire above their threshold, a Lif at it: its threshold is the next float32.
        """
        tau, above = _float32(steps), _above(threshold)
        if self.dialect != "snntorch":
            return lambda name, x, out: Lif(name, (x,), out, tau, above, _float32(reset), decay_input)
        # snnTorch subtracts the threshold one step later, after the potential has decayed. A Lif subtracts before.
        keep = 1 - 1 / steps
        if keep == 0:
            raise ModelError(
                'tau is one timestep, so that nothing is left for snnTorch to subtract from: use dialect "nir"'
            )
        return lambda name, x, out: Lif(name, (x,), out, tau, above, None, decay_input, _float32(threshold / keep))

    def threshold(self) -> NeuronStep:
        """Return a Lif with tau = 1, whose potential is its input: h = x. Its threshold must be positive."""
        threshold = self.parameter("threshold")
        uniform = _uniform(threshold) and threshold.flat[0] > 0
        above = _above(float(threshold.flat[0]) if uniform else 1.0)
        shift = self.zeros() if uniform else 1 - threshold
        return NeuronStep(self.zeros() + 1, shift, lambda name, x, out: Lif(name, (x,), out, 1.0, above))


def _commute(synapse: NeuronStep, membrane: NeuronStep) -> list[NeuronStep]:
    """Move the scale from behind the synapse to before it, where it can be folded into the weights.

    A leaky sum commutes with a factor, but not with a shift, which therefore stays between the two.
    """
    ones = np.ones_like(membrane.scale)
    return [replace(synapse, scale=membrane.scale), replace(membrane, scale=ones)]


def _li(steps: float, *, decay_input: bool) -> Callable[[str, str, str], Node]:
    return lambda name, x, out: Li(name, (x,), out, _float32(steps), decay_input)


def _uniform(array: Array) -> bool:
    return bool((array == array.flat[0]).all())


def _equal(array: Array, value: float) -> bool:
    return bool(np.allclose(array, value, rtol=_ROUNDING, atol=0))


def _float32(value: float) -> float:
    """Return the value as the model file stores it."""
    return float(np.float32(value))


def _above(value: float) -> float:
    """Return the smallest float32 above `value`."""
    return float(np.nextafter(np.float32(value), np.float32(inf)))
