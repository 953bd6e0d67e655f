"""Image data sets as plain arrays, one reader per file format (docs/data.md). Needs no torch."""

from collections.abc import Callable
from pathlib import Path

from spiketicket.data.cifar import read_cifar10, read_cifar100
from spiketicket.data.dataset import SPLITS, Augmentation, Dataset, Normalisation, Split
from spiketicket.data.digits import read_digits
from spiketicket.data.fashion_mnist import read_fashion_mnist
from spiketicket.data.svhn import read_svhn
from spiketicket.data.tiny_imagenet import read_tiny_imagenet
from spiketicket.errors import DataError

__all__ = ["DATASET_NAMES", "SPLITS", "Augmentation", "Dataset", "Normalisation", "Split", "load_dataset"]

_READERS: dict[str, Callable[[Path], Dataset]] = {
    "digits": read_digits,
    "cifar10": read_cifar10,
    "cifar100": read_cifar100,
    "svhn": read_svhn,
    "fashion_mnist": read_fashion_mnist,
    "tiny_imagenet": read_tiny_imagenet,
}
DATASET_NAMES = tuple(_READERS)


def load_dataset(name: str, folder: Path | None = None) -> Dataset:
    """Load the data set `name` from `folder` (default `data`). The digits come with scikit-learn and need no folder.

    Raises DataError if the name is unknown, or if the files are missing or damaged.
    """
    if name not in _READERS:
        raise DataError(f"unknown data set {name!r}: expected one of {', '.join(DATASET_NAMES)}")
    return _READERS[name](folder or Path("data"))
