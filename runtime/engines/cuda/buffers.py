"""The layout of values on the GPU: images in planes with a border of zeros (common.cuh)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spiketicket.runtime.engines.cuda.fusion import SPIKES, TIMED

Pads = tuple[int, int, int, int]  # top, left, bottom, right


@dataclass(frozen=True)
class Layout:
    """The layout of one value: its `shape` `[C, H, W]`, its border, and the type of its elements."""

    shape: tuple[int, int, int]
    pads: Pads
    kind: int

    @property
    def pitch(self) -> int:
        return self.shape[2] + self.pads[1] + self.pads[3]

    @property
    def plane(self) -> int:
        return (self.shape[1] + self.pads[0] + self.pads[2]) * self.pitch

    @property
    def image(self) -> int:
        """Return the number of elements of an image with its border."""
        return self.shape[0] * self.plane

    @property
    def origin(self) -> int:
        """Return the number of elements before the first one that is not border."""
        return self.pads[0] * self.pitch + self.pads[1]

    @property
    def dtype(self) -> type[np.generic]:
        return np.uint8 if self.kind == SPIKES else np.float32

    def allocated(self, timesteps: int, images: int) -> tuple[int, ...]:
        """Return the shape of the array that holds so many timesteps and images."""
        channels, height, width = self.shape
        lead = (timesteps,) if self.kind == TIMED else ()
        return (*lead, images, channels, height + self.pads[0] + self.pads[2], width + self.pads[1] + self.pads[3])

    def inside(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the part of a whole array that is not border."""
        _, height, width = self.shape
        top, left = self.pads[:2]
        return array[..., top : top + height, left : left + width]

    def features(self) -> NDArray[np.int64]:
        """Return the position of every feature of the flattened image, counted from the first element that is not
        border.
        """
        channels, height, width = self.shape
        c, y, x = np.ogrid[:channels, :height, :width]
        places: NDArray[np.int64] = (c * self.plane + y * self.pitch + x).reshape(-1)
        return places


@dataclass(frozen=True)
class Buffer:
    """A value of so many timesteps and images, in an array on the GPU."""

    layout: Layout
    array: Any

    def view(self) -> tuple[Any, ...]:
        """Return the arguments of a kernel's OPERAND."""
        layout = self.layout
        _, height, width = layout.shape
        images = self.array.shape[-4]
        return (
            self.pointer(layout.origin),
            np.int32(layout.kind),
            np.int32(width),
            np.int32(height * width),
            np.int32(layout.pitch),
            np.int32(layout.plane),
            np.int64(layout.image),
            np.int64(images * layout.image),
        )

    def pointer(self, element: int = 0) -> Any:
        return np.uint64(self.array.data.ptr + element * self.array.itemsize)


NOTHING = (np.uint64(0), *[np.int32(0)] * 5, *[np.int64(0)] * 2)  # an absent OPERAND
