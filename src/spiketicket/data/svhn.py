"""SVHN, cropped digits: 32x32 RGB house numbers in MATLAB files. Its third set, `extra`, is not used."""

from io import BytesIO
from pathlib import Path

import numpy as np

from spiketicket.data.dataset import Augmentation, Dataset, Normalisation, Split
from spiketicket.data.files import Distribution, locate, md5
from spiketicket.errors import DataError
from spiketicket.files import read_bytes

PAGE = "http://ufldl.stanford.edu/housenumbers/"
FILES = {
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
}


def read_svhn(folder: Path) -> Dataset:
    """Read SVHN: 73,257 + 26,032 images of the digits 0 to 9.

    Raises DataError if the files are missing or damaged.
    """
    base, _ = locate("svhn", folder, (Distribution("svhn"),), PAGE)
    train, test = (_read_mat(base / name) for name in FILES)
    return Dataset(
        "svhn",
        train,
        test,
        tuple(str(digit) for digit in range(10)),
        Normalisation(255.0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        Augmentation(crop_padding=4, flip=True),
        official=all(md5(base / name) == expected for name, expected in FILES.items()),
    )


def _read_mat(path: Path) -> Split:
    """Read one file, in which `X` is uint8 `[32, 32, 3, N]` with rows first, and `y` is `[N, 1]` with 10 for the digit
    0.
    """
    from scipy.io import loadmat

    data = read_bytes(path, "data file", DataError)
    try:
        content = loadmat(BytesIO(data), variable_names=("X", "y"))
    except Exception as error:  # a damaged file can raise almost anything
        raise DataError(f"{path}: not a readable MATLAB file: {error}") from error
    images, labels = content.get("X"), content.get("y")
    if (
        not isinstance(images, np.ndarray)
        or images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[:3] != (32, 32, 3)
        or not images.shape[3]
    ):
        raise DataError(f"{path}: expected 'X' as uint8 [32, 32, 3, N]")
    if (
        not isinstance(labels, np.ndarray)
        or labels.dtype.kind not in "iu"
        or labels.size != images.shape[3]
        or labels.min() < 1
        or labels.max() > 10
    ):
        raise DataError(f"{path}: expected 'y', one of 1..10 per image")
    return Split(np.ascontiguousarray(images.transpose(3, 2, 0, 1)), labels.reshape(-1).astype(np.int64) % 10)
