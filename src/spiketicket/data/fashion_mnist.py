"""Fashion-MNIST: 28x28 grey images of clothes in MNIST's idx format, resized to 32x32 as the paper has them."""

import gzip
import os
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spiketicket.data.dataset import Augmentation, Dataset, Normalisation, Split
from spiketicket.data.files import Distribution, locate, md5
from spiketicket.errors import DataError
from spiketicket.files import read_bytes

PAGE = "https://github.com/zalandoresearch/fashion-mnist"
FILES = {  # without .gz: the MD5 of the official file, which has it
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
STORED, SIZE = 28, 32


def read_fashion_mnist(folder: Path) -> Dataset:
    """Read Fashion-MNIST: 60,000 + 10,000 images of 10 classes, 1 channel.

    Raises DataError if the files are missing or damaged.
    """
    base, _ = locate("fashion_mnist", folder, (Distribution("fashion-mnist"),), PAGE)
    paths = {name: _plain_or_gz(base / name) for name in FILES}
    images, labels, test_images, test_labels = paths.values()
    zipped = all(path.suffix == ".gz" for path in paths.values())
    return Dataset(
        "fashion_mnist",
        _read_split(images, labels),
        _read_split(test_images, test_labels),
        CLASSES,
        Normalisation(255.0, (0.5,), (0.5,)),
        Augmentation(crop_padding=4, flip=True),
        official=all(md5(paths[name]) == expected for name, expected in FILES.items()) if zipped else None,
    )


def _plain_or_gz(path: Path) -> Path:
    zipped = path.with_name(f"{path.name}.gz")
    return path if os.path.isfile(path) and not os.path.isfile(zipped) else zipped  # noqa: PTH113


def _read_split(images: Path, labels: Path) -> Split:
    pixels, classes = _read_idx(images, 3), _read_idx(labels, 1)
    if pixels.shape[1:] != (STORED, STORED) or not len(pixels):
        raise DataError(f"{images}: expected images of {STORED}x{STORED}, got {list(pixels.shape)}")
    if len(classes) != len(pixels) or classes.max() >= len(CLASSES):
        raise DataError(f"{labels}: expected {len(pixels)} labels, each one of 0..{len(CLASSES) - 1}")
    return Split(resize(pixels)[:, None], classes.astype(np.int64))


def _read_idx(path: Path, rank: int) -> NDArray[np.uint8]:
    """Read an idx file: the bytes 0, 0, 8 (for uint8) and the rank, every size as a big-endian uint32, the values."""
    data = read_bytes(path, "data file", DataError)
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except Exception as error:  # OSError, EOFError or zlib.error, by the kind of damage
            raise DataError(f"{path}: not a readable gzip file: {error}") from error
    start = 4 + 4 * rank
    if len(data) < start or data[:4] != bytes((0, 0, 8, rank)):
        raise DataError(f"{path}: not an idx file of bytes in {rank} dimensions")
    shape = [int(size) for size in np.frombuffer(data[4:start], ">u4")]
    if len(data) - start != prod(shape):
        raise DataError(f"{path}: expected {shape} bytes behind the header, got {len(data) - start}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def resize(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Resize uint8 images `[N, 28, 28]` to `[N, 32, 32]` bilinearly, with pixel centres at halves.

    The position of an output pixel in the stored image, (i + 1/2) 28/32 - 1/2, is a whole number of sixteenths. So the
    interpolation is exact in 16-bit integers, and rounds once.
    """
    place = np.clip(14 * np.arange(SIZE) - 1, 0, 16 * (STORED - 1))
    low, share = place // 16, (place % 16).astype(np.uint16)
    high = np.minimum(low + 1, STORED - 1)
    wide: NDArray[np.uint16] = images[:, :, low] * (16 - share) + images[:, :, high] * share
    both: NDArray[np.uint16] = wide[:, low] * (16 - share)[:, None] + wide[:, high] * share[:, None]
    resized: NDArray[np.uint8] = ((both + 128) >> 8).astype(np.uint8)
    return resized
