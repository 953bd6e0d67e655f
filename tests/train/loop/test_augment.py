"""Augmentation does to every image what its choices say, and the choices cover their range."""

import pytest
import torch

from spiketicket.data import Augmentation
from spiketicket.train.loop.augment import augment, crop, cutout, draw, flip

ALL = Augmentation(crop_padding=4, flip=True, cutout=16)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count=200, channels=3, size=32):
    shape = (count, channels, size, size)
    return torch.randint(1, 256, shape, generator=generator(9), dtype=torch.uint8)


def test_crop_takes_the_chosen_window_of_the_padded_image():
    x = images(81)
    top, left = (axis.reshape(-1) for axis in torch.meshgrid(torch.arange(9), torch.arange(9), indexing="ij"))
    padded = torch.zeros(81, 3, 40, 40, dtype=torch.uint8)
    padded[:, :, 4:36, 4:36] = x
    for i, image in enumerate(crop(x, 4, top, left)):
        row, column = int(top[i]), int(left[i])
        assert torch.equal(image, padded[i, :, row : row + 32, column : column + 32]), (row, column)


def test_crop_by_the_padding_changes_nothing():
    x = images(5)
    middle = torch.full((5,), 4)
    assert torch.equal(crop(x, 4, middle, middle), x)


def test_flip_swaps_left_and_right_of_the_chosen_images():
    x = images(4)
    mixed = flip(x, torch.tensor([0, 1, 1, 0]))
    for i, mirrored in enumerate((False, True, True, False)):
        for column in range(32):
            assert torch.equal(mixed[i, :, :, column], x[i, :, :, 31 - column if mirrored else column])


def test_cutout_zeroes_a_square_around_the_chosen_pixel():
    x = images(4)
    y, centre_x = torch.tensor([16, 0, 31, 8]), torch.tensor([16, 0, 31, 24])
    holes = cutout(x, 16, y, centre_x) == 0
    bounds = [((8, 24), (8, 24)), ((0, 8), (0, 8)), ((23, 32), (23, 32)), ((0, 16), (16, 32))]
    for hole, (rows, columns) in zip(holes, bounds, strict=True):
        expected = torch.zeros(3, 32, 32, dtype=torch.bool)
        expected[:, slice(*rows), slice(*columns)] = True
        assert torch.equal(hole, expected)
    assert torch.equal(cutout(x, 16, y, centre_x)[~holes], x[~holes])


def test_choices_cover_their_range_evenly():
    choices = draw(ALL, (20_000, 3, 32, 24), generator())
    assert choices.shape == (5, 20_000) and choices.dtype == torch.int64
    for row, bound in zip(choices, (9, 9, 2, 32, 24), strict=True):
        counts = row.bincount(minlength=bound).float()
        expected = 20_000 / bound
        assert len(counts) == bound and (abs(counts - expected) < 6 * expected**0.5).all()
    assert (abs(torch.corrcoef(choices.double()) - torch.eye(5)) < 0.05).all(), "drawn independently"


def test_all_three_in_their_order():
    x = images(50)
    choices = draw(ALL, x.shape, generator())
    top, left, mirrored, row, column = choices
    assert torch.equal(augment(x, ALL, choices), cutout(flip(crop(x, 4, top, left), mirrored), 16, row, column))
    assert augment(x, ALL, choices).dtype == torch.uint8


@pytest.mark.parametrize(
    "only", [Augmentation(), Augmentation(crop_padding=2), Augmentation(flip=True), Augmentation(cutout=5)], ids=str
)
def test_nothing_that_was_not_asked_for(only):
    x = images(100)
    choices = draw(only, x.shape, generator())
    top, left, mirrored, row, column = choices
    expected = x
    if only.crop_padding:
        expected = crop(x, 2, top, left)
    if only.flip:
        expected = flip(x, mirrored)
    if only.cutout:
        expected = cutout(x, 5, row, column)
        assert int((expected == 0).sum((1, 2, 3)).max()) == 3 * 25, "an odd side as well"
    out = augment(x, only, choices)
    assert torch.equal(out, expected)
    assert torch.equal(out, x) == (only == Augmentation())


def test_the_given_images_stay_as_they_are():
    x = images(20)
    before = x.clone()
    augment(x, ALL, draw(ALL, x.shape, generator()))
    assert torch.equal(x, before)
