"""The LIF neuron for training: all timesteps forward and backward in few passes over memory.

For t = 1..T, with k = 1 / tau, input x_t, potential v_t, and r = v_reset (0 for a soft reset); v_0 = r after a reset:

    charge  h_t = (1 - k) v_{t-1} + k x_t + k r      decay_input
            h_t = (1 - k) v_{t-1} + x_t + k r        otherwise
    fire    s_t = 1 if h_t >= v_threshold else 0
    reset   v_t = (1 - s_t) h_t + s_t r              hard
            v_t = h_t - s_t v_threshold              soft

Backward for t = T..1, where S_t, V_t and X_t are the loss's derivatives by s_t, v_t and x_t, c = k (decay_input) or 1,
and the step at z = h_t - v_threshold has the derivative g of the primitive atan(pi alpha z / 2) / pi + 1/2:

    fire    g_t = (alpha / 2) / (1 + (pi alpha z / 2)^2)
    reset   d_t = 1 - s_t (hard) or 1 (soft); without detach_reset also + g_t (r - h_t) or - g_t v_threshold
    charge  X_t = c (S_t g_t + V_t d_t), V_{t-1} = (1 - k) X_t / c

With a softness p above 0, s_t = (1 - p) [h_t >= v_threshold] + p g(z), where g is that primitive: a training that
begins soft has signals in all layers from the start. The derivative by h_t is the same for every p.

The equations are SpikingJelly's; Kim et al. (ECCV 2022) take tau = 4/3, decay_input, a hard reset to 0, detach_reset
and alpha = 2. Of the forward pass only -z is kept, in the type of x. Potentials are float32 at least.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import pi
from typing import Any

import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor
from torch.autograd.function import once_differentiable

from spiketicket.train.networks.cuda import fused
from spiketicket.train.networks.cuda.fused import LifNumbers
from spiketicket.train.networks.strides import is_dense, laid_out, like

PART = 1 << 16  # neurons per thread whose timesteps are computed together: their potentials stay in its cache


class LIFNode(neuron.LIFNode):  # type: ignore[misc]  # SpikingJelly is untyped
    """SpikingJelly's LIFNode; with an arctan surrogate, several timesteps on a CPU are computed as above.

    On other devices, where SpikingJelly has fused kernels, and for single steps it is SpikingJelly's own. With `fused`
    (layers.py, `fuse`) it is ours there, too, from rest in every call. Where the batch norm before it has computed the
    spikes already, and has set `fired`, they pass through. With a `softness` above 0 it gives out what lies between
    spikes (0) and the surrogate's primitive (1), on every device.
    """

    fired = False
    fused = False
    softness = 0.0

    @property
    def numbers(self) -> LifNumbers:
        """The constants of the neurons, as the fused kernels take them."""
        c = _Constants.of(self)
        return LifNumbers.of(c.k, c.c, c.r, c.threshold, c.alpha, soft=c.soft, detached=c.detach_reset)

    def multi_step_forward(self, x_seq: Tensor, *args: Tensor, **kwargs: object) -> Any:
        """Return the spikes of currents `[T, N, ...]`, in their shape, type and memory format."""
        if self.fired:
            self.fired = False
            return x_seq
        if self.softness:
            return _SoftLif.apply(x_seq, self.softness, _Constants.of(self))  # type: ignore[no-untyped-call]
        if self.fused and fused.suits(x_seq):
            return fused.lif(x_seq, self.numbers)
        if x_seq.device.type != "cpu" or self.store_v_seq or not isinstance(self.surrogate_function, surrogate.ATan):
            if x_seq.dtype in (torch.float32, torch.float64):
                return super().multi_step_forward(x_seq, *args, **kwargs)
            # SpikingJelly's potentials have the type of the currents, and its fused kernels want float32.
            return super().multi_step_forward(x_seq.float(), *args, **kwargs).to(x_seq.dtype)
        v = self._memories["v"]
        before = v if isinstance(v, Tensor) and v.shape == x_seq.shape[1:] else None
        spikes, self._memories["v"] = _Lif.apply(x_seq, before, _Constants.of(self))  # type: ignore[no-untyped-call]
        return spikes


@dataclass(frozen=True)
class _Constants:
    """The constants of a layer, in the letters of the equations."""

    k: float
    c: float
    r: float
    threshold: float
    alpha: float
    soft: bool
    detach_reset: bool

    @classmethod
    def of(cls, node: LIFNode) -> "_Constants":
        k = 1 / node.tau
        return cls(
            k,
            k if node.decay_input else 1.0,
            node.v_reset or 0.0,
            node.v_threshold,
            float(node.surrogate_function.alpha),
            node.v_reset is None,
            node.detach_reset,
        )


class _Lif(torch.autograd.Function):
    """Spikes and v_T of currents `[T, N, ...]` and v_0 `[N, ...]` (None: at rest)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, before: Tensor | None, c: _Constants) -> tuple[Tensor, Tensor]:
        x = x if is_dense(x[0]) else x.contiguous()
        spikes, gap = like(x), like(x) if any(ctx.needs_input_grad) else None
        v = like(x[:1], torch.promote_types(x.dtype, torch.float32)).fill_(c.r)
        if before is not None:
            v[0] = before
        for part in _parts(x, v, spikes, gap):
            _forward(c, *part)
        ctx.constants, ctx.from_rest = c, before is None
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(gap)
        return spikes, v[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_spikes: Tensor | None, by_v: Tensor | None) -> tuple[Tensor, Tensor | None, None]:
        (gap,), c = ctx.saved_tensors, ctx.constants
        by_spikes = laid_out(by_spikes, gap)
        by_x = like(gap)
        carry = like(gap[:1], torch.promote_types(gap.dtype, torch.float32)).zero_()
        if by_v is not None:
            torch.mul(by_v, c.c, out=carry[0])
        for part in _parts(gap, carry, by_spikes, by_x):
            _backward(c, *part)
        return by_x, None if ctx.from_rest else carry[0] / c.c, None


