"""The judge itself: equal traces pass, small and large differences are told apart and placed."""

import numpy as np
import pytest

from spiketicket.errors import VerificationError
from spiketicket.export.check.agreement import compare, join
from spiketicket.runtime.engine import Trace


def a_trace(images=4, neurons=5000, seed=0):
    rng = np.random.default_rng(seed)
    spikes = {name: (rng.random((5, images, neurons)) < 0.2).astype(np.uint8) for name in ("a", "b")}
    return Trace(spikes, rng.standard_normal((5, images, 10)).astype(np.float32))


def changed(trace, **spikes):
    return Trace({**trace.spikes, **spikes}, trace.logits_t.copy())


def test_equal_traces():
    trace = a_trace()
    agreement = compare("x", trace, "y", trace)
    assert (agreement.mismatch, agreement.logits, agreement.top1, agreement.clean) == (0, 0, 1, 4)
    agreement.require_exact()


def test_one_flip_counts_where_it_starts():
    trace = a_trace(neurons=500)
    first, second = trace.spikes["a"].copy(), trace.spikes["b"].copy()
    first[2, 1, 7] ^= 1
    second[:, 1] ^= 1  # everything behind a flip may change
    got = changed(trace, a=first, b=second)
    got.logits_t[:, 1] += 100
    agreement = compare("x", got, "y", trace)
    assert agreement.clean == 3 and agreement.first_layer == "a" and agreement.logits == 0
    assert agreement.mismatch == pytest.approx(1 / (5 * 4 * 500 + 5 * 3 * 500))
    with pytest.raises(VerificationError, match="first in layer a"):
        agreement.require_exact()


def test_rounding_flips_are_tolerated():
    trace = a_trace(images=8, neurons=100_000)
    first = trace.spikes["a"].copy()
    first[0, 0, 0] ^= 1
    compare("x", changed(trace, a=first), "y", trace).require_exact()


def test_many_flips_are_not():
    trace = a_trace(images=8, neurons=100_000)
    first = trace.spikes["a"].copy()
    first[0, 0, :100] ^= 1
    with pytest.raises(VerificationError, match=r"x does not match y: spike mismatch 1\.3e-05"):
        compare("x", changed(trace, a=first), "y", trace).require_exact()


def test_logits_count_where_no_spike_flips():
    trace = a_trace()
    got = changed(trace)
    got.logits_t[3, 2, 4] += 2e-4 * np.abs(trace.logits_t[:, 2]).max()
    with pytest.raises(VerificationError, match=r"logits 2\.0e-04"):
        compare("x", got, "y", trace).require_exact()


def test_logits_against_silence():
    """An image whose logits are all zero allows no difference at all."""
    trace = Trace({}, np.zeros((2, 1, 3), np.float32))
    assert compare("x", Trace({}, np.full((2, 1, 3), 1e-9, np.float32)), "y", trace).logits == np.inf


def test_joining_batches():
    whole = a_trace()
    parts = [
        Trace({k: v[:, half] for k, v in whole.spikes.items()}, whole.logits_t[:, half])
        for half in (slice(0, 1), slice(1, 4))
    ]
    assert compare("x", join(parts), "y", whole).clean == 4


def test_no_number_is_never_right():
    silent = Trace({}, np.zeros((2, 1, 3), np.float32))
    with pytest.raises(VerificationError, match="logits of x hold NaN or infinity"):
        compare("x", Trace({}, np.full((2, 1, 3), np.nan, np.float32)), "y", silent)


def test_other_shapes_are_never_right():
    trace = a_trace()
    with pytest.raises(VerificationError, match="x has other layers or shapes than y"):
        compare("x", Trace({k: v[:1] for k, v in trace.spikes.items()}, trace.logits_t[:1]), "y", trace)
    with pytest.raises(VerificationError, match="x has other layers or shapes than y"):
        compare("x", Trace({"a": trace.spikes["a"]}, trace.logits_t), "y", trace)


def test_classes_must_agree_even_where_spikes_have_flipped():
    trace = a_trace(images=32, neurons=20_000)
    first = trace.spikes["a"].copy()
    first[0, ::2, 0] ^= 1
    got = changed(trace, a=first)
    got.logits_t[:, ::2] = -got.logits_t[:, ::2]
    with pytest.raises(VerificationError, match="same class 50% "):
        compare("x", got, "y", trace).require_exact()
