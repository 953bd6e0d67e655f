"""A data set: splits of uint8 images, and how training augments and networks normalise their pixels."""

from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from spiketicket.errors import DataError, InputError

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Normalisation:
    """How stored pixels become a network's input: `(pixel / scale - mean) / std`, per channel."""

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Normalise uint8 images `[N, C, H, W]` to float32 of the same shape."""
        mean, std = (np.array(x, dtype=np.float32)[:, None, None] for x in (self.mean, self.std))
        normalised: NDArray[np.float32] = (images.astype(np.float32) / np.float32(self.scale) - mean) / std
        return normalised


@dataclass(frozen=True)
class Augmentation:
    """The changes that training makes to an image, in this order, before it is normalised (train/loop/augment.py)."""

    crop_padding: int = 0  # pixels of black on every side, of which a window of the old size is cut
    flip: bool = False  # mirror half of the images
    cutout: int = 0  # side of a black square, in pixels


@dataclass(frozen=True)
class Split:
    """Images uint8 `[N, C, H, W]` and their labels int64 `[N]`."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def take(self, rows: NDArray[np.bool_]) -> "Split":
        """Return the images for which `rows`, bool `[N]`, is true."""
        return Split(self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class Dataset:
    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    normalisation: Normalisation
    augmentation: Augmentation = Augmentation()
    official: bool | None = None  # whether the files' checksums are the official ones; None: none to compare with

    def split(self, name: str) -> Split:
        """Return the split `name`. Raises DataError unless it is train or test."""
        if name not in SPLITS:
            raise DataError(f"unknown split {name!r}: expected one of {', '.join(SPLITS)}")
        return self.train if name == "train" else self.test

    def inputs(self, split: str) -> NDArray[np.float32]:
        """Return the normalised images of a split, float32 `[N, C, H, W]`."""
        return self.normalisation(self.split(split).images)

    def fingerprint(self) -> str:
        """Return a digest of all images and labels, 16 hexadecimal digits."""
        digest = sha256()
        for array in (self.train.images, self.train.labels, self.test.images, self.test.labels):
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def hold_out(self, share: float, seed: int) -> "tuple[Dataset, Split]":
        """Take a validation split out of the training images: `share` of every class, chosen by `seed`.

        Returns the data set that is left, its order kept, and the validation split. A class keeps at
        least one training image. Raises InputError if nothing would be held out.
        """
        if not 0 < share < 1:
            raise InputError(f"share to hold out: expected a number between 0 and 1, got {share}")
        labels = self.train.labels
        counts = np.bincount(labels)
        takes = np.minimum(np.rint(share * counts), np.maximum(counts - 1, 0))
        shuffled = np.random.default_rng(seed).permutation(len(labels))
        held = np.empty(len(labels), dtype=np.bool_)
        held[shuffled] = rank_in_class(labels[shuffled]) < takes[labels[shuffled]]
        if not held.any():
            raise InputError(f"share to hold out: {share} of {len(labels)} training images takes no image of any class")
        return replace(self, train=self.train.take(~held)), self.train.take(held)


def rank_in_class(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many earlier labels are equal to each label; int64 `[N]` -> int64 `[N]`."""
    order = np.argsort(labels, kind="stable")
    grouped = labels[order]
    ranks = np.empty(len(labels), dtype=np.int64)
    ranks[order] = np.arange(len(labels)) - np.searchsorted(grouped, grouped)
    return ranks
