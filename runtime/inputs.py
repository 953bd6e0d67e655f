"""Images for a session: a data set normalised as the model file says, or an array file."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spiketicket.data import Dataset, Normalisation
from spiketicket.errors import InputError, ModelError
from spiketicket.runtime.engine import check_timesteps
from spiketicket.runtime.session import Session


def model_normalisation(session: Session, dataset: Dataset) -> Normalisation:
    """How the model wants its pixels: as it was trained, or as the data set has it where the file is silent."""
    metadata = session.metadata
    if not {"scale", "mean", "std"} <= set(metadata):
        return dataset.normalisation
    try:
        mean, std = (tuple(map(float, metadata[key].split())) for key in ("mean", "std"))
        normalisation = Normalisation(float(metadata["scale"]), mean, std)
    except ValueError as error:
        raise ModelError(f"the model's normalisation is damaged: {error}") from error
    channels = session.input_shape[0]
    if len(mean) != channels or len(std) != channels or not min(normalisation.scale, *std) > 0:
        raise ModelError(f"the model's normalisation does not fit its {channels} channels")
    return normalisation


def dataset_inputs(session: Session, dataset: Dataset, split: str) -> NDArray[np.float32]:
    """The images of a split, normalised for the model. Raises InputError where their shape does not fit."""
    images = dataset.split(split).images
    if images.shape[1:] != session.input_shape:
        raise InputError(
            f"the model takes images {list(session.input_shape)}, data set {dataset.name} has {list(images.shape[1:])}"
        )
    return model_normalisation(session, dataset)(images)


def presented(session: Session, images: NDArray[np.float32], timesteps: int | None) -> NDArray[np.float32]:
    """Images `[N, *input_shape]` as the session takes them: as they are, or, with a timed input, each the same at every
    timestep, `[T, N, *input_shape]` (a view); T is the model's where `timesteps` does not say otherwise.
    Raises InputError for an impossible number of them."""
    if not session.timed_input:
        return images
    steps = check_timesteps(session.timesteps if timesteps is None else timesteps)
    return np.broadcast_to(images, (steps, *images.shape))


def load_array(path: Path) -> NDArray[np.float32]:
    """The array in a .npy file. Raises InputError."""
    try:
        array = np.load(path, allow_pickle=False)
    except Exception as error:  # a damaged file can raise almost anything
        raise InputError(f"cannot read {path} as a .npy array: {error}") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path} holds several arrays, expected one in .npy format")
    return array
