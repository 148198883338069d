"""A small sound data set of each format, made here. A new reader adds a module of its name with

- `write(store)`: the data set, of every split and kind of label that the format has;
- `break_one(store)`: spoils the truth of one image and returns its id, which `read` must refuse; its neighbours stay sound;
- `options` (if it needs any): those of the reader's `Config`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PALETTE = [(0, 0, 0), (200, 0, 0), (0, 200, 0), (0, 0, 200)]


def photo(seed: int, height: int = 12, width: int = 16) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def labels(seed: int, values: int, height: int = 12, width: int = 16) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, values, (height, width), dtype=np.uint8)
