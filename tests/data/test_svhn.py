"""SVHN on small files in the official format, and on damaged ones."""

import hashlib

import numpy as np
import pytest
from scipy.io import savemat

from spiketicket.data import Augmentation, load_dataset, svhn
from spiketicket.errors import DataError


@pytest.fixture
def svhn_folder(tmp_path):
    folder = tmp_path / "svhn"
    folder.mkdir()
    for name, count in (("train_32x32.mat", 12), ("test_32x32.mat", 5)):
        write_mat(folder / name, X=pixels_of(count), y=labels_of(count))
    return tmp_path


def pixels_of(count):
    """Pixel (row, column, channel) of image n tells where it is."""
    row, column, channel, n = np.indices((32, 32, 3, count))
    return ((7 * row + column + 50 * channel + 3 * n) % 256).astype(np.uint8)


def labels_of(count):
    return (np.arange(count)[:, None] % 10 + 1).astype(np.uint8)


def write_mat(path, **arrays):
    savemat(path, arrays, do_compression=True)


def test_svhn(svhn_folder, monkeypatch):
    dataset = load_dataset("svhn", svhn_folder)
    assert dataset.train.images.shape == (12, 3, 32, 32) and dataset.test.images.shape == (5, 3, 32, 32)
    n, channel, row, column = np.indices((12, 3, 32, 32))
    assert np.array_equal(dataset.train.images, (7 * row + column + 50 * channel + 3 * n) % 256)
    assert dataset.train.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2], "10 means 0"
    assert dataset.train.labels.dtype == np.int64 and dataset.classes == tuple("0123456789")
    assert dataset.augmentation == Augmentation(4, True, 0) and dataset.official is False
    assert dataset.inputs("train").min() >= -1 and dataset.inputs("train").max() <= 1
    sums = {name: hashlib.md5((svhn_folder / "svhn" / name).read_bytes()).hexdigest() for name in svhn.FILES}
    monkeypatch.setattr(svhn, "FILES", sums)
    assert load_dataset("svhn", svhn_folder).official is True


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": pixels_of(2)}, "expected 'y', one of 1..10 per image"),
        ({"y": labels_of(2)}, r"expected 'X' as uint8 \[32, 32, 3, N\]"),
        ({"X": pixels_of(2) / 255, "y": labels_of(2)}, "expected 'X' as uint8"),
        ({"X": pixels_of(2).transpose(3, 2, 0, 1), "y": labels_of(2)}, "expected 'X' as uint8"),
        ({"X": pixels_of(2), "y": labels_of(3)}, "expected 'y', one of 1..10"),
        ({"X": pixels_of(2), "y": np.array([[0], [1]], np.uint8)}, "expected 'y', one of 1..10"),
        ({"X": pixels_of(2), "y": np.array([[11], [1]], np.uint8)}, "expected 'y', one of 1..10"),
        ({"X": pixels_of(2), "y": np.array([[1.5], [1]])}, "expected 'y', one of 1..10"),
        ({"X": np.array(["a", "b"], object), "y": labels_of(2)}, "expected 'X' as uint8"),
    ],
)
def test_bad_mat(svhn_folder, arrays, message):
    write_mat(svhn_folder / "svhn" / "test_32x32.mat", **arrays)
    with pytest.raises(DataError, match=f"test_32x32.mat: {message}"):
        load_dataset("svhn", svhn_folder)


@pytest.mark.parametrize("keep", [0, 60, 130, 400, -1])
def test_mat_cut_short(svhn_folder, keep):
    path = svhn_folder / "svhn" / "train_32x32.mat"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="train_32x32.mat: "):
        load_dataset("svhn", svhn_folder)


def test_missing_mat(svhn_folder):
    (svhn_folder / "svhn" / "test_32x32.mat").unlink()
    with pytest.raises(DataError, match="cannot read data file .*test_32x32.mat: No such file"):
        load_dataset("svhn", svhn_folder)
