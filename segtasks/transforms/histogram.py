"""How many pixels of each class a mask has."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_pairs_from = 1 << 16  # pixels: above, half as many pairs and a table of 65,536 are faster (480x360: 0.20 ms against 0.31)


def class_pixels(mask: NDArray[np.unsignedinteger[Any]], num_classes: int) -> NDArray[np.int64]:
    """Pixels of each class of a mask HxW of class indices; values from `num_classes` on (ignored pixels) are not counted."""
    values = np.ascontiguousarray(mask).reshape(-1)
    if values.dtype == np.uint8 and _pairs_from <= values.size and values.size % 2 == 0:
        pairs = np.bincount(values.view(np.uint16), minlength=1 << 16).reshape(256, 256)
        both: NDArray[np.int64] = (pairs.sum(axis=0) + pairs.sum(axis=1))[:num_classes].astype(np.int64)
        return both
    counts: NDArray[np.int64] = np.bincount(values, minlength=num_classes)[:num_classes].astype(np.int64)
    return counts
