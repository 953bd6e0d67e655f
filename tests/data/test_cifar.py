"""Both versions of CIFAR-10 and CIFAR-100, on small files in the official formats and on damaged ones."""

import hashlib
import os
import pickle
import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spiketicket.data import Augmentation, cifar, load_dataset
from spiketicket.errors import DataError

PYTHON, BINARY = "cifar-10-batches-py", "cifar-10-batches-bin"
CLASSES = [f"class{i}" for i in range(100)]


def images(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3072), dtype=np.uint8), rng.integers(0, 10, count)


@pytest.fixture
def binary_folder(tmp_path):
    """The images of `images(4, i)` as batch i of CIFAR-10's binary version, 6 being the test."""
    folder = tmp_path / BINARY
    folder.mkdir()
    for i, name in enumerate([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"], start=1):
        pixels, labels = images(4, i)
        (folder / name).write_bytes(np.column_stack([labels.astype(np.uint8), pixels]).tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(CLASSES[:10]) + "\n\n")
    return tmp_path


def write_cifar100(root, version):
    """Four training images and three for the test; coarse labels are all 7."""
    folder = root / f"cifar-100-{version}"
    folder.mkdir()
    for name, count in (("train", 4), ("test", 3)):
        pixels, labels = images(count, count)
        labels = labels + 90
        if version == "python":
            batch = {"data": pixels, "fine_labels": labels.tolist(), "coarse_labels": [7] * count}
            (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
        else:
            records = np.column_stack([np.full(count, 7), labels, pixels]).astype(np.uint8)
            (folder / f"{name}.bin").write_bytes(records.tobytes())
    if version == "python":
        meta = {"fine_label_names": CLASSES, "coarse_label_names": ["x"] * 20}
        (folder / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    else:
        (folder / "fine_label_names.txt").write_text("\n".join(CLASSES) + "\n")


def test_cifar10_python(cifar_folder):
    dataset = load_dataset("cifar10", cifar_folder)
    assert dataset.train.images.shape == (100, 3, 32, 32) and dataset.test.images.shape == (20, 3, 32, 32)
    assert dataset.classes[3] == "class3" and dataset.augmentation == Augmentation(4, True, 16)
    pixel = dataset.test.images[0, 2, 5, 7]
    assert dataset.inputs("test")[0, 2, 5, 7] == pytest.approx((pixel / 255 - 0.4465) / 0.2010, abs=1e-5)


def test_cifar10_binary(binary_folder):
    dataset = load_dataset("cifar10", binary_folder)
    expected = [images(4, i) for i in range(1, 7)]
    train = np.concatenate([pixels for pixels, _ in expected[:5]]).reshape(-1, 3, 32, 32)
    assert np.array_equal(dataset.train.images, train)
    assert dataset.train.labels.tolist() == [label for _, labels in expected[:5] for label in labels]
    assert np.array_equal(dataset.test.images, expected[5][0].reshape(-1, 3, 32, 32))
    assert dataset.classes == tuple(CLASSES[:10]) and dataset.official is None
    assert dataset.test.images.flags.writeable, "torch warns of arrays that are not"


@pytest.mark.parametrize("version", ["python", "binary"])
def test_cifar100_takes_the_fine_labels(tmp_path, version):
    write_cifar100(tmp_path, version)
    dataset = load_dataset("cifar100", tmp_path)
    for split, count in ((dataset.train, 4), (dataset.test, 3)):
        pixels, labels = images(count, count)
        assert np.array_equal(split.images, pixels.reshape(-1, 3, 32, 32))
        assert split.labels.dtype == np.int64 and split.labels.tolist() == (labels + 90).tolist()
    assert dataset.classes == tuple(CLASSES) and dataset.augmentation == Augmentation(4, True, 16)
    assert dataset.normalisation.mean == (0.5071, 0.4867, 0.4408)
    assert dataset.normalisation.std == (0.2673, 0.2564, 0.2762)


def test_python_version_comes_first(cifar_folder, binary_folder):
    shutil.copytree(cifar_folder / PYTHON, binary_folder / PYTHON)
    assert len(load_dataset("cifar10", binary_folder).test.labels) == 20


def test_other_checksums_are_recorded(cifar_folder, monkeypatch):
    assert load_dataset("cifar10", cifar_folder).official is False
    sums = {
        name: hashlib.md5((cifar_folder / PYTHON / name).read_bytes()).hexdigest() for name in cifar._CIFAR10.pickles
    }
    monkeypatch.setattr(cifar, "_CIFAR10", replace(cifar._CIFAR10, pickles=sums))
    assert load_dataset("cifar10", cifar_folder).official is True
    monkeypatch.setattr(cifar, "_CIFAR10", replace(cifar._CIFAR10, pickles={**sums, "test_batch": "0" * 32}))
    assert load_dataset("cifar10", cifar_folder).official is False


@pytest.fixture
def broken(cifar_folder, tmp_path):
    shutil.copytree(cifar_folder / PYTHON, tmp_path / PYTHON)
    return tmp_path


MARKER = Path(tempfile.gettempdir()) / "spiketicket-was-here"  # what the hostile pickle would create


class Hostile:
    def __reduce__(self):
        return os.system, (f"touch {MARKER}",)


def batch(labels, dtype=np.uint8, width=3072):
    return pickle.dumps({"data": np.zeros((len(labels), width), dtype), "labels": labels})


BAD_BATCHES = [
    (b"", "not a readable batch"),
    (b"garbage", "not a readable batch"),
    (batch([1, 2])[:-500], "not a readable batch"),
    (pickle.dumps(Hostile()), "not a readable batch of arrays: it asks for posix.system"),
    (pickle.dumps([1, 2]), "expected 'data' as uint8"),
    (batch([0, 1], dtype=np.float64), "expected 'data' as uint8"),
    (batch([0, 1], width=3071), "expected 'data' as uint8"),
    (batch([]), "expected 'data' as uint8"),
    (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}), "expected 'labels'"),
    (batch([[1]]), "expected 'labels', one of 0..9"),
    (batch([10]), "expected 'labels', one of 0..9"),
    (batch([-1]), "expected 'labels', one of 0..9"),
]


@pytest.mark.parametrize(("content", "message"), BAD_BATCHES)
def test_bad_batches(broken, content, message):
    MARKER.unlink(missing_ok=True)
    (broken / PYTHON / "data_batch_3").write_bytes(content)
    with pytest.raises(DataError, match=f"data_batch_3: {message}"):
        load_dataset("cifar10", broken)
    assert not MARKER.exists()


@pytest.mark.parametrize("content", [{"label_names": ["one"]}, {"names": CLASSES[:10]}, CLASSES[:10]])
def test_bad_names(broken, content):
    (broken / PYTHON / "batches.meta").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match="batches.meta: expected 10 label_names"):
        load_dataset("cifar10", broken)


def test_fine_label_out_of_range(tmp_path):
    write_cifar100(tmp_path, "python")
    bad = {"data": np.zeros((1, 3072), np.uint8), "fine_labels": [100]}
    (tmp_path / "cifar-100-python" / "test").write_bytes(pickle.dumps(bad))
    with pytest.raises(DataError, match="test: expected 'fine_labels', one of 0..99 per image"):
        load_dataset("cifar100", tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data_batch_2.bin", b"", "expected records of 3073 bytes, got 0"),
        ("data_batch_2.bin", bytes(2 * 3073 - 1), "expected records of 3073 bytes, got 6145"),
        ("test_batch.bin", bytes([10]) + bytes(3072), "expected labels 0..9, got 10"),
        ("batches.meta.txt", b"one two", "expected the names of 10 classes, got 2"),
        ("batches.meta.txt", b"\xff\xfe", "expected the names of 10 classes, got 1"),
    ],
)
def test_bad_records(binary_folder, name, content, message):
    (binary_folder / BINARY / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{re.escape(name)}: {message}"):
        load_dataset("cifar10", binary_folder)


def test_missing_files(broken, binary_folder):
    (broken / PYTHON / "test_batch").unlink()
    with pytest.raises(DataError, match="cannot read data file .*test_batch: No such file"):
        load_dataset("cifar10", broken)
    shutil.rmtree(broken / PYTHON)
    (binary_folder / BINARY / "batches.meta.txt").unlink()
    with pytest.raises(DataError, match="cannot read data file .*batches.meta.txt: No such file"):
        load_dataset("cifar10", binary_folder)
