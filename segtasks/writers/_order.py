"""In which order objects have to be drawn so that the mask comes out, for formats in which the later one is on top."""

from __future__ import annotations

from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtasks.writers._base import Scored


def drawing_order(objects: Sequence[Scored], pixels: Sequence[NDArray[np.bool_]], mask: NDArray[Any] | None) -> list[int]:
    """Places in `objects`, the lowest first. `pixels` are theirs, HxW.

    Of two that overlap the one whose class the mask shows there is on top. Where the mask does not tell, or contradicts itself, large
    objects are below small ones, and crowds below all others.
    """
    by_size = sorted(range(len(objects)), key=lambda place: (not objects[place].iscrowd, -objects[place].area))
    if mask is None:
        return by_size
    above: dict[int, set[int]] = {place: set() for place in by_size}  # place -> those that must be drawn before it
    for low, high in combinations(by_size, 2):
        if objects[low].category_id == objects[high].category_id or not _boxes_meet(objects[low], objects[high]):
            continue
        shared = mask[pixels[low] & pixels[high]]
        low_seen, high_seen = (int((shared == objects[place].category_id).sum()) for place in (low, high))
        if low_seen != high_seen:
            first, second = (low, high) if high_seen > low_seen else (high, low)
            above[second].add(first)
    try:
        return list(TopologicalSorter(above).static_order())
    except CycleError:
        return by_size


def _boxes_meet(one: Scored, other: Scored) -> bool:
    (left, top, width, height), (x, y, w, h) = one.bbox, other.bbox
    return left < x + w and x < left + width and top < y + h and y < top + height