class _SoftLif(torch.autograd.Function):
    """Output of soft neurons on currents `[T, N, ...]`, in their shape and type; from rest in every call."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, softness: float, c: _Constants) -> Tensor:
        kind = torch.promote_types(x.dtype, torch.float32)
        v = torch.full_like(x[0], c.r, dtype=kind)
        z, s = (torch.empty_like(x, dtype=kind) for _ in range(2))
        for t, current in enumerate(x):
            torch.mul(current, c.c, out=z[t]).add_(v, alpha=1 - c.k).add_(c.k * c.r - c.threshold)
            torch.mul(z[t], pi * c.alpha / 2, out=s[t]).atan_().mul_(softness / pi).add_(softness / 2)
            if softness < 1:
                s[t].add_(z[t] >= 0, alpha=1 - softness)
            if t + 1 < len(x):
                h = z[t] + c.threshold
                v = h - c.threshold * s[t] if c.soft else h + s[t] * (c.r - h)
        ctx.constants = c
        ctx.save_for_backward(z, s)
        return s.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_spikes: Tensor) -> tuple[Tensor, None, None]:
        (z, s), c = ctx.saved_tensors, ctx.constants
        by_x = torch.empty_like(z)
        by_v: Tensor | None = None  # there is no gradient from after the last timestep
        for t in reversed(range(len(z))):
            g = torch.mul(z[t], pi * c.alpha / 2).square_().add_(1).reciprocal_().mul_(c.alpha / 2)
            by_h = g.mul_(by_spikes[t])
            if by_v is not None:
                by_h = by_h + by_v * _after_reset(c, z[t], s[t])
            torch.mul(by_h, c.c, out=by_x[t])
            by_v = (1 - c.k) * by_h
        return by_x.to(by_spikes.dtype), None, None


def _after_reset(c: _Constants, z: Tensor, s: Tensor) -> Tensor:
    """Return the derivative of v_t by h_t."""
    kept = torch.ones_like(s) if c.soft else 1 - s
    if c.detach_reset:
        return kept
    g = (c.alpha / 2) / (1 + (pi * c.alpha / 2 * z) ** 2)
    return kept + g * (-c.threshold if c.soft else c.r - c.threshold - z)


def _forward(c: _Constants, x: Tensor, v: Tensor, spikes: Tensor, gap: Tensor | None) -> None:
    """Compute spikes and gap, which is -z, from x, all `[T, n]`; v `[1, n]` is v_0 and becomes v_T."""
    (v,) = v
    threshold = v.new_tensor(c.threshold)
    h, scratch_gap, scratch_fired = torch.empty_like(v), torch.empty_like(v), torch.empty_like(v)
    direct = x.dtype == v.dtype
    for t in range(len(x)):
        below = gap[t] if direct and gap is not None else scratch_gap
        fired = spikes[t] if direct else scratch_fired
        current = x[t] if direct else x[t].to(v.dtype)
        if c.c == c.k:
            torch.lerp(v, current, c.k, out=h)
        else:
            torch.add(current, v, alpha=1 - c.k, out=h)
        if c.r:
            h += c.k * c.r
        torch.sub(threshold, h, out=below)
        torch.le(below, 0, out=fired)
        if c.soft:
            torch.sub(h, fired, alpha=c.threshold, out=v)
        else:
            torch.addcmul(h, h, fired, value=-1, out=v)
            if c.r:
                v.add_(fired, alpha=c.r)
        if not direct:
            spikes[t] = fired
            if gap is not None:
                gap[t] = below


def _backward(c: _Constants, gap: Tensor, carry: Tensor, by_spikes: Tensor, by_x: Tensor) -> None:
    """Compute X from S and gap, which is -z, all `[T, n]`; carry `[1, n]` is c V_T and becomes c V_0."""
    (carry,) = carry
    flat = torch.full_like(carry, 2 / c.alpha / c.c)
    curve = (pi * c.alpha / 2) ** 2 * 2 / c.alpha / c.c
    inverse, scratch = torch.empty_like(carry), torch.empty_like(carry)
    direct = gap.dtype == carry.dtype
    for t in reversed(range(len(gap))):
        below = gap[t] if direct else gap[t].to(carry.dtype)
        s = by_spikes[t] if direct else by_spikes[t].to(carry.dtype)
        torch.addcmul(flat, below, below, value=curve, out=inverse)  # 1 / (c g_t)
        if not c.detach_reset:
            jump = -c.threshold if c.soft else below + (c.r - c.threshold)
            s = torch.add(s, carry * jump, alpha=1 / c.c)
        if not c.soft:
            torch.ops.aten.threshold_backward.grad_input(carry, below, 0, grad_input=carry)  # 0 where it fired
        result = torch.addcdiv(carry, s, inverse, out=by_x[t] if direct else scratch)
        torch.mul(result, 1 - c.k, out=carry)
        if not direct:
            by_x[t] = result


def _parts(x: Tensor, *others: Tensor | None) -> Iterator[list[Any]]:
    """Yield views `[T, n]` of some neurons at a time, in the order of memory, of tensors with dense timesteps."""
    size = PART * torch.get_num_threads()
    neurons = x[0].numel()
    flat = [y if y is None else y.as_strided((len(y), neurons), (y.stride(0), 1)) for y in (x, *others)]
    for start in range(0, neurons, size):
        yield [y if y is None else y[:, start : start + size] for y in flat]
