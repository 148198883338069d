"""Polygons around the pixels of a mask, for formats that have no other way. They run along the pixels' edges, so that filled by
pycocotools' rule (`rle.encode_polygons`) they give the mask again, pixel by pixel.

A polygon cannot have a hole: its outline is joined to those of its holes by a way that is walked there and back.
"""

from __future__ import annotations

import numpy as np
import rlemasklib
from numpy.typing import NDArray

from segtasks.codecs import rle

Corner = tuple[int, int]  # x, y


def outlines(counts: bytes, height: int, width: int) -> list[list[float]]:
    """One flat x, y, x, y, ... (pixels from the top left corner) for each 4-connected part of the mask; `LabelError` as in `rle.decode`."""
    rle.runs(counts, height, width)
    parts = rlemasklib.connected_components({"size": [height, width], "counts": counts}, connectivity=4)
    return [_outline(bytes(part["counts"]), height, width) for part in parts]


def outline(counts: bytes, height: int, width: int) -> list[float]:
    """One polygon for the whole mask, its parts joined like holes; empty for an empty mask. For formats of one polygon an object."""
    parts = outlines(counts, height, width)
    joined = parts[0] if parts else []
    start = joined[:2]
    for part in parts[1:]:
        corner = [part[0], start[1]]  # by right angles, as the way there must be that back to the pixel
        joined += [*start, *corner, *part, *part[:2], *corner, *start]
    return joined


def _outline(counts: bytes, height: int, width: int) -> list[float]:
    """Of one part: the outer loop first, then there and back to each hole."""
    left, top, w, h = (int(side) for side in rle.bbox(counts, height, width))
    loops = _loops(rle.decode_box(counts, height, width, (top, left, h, w)))
    outer = min(range(len(loops)), key=lambda at: min(loops[at]))  # it alone has the leftmost corner
    path = [*loops[outer], loops[outer][0]]
    (start_x, start_y) = path[0]
    for at, loop in enumerate(loops):
        if at != outer:
            x, y = loop[0]
            path += [(x, start_y), *loop, (x, y), (x, start_y), (start_x, start_y)]
    if len(path) > 1 and path[0] == path[-1]:
        path.pop()
    return [float(value) for x, y in path for value in (x + left, y + top)]


def _loops(mask: NDArray[np.bool_]) -> list[list[Corner]]:
    """Closed loops of right-angled corners. Corners of one row are joined in pairs, as are those of one column (where two parts touch at
    a corner it counts twice)."""
    padded = np.pad(mask.astype(np.int8), 1)
    here, right, below, across = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    count = here + right + below + across
    touching = (count == 2) & (here == across)
    y, x = np.nonzero((count == 1) | (count == 3) | touching)
    times = 1 + touching[y, x].astype(np.int64)
    y, x = np.repeat(y, times), np.repeat(x, times)
    along_row = _partners(np.lexsort((x, y)))
    along_column = _partners(np.lexsort((y, x)))
    corners = list(zip(x.tolist(), y.tolist()))
    used = bytearray(len(corners))
    loops = []
    for first in range(len(corners)):
        if used[first]:
            continue
        current = first
        loop: list[Corner] = []
        while True:
            for partner in (along_row, along_column):
                loop.append(corners[current])
                used[current] = True
                current = partner[current]
            if current == first:
                break
        loops.append(loop)
    return loops


def _partners(order: NDArray[np.intp]) -> list[int]:
    """In this order the corners are joined two by two."""
    partner = np.empty(order.size, np.int64)
    partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]
    found: list[int] = partner.tolist()
    return found
