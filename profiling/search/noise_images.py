"""Noise in place of a data set's training images, with the same sizes, classes and augmentation.

The time of a training iteration does not depend on what the images show, because every layer is computed in full.
"""

from dataclasses import dataclass

import numpy as np

from spiketicket.data import Augmentation, Dataset, Normalisation, Split
from spiketicket.errors import InputError

NOISE_IMAGES = 10_000  # images of noise at most: a batch is drawn from anywhere among them


@dataclass(frozen=True)
class ImageFormat:
    """Training images: how many, their shape `[channels, size, size]`, and the number of classes."""

    images: int
    channels: int
    size: int
    classes: int
    augmentation: Augmentation


_CIFAR = Augmentation(crop_padding=4, flip=True, cutout=16)
_CROP = Augmentation(crop_padding=4, flip=True)
FORMATS = {
    "digits": ImageFormat(1442, 1, 8, 10, Augmentation()),
    "cifar10": ImageFormat(50_000, 3, 32, 10, _CIFAR),
    "cifar100": ImageFormat(50_000, 3, 32, 100, _CIFAR),
    "svhn": ImageFormat(73_257, 3, 32, 10, _CROP),
    "fashion_mnist": ImageFormat(60_000, 1, 32, 10, _CROP),
    "tiny_imagenet": ImageFormat(100_000, 3, 64, 200, Augmentation(crop_padding=8, flip=True)),
}


def image_format(name: str) -> ImageFormat:
    """Return the format of a data set's images. Raises InputError for an unknown name."""
    if name not in FORMATS:
        raise InputError(f"unknown data set {name!r}: expected one of {', '.join(FORMATS)}")
    return FORMATS[name]


def iterations_per_epoch(images: int, batch: int) -> int:
    """Return the iterations of an epoch. As in training, a last batch of a single image is left out: batch norm needs
    two.
    """
    return images // batch + (images % batch >= 2)


def noise_dataset(name: str) -> Dataset:
    """Return noise in the format of the training images of `name`. Raises InputError."""
    shape = image_format(name)
    rng = np.random.default_rng(0)
    count = min(shape.images, NOISE_IMAGES)
    pixels = rng.integers(0, 256, (count, shape.channels, shape.size, shape.size), np.uint8)
    split = Split(pixels, rng.integers(0, shape.classes, count))
    normalisation = Normalisation(255.0, (0.5,) * shape.channels, (0.25,) * shape.channels)
    classes = tuple(map(str, range(shape.classes)))
    return Dataset(name, split, split.take(np.arange(count) < 2), classes, normalisation, shape.augmentation)
