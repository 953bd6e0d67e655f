"""The handwritten digits that come with scikit-learn."""

from pathlib import Path

import numpy as np

from spiketicket.data.dataset import Dataset, Normalisation, Split, rank_in_class
from spiketicket.errors import extra


def read_digits(_: Path) -> Dataset:
    """Read 1,797 handwritten digits, 8x8 pixels with 17 grey levels. Every fifth image of a class is a test image."""
    with extra("train", "data set digits", "scikit-learn"):
        from sklearn.datasets import load_digits
    pixels, labels = load_digits(return_X_y=True)
    images = Split(pixels.reshape(-1, 1, 8, 8).astype(np.uint8), labels.astype(np.int64))
    held_out = rank_in_class(images.labels) % 5 == 4
    classes = tuple(str(digit) for digit in range(10))
    normalisation = Normalisation(16.0, (0.3053,), (0.3760,))
    return Dataset("digits", images.take(~held_out), images.take(held_out), classes, normalisation)
