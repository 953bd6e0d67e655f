"""Weights as the kernels read them: nonzeros with offsets into the input, or tiles of float16 for the tensor cores."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spiketicket.graph import Conv, Linear
from spiketicket.runtime.engines.cuda.buffers import Layout

ROWS, DEPTH = 64, 64  # size of a tile, as in tensor.cuh
TILE = ROWS * DEPTH
ENTRY = np.dtype([("place", "<u2"), ("parts", "<u2", 2), ("unused", "<u2")])
SECOND = np.float32(2**11)  # factor of the second part
NONZERO = np.dtype([("offset", "<i4"), ("weight", "<f4")])


@dataclass(frozen=True)
class Tiles:
    """Weights in tiles of 64 rows and 64 columns, those of the first rows first.

    `weights` is uint16 `[tiles, parts, 4096]` if dense, otherwise ENTRY `[nnz]` with `starts` int32 `[tiles + 1]`.
    `scales` is float32 `[rows]`.
    """

    weights: NDArray[np.generic]
    starts: NDArray[np.int32]
    scales: NDArray[np.float32]


def column_offsets(node: Conv | Linear, read: Layout) -> NDArray[np.int32]:
    """Return for each column of the weights where it reads, relative to the corner of a window and, in a group, to its
    first channel.
    """
    if isinstance(node, Linear):
        return (read.features() + read.origin).astype(np.int32)
    _, channels, kh, kw = node.weight.shape
    (top, left), (dy, dx) = node.pads[:2], node.dilations
    c, y, x = np.ogrid[:channels, :kh, :kw]
    corner = read.origin - top * read.pitch - left
    offsets: NDArray[np.int32] = (corner + c * read.plane + y * dy * read.pitch + x * dx).astype(np.int32)
    return offsets.reshape(-1)


def nonzeros(node: Conv | Linear, read: Layout) -> NDArray[np.void]:
    """Return the weights as NONZERO `[nnz]`, row after row."""
    weight = node.weight
    packed = np.zeros(weight.nnz, NONZERO)
    packed["weight"] = weight.floats
    packed["offset"] = column_offsets(node, read)[weight.indices]
    if isinstance(node, Conv) and node.group > 1:
        row = weight.row_indices
        packed["offset"] += (row // (weight.rows // node.group) * weight.shape[1] * read.plane).astype(np.int32)
    return packed


def depth_offsets(node: Conv | Linear, read: Layout) -> NDArray[np.int32]:
    """Return `column_offsets` filled up to whole tiles. The weights there are zero, so that any position will do."""
    offsets = column_offsets(node, read)
    return np.pad(offsets, (0, -len(offsets) % DEPTH))


def dense_tiles(node: Conv | Linear, parts: int) -> Tiles:
    rows, columns, halves, scales = _halves(node, parts)
    count = _tiles(node)
    weights = np.zeros((count, parts, TILE), np.uint16)
    tile, place = _places(node, rows, columns)
    weights[tile, :, place] = halves
    return Tiles(weights, np.zeros(1, np.int32), scales)


def sparse_tiles(node: Conv | Linear, parts: int) -> Tiles:
    rows, columns, halves, scales = _halves(node, parts)
    tile, place = _places(node, rows, columns)
    order = np.argsort(tile, kind="stable")
    weights = np.zeros(len(order), ENTRY)
    weights["place"] = place[order]
    weights["parts"][:, :parts] = halves[order]
    starts = np.concatenate([[0], np.cumsum(np.bincount(tile, minlength=_tiles(node)))])
    return Tiles(weights, starts.astype(np.int32), scales)


def _tiles(node: Conv | Linear) -> int:
    return -(-node.weight.rows // ROWS) * -(-node.weight.columns // DEPTH)


def _places(
    node: Conv | Linear, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the tile of each weight and its position there: (slab of 16 columns, 16 rows, lane, register, half). Lane
    and register are those that hold it in a product (tensor.cuh).
    """
    r, k = rows % ROWS, columns % DEPTH
    lane = r % 8 * 4 + k % 8 // 2
    register = r % 16 // 8 + k % 16 // 8 * 2
    place = (((k // 16 * 4 + r // 16) * 32 + lane) * 4 + register) * 2 + k % 2
    return rows // ROWS * -(-node.weight.columns // DEPTH) + columns // DEPTH, place


def _halves(
    node: Conv | Linear, parts: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint16], NDArray[np.float32]]:
    """Return row and column of each nonzero, its float16 parts as bits `[nnz, parts]`, and the scales of the rows:
    powers of two that bring the largest weight of a row to 1..2.
    """
    weight = node.weight
    rows = weight.row_indices
    largest = np.zeros(weight.rows, np.float32)
    np.maximum.at(largest, rows, np.abs(weight.floats))
    exponents = np.where(largest > 0, np.frexp(largest)[1] - 1, 0)
    exponents = np.clip(exponents, -100, 100)  # beyond, neither the scale nor its inverse would be a normal number
    scaled = np.ldexp(weight.floats, -exponents[rows])
    first = scaled.astype(np.float16)
    halves = [first, ((scaled - first.astype(np.float32)) * SECOND).astype(np.float16)][:parts]
    bits = np.stack([half.view(np.uint16) for half in halves], axis=1)
    return rows, weight.indices.astype(np.int64), bits, np.ldexp(np.float32(1), exponents).astype(np.float32)
