import os
import pickle
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from spiketicket.errors import DataError
from spiketicket.train import augment
from spiketicket.train.data import load_dataset


def test_digits(digits):
    assert len(digits.train.labels) == 1442 and len(digits.test.labels) == 355
    assert digits.image_shape == (1, 8, 8) and digits.train.images.max() == 16
    assert min(np.bincount(digits.test.labels)) >= 34, "every class is in the test split"
    x = digits.inputs("train")
    assert x.dtype == np.float32 and abs(x.mean()) < 0.01 and abs(x.std() - 1) < 0.01


def test_digits_splits_share_no_image(digits):
    train = {image.tobytes() for image in digits.train.images}
    assert not any(image.tobytes() in train for image in digits.test.images)


def test_cifar10(cifar_folder):
    cifar = load_dataset("cifar10", cifar_folder)
    assert cifar.train.images.shape == (100, 3, 32, 32) and cifar.test.images.shape == (20, 3, 32, 32)
    assert cifar.classes[3] == "class3" and cifar.augmented
    pixel = cifar.test.images[0, 2, 5, 7]
    assert cifar.inputs("test")[0, 2, 5, 7] == pytest.approx((pixel / 255 - 0.4465) / 0.2010, abs=1e-5)


@pytest.fixture
def broken(cifar_folder, tmp_path):
    shutil.copytree(cifar_folder / "cifar-10-batches-py", tmp_path / "cifar-10-batches-py")
    return tmp_path


MARKER = Path(tempfile.gettempdir()) / "spiketicket-was-here"  # what the hostile pickle would create


class Hostile:
    def __reduce__(self):
        return os.system, (f"touch {MARKER}",)


BAD_BATCHES = [
    (b"", "not a readable batch"),
    (b"garbage", "not a readable batch"),
    (pickle.dumps(Hostile()), "not a readable batch of arrays: it asks for posix.system"),
    (pickle.dumps([1, 2]), "expected 'data' as uint8"),
    (pickle.dumps({"data": np.zeros((2, 3072)), "labels": [0, 1]}), "expected 'data' as uint8"),
    (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}), "expected 'labels'"),
    (pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [[1]]}), "expected 'labels', one of 0..9"),
    (pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}), "expected 'labels', one of 0..9"),
]


@pytest.mark.parametrize(("content", "message"), BAD_BATCHES)
def test_bad_batches(broken, content, message):
    path = broken / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"data_batch_3: {message}"):
        load_dataset("cifar10", broken)
    assert not MARKER.exists()


def test_missing_files(broken):
    (broken / "cifar-10-batches-py" / "test_batch").unlink()
    with pytest.raises(DataError, match="cannot read data file .*test_batch: No such file"):
        load_dataset("cifar10", broken)
    with pytest.raises(DataError, match="data set cifar10 not found: .* https://www.cs.toronto.edu"):
        load_dataset("cifar10", broken / "elsewhere")


def test_unknown_names(digits):
    with pytest.raises(DataError, match="unknown data set 'mnist': expected one of digits, cifar10"):
        load_dataset("mnist")
    with pytest.raises(DataError, match="unknown split 'val': expected one of train, test"):
        digits.split("val")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_crop_shifts_by_at_most_four_pixels():
    images = torch.arange(1, 1025, dtype=torch.int32).reshape(1, 1, 32, 32).repeat(200, 1, 1, 1)
    shifts = set()
    for image in augment.crop(images, generator()):
        y, x = divmod(int(image[0, 16, 16]) - 1, 32)
        shifts.add((y - 16, x - 16))
        assert int(image[0, 16, 17]) == int(image[0, 16, 16]) + 1, "not mirrored"
    assert {y for y, _ in shifts} == {x for _, x in shifts} == set(range(-4, 5))


def test_flip_mirrors_about_half():
    images = torch.arange(4, dtype=torch.uint8).reshape(1, 1, 1, 4).repeat(400, 1, 1, 1)
    flipped = (augment.flip(images, generator())[:, 0, 0] == torch.tensor([3, 2, 1, 0])).all(1)
    assert 150 < int(flipped.sum()) < 250


def test_cutout_zeroes_a_square():
    cut = augment.cutout(torch.ones(300, 3, 32, 32, dtype=torch.uint8), generator()) == 0
    assert torch.equal(cut[:, 0], cut[:, 2])
    sizes = cut[:, 0].sum((1, 2))
    assert int(sizes.max()) == 256 and int(sizes.min()) >= 64, "whole inside, a quarter in a corner"


def test_folder_name_that_cannot_be():
    with pytest.raises(DataError, match="data set cifar10 not found"):
        load_dataset("cifar10", Path("z" * 300))
