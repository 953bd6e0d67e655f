"""Fashion-MNIST on small files in the official format, zipped or not, and on damaged ones; its resizing."""

import gzip
import hashlib
import re

import numpy as np
import pytest
from PIL import Image

from spiketicket.data import Augmentation, fashion_mnist, load_dataset
from spiketicket.errors import DataError


def idx(array):
    header = bytes((0, 0, 8, array.ndim)) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


CLOTHES = np.random.default_rng(0).integers(0, 256, (8, 28, 28), dtype=np.uint8)
KINDS = np.array([9, 0, 1, 2, 3, 4, 5, 6])
CONTENT = {
    "train-images-idx3-ubyte": CLOTHES,
    "train-labels-idx1-ubyte": KINDS,
    "t10k-images-idx3-ubyte": CLOTHES[:3],
    "t10k-labels-idx1-ubyte": KINDS[:3],
}


@pytest.fixture(params=["", ".gz"], ids=["plain", "gz"])
def fashion_folder(tmp_path, request):
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    for name, array in CONTENT.items():
        write_idx(folder / f"{name}{request.param}", idx(array))
    return tmp_path


def write_idx(path, content):
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def test_fashion_mnist(fashion_folder, monkeypatch):
    dataset = load_dataset("fashion_mnist", fashion_folder)
    assert dataset.train.images.shape == (8, 1, 32, 32) and dataset.test.images.shape == (3, 1, 32, 32)
    assert np.array_equal(dataset.test.images, dataset.train.images[:3])
    assert dataset.train.labels.tolist() == KINDS.tolist() and dataset.classes[9] == "Ankle boot"
    assert dataset.augmentation == Augmentation(4, True, 0)
    zipped = {name: fashion_folder / "fashion-mnist" / f"{name}.gz" for name in CONTENT}
    if not all(path.exists() for path in zipped.values()):
        assert dataset.official is None, "the official sums are those of the .gz files"
        return
    assert dataset.official is False
    sums = {name: hashlib.md5(path.read_bytes()).hexdigest() for name, path in zipped.items()}
    monkeypatch.setattr(fashion_mnist, "FILES", sums)
    assert load_dataset("fashion_mnist", fashion_folder).official is True


def test_resize_is_bilinear():
    """Within one grey level of pillow, which rounds after each of its two passes."""
    for stored, ours in zip(CLOTHES, fashion_mnist.resize(CLOTHES), strict=True):
        theirs = np.asarray(Image.fromarray(stored).resize((32, 32), Image.Resampling.BILINEAR))
        assert abs(ours.astype(int) - theirs).max() <= 1
    flat = np.full((1, 28, 28), 255, np.uint8)
    assert (fashion_mnist.resize(flat) == 255).all()


def test_resize_by_hand():
    ramp = np.tile(np.arange(0, 224, 8, dtype=np.uint8), (1, 28, 1))
    row = fashion_mnist.resize(ramp)[0, 5]
    exact = [8 * min(max((i + 0.5) * 28 / 32 - 0.5, 0), 27) for i in range(32)]
    assert row.tolist() == [int(np.floor(value + 0.5)) for value in exact]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte", b"", "not an idx file of bytes in 3 dimensions"),
        ("train-images-idx3-ubyte", idx(CLOTHES)[:15], "not an idx file of bytes in 3 dimensions"),
        ("train-images-idx3-ubyte", idx(KINDS), "not an idx file of bytes in 3 dimensions"),
        ("train-images-idx3-ubyte", b"\0\0\x0d\3" + idx(CLOTHES)[4:], "not an idx file of bytes in 3 dimensions"),
        ("train-images-idx3-ubyte", idx(CLOTHES)[:-1], "expected [8, 28, 28] bytes behind the header, got 6271"),
        ("train-images-idx3-ubyte", b"\0\0\x08\3" + b"\xff" * 12, "expected [4294967295, 4294967295, 4294967295] by"),
        ("train-images-idx3-ubyte", idx(CLOTHES[:, :, :27]), "expected images of 28x28, got [8, 28, 27]"),
        ("train-images-idx3-ubyte", idx(CLOTHES[:0]), "expected images of 28x28, got [0, 28, 28]"),
        ("train-labels-idx1-ubyte", idx(KINDS[:5]), "expected 8 labels, each one of 0..9"),
        ("t10k-labels-idx1-ubyte", idx(KINDS[:3] + 1), "expected 3 labels, each one of 0..9"),
    ],
)
def test_bad_idx(fashion_folder, name, content, message):
    (path,) = (fashion_folder / "fashion-mnist").glob(f"{name}*")
    write_idx(path, content)
    with pytest.raises(DataError, match=re.escape(f"{path}: {message}")):
        load_dataset("fashion_mnist", fashion_folder)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:200], lambda data: b"garbage", lambda data: data[:-9] + bytes(9)]
)
@pytest.mark.parametrize("fashion_folder", [".gz"], indirect=True)
def test_bad_gzip(fashion_folder, damage):
    path = fashion_folder / "fashion-mnist" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte.gz: not a readable gzip file: "):
        load_dataset("fashion_mnist", fashion_folder)


def test_missing_idx(fashion_folder):
    for path in (fashion_folder / "fashion-mnist").glob("train-labels*"):
        path.unlink()
    with pytest.raises(DataError, match="cannot read data file .*train-labels-idx1-ubyte.gz: No such file"):
        load_dataset("fashion_mnist", fashion_folder)
