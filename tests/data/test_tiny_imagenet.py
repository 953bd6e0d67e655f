"""TinyImageNet on a small folder in the official layout, and on damaged ones."""

import io
import re
import sys

import numpy as np
import pytest
from PIL import Image

from spiketicket.data import Augmentation, load_dataset
from spiketicket.errors import DataError, MissingExtraError

COLOUR = (200, 30, 90)


def jpeg(colour=COLOUR, mode="RGB", size=64, kind="JPEG"):
    file = io.BytesIO()
    Image.new(mode, (size, size), colour).save(file, kind, quality=95)
    return file.getvalue()


@pytest.fixture
def tiny_folder(tmp_path):
    """Two classes, n2 before n1 in wnids.txt; one grey training image."""
    base = tmp_path / "tiny-imagenet-200"
    for wnid in ("n1", "n2"):
        (base / "train" / wnid / "images").mkdir(parents=True)
        for i in range(3):
            (base / "train" / wnid / "images" / f"{wnid}_{i}.JPEG").write_bytes(jpeg())
    (base / "train" / "n1" / "images" / "n1_1.JPEG").write_bytes(jpeg(120, "L"))
    (base / "val" / "images").mkdir(parents=True)
    for i in range(2):
        (base / "val" / "images" / f"val_{i}.JPEG").write_bytes(jpeg((10 * i, 0, 0)))
    (base / "val" / "val_annotations.txt").write_text("val_1.JPEG\tn1\t0\t0\t62\t62\nval_0.JPEG\tn2\t1\t2\t3\t4\n")
    (base / "wnids.txt").write_text("n2\nn1\n")
    (base / "words.txt").write_text("n0\tthing\nn1\tgoldfish, Carassius auratus\nn2\tbee\n")
    return tmp_path


def test_tiny_imagenet(tiny_folder):
    dataset = load_dataset("tiny_imagenet", tiny_folder)
    assert dataset.train.images.shape == (6, 3, 64, 64) and dataset.train.images.dtype == np.uint8
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1] and dataset.test.labels.tolist() == [1, 0]
    assert dataset.classes == ("bee", "goldfish")
    assert abs(dataset.train.images[0].astype(int) - np.reshape(COLOUR, (3, 1, 1))).max() <= 2
    assert abs(dataset.train.images[4].astype(int) - 120).max() <= 2, "grey becomes RGB"
    assert dataset.test.images[:, 0].mean((1, 2)).tolist() == pytest.approx([10, 0], abs=2)
    assert dataset.augmentation == Augmentation(8, True, 0) and dataset.official is None
    assert dataset.normalisation.mean == (0.485, 0.456, 0.406) and dataset.normalisation.std == (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train/n1/images/n1_2.JPEG", b"", "not a readable JPEG image"),
        ("train/n1/images/n1_2.JPEG", jpeg()[:-300], "not a readable JPEG image"),
        ("train/n1/images/n1_2.JPEG", jpeg(kind="PNG"), "not a readable JPEG image"),
        ("train/n1/images/n1_2.JPEG", jpeg(size=32), "expected an image of 64x64, got 32x32"),
        ("wnids.txt", b"", "expected one WordNet id per line"),
        ("wnids.txt", b"n1\nn1\n", "expected one WordNet id per line"),
        ("wnids.txt", b"n1\n../n2\n", "expected one WordNet id per line"),
        ("words.txt", b"n1\tgoldfish\n", "no name for n2"),
        ("val/val_annotations.txt", b"", "expected an image per line, it is empty"),
        ("val/val_annotations.txt", b"val_0.JPEG\n", "expected a file name and a WordNet id of wnids.txt per line"),
        ("val/val_annotations.txt", b"val_0.JPEG\tn7\n", "expected a file name and a WordNet id of wnids.txt per line"),
        ("val/val_annotations.txt", b"../x.JPEG\tn1\n", "expected a file name and a WordNet id of wnids.txt per line"),
    ],
)
def test_bad_tiny_imagenet(tiny_folder, name, content, message):
    path = tiny_folder / "tiny-imagenet-200" / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(f"{path}: {message}")):
        load_dataset("tiny_imagenet", tiny_folder)


def test_missing_tiny_images(tiny_folder):
    base = tiny_folder / "tiny-imagenet-200"
    (base / "val" / "images" / "val_0.JPEG").unlink()
    with pytest.raises(DataError, match="val_0.JPEG: not a readable JPEG image: .*No such file"):
        load_dataset("tiny_imagenet", tiny_folder)
    for path in (base / "train" / "n2" / "images").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="train/n2/images: expected images"):
        load_dataset("tiny_imagenet", tiny_folder)


def test_tiny_imagenet_without_pillow(tiny_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match="data set tiny_imagenet needs pillow: pip install 'spiketicket.train"):
        load_dataset("tiny_imagenet", tiny_folder)
