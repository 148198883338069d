"""In which order objects have to be drawn so that the mask comes out, for formats in which the later one is on top."""

from __future__ import annotations

from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segtasks.codecs import rle
from segtasks.writers._base import Scored


class Placed(NamedTuple):
    """An object's pixels in their own box: whole images of a thousand objects would not fit into memory."""

    top: int
    left: int
    pixels: NDArray[np.bool_]  # of the box

    @property
    def inside(self) -> tuple[slice, slice]:
        """The box, to index the image with."""
        return slice(self.top, self.top + self.pixels.shape[0]), slice(self.left, self.left + self.pixels.shape[1])

    def part(self, top: int, left: int, bottom: int, right: int) -> NDArray[np.bool_]:
        """Of the image's rows and columns, which are inside the box."""
        return self.pixels[top - self.top : bottom - self.top, left - self.left : right - self.left]


def placed(counts: bytes, height: int, width: int) -> Placed:
    """By the pixels: the box that an instance comes with may be its source's own."""
    left, top, w, h = (int(side) for side in rle.bbox(counts, height, width))
    return Placed(top, left, rle.decode_box(counts, height, width, (top, left, h, w)) if w else np.zeros((0, 0), np.bool_))


def drawing_order(objects: Sequence[Scored], places: Sequence[Placed], mask: NDArray[Any] | None) -> list[int]:
    """Places in `objects`, the lowest first.

    Of two that overlap the one whose class the mask shows there is on top. Where the mask does not tell, or contradicts itself, large
    objects are below small ones, and crowds below all others.
    """
    by_size = sorted(range(len(objects)), key=lambda place: (not objects[place].iscrowd, -objects[place].area))
    if mask is None:
        return by_size
    above: dict[int, set[int]] = {place: set() for place in by_size}  # place -> those that must be drawn before it
    for low, high in combinations(by_size, 2):
        if objects[low].category_id == objects[high].category_id:
            continue
        shown = _shown_where_both_are(places[low], places[high], mask)
        low_seen, high_seen = (int((shown == objects[place].category_id).sum()) for place in (low, high))
        if low_seen != high_seen:
            first, second = (low, high) if high_seen > low_seen else (high, low)
            above[second].add(first)
    try:
        return list(TopologicalSorter(above).static_order())
    except CycleError:
        return by_size


def _shown_where_both_are(one: Placed, other: Placed, mask: NDArray[Any]) -> NDArray[Any]:
    top, left = max(one.top, other.top), max(one.left, other.left)
    bottom, right = (min(one.inside[axis].stop, other.inside[axis].stop) for axis in (0, 1))
    if top >= bottom or left >= right:
        return mask[:0]
    box = top, left, bottom, right
    return mask[top:bottom, left:right][one.part(*box) & other.part(*box)]
