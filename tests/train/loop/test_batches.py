"""Batches: every image once, normalised to the bit, resumable at any batch, and dealt over processes."""

import numpy as np
import pytest
import torch

from spiketicket.data import Augmentation, Dataset, Normalisation, Split
from spiketicket.errors import InputError
from spiketicket.train.loop.batches import Batches

CIFAR = Normalisation(255.0, (0.4913, 0.4821, 0.4465), (0.2023, 0.1994, 0.2010))
ALL = Augmentation(crop_padding=4, flip=True, cutout=16)
SEED = np.random.SeedSequence([3, 1, 4])


def dataset(count=50, augmentation=ALL):
    """Image i has label i."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    split = Split(pixels, np.arange(count, dtype=np.int64))
    return Dataset("noise", split, split, tuple(map(str, range(count))), CIFAR, augmentation)


def epoch(batches, batch_size=16, seed=SEED, **place):
    return list(batches.epoch(batch_size, seed, **place))


def equal(some, others):
    return len(some) == len(others) and all(
        torch.equal(x, other_x) and torch.equal(y, other_y)
        for (x, y), (other_x, other_y) in zip(some, others, strict=True)
    )


def test_every_image_once_in_another_order():
    labels = [label for _, labels in epoch(Batches(dataset())) for label in labels.tolist()]
    assert sorted(labels) == list(range(50)) != labels
    assert [len(y) for _, y in epoch(Batches(dataset()))] == [16, 16, 16, 2]


def test_images_go_with_their_labels_normalised_to_the_bit():
    plain = dataset(augmentation=Augmentation())
    for images, labels in epoch(Batches(plain)):
        assert images.dtype == torch.float32 and labels.dtype == torch.int64
        assert np.array_equal(images.numpy(), CIFAR(plain.train.images[labels.numpy()]))


@pytest.mark.parametrize(
    "norm", [CIFAR, Normalisation(16.0, (0.3053,), (0.3760,)), Normalisation(255.0, (0.485,), (0.229,))], ids=str
)
def test_every_grey_level_has_the_bits_of_the_plain_normalisation(norm):
    channels = len(norm.mean)
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(channels, axis=1)
    split = Split(levels, np.zeros(1, np.int64))
    batches = Batches(Dataset("levels", split, split, ("0",), norm))
    assert batches.normalise(torch.from_numpy(levels)).numpy().tobytes() == norm(levels).tobytes()


def test_augmentation_is_before_the_normalisation():
    """Zeros of crop and cutout are black pixels, not grey ones of mean 0."""
    black = CIFAR(np.zeros((1, 3, 1, 1), np.uint8))
    white = dataset()
    white.train.images[:] = 255
    for images, _ in epoch(Batches(white)):
        changed = images.numpy() != CIFAR(white.train.images[:1])
        assert changed.any((1, 2, 3)).all(), "every image has a hole"
        assert (np.broadcast_to(black, images.shape)[changed] == images.numpy()[changed]).all()


def test_the_stored_images_stay_as_they_are():
    noise = dataset()
    before = noise.train.images.copy()
    epoch(Batches(noise))
    assert np.array_equal(noise.train.images, before)


def test_the_seed_decides_order_and_augmentation():
    batches = Batches(dataset())
    assert equal(epoch(batches), epoch(batches))
    (images, labels), *_ = epoch(batches)
    (others, other_labels), *_ = epoch(batches, seed=np.random.SeedSequence([3, 1, 5]))
    assert not torch.equal(labels, other_labels) and not torch.equal(images, others)
    one = dataset(count=2)
    one.train.images[1] = one.train.images[0]
    seen = {x[0].numpy().tobytes() for i in range(10) for x, _ in epoch(Batches(one), seed=np.random.SeedSequence(i))}
    assert len(seen) == 10, "the same image, augmented another way every time"


def test_batches_of_an_epoch_are_augmented_differently():
    """With all images alike and one choice per batch position, equal streams would give equal batches."""
    alike = dataset(count=64)
    alike.train.images[:] = alike.train.images[0]
    first, second, *_ = epoch(Batches(alike))
    assert not torch.equal(first[0], second[0])


@pytest.mark.parametrize("first", range(5))
def test_taken_up_at_any_batch(first):
    batches = Batches(dataset())
    assert equal(epoch(batches, first=first), epoch(batches)[first:])


def test_the_seed_is_not_used_up():
    """A child seed that is spawned would be another one the next time."""
    seed = np.random.SeedSequence([1], spawn_key=(7,))
    batches = Batches(dataset())
    assert equal(epoch(batches, seed=seed), epoch(batches, seed=seed))
    assert not equal(epoch(batches, seed=seed), epoch(batches, seed=np.random.SeedSequence([1])))


@pytest.mark.parametrize("world", [2, 3, 5])
@pytest.mark.parametrize("count", [48, 50, 63])
def test_shares_of_the_processes_are_the_whole_batch(world, count):
    batches = Batches(dataset(count))
    whole = epoch(batches)[: batches.count(16, world)]
    shares = [epoch(batches, rank=rank, world=world) for rank in range(world)]
    united = [tuple(map(torch.cat, zip(*parts, strict=True))) for parts in zip(*shares, strict=True)]
    assert equal(united, whole)
    for parts in zip(*shares, strict=True):
        sizes = [len(labels) for _, labels in parts]
        assert max(sizes) - min(sizes) <= 1 and min(sizes) >= 2


def test_a_share_taken_up_later():
    batches = Batches(dataset())
    place = {"rank": 1, "world": 3}
    assert equal(epoch(batches, first=2, **place), epoch(batches, **place)[2:])


@pytest.mark.parametrize(
    ("count", "batch_size", "world", "expected"),
    [(50, 16, 1, 4), (49, 16, 1, 3), (48, 16, 1, 3), (10, 16, 1, 1), (51, 16, 2, 3), (52, 16, 2, 4), (2, 2, 1, 1)],
)
def test_a_batch_in_which_a_process_gets_one_image_is_left_out(count, batch_size, world, expected):
    batches = Batches(dataset(count))
    assert batches.count(batch_size, world) == expected
    for rank in range(world):
        assert len(epoch(batches, batch_size, rank=rank, world=world)) == expected


@pytest.mark.parametrize(("count", "batch_size", "world"), [(1, 16, 1), (50, 3, 2), (50, 1, 1), (5, 16, 3)])
def test_no_batch_at_all(count, batch_size, world):
    with pytest.raises(InputError, match=f"{count} images in batches of {batch_size} leave none of {world} processes"):
        epoch(Batches(dataset(count)), batch_size, world=world)


def test_evaluated_images_stay_on_the_device():
    """What is evaluated after every epoch is copied there once; another split is copied when it comes."""
    noise, held_out, other = dataset(), dataset(count=7).train, dataset(count=5).train
    batches = Batches(noise, "cpu", held_out)
    for split in (noise.test, held_out, other):
        before = [x.clone() for x, _ in batches.evaluation(split, 4)]
        assert np.array_equal(torch.cat(before).numpy(), CIFAR(split.images))
    moved = []
    batches.tensors_of = moved.append
    list(batches.evaluation(noise.test, 4)), list(batches.evaluation(held_out, 4))
    assert not moved


@pytest.mark.parametrize("world", [1, 2, 3])
def test_shares_of_an_evaluation(world):
    noise = dataset()
    batches = Batches(noise)
    seen = [y for rank in range(world) for _, y in batches.evaluation(noise.test, 4, rank, world)]
    assert sorted(torch.cat(seen).tolist()) == list(range(50))


def test_evaluation_is_in_order_and_never_augmented():
    noise = dataset()
    parts = list(Batches(noise).evaluation(noise.test, 16))
    assert [len(y) for _, y in parts] == [16, 16, 16, 2]
    assert torch.cat([y for _, y in parts]).tolist() == list(range(50))
    assert np.array_equal(torch.cat([x for x, _ in parts]).numpy(), CIFAR(noise.test.images))


def test_smaller_images_are_means_over_areas():
    batches = Batches(dataset())
    (whole, labels), (half, same) = (next(b.epoch(16, SEED)) for b in (batches, batches.resized(16)))
    assert half.shape[2:] == (16, 16) and torch.equal(labels, same)
    assert torch.allclose(half, whole.unflatten(3, (16, 2)).unflatten(2, (16, 2)).mean((3, 5)), atol=1e-6)
    assert batches.image_size is None, "the batches that it comes from stay as they are"
