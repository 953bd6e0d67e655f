"""Image data sets as plain arrays: `digits` (embedded in scikit-learn) and `cifar10`. Needs no torch."""

import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spiketicket.errors import DataError, MissingExtraError
from spiketicket.files import read_bytes

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Normalisation:
    """Pixels as stored -> network input: `(pixel / scale - mean) / std`, per channel."""

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 `[N, C, H, W]` -> float32 of the same shape."""
        mean, std = (np.array(x, dtype=np.float32)[:, None, None] for x in (self.mean, self.std))
        normalised: NDArray[np.float32] = (images.astype(np.float32) / np.float32(self.scale) - mean) / std
        return normalised


@dataclass(frozen=True)
class Split:
    """Images uint8 `[N, C, H, W]` and their labels int64 `[N]`."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    normalisation: Normalisation
    augmented: bool  # whether training crops, flips and cuts out

    def split(self, name: str) -> Split:
        """The split `name`. Raises DataError unless it is train or test."""
        if name not in SPLITS:
            raise DataError(f"unknown split {name!r}: expected one of {', '.join(SPLITS)}")
        return self.train if name == "train" else self.test

    def inputs(self, split: str) -> NDArray[np.float32]:
        """The normalised images of a split, float32 `[N, C, H, W]`."""
        return self.normalisation(self.split(split).images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width


def load_dataset(name: str, folder: Path | None = None) -> Dataset:
    """The data set `name`; `folder` holds its files where it is not embedded. Raises DataError."""
    if name not in _LOADERS:
        raise DataError(f"unknown data set {name!r}: expected one of {', '.join(DATASET_NAMES)}")
    return _LOADERS[name](folder)


def _digits(_: Path | None) -> Dataset:
    """1,797 handwritten digits, 8x8, 17 grey levels; every fifth image of a class is for the test."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "train", "data set digits") from error
    pixels, labels = load_digits(return_X_y=True)
    images = pixels.reshape(-1, 1, 8, 8).astype(np.uint8)
    labels = labels.astype(np.int64)
    rank_in_class = np.empty(len(labels), dtype=np.int64)
    for label in range(10):
        rows = np.flatnonzero(labels == label)
        rank_in_class[rows] = np.arange(len(rows))
    held_out = rank_in_class % 5 == 4
    return Dataset(
        "digits",
        Split(images[~held_out], labels[~held_out]),
        Split(images[held_out], labels[held_out]),
        tuple(str(digit) for digit in range(10)),
        Normalisation(16.0, (0.3053,), (0.3760,)),
        augmented=False,
    )


CIFAR10_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
CIFAR10_FOLDER = "cifar-10-batches-py"


def _cifar10(folder: Path | None) -> Dataset:
    """CIFAR-10, "python version": 32x32 RGB images of 10 classes."""
    base = (folder or Path("data")) / CIFAR10_FOLDER
    if not os.path.isdir(base):  # noqa: PTH112  # false, not an error, where the folder above cannot be read
        raise DataError(
            f"data set cifar10 not found: expected the folder {base} (--data DIR names the folder above it); "
            f"get the python version from {CIFAR10_PAGE}"
        )
    parts = [_cifar_batch(base / f"data_batch_{i}") for i in range(1, 6)]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    meta = _read_pickle(base / "batches.meta")
    names = meta.get("label_names") if isinstance(meta, dict) else None
    if not isinstance(names, list) or len(names) != 10:
        raise DataError(f"{base / 'batches.meta'}: expected 10 label_names")
    return Dataset(
        "cifar10",
        Split(images, labels),
        Split(*_cifar_batch(base / "test_batch")),
        tuple(str(name) for name in names),
        Normalisation(255.0, (0.4913, 0.4821, 0.4465), (0.2023, 0.1994, 0.2010)),
        augmented=True,
    )


def _cifar_batch(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    batch = _read_pickle(path)
    data, labels = (batch.get("data"), batch.get("labels")) if isinstance(batch, dict) else (None, None)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise DataError(f"{path}: expected 'data' as uint8 [N, 3072]")
    if not isinstance(labels, list) or len(labels) != len(data) or not all(_is_label(x) for x in labels):
        raise DataError(f"{path}: expected 'labels', one of 0..9 per image")
    return data.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64)


def _is_label(value: object) -> bool:
    return isinstance(value, int) and 0 <= value < 10


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles plain types and NumPy arrays, and refuses whatever else a file asks for."""

    _ALLOWED = frozenset(
        (module, name)
        for module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
        for name in ("_reconstruct", "ndarray", "dtype")
    ) | {("_codecs", "encode")}  # how Python 3 writes bytes for Python 2

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def _read_pickle(path: Path) -> object:
    data = read_bytes(path, "data file", DataError)
    try:
        return _ArrayUnpickler(BytesIO(data), encoding="latin1").load()
    except Exception as error:  # a damaged pickle can raise almost anything
        raise DataError(f"{path}: not a readable batch of arrays: {error}") from error


_LOADERS: dict[str, Callable[[Path | None], Dataset]] = {"digits": _digits, "cifar10": _cifar10}
DATASET_NAMES = tuple(_LOADERS)
