"""The inputs on which a model is measured, and the labels by which its accuracy is counted."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spiketicket.data import load_dataset
from spiketicket.errors import DataError, InputError, MissingExtraError
from spiketicket.runtime import Session
from spiketicket.runtime.inputs import dataset_inputs

Floats = NDArray[np.float32]

TIMED = 32  # different images that runs take in turn: spikes, and with them time, differ from image to image
NOISE = "standard normal noise: the model's data set is not available"


@dataclass(frozen=True, eq=False)
class Samples:
    """`images` `[S, *input_shape]`, normalised for the model, and `labels` `[S]` (None: the images are noise)."""

    images: Floats
    labels: NDArray[np.int64] | None
    source: str

    def batches(self, size: int) -> list[Floats]:
        """Return contiguous batches of `size`, of at most TIMED different images (but one batch at least). Images are
        repeated if there are fewer.
        """
        count = max(size, TIMED // size * size)
        images = np.resize(self.images, (count, *self.images.shape[1:]))
        return [np.ascontiguousarray(batch) for batch in np.split(images, count // size)]


def load_samples(session: Session, dataset: str | None, data: Path | None, limit: int | None) -> Samples:
    """Load at most `limit` (None: all) test images of `dataset`, or of the model's own data set if it is None.

    If the model's own data set is not available, the images are noise. Raises DataError, MissingExtraError and
    InputError for a data set, or a folder, that was asked for.
    """
    name = dataset or session.metadata.get("dataset", "")
    try:
        loaded = load_dataset(name, data)
        images, labels = dataset_inputs(session, loaded, "test"), loaded.test.labels
    except (DataError, MissingExtraError, InputError):
        if dataset is not None or (data is not None and name):
            raise
        noise = np.random.default_rng(0).standard_normal((TIMED, *session.input_shape), dtype=np.float32)
        return Samples(noise, None, NOISE)
    count = len(images) if limit is None else min(limit, len(images))
    chosen = np.random.default_rng(0).permutation(len(images))[:count]  # data sets may be sorted by class
    return Samples(images[chosen], labels[chosen], f"{count:,} of {len(images):,} test images of {name}")
