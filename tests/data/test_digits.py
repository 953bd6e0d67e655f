"""The data sets' common side: names, splits, what is held out. Readers have files of their own."""

from pathlib import Path

import numpy as np
import pytest

from spiketicket.data import DATASET_NAMES, Augmentation, Dataset, Normalisation, Split, load_dataset
from spiketicket.errors import DataError, InputError


def test_digits(digits):
    assert len(digits.train.labels) == 1442 and len(digits.test.labels) == 355
    assert digits.image_shape == (1, 8, 8) and digits.train.images.max() == 16
    assert min(np.bincount(digits.test.labels)) >= 34, "every class is in the test split"
    assert digits.augmentation == Augmentation(0, False, 0) and digits.official is None
    x = digits.inputs("train")
    assert x.dtype == np.float32 and abs(x.mean()) < 0.01 and abs(x.std() - 1) < 0.01


def test_digits_splits_share_no_image(digits):
    train = {image.tobytes() for image in digits.train.images}
    assert not any(image.tobytes() in train for image in digits.test.images)


def test_every_fifth_digit_of_a_class_is_for_the_test(digits):
    from sklearn.datasets import load_digits

    _, labels = load_digits(return_X_y=True)
    seen = [0] * 10
    test = []
    for label in labels:
        seen[label] += 1
        if seen[label] % 5 == 0:
            test.append(label)
    assert digits.test.labels.tolist() == test


def test_unknown_names(digits):
    with pytest.raises(DataError, match="unknown data set 'mnist': expected one of digits, cifar10, cifar100, svhn,"):
        load_dataset("mnist")
    with pytest.raises(DataError, match="unknown split 'val': expected one of train, test"):
        digits.split("val")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "cifar10",
            "folder {0}/cifar-10-batches-py or {0}/cifar-10-batches-bin, or the archive cifar-10-python.tar.gz"
            " or cifar-10-binary.tar.gz there .*https://www.cs.toronto.edu/~kriz/cifar.html",
        ),
        (
            "cifar100",
            "folder {0}/cifar-100-python or {0}/cifar-100-binary, or the archive cifar-100-python.tar.gz"
            " or cifar-100-binary.tar.gz there .*https://www.cs.toronto.edu/~kriz/cifar.html",
        ),
        ("svhn", "folder {0}/svhn .*http://ufldl.stanford.edu/housenumbers/"),
        ("fashion_mnist", "folder {0}/fashion-mnist .*https://github.com/zalandoresearch/fashion-mnist"),
        (
            "tiny_imagenet",
            "folder {0}/tiny-imagenet-200, or the archive tiny-imagenet-200.zip there "
            ".*http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        ),
    ],
)
def test_missing_folder_and_where_to_get_it(tmp_path, name, expected):
    with pytest.raises(DataError, match=f"data set {name} not found: expected the {expected.format(tmp_path)}"):
        load_dataset(name, tmp_path)


@pytest.mark.parametrize("name", [name for name in DATASET_NAMES if name != "digits"])
def test_folder_name_that_cannot_be(name):
    with pytest.raises(DataError, match=f"data set {name} not found"):
        load_dataset(name, Path("z" * 300))


def numbered(labels):
    """A data set whose image i is one pixel of value i."""
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    split = Split(images, np.array(labels, dtype=np.int64))
    return Dataset("numbered", split, split, ("a", "b", "c"), Normalisation(1.0, (0.0,), (1.0,)))


def test_hold_out_takes_its_share_of_every_class():
    dataset = numbered([0] * 50 + [1] * 100 + [2] * 20)
    rest, held = dataset.hold_out(0.1, seed=0)
    assert np.bincount(held.labels).tolist() == [5, 10, 2]
    assert np.bincount(rest.train.labels).tolist() == [45, 90, 18]
    assert sorted([*rest.train.images.flat, *held.images.flat]) == list(range(170)), "every image is in one of them"
    for split in (rest.train, held):
        assert np.array_equal(dataset.train.labels[split.images.reshape(-1)], split.labels)
        assert (np.diff(split.images.reshape(-1).astype(int)) > 0).all(), "the order is kept"
    assert rest.test is dataset.test


def test_hold_out_is_chosen_by_the_seed():
    dataset = numbered([0, 1, 2] * 30)
    first, again, other = (dataset.hold_out(0.2, seed)[1].images.reshape(-1).tolist() for seed in (1, 1, 2))
    assert first == again != other
    assert first != list(range(len(first))), "not simply the first ones"


def test_hold_out_leaves_every_class_an_image():
    rest, held = numbered([0, 1, 1, 2, 2, 2]).hold_out(0.9, seed=0)
    assert np.bincount(rest.train.labels).tolist() == [1, 1, 1]
    assert np.bincount(held.labels).tolist() == [0, 1, 2]


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan"), 0.01])
def test_hold_out_of_nothing(share):
    with pytest.raises(InputError, match="share to hold out: "):
        numbered([0, 1, 2] * 10).hold_out(share, seed=0)
