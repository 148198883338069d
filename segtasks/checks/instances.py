"""What is wrong with an image's instances: with each alone, with two of them, and with the mask beside them.

Measures only: from which amount on one is a finding is a setting. Areas are in pixels, boxes x, y, width, height.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtasks.codecs import rle
from segtasks.codecs.rle import BBox

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Fault:
    """The worst of one kind in an image. `amount`: a share for area and mask, pixels for boxes, a number of instances for the others."""

    kind: str
    what: str
    amount: float


@dataclass(frozen=True)
class InstanceFacts:
    """Pixels of each instance that is no crowd, and what is off."""

    pixels: tuple[int, ...]
    faults: tuple[Fault, ...]


def instance_facts(
    instances: Sequence[Mapping[str, Any]], height: int, width: int, names: Sequence[str], mask: NDArray[Any] | None, ignore_index: int
) -> InstanceFacts:
    """Facts of an image's instances (rows of a shard). `LabelError` for counts that make no mask of the image's size."""
    pixels: list[int] = []
    worst: dict[str, Fault] = {}
    empty: list[str] = []
    seen: dict[tuple[int, bytes], str] = {}
    twice: list[str] = []
    agreement = _Agreement(mask, ignore_index) if mask is not None else None

    def note(kind: str, what: str, amount: float) -> None:
        if amount > 0 and (kind not in worst or amount > worst[kind].amount):
            worst[kind] = Fault(kind, what, amount)

    for number, one in enumerate(instances):
        category, counts = int(one["category_id"]), bytes(one["counts"])
        name = f"instance {number} ({names[category] if 0 <= category < len(names) else f'class {category}'})"
        places = _places(counts, height, width)
        if not one["iscrowd"]:
            pixels.append(len(places))
        if not len(places):
            empty.append(name)
            continue
        if (first := seen.setdefault((category, counts), name)) is not name:
            twice.append(f"{first} and {number}")
        found, box = len(places), _box(places, height)
        note("instance_area", f"{name} has area {one['area']:g}, but {found} pixels", _area_off(float(one["area"]), found, box))
        note("instance_box", f"{name} has box {_text(one['bbox'])}, its pixels {_text(box)}", _box_off(tuple(one["bbox"]), box))
        if agreement is not None and not one["iscrowd"]:
            agreement.add(places, category)
    if empty:
        note("instance_empty", f"{_some(empty)} without a pixel", len(empty))
    if twice:
        note("instance_duplicate", f"{_some(twice)} have the same pixels", len(twice))
    if agreement is not None and (share := agreement.wrong_share()) > 0:
        note("mask_disagrees", f"{share:.1%} of the instances' pixels are of another class in the mask", share)
    return InstanceFacts(tuple(pixels), tuple(worst.values()))


class _Agreement:
    """Which of the instances' pixels the mask gives to a class of an instance there. Where instances overlap, any of theirs will do."""

    def __init__(self, mask: NDArray[Any], ignore_index: int) -> None:
        self._mask = mask.T.reshape(-1)  # column by column, as runs are
        self._covered = np.zeros(self._mask.size, np.bool_)
        self._right = self._mask == ignore_index

    def add(self, places: Ints, category: int) -> None:
        self._covered[places] = True
        self._right[places] |= self._mask[places] == category

    def wrong_share(self) -> float:
        covered = int(self._covered.sum())
        return float((self._covered & ~self._right).sum() / covered) if covered else 0.0


def _places(counts: bytes, height: int, width: int) -> Ints:
    """Positions of the pixels set, counted column by column."""
    runs = rle.runs(counts, height, width).astype(np.int64)
    stops = np.cumsum(runs)[1::2]
    lengths = runs[1::2]
    return np.arange(int(lengths.sum())) + np.repeat(stops - np.cumsum(lengths), lengths)


def _box(places: Ints, height: int) -> BBox:
    rows = places % height
    left, right, top, bottom = int(places[0]) // height, int(places[-1]) // height, int(rows.min()), int(rows.max())
    return float(left), float(top), float(right - left + 1), float(bottom - top + 1)


def _area_off(stated: float, found: int, box: BBox) -> float:
    """How far the area is off beyond half of the box's border, as a share of the larger: a polygon's area has no pixels on its border."""
    border = box[2] + box[3]
    return max(0.0, abs(stated - found) - border) / max(stated, found, 1.0)


def _box_off(stated: Sequence[float], found: BBox) -> float:
    """Pixels that the side of a box is off which is off most."""
    if len(stated) != 4:
        return float("inf")
    x, y, w, h = stated
    left, top, width, height = found
    return max(abs(x - left), abs(y - top), abs(x + w - left - width), abs(y + h - top - height))


def _text(box: Sequence[float]) -> str:
    return f"({', '.join(f'{side:g}' for side in box)})"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
