"""Images for a session: a data set normalised as the model file says, or an array file."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spiketicket.data import Dataset, Normalisation
from spiketicket.errors import InputError, ModelError
from spiketicket.model.metadata import Metadata
from spiketicket.runtime.engine import check_timesteps
from spiketicket.runtime.session import Session


def model_normalisation(session: Session, dataset: Dataset) -> Normalisation:
    """Return the normalisation that the network was trained with; the data set's where the model file has none.

    Raises ModelError if it is damaged or does not fit the channels of the input.
    """
    normalisation = Metadata.from_strings(session.metadata).normalisation
    if normalisation is None:
        return dataset.normalisation
    channels, mean, std = session.input_shape[0], normalisation.mean, normalisation.std
    if len(mean) != channels or len(std) != channels or not min(normalisation.scale, *std) > 0:
        raise ModelError(f"the model's normalisation does not fit its {channels} channels")
    return normalisation


def dataset_inputs(session: Session, dataset: Dataset, split: str) -> NDArray[np.float32]:
    """Return the images of a split, normalised for the model. Raises InputError if their shape does not fit."""
    images = dataset.split(split).images
    if images.shape[1:] != session.input_shape:
        raise InputError(
            f"the model takes images {list(session.input_shape)}, data set {dataset.name} has {list(images.shape[1:])}"
        )
    return model_normalisation(session, dataset)(images)


def model_input(session: Session, images: NDArray[np.float32], timesteps: int | None) -> NDArray[np.float32]:
    """Return images `[N, *input_shape]` as the session takes them.

    For a model with a timed input, each image is repeated at every timestep, `[T, N, *input_shape]` (a view); T is the
    model's unless `timesteps` is given. Raises InputError if the number of timesteps is impossible.
    """
    if not session.timed_input:
        return images
    steps = check_timesteps(session.timesteps if timesteps is None else timesteps)
    return np.broadcast_to(images, (steps, *images.shape))


def load_array(path: Path) -> NDArray[np.float32]:
    """Return the array in a .npy file. Raises InputError if there is none."""
    try:
        array = np.load(path, allow_pickle=False)
    except Exception as error:  # a damaged file can raise almost anything
        raise InputError(f"cannot read {path} as a .npy array: {error}") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path} holds several arrays, expected one in .npy format")
    return array
