"""Augmentation of whole batches of uint8 pixels, on the device that they are on.

Random numbers are drawn first, on the CPU: five integers per image. So every device draws the same, and a process that
trains a part of a batch draws for all of it and keeps its own.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from spiketicket.data import Augmentation


def draw(augmentation: Augmentation, images: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw random choices for images of that size `[N, C, H, W]`: int64 `[5, N]`, rows as `augment` names them."""
    count, _, height, width = images
    window = 2 * augmentation.crop_padding + 1
    return torch.stack(
        [torch.randint(bound, (count,), generator=generator) for bound in (window, window, 2, height, width)]
    )


def augment(images: Tensor, augmentation: Augmentation, choices: Tensor) -> Tensor:
    """Return uint8 images `[N, C, H, W]` cropped, flipped and cut out as `choices` `[5, N]` say."""
    top, left, mirrored, y, x = choices
    if augmentation.crop_padding:
        images = crop(images, augmentation.crop_padding, top, left)
    if augmentation.flip:
        images = flip(images, mirrored)
    if augmentation.cutout:
        images = cutout(images, augmentation.cutout, y, x)
    return images


def crop(images: Tensor, padding: int, top: Tensor, left: Tensor) -> Tensor:
    """Pad the images with zeros and return the window of the old size at `top`, `left` (each `[N]`, 0..2 padding)."""
    count, channels, height, width = images.shape
    padded = pad(images, (padding, padding, padding, padding))
    # A row of the result is `width` neighbours in memory. Copied as such, they take a quarter of the time of pixels.
    planes = torch.arange(count * channels, device=images.device).reshape(count, channels, 1) * padded.shape[2]
    rows = planes + (top[:, None] + torch.arange(height, device=images.device))[:, None, :]
    first = rows * padded.shape[3] + left[:, None, None]
    return padded.flatten().unfold(0, width, 1).index_select(0, first.flatten()).reshape(images.shape)


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Swap left and right in the images where `mirrored` `[N]` is 1."""
    both = torch.cat([images, images.flip(3)])
    return both.index_select(0, torch.arange(len(images), device=images.device) + len(images) * mirrored)


def cutout(images: Tensor, size: int, y: Tensor, x: Tensor) -> Tensor:
    """Zero a square of `size` pixels around (`y`, `x`), each `[N]`; at the border, the part inside the image."""
    rows, columns = (_near(centre, size, length) for centre, length in zip((y, x), images.shape[2:], strict=True))
    return images * ~(rows[:, None, :, None] & columns[:, None, None, :])


def _near(centre: Tensor, size: int, length: int) -> Tensor:
    """Return which of `length` places are among the `size` around each centre; bool `[N, length]`."""
    from_first = torch.arange(length, device=centre.device) - (centre[:, None] - size // 2)
    return (from_first >= 0) & (from_first < size)
