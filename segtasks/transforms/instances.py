"""Objects go where their image goes: cut, resized and padded exactly as a mask is. A mask is separable, so rows and columns say it all.

`rows` and `columns` hold, for each row (column) of the result, the source's that it shows, ascending, or -1 for padding before and after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtasks.codecs import rle
from segtasks.errors import LabelError

Places = NDArray[np.intp]


class Objects:
    """The `instances` of one row with their exact boxes, so that a tile looks only at those that reach into it."""

    def __init__(self, instances: Sequence[Mapping[str, Any]], height: int, width: int) -> None:
        """`LabelError` for counts that do not make a mask of the image's `height` x `width`."""
        for one in instances:
            if list(one["size"]) != [height, width]:
                raise LabelError(f"an instance is {'x'.join(map(str, one['size']))}, its image {height}x{width} (height x width)")
        self._instances = instances
        self._size = height, width
        boxes = [rle.bbox(one["counts"], height, width) for one in instances]
        self._xywh = np.array(boxes, np.float64).reshape(-1, 4).astype(np.int64)

    def moved(self, rows: Places, columns: Places) -> list[dict[str, Any]]:
        """Those that have a pixel in the result, in their order, with its box and area (pixels); crowds stay crowds.

        An object takes no more memory than its box, or what of it the result shows.
        """
        top, shown_rows = _shown(rows)
        left, shown_columns = _shown(columns)
        y_starts, y_stops = np.searchsorted(shown_rows, [self._xywh[:, 1], self._xywh[:, 1] + self._xywh[:, 3]])
        x_starts, x_stops = np.searchsorted(shown_columns, [self._xywh[:, 0], self._xywh[:, 0] + self._xywh[:, 2]])
        found = []
        for place in np.flatnonzero((y_stops > y_starts) & (x_stops > x_starts)).tolist():
            y, x = slice(y_starts[place], y_stops[place]), slice(x_starts[place], x_stops[place])
            mask = self._take(self._instances[place], shown_rows[y], shown_columns[x])
            if mask.any():
                found.append(_placed(self._instances[place], mask, top + int(y.start), left + int(x.start), len(rows), len(columns)))
        return found

    def _take(self, one: Mapping[str, Any], rows: Places, columns: Places) -> NDArray[np.bool_]:
        height, width = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
        box = rle.decode_box(one["counts"], *self._size, (int(rows[0]), int(columns[0]), height, width))
        if (height, width) == (len(rows), len(columns)):  # each row and column once: nothing is resized
            return box
        shown: NDArray[np.bool_] = box.take(columns - columns[0], axis=1).take(rows - rows[0], axis=0)
        return shown


def _shown(places: Places) -> tuple[int, Places]:
    """Where the source begins in the result, and its rows or columns from there on."""
    inside = np.flatnonzero(places >= 0)
    return (int(inside[0]), places[inside]) if len(inside) else (0, places[:0])


def _placed(one: Mapping[str, Any], mask: NDArray[np.bool_], top: int, left: int, height: int, width: int) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = left + int(columns[0]), top + int(rows[0])
    return {
        **one,
        "bbox": [float(x), float(y), float(columns[-1] - columns[0] + 1), float(rows[-1] - rows[0] + 1)],
        "area": float(np.count_nonzero(mask)),
        "size": [height, width],
        "counts": rle.encode_at(mask, top, left, height, width),
    }
