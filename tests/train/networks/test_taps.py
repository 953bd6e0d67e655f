"""Convolution by taps against torch's, over image sizes around the kernel's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import conv2d

from spiketicket.train.networks.taps import convolve_by_taps

LAST = torch.channels_last


def tensors(count, channels, out, kernel, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((count, channels, height, width), (out, channels, kernel, kernel), (out,))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


@settings(deadline=None)
@given(
    count=st.integers(1, 3),
    channels=st.integers(1, 3),
    out=st.integers(1, 3),
    kernel=st.sampled_from([1, 3, 5]),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    bias=st.booleans(),
    formats=st.tuples(*[st.booleans()] * 3),
)
def test_values_and_gradients_are_those_of_a_padded_convolution(
    count, channels, out, kernel, height, width, bias, formats
):
    x, weight, offset = tensors(count, channels, out, kernel, height, width)
    given_to = [x, weight, *([offset] if bias else [])]
    expected = conv2d(x, weight, offset if bias else None, padding=kernel // 2)
    by_out = torch.randn(expected.shape, dtype=torch.float64)
    gradients = torch.autograd.grad(expected, given_to, by_out)
    laid_out = [
        t.contiguous(memory_format=LAST) if last else t for t, last in zip((x, weight, by_out), formats, strict=True)
    ]
    found = convolve_by_taps(laid_out[0], laid_out[1], offset if bias else None)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert found.is_contiguous(memory_format=LAST)
    for one, other in zip(torch.autograd.grad(found, given_to, laid_out[2]), gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_each_gradient_alone(wanted):
    given_to = tensors(2, 3, 4, 3, 2, 2)
    expected = torch.autograd.grad(conv2d(*given_to, padding=1).sum(), given_to)[wanted]
    for index, tensor in enumerate(given_to):
        tensor.requires_grad_(index == wanted)
    (found,) = torch.autograd.grad(convolve_by_taps(*given_to).sum(), given_to[wanted])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
