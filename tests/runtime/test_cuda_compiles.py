"""NVIDIA's compiler takes all kernels for the oldest and a new GPU, and needs no memory for registers."""

from itertools import product

import pytest
from cuda_compiler import ARCHITECTURES, assert_compiles, compile_for

from spiketicket.runtime.cuda.kernels import MOST_TIMESTEPS, source

FLAGS = ("false", "true")


def names(timesteps):
    yield from (f"convolve<{timesteps}, {kind}, {p}, {p}>" for kind, p in product((1, 2, 3), (1, 2)))
    yield from (f"tensor<{timesteps}, {parts}, {s}, {pool}>" for parts, s, pool in product((1, 2), FLAGS, FLAGS))
    yield from (f"pointwise<{timesteps}>", f"pool<{timesteps}>", "gate")


@pytest.mark.parametrize("timesteps", [5, MOST_TIMESTEPS])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_compile(architecture, timesteps):
    assert_compiles(architecture, source(), list(names(timesteps)))


def test_a_mistake_is_noticed():
    with pytest.raises(AssertionError, match="no_such_kernel"):
        compile_for("sm_90", source(), ["no_such_kernel"])
