"""What readers of objects share: the classes with `background` first, an `Instance` from its counts, and a semantic mask painted from them.

Objects do not cover an image, so index 0 is `background` and an object's class is 1 or more; the source's own ids are in `source_id`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtasks.codecs import rle
from segtasks.errors import InputError
from segtasks.readers._base import Instance
from segtasks.readers._describe import voc_color
from segtasks.spec import ClassSpec

MOST_CLASSES = 65_534
BACKGROUND = ClassSpec(name="background", color=(0, 0, 0), isthing=False)


def object_classes(
    names: Sequence[str], source_ids: Sequence[int | None] = (), supercategories: Sequence[str] = ()
) -> tuple[ClassSpec, ...]:
    """`background` and then one class a name, in VOC's colours. `InputError` for names that are none, and for too many of them."""
    if len(names) > MOST_CLASSES:
        raise InputError(f"there are {len(names)} classes, {names[0][:30]!r}, ...; needed: {MOST_CLASSES} at most")
    things = []
    for at, name in enumerate(names):
        if not name or not is_text(name):
            raise InputError(f"a class has the name {name[:60]!r}; needed: a text, which can be written in UTF-8")
        source_id = source_ids[at] if source_ids else None
        group = supercategories[at] if supercategories else ""
        things.append(ClassSpec(name=name, color=voc_color(at + 1), source_id=source_id, isthing=True, supercategory=group))
    return (BACKGROUND, *things)


def is_text(name: str) -> bool:
    """JSON and YAML can say half a character, \\ud800, which no file can hold."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def object_of(
    category: int, counts: bytes, height: int, width: int, *, iscrowd: bool = False, area: float | None = None, bbox: rle.BBox | None = None
) -> Instance:
    """An instance; area (pixels) and box are those of the counts unless the source says others. `LabelError` for bad counts."""
    return Instance(
        category_id=category,
        bbox=rle.bbox(counts, height, width) if bbox is None else bbox,
        area=float(rle.area(counts, height, width)) if area is None else area,
        counts=counts,
        iscrowd=iscrowd,
    )


def paint(instances: Sequence[Instance], height: int, width: int, *, ignore_index: int) -> NDArray[Any]:
    """Class indices HxW (uint8, from 256 on uint16): large objects first, so that smaller ones stay visible on them; crowds are ignored.

    Objects may overlap and a mask cannot say so: the instances stay the truth.
    """
    mask = np.zeros(height * width, np.uint8 if ignore_index < 256 else np.uint16)  # column by column, as runs are
    order = sorted(instances, key=lambda one: (not one.iscrowd, -rle.area(one.counts, height, width)))
    for one in order:
        fill(mask, one.counts, height, width, ignore_index if one.iscrowd else one.category_id)
    return np.ascontiguousarray(mask.reshape(width, height).T)


def fill(columns: NDArray[Any], counts: bytes, height: int, width: int, value: int) -> None:
    """Give the pixels of `counts` a value, in an image that is flat, column by column. `LabelError` as in `rle.decode`."""
    ends = np.cumsum(rle.runs(counts, height, width), dtype=np.int64)
    for start, stop in zip(ends[0::2].tolist(), ends[1::2].tolist()):
        columns[start:stop] = value
