"""Compressed sparse rows: how a pruned weight is stored in memory and in a model file.

A row is an output channel. A column is (input channel, ky, kx) in C order, or the input feature. As in
scipy.sparse.csr_array, there are `values` `[nnz]` (float32, float16, int8 or int16), `indices` `[nnz]` (uint16, or
uint32 if a row is longer than 65,536) and `indptr` int32 `[rows + 1]`. Integers have `scales` float32 `[rows]`.
"""

from dataclasses import dataclass, replace
from math import prod

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from spiketicket.errors import ModelError

MAX_ELEMENTS = 2**31 - 1  # indptr is int32, and no tensor of these networks comes near


@dataclass(frozen=True)
class Csr:
    """One weight tensor of dense shape `shape` (`[out, in, kh, kw]` or `[out, in]`)."""

    values: NDArray[np.floating | np.signedinteger]
    indices: NDArray[np.unsignedinteger]
    indptr: NDArray[np.int32]
    shape: tuple[int, ...]
    scales: NDArray[np.float32] | None = None  # factor of each row's integers

    @property
    def rows(self) -> int:
        return self.shape[0]

    @property
    def columns(self) -> int:
        return prod(self.shape[1:])

    @property
    def nnz(self) -> int:
        return len(self.values)

    @property
    def density(self) -> float:
        """Return the share of weights that are not zero."""
        return self.nnz / prod(self.shape)

    @property
    def nbytes(self) -> int:
        arrays = (self.values, self.indices, self.indptr, self.scales)
        return sum(array.nbytes for array in arrays if array is not None)

    @property
    def floats(self) -> NDArray[np.float32]:
        """Return the weights `[nnz]` as float32, each rounded once, whatever type they are stored in."""
        values = self.values.astype(np.float32)
        return values if self.scales is None else values * np.repeat(self.scales, np.diff(self.indptr))

    @property
    def row_indices(self) -> NDArray[np.intp]:
        """Return the row of every stored weight `[nnz]`, as `indices` holds the columns."""
        return np.repeat(np.arange(self.rows), np.diff(self.indptr))

    @classmethod
    def from_dense(cls, weight: NDArray[np.floating]) -> "Csr":
        """Pack the nonzeros of `weight` as float32."""
        rows = csr_array(weight.reshape(len(weight), -1))
        return cls(
            rows.data.astype(np.float32),
            rows.indices.astype(index_type(rows.shape[1])),
            rows.indptr.astype(np.int32),
            tuple(weight.shape),
        )

    def astype(self, values: str) -> "Csr":
        """Return the same weight with `values` in another type. Raises ModelError if a weight does not fit in it."""
        with np.errstate(over="ignore"):
            converted = self.values.astype(values)
        if not np.isfinite(converted).all():
            raise ModelError(f"a weight does not fit in {values}: NaN or infinite after conversion")
        return replace(self, values=converted)

    def to_scipy(self, dtype: str = "float32") -> csr_array:
        """Return the weight as a matrix `[rows, columns]`."""
        return csr_array((self.floats.astype(dtype), self.indices, self.indptr), (self.rows, self.columns))

    def to_dense(self, dtype: str = "float32") -> NDArray[np.floating]:
        """Return the weight as an array of `shape`."""
        return np.asarray(self.to_scipy(dtype).toarray()).reshape(self.shape)

    def select(self, rows: NDArray[np.bool_], channels: NDArray[np.bool_]) -> "Csr":
        """Return the part of some outputs (`rows`, flags) and some input channels or features (`channels`)."""
        columns = np.repeat(channels, prod(self.shape[2:]))
        row = self.row_indices
        kept = rows[row] & columns[self.indices]
        counts = np.bincount(row[kept], minlength=self.rows)[rows]
        places = np.cumsum(columns) - 1  # new index of each kept column
        return replace(
            self,
            values=self.values[kept],
            indices=places[self.indices[kept]].astype(index_type(int(columns.sum()))),
            indptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
            shape=(int(rows.sum()), int(channels.sum()), *self.shape[2:]),
            scales=None if self.scales is None else self.scales[rows],
        )

    def without_zeros(self) -> "Csr":
        """Return the same weight without stored zeros."""
        keep = self.values != 0
        before = np.concatenate([[0], np.cumsum(keep)])
        indptr = before[self.indptr].astype(np.int32)
        return replace(self, values=self.values[keep], indices=self.indices[keep], indptr=indptr)

    def check(self, name: str) -> None:
        """Raise ModelError, naming the layer `name`, unless this is a well-formed CSR of finite weights."""

        def require(condition: bool, expected: str) -> None:
            if not condition:
                raise ModelError(f"layer {name}: {expected}")

        require(
            len(self.shape) in (2, 4) and all(0 < size <= MAX_ELEMENTS for size in self.shape),
            f"weight_shape must be 2 or 4 positive sizes, got {list(self.shape)}",
        )
        require(prod(self.shape) <= MAX_ELEMENTS, f"weight_shape {list(self.shape)} is too large")
        require(
            self.values.ndim == self.indices.ndim == self.indptr.ndim == 1,
            "CSR arrays must be one-dimensional",
        )
        whole = self.values.dtype in (np.int8, np.int16)
        require(
            whole or self.values.dtype in (np.float32, np.float16),
            f"values are {self.values.dtype}, expected float32, float16, int8 or int16",
        )
        require(whole == (self.scales is not None), "whole numbers, and only these, come with a scale for every row")
        if self.scales is not None:
            require(
                self.scales.dtype == np.float32 and self.scales.shape == (self.rows,),
                f"scales must be float32 of {self.rows} entries, got {self.scales.dtype} {list(self.scales.shape)}",
            )
            require(bool(np.isfinite(self.scales).all()), "scales hold NaN or infinity")
        require(self.indices.dtype in (np.uint16, np.uint32), f"indices are {self.indices.dtype}, not unsigned")
        require(self.indptr.dtype == np.int32, f"indptr is {self.indptr.dtype}, expected int32")
        require(
            len(self.indptr) == self.rows + 1,
            f"indptr has {len(self.indptr)} entries, expected rows + 1 = {self.rows + 1}",
        )
        require(
            len(self.values) == len(self.indices),
            f"{len(self.values)} values but {len(self.indices)} indices",
        )
        starts = self.indptr.astype(np.int64)
        require(
            bool(starts[0] == 0 and starts[-1] == self.nnz and (np.diff(starts) >= 0).all()),
            f"indptr must rise from 0 to {self.nnz} (the number of values) without falling",
        )
        columns = self.indices.astype(np.int64)
        require(
            self.nnz == 0 or int(columns.max()) < self.columns,
            f"an index lies outside its row of {self.columns} columns",
        )
        rising = np.diff(columns) > 0
        inner = starts[1:-1]
        rising[inner[(inner > 0) & (inner < self.nnz)] - 1] = True  # the next row may start with a lower column
        require(bool(rising.all()), "indices must rise within each row")
        with np.errstate(over="ignore"):
            require(bool(np.isfinite(self.floats).all()), "weights hold NaN or infinity")


def index_type(columns: int) -> type[np.unsignedinteger]:
    """Return the type for the indices of a row with so many columns."""
    return np.uint16 if columns <= 65_536 else np.uint32
