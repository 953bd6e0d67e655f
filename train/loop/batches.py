"""Training and evaluation batches, made on the training device, which holds all images as uint8."""

from collections.abc import Iterator
from copy import copy

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from spiketicket.data import Augmentation, Dataset, Split
from spiketicket.errors import InputError
from spiketicket.train.loop.augment import augment, draw


class Batches:
    """The images of a data set as normalised batches on a device, training ones in the order that a seed gives.

    `held_out` are splits besides the data set's own that are evaluated again and again, and are kept on the device.
    Order and augmentation come from generators on the CPU, so that they are the same on every device.
    """

    def __init__(self, dataset: Dataset, device: torch.device | str = "cpu", *held_out: Split) -> None:
        self.device = torch.device(device)
        self.image_size: int | None = None  # pixels along a side; None: as the data set has them
        self.augmentation = dataset.augmentation
        self._images, self._labels = self.tensors_of(dataset.train)
        self._evaluated = [(split, self.tensors_of(split)) for split in (dataset.test, *held_out)]
        norm = dataset.normalisation
        # Tensors, all three: CUDA multiplies by the rounded reciprocal where it could divide by a plain number.
        self._scale, self._mean, self._std = (
            torch.tensor(values, dtype=torch.float32, device=self.device)[:, None, None]
            for values in ((norm.scale,), norm.mean, norm.std)
        )

    def normalise(self, images: Tensor) -> Tensor:
        """Return uint8 `[N, C, H, W]` as float32, to the bit as the data set's `Normalisation` computes it.

        With an `image_size`, images are then made smaller: a pixel is the mean over the area that it covers.
        """
        normalised = images.float().div_(self._scale).sub_(self._mean).div_(self._std)
        if self.image_size is None:
            return normalised
        return interpolate(normalised, size=(self.image_size, self.image_size), mode="area")

    def resized(self, image_size: int | None) -> "Batches":
        """Return the same batches of images with `image_size` pixels along a side; None: as the data set has them."""
        smaller = copy(self)
        smaller.image_size = image_size
        return smaller

    def count(self, batch_size: int, world: int = 1) -> int:
        """Return the number of batches in an epoch. Raises InputError if there is none.

        Batch norm needs two images, so a batch is left out if one of `world` processes would get fewer.
        """
        full, rest = divmod(len(self._labels), batch_size)
        batches = full * (batch_size // world >= 2) + (rest // world >= 2)
        if not batches:
            raise InputError(
                f"batch size: {len(self._labels)} images in batches of {batch_size} leave none of {world} "
                "processes two images, which batch norm needs"
            )
        return batches

    def epoch(
        self, batch_size: int, seed: np.random.SeedSequence, first: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images, float32 `[n, C, H, W]`, and labels, int64 `[n]`, from batch `first` on.

        Images are shuffled, augmented and normalised. Process `rank` of `world` gets its share of each batch; shares
        differ by at most one image, and together they are the batch that a single process gets. Raises InputError if
        `count` does.
        """
        batches = self.count(batch_size, world)
        order = torch.randperm(len(self._labels), generator=_generator(seed))
        for index in range(first, batches):
            rows = order[index * batch_size : (index + 1) * batch_size]
            share = slice(len(rows) * rank // world, len(rows) * (rank + 1) // world)
            mine = rows[share].to(self.device)
            images = self._images.index_select(0, mine)
            if self.augmentation != Augmentation():
                choices = draw(self.augmentation, (len(rows), *images.shape[1:]), _generator(seed, index))
                images = augment(images, self.augmentation, choices[:, share].to(self.device))
            yield self.normalise(images), self._labels[mine]

    def evaluation(
        self, split: Split, batch_size: int, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all of `split` in its order, or the share of process `rank`: normalised images and labels."""
        here = next((tensors for known, tensors in self._evaluated if known is split), None)
        images, labels = (tensor[rank::world] for tensor in here or self.tensors_of(split))
        for start in range(0, len(labels), batch_size):
            yield self.normalise(images[start : start + batch_size]), labels[start : start + batch_size]

    def tensors_of(self, split: Split) -> tuple[Tensor, Tensor]:
        """Return a split's images and labels on the device."""
        images, labels = (torch.from_numpy(array).to(self.device) for array in (split.images, split.labels))
        return images, labels


def _generator(seed: np.random.SeedSequence, *key: int) -> torch.Generator:
    """Return a generator seeded by `seed`, or by its child at `key`."""
    child = np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, *key))
    return torch.Generator().manual_seed(int(child.generate_state(1, np.uint64)[0] >> 1))
