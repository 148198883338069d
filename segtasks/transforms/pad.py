"""Put an image and its mask on a larger canvas: the image's surroundings hold a colour, the mask's the ignore value."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int]


def pad_image(image: NDArray[np.uint8], canvas: Size, offset: Size, fill: tuple[int, int, int]) -> NDArray[np.uint8]:
    """uint8 HxWx3 at `offset` (top, left) of a `canvas` (height, width) of the RGB colour `fill`; as it is where it covers it."""
    if image.shape[:2] == canvas:
        return image
    padded = np.empty((*canvas, 3), np.uint8)
    padded[:] = fill
    padded[_place(image, offset)] = image
    return padded


def pad_mask(mask: NDArray[np.unsignedinteger[Any]], canvas: Size, offset: Size, ignore_index: int) -> NDArray[np.unsignedinteger[Any]]:
    """Class indices HxW likewise. An ignore value above 255 does not fit an 8-bit mask that happens to hold none: it becomes 16-bit."""
    if mask.shape == canvas:
        return mask
    padded = np.full(canvas, ignore_index, mask.dtype if ignore_index <= np.iinfo(mask.dtype).max else np.uint16)
    padded[_place(mask, offset)] = mask
    return padded


def _place(array: NDArray[Any], offset: Size) -> tuple[slice, slice]:
    return np.s_[offset[0] : offset[0] + array.shape[0], offset[1] : offset[1] + array.shape[1]]
