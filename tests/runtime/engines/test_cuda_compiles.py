"""NVIDIA's compiler takes all kernels for the oldest and a new GPU, and needs hardly any memory for registers."""

from itertools import product

import pytest

from spiketicket.runtime.engines.cuda.kernels import MOST_TIMESTEPS, source
from tests.support.cuda_compiler import ARCHITECTURES, assert_compiles, compile_for

FLAGS = ("false", "true")


def names(timesteps):
    yield from (
        f"convolve<{timesteps}, {kind}, {p}, {p}, {lanes}>" for kind, p, lanes in product((1, 2, 3), (1, 2), (1, 8))
    )
    yield from (f"tensor<{timesteps}, {parts}, {s}, {pool}>" for parts, s, pool in product((1, 2), FLAGS, FLAGS))
    yield from (f"pointwise<{timesteps}>", f"pool<{timesteps}>", "gate")


@pytest.mark.emulator
@pytest.mark.parametrize(("timesteps", "spilled"), [(5, 8), (MOST_TIMESTEPS, 80)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_compile(architecture, timesteps, spilled):
    """On the tensor cores, sums of 8 timesteps alone are 128 of a thread's 255 registers."""
    assert_compiles(architecture, source(), list(names(timesteps)), spilled)


def test_a_mistake_is_noticed():
    with pytest.raises(AssertionError, match="no_such_kernel"):
        compile_for("sm_90", source(), ["no_such_kernel"])
