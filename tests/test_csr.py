import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from spiketicket.csr import Csr
from spiketicket.errors import ModelError


@given(
    arrays(
        np.float32,
        array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.sampled_from([0, 0, 0, 1.5, -2]),
    )
)
def test_packing_loses_nothing(weight):
    csr = Csr.from_dense(weight)
    csr.check("w")
    assert np.array_equal(csr.to_dense(), weight)
    assert csr.nnz == np.count_nonzero(weight) and csr.density == np.count_nonzero(weight) / weight.size


def test_columns_run_over_channel_then_kernel_rows_then_columns():
    weight = np.zeros((2, 3, 2, 2), np.float32)
    weight[1, 2, 1, 0] = 7
    csr = Csr.from_dense(weight)
    assert csr.indices.tolist() == [2 * 4 + 1 * 2 + 0] and csr.indptr.tolist() == [0, 0, 1]
    assert csr.indices.dtype == np.uint16


def test_long_rows_have_wide_indices():
    assert Csr.from_dense(np.ones((1, 65_536), np.float32)).indices.dtype == np.uint16
    wide = Csr.from_dense(np.ones((1, 65_537), np.float32))
    assert wide.indices.dtype == np.uint32 and wide.indices[-1] == 65_536


def test_float16_overflow_is_refused():
    with pytest.raises(ModelError, match="does not fit in float16"):
        Csr.from_dense(np.full((1, 1), 1e6, np.float32)).astype("float16")


@given(st.integers(0, 2**32 - 1), st.sampled_from([(5, 4), (5, 4, 2, 3)]))
def test_a_selection_is_that_of_the_array(seed, shape):
    rng = np.random.default_rng(seed)
    weight = (rng.standard_normal(shape) * (rng.random(shape) < 0.4)).astype(np.float32)
    rows, channels = rng.random(5) < 0.6, rng.random(4) < 0.6
    rows[0] = channels[-1] = True
    selected = Csr.from_dense(weight).select(rows, channels)
    selected.check("w")
    assert np.array_equal(selected.to_dense(), weight[rows][:, channels])


def test_a_selection_of_wide_rows_takes_narrow_indices():
    wide = Csr.from_dense(np.ones((1, 65_537), np.float32)).astype("float16")
    narrow = wide.select(np.ones(1, bool), np.arange(65_537) != 3)
    assert narrow.indices.dtype == np.uint16 and narrow.values.dtype == np.float16 and narrow.nnz == 65_536
