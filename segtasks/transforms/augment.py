"""Joint augmentation of an image and its mask: zoom, crop, flip, colour. Image and mask see one and the same geometry.

Zoom and crop are one step: a box of the source is resized to the output, so the cost is the output's, not the zoomed image's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtasks.transforms.config import AugmentConfig
from segtasks.transforms.pad import pad_image, pad_mask
from segtasks.transforms.resize import resize_image, resize_mask
from segtasks.transforms.seeding import generator

Image = NDArray[np.uint8]
Mask = NDArray[np.unsignedinteger[Any]]

_GRAY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601 luma


def augment(
    image: Image, mask: Mask, config: AugmentConfig, *, key: tuple[int | str, ...], fill: tuple[int, int, int], ignore_index: int
) -> tuple[Image, Mask]:
    """Augment uint8 HxWx3 and HxW into the crop's size (the image's own without a crop).

    `key` is (seed, epoch, image id): the same key gives the same bytes. Where the zoomed image does not cover the crop, the
    image holds `fill` (RGB) and the mask `ignore_index`.
    """
    rng = generator(*key)
    zoom = math.exp(rng.uniform(math.log(config.scale[0]), math.log(config.scale[1])))
    height, width = config.crop or image.shape[:2]
    rows = _cut(image.shape[0], height, zoom, rng)
    columns = _cut(image.shape[1], width, zoom, rng)
    box = np.s_[rows.start : rows.stop, columns.start : columns.stop]
    image = resize_image(image[box], rows.length, columns.length)
    mask = resize_mask(mask[box], rows.length, columns.length)
    flipped = rng.random() < config.flip
    strengths = np.array([config.brightness, config.contrast, config.saturation])
    factors = 1 + rng.uniform(-strengths, strengths)
    if strengths.any():
        image = jitter_color(image, *factors.tolist())  # before the padding, which keeps its colour
    offset = rows.offset, columns.offset
    image = pad_image(image, (height, width), offset, fill)
    mask = pad_mask(mask, (height, width), offset, ignore_index)
    if flipped:
        image, mask = image[:, ::-1], mask[:, ::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(mask)


class _Cut:
    """One axis: `source[start:stop]` becomes `length` pixels at `offset` of the output."""

    __slots__ = ("length", "offset", "start", "stop")

    def __init__(self, start: int, stop: int, offset: int, length: int) -> None:
        self.start, self.stop, self.offset, self.length = start, stop, offset, length


def _cut(source: int, target: int, zoom: float, rng: np.random.Generator) -> _Cut:
    place = rng.random()
    zoomed = max(1, round(source * zoom))
    if zoomed <= target:  # the whole axis fits: place it, the rest is padding
        return _Cut(0, source, int(place * (target - zoomed + 1)), zoomed)
    taken = min(source, max(1, round(target * source / zoomed)))
    start = int(place * (source - taken + 1))
    return _Cut(start, start + taken, 0, target)


def jitter_color(image: Image, brightness: float, contrast: float, saturation: float) -> Image:
    """Multiply brightness, then saturation (about each pixel's grey), then contrast (about the mean grey); 1 leaves as it is.

    Each is affine in RGB, so together they are one 3x3 matrix and an offset, rounded and clipped once.
    """
    # whole numbers, summed along memory first: exact, and six times faster than a mean over the short axis
    sums_3 = image.reshape(image.shape[0], -1).sum(axis=0, dtype=np.uint64).reshape(-1, 3).sum(axis=0)
    mean_gray = brightness * float(sums_3 @ _GRAY.astype(np.float64)) / (image.shape[0] * image.shape[1])
    matrix = saturation * np.eye(3) + (1 - saturation) * np.broadcast_to(_GRAY, (3, 3))
    matrix_33 = (brightness * contrast * matrix).astype(np.float32)
    offset = np.float32((1 - contrast) * mean_gray + 0.5)
    jittered_P3 = image.reshape(-1, 3).astype(np.float32) @ matrix_33.T
    jittered_P3 += offset
    return np.clip(jittered_P3, 0, 255, out=jittered_P3).astype(np.uint8).reshape(image.shape)
