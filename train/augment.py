"""Augmentation of the paper for 32x32 colour images, on whole batches of uint8 pixels."""

import torch
from torch import Tensor
from torch.nn.functional import pad

PADDING = 4
HOLE = 16


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random crop (padding 4), horizontal flip and one 16x16 cutout; uint8 `[N, C, H, W]` -> the same."""
    return cutout(flip(crop(images, generator), generator), generator)


def crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by -4..4 pixels in both directions; zeros come in."""
    count, channels, height, width = images.shape
    padded = pad(images, (PADDING, PADDING, PADDING, PADDING))
    y, x = torch.randint(0, 2 * PADDING + 1, (2, count), generator=generator)
    rows = (y[:, None] + torch.arange(height))[:, None, :, None]
    columns = (x[:, None] + torch.arange(width))[:, None, None, :]
    image, channel = torch.arange(count)[:, None, None, None], torch.arange(channels)[None, :, None, None]
    return padded[image, channel, rows, columns]


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror every image with probability 1/2."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


def cutout(images: Tensor, generator: torch.Generator) -> Tensor:
    """Zero one square hole per image, centred anywhere: at the border less of it lies inside."""
    count, _, height, width = images.shape
    y, x = (torch.randint(0, size, (count, 1), generator=generator) for size in (height, width))
    half = HOLE // 2
    in_rows = (torch.arange(height) >= y - half) & (torch.arange(height) < y + half)
    in_columns = (torch.arange(width) >= x - half) & (torch.arange(width) < x + half)
    hole = in_rows[:, None, :, None] & in_columns[:, None, None, :]
    return images.masked_fill(hole, 0)
