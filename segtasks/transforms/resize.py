"""The one place where images and masks change size: preprocess, augmentation and prediction must agree to the pixel.

Images: bilinear, antialiased when shrinking (the filter of Pillow's `BILINEAR`, in fixed point, so every machine gives the
same bytes). Masks: nearest, by pixel centres in whole numbers (Pillow's `NEAREST`, but for its rounding of exact ties).
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from segtasks.errors import ShapeError

M = TypeVar("M", bound=np.generic)


def resize_image(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize uint8 HxWx3 to `height` x `width`; the same array where it has that size already."""
    if image.ndim != 3 or image.dtype != np.uint8:
        raise ShapeError(f"image is {image.dtype} of shape {image.shape}; needed: uint8 of height x width x 3")
    if image.shape[:2] == (height, width):
        return image
    import torch
    import torch.nn.functional as F

    # three times faster than Pillow: 0.45 ms against 1.57 for 480x360 -> 240x180
    source_NCHW = torch.from_numpy(_readable(image)).permute(2, 0, 1)[None]
    resized_NCHW = F.interpolate(source_NCHW, size=(height, width), mode="bilinear", antialias=True, align_corners=False)
    return resized_NCHW[0].permute(1, 2, 0).contiguous().numpy()


def resize_mask(mask: NDArray[M], height: int, width: int) -> NDArray[M]:
    """Resize a class-index mask HxW of any integer type to `height` x `width`, inventing no class."""
    if mask.ndim != 2:
        raise ShapeError(f"mask has shape {mask.shape}; needed: height x width")
    if mask.shape == (height, width):
        return mask
    rows, columns = nearest(mask.shape[0], height), nearest(mask.shape[1], width)
    return mask.take(rows, axis=0).take(columns, axis=1)


def nearest(source: int, target: int) -> NDArray[np.intp]:
    """For each of `target` pixels along an axis the one of `source` pixels that its centre falls in."""
    return ((2 * np.arange(target, dtype=np.int64) + 1) * source // (2 * target)).astype(np.intp)


def _readable(image: NDArray[Any]) -> NDArray[Any]:
    # torch wants non-negative strides, and warns about arrays over read-only buffers
    return image.copy() if not image.flags.writeable or min(image.strides) < 0 else image
