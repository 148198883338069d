"""Where a resize puts an image. The image, its mask, its objects and its prediction go by the same `Fit`, so they stay on each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtasks.spec import Resize
from segtasks.transforms.pad import pad_image, pad_mask
from segtasks.transforms.resize import nearest, resize_image, resize_mask


@dataclass(frozen=True)
class Fit:
    """`height` x `width` pixels at (`top`, `left`) of a canvas of `canvas` (height, width): all of it, except with letterbox."""

    height: int
    width: int
    canvas: tuple[int, int]
    top: int = 0
    left: int = 0

    @property
    def inside(self) -> tuple[slice, slice]:
        """The part of the canvas that shows the image."""
        return np.s_[self.top : self.top + self.height, self.left : self.left + self.width]

    def rows(self, height: int) -> NDArray[np.intp]:
        """For each row of the canvas the row of an image of `height` that a mask shows there; -1: padding."""
        return _axis(height, self.height, self.top, self.canvas[0])

    def columns(self, width: int) -> NDArray[np.intp]:
        """Likewise for columns."""
        return _axis(width, self.width, self.left, self.canvas[1])


def plan_fit(height: int, width: int, resize: Resize | None) -> Fit:
    """Where an image of `height` x `width` goes. Sides are rounded to the nearest pixel, halves up, and are 1 at least."""
    if resize is None:
        return Fit(height, width, (height, width))
    if resize.fixed is None:
        assert resize.size is not None
        side = max(height, width) if resize.policy == "longest" else min(height, width)
        fitted = _scaled(height, resize.size, side), _scaled(width, resize.size, side)
        return Fit(*fitted, fitted)
    canvas = resize.fixed
    if resize.policy == "stretch":
        return Fit(*canvas, canvas)
    if canvas[0] * width <= canvas[1] * height:  # whole numbers: the same on every machine
        fitted = canvas[0], min(canvas[1], _scaled(width, canvas[0], height))
    else:
        fitted = min(canvas[0], _scaled(height, canvas[1], width)), canvas[1]
    return Fit(*fitted, canvas, (canvas[0] - fitted[0]) // 2, (canvas[1] - fitted[1]) // 2)


def fit_image(image: NDArray[np.uint8], fit: Fit, fill: tuple[int, int, int]) -> NDArray[np.uint8]:
    """uint8 HxWx3 resized and put on its canvas of the colour `fill`."""
    return pad_image(resize_image(image, fit.height, fit.width), fit.canvas, (fit.top, fit.left), fill)


def fit_mask(mask: NDArray[np.unsignedinteger[Any]], fit: Fit, ignore_index: int) -> NDArray[np.unsignedinteger[Any]]:
    """Class indices HxW likewise, the padding ignored."""
    return pad_mask(resize_mask(mask, fit.height, fit.width), fit.canvas, (fit.top, fit.left), ignore_index)


def _scaled(length: int, size: int, side: int) -> int:
    return max(1, (2 * length * size + side) // (2 * side))


def _axis(source: int, length: int, offset: int, canvas: int) -> NDArray[np.intp]:
    places = np.full(canvas, -1, np.intp)
    places[offset : offset + length] = nearest(source, length)
    return places
