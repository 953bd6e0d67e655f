"""CIFAR-10 and CIFAR-100, python and binary version: 32x32 RGB images.

A python file is a pickled dictionary with `data` uint8 `[N, 3072]` and a list of labels. A binary file consists of
records: the label (CIFAR-100: coarse, then fine label) in one byte each, then 3,072 pixels.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spiketicket.data.dataset import Augmentation, Dataset, Normalisation, Split
from spiketicket.data.files import Distribution, locate, md5
from spiketicket.data.pickles import read_pickle
from spiketicket.errors import DataError
from spiketicket.files import read_bytes

PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class _Kind:
    """The names of one data set's files and fields. The last file holds the test images."""

    name: str
    classes: int
    python: Distribution
    pickles: dict[str, str]  # file name: MD5 of the official one
    labels: str
    names: tuple[str, str]  # file, field
    binary: Distribution
    records: tuple[str, ...]
    label_bytes: int
    names_txt: str
    normalisation: Normalisation


_CIFAR10 = _Kind(
    name="cifar10",
    classes=10,
    python=Distribution("cifar-10-batches-py", "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
    pickles={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
    labels="labels",
    names=("batches.meta", "label_names"),
    binary=Distribution("cifar-10-batches-bin", "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
    records=(*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"),
    label_bytes=1,
    names_txt="batches.meta.txt",
    normalisation=Normalisation(255.0, (0.4913, 0.4821, 0.4465), (0.2023, 0.1994, 0.2010)),
)
_CIFAR100 = _Kind(
    name="cifar100",
    classes=100,
    python=Distribution("cifar-100-python", "cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
    pickles={"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    labels="fine_labels",
    names=("meta", "fine_label_names"),
    binary=Distribution("cifar-100-binary", "cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),
    records=("train.bin", "test.bin"),
    label_bytes=2,
    names_txt="fine_label_names.txt",
    normalisation=Normalisation(255.0, (0.5071, 0.4867, 0.4408), (0.2673, 0.2564, 0.2762)),
)


def read_cifar10(folder: Path) -> Dataset:
    """Read CIFAR-10: 50,000 + 10,000 images of 10 classes.

    Raises DataError if the files are missing or damaged.
    """
    return _read(_CIFAR10, folder)


def read_cifar100(folder: Path) -> Dataset:
    """Read CIFAR-100: 50,000 + 10,000 images of 100 (fine) classes.

    Raises DataError if the files are missing or damaged.
    """
    return _read(_CIFAR100, folder)


def _read(kind: _Kind, folder: Path) -> Dataset:
    base, form = locate(kind.name, folder, (kind.python, kind.binary), PAGE)
    if form is kind.python:
        *train, test = (_read_batch(base / name, kind) for name in kind.pickles)
        classes = _python_names(base, kind)
        official = all(md5(base / name) == expected for name, expected in kind.pickles.items())
    else:
        *train, test = (_read_records(base / name, kind) for name in kind.records)
        classes = _binary_names(base / kind.names_txt, kind)
        official = None
    images, labels = (np.concatenate([getattr(part, field) for part in train]) for field in ("images", "labels"))
    augmentation = Augmentation(crop_padding=4, flip=True, cutout=16)
    return Dataset(kind.name, Split(images, labels), test, classes, kind.normalisation, augmentation, official)


def _read_batch(path: Path, kind: _Kind) -> Split:
    batch = read_pickle(path)
    data, labels = batch.get("data"), batch.get(kind.labels)
    if (
        not isinstance(data, np.ndarray)
        or data.dtype != np.uint8
        or data.ndim != 2
        or data.shape[1] != PIXELS
        or not len(data)
    ):
        raise DataError(f"{path}: expected 'data' as uint8 [N, {PIXELS}]")
    if (
        not isinstance(labels, list)
        or len(labels) != len(data)
        or not all(isinstance(label, int) and 0 <= label < kind.classes for label in labels)
    ):
        raise DataError(f"{path}: expected {kind.labels!r}, one of 0..{kind.classes - 1} per image")
    return Split(data.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64))


def _python_names(base: Path, kind: _Kind) -> tuple[str, ...]:
    file, field = kind.names
    names = read_pickle(base / file).get(field)
    if not isinstance(names, list) or len(names) != kind.classes:
        raise DataError(f"{base / file}: expected {kind.classes} {field}")
    return tuple(str(name) for name in names)


def _read_records(path: Path, kind: _Kind) -> Split:
    data = read_bytes(path, "data file", DataError)
    size = kind.label_bytes + PIXELS
    if not data or len(data) % size:
        raise DataError(f"{path}: expected records of {size} bytes, got {len(data)} bytes")
    records = np.frombuffer(data, np.uint8).reshape(-1, size)
    labels = records[:, kind.label_bytes - 1].astype(np.int64)
    if labels.max() >= kind.classes:
        raise DataError(f"{path}: expected labels 0..{kind.classes - 1}, got {labels.max()}")
    return Split(records[:, kind.label_bytes :].reshape(-1, 3, 32, 32).copy(), labels)


def _binary_names(path: Path, kind: _Kind) -> tuple[str, ...]:
    names = read_bytes(path, "data file", DataError).decode("latin1").split()
    if len(names) != kind.classes:
        raise DataError(f"{path}: expected the names of {kind.classes} classes, got {len(names)}")
    return tuple(names)
