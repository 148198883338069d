"""Draw masks over images. Pixels are uint8 H x W x 3, masks H x W of class indices; colours are the spec's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segtasks.reporting.data import Mask, Pixels
from segtasks.spec import DatasetSpec
from segtasks.transforms.resize import resize_mask

WRONG = (225, 29, 72)
IGNORED = (120, 120, 120)


def overlay(image: Pixels, mask: Mask, spec: DatasetSpec, *, alpha: float = 0.5, contour: bool = True) -> Pixels:
    """The image under the mask's colours, with each region's border in its full colour. Pixels of no class keep the image."""
    _require_one_size(image, mask)
    colors = np.array([*(item.color for item in spec.classes), (0, 0, 0)], np.uint8)
    index = np.minimum(mask, spec.num_classes).astype(np.intp)
    is_class = index < spec.num_classes
    opacity = np.where(is_class, alpha, 0.0)
    if contour:
        opacity[is_class & borders(mask)] = 1.0
    return _blend(image, colors[index], opacity)


def error_map(image: Pixels, truth: Mask, prediction: Mask, spec: DatasetSpec) -> Pixels:
    """The image in pale grey, wrong pixels in red, pixels that do not count in darker grey."""
    _require_one_size(image, truth)
    _require_one_size(image, prediction)
    grey = (image @ np.array([0.299, 0.587, 0.114])) * 0.45 + 255 * 0.5
    base = np.repeat(grey[:, :, None], 3, axis=2).astype(np.uint8)
    ignored = truth == spec.ignore_index
    wrong = (truth != prediction) & ~ignored
    colors = np.where(ignored[:, :, None], np.array(IGNORED, np.uint8), np.array(WRONG, np.uint8))
    return _blend(base, colors, np.where(wrong, 0.8, np.where(ignored, 0.7, 0.0)))


def panels(
    image: Pixels, spec: DatasetSpec, truth: Mask | None = None, prediction: Mask | None = None, *, longest: int = 400
) -> list[Pixels]:
    """Image, truth, prediction and errors, as far as given, each brought to about `longest` pixels on its longer side."""
    masks = [mask for mask in (truth, prediction) if mask is not None]
    image, masks = fit(image, masks, longest)
    result = [image, *(overlay(image, mask, spec) for mask in masks)]
    if truth is not None and prediction is not None:
        result.append(error_map(image, masks[0], masks[1], spec))
    return result


def tile(
    image: Pixels, spec: DatasetSpec, truth: Mask | None = None, prediction: Mask | None = None, *, longest: int = 400, gap: int = 4
) -> Pixels:
    """`panels` side by side, with `gap` white pixels between them."""
    parts: list[Pixels] = []
    for panel in panels(image, spec, truth, prediction, longest=longest):
        parts += [np.full((panel.shape[0], gap, 3), 255, np.uint8), panel]
    return np.concatenate(parts[1:], axis=1)


def fit(image: Pixels, masks: list[Mask], longest: int) -> tuple[Pixels, list[Mask]]:
    """Shrink to `longest` pixels on the longer side (image by area, masks by nearest), or enlarge by a whole factor, pixels kept square."""
    height, width = image.shape[:2]
    factor = longest // max(height, width)
    if factor >= 2:
        repeat = [np.repeat(np.repeat(array, factor, axis=0), factor, axis=1) for array in (image, *masks)]
        return repeat[0], repeat[1:]
    if max(height, width) <= longest:
        return image, masks
    scale = longest / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
    return small, [resize_mask(mask, size[1], size[0]) for mask in masks]


def borders(mask: Mask) -> NDArray[np.bool_]:
    """Pixels whose right or lower neighbour has another value."""
    result = np.zeros(mask.shape, bool)
    result[:, :-1] |= mask[:, 1:] != mask[:, :-1]
    result[:-1] |= mask[1:] != mask[:-1]
    return result


def _blend(image: Pixels, colors: Pixels, opacity: NDArray[Any]) -> Pixels:
    weight = opacity[:, :, None]
    blended: Pixels = (image * (1 - weight) + colors * weight + 0.5).astype(np.uint8)
    return blended


def _require_one_size(image: Pixels, mask: Mask) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or mask.shape != image.shape[:2]:
        raise ValueError(f"the image is {image.shape} and the mask is {mask.shape}; needed: H x W x 3 and H x W")
