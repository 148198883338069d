"""`gtFine_polygons.json` to an image of instance ids, by the rule of cityscapesScripts' `json2instanceImg.py`.

Objects are drawn in the file's order, later ones over earlier ones, by Pillow's `ImageDraw.polygon` (outline included), which is what
cityscapesScripts calls too: the pixels are the same with the same Pillow, whose own rounding of edges has changed over the years.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segtasks.errors import LabelError
from segtasks.readers._cityscapes_labels import BY_NAME

_per_class = 1000
_far = 1e6  # pixels from the origin; Pillow walks an edge row by row
_UNDRAWN = frozenset(("license plate",))  # of id -1


def raw_ids(ids: NDArray[Any]) -> NDArray[np.uint16]:
    """The class of instance ids: id * 1000 + n, or the id alone."""
    wide = ids.astype(np.uint16)
    classes: NDArray[np.uint16] = np.where(wide < _per_class, wide, wide // np.uint16(_per_class))
    return classes


def draw_ids(data: bytes, path: str, max_pixels: int) -> NDArray[np.uint16]:
    """Instance ids HxW; 0 (unlabeled) where nothing is drawn. `LabelError` names the object that is wrong."""
    try:
        content = json.loads(data)
        height, width, objects = content["imgHeight"], content["imgWidth"], content["objects"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise LabelError(
            f"{path} is not a Cityscapes annotation ({type(error).__name__}: {error}): needed imgHeight, imgWidth, objects"
        ) from error
    if not (type(height) is int and type(width) is int and isinstance(objects, list) and 0 < height * width <= max_pixels and height > 0):
        raise LabelError(f"{path} says {str(height)[:20]}x{str(width)[:20]} pixels; needed: two whole numbers, up to {max_pixels} pixels")
    canvas = Image.new("I", (width, height), 0)
    drawer = ImageDraw.Draw(canvas)
    seen: Counter[str] = Counter()
    for number, one in enumerate(objects):
        where = f"{path}, object {number}"
        if not isinstance(one, dict):
            raise LabelError(f"{where} is {str(one)[:60]}; needed: a label and a polygon")
        if one.get("deleted"):
            continue
        name, is_group = _class_of(one.get("label"), where)
        corners = _corners(one.get("polygon"), where)
        if name in _UNDRAWN:
            continue
        value = BY_NAME[name].id
        if BY_NAME[name].has_instances and not is_group:
            value = value * _per_class + seen[name]
            seen[name] += 1
            if seen[name] > _per_class:
                raise LabelError(f"{where} is one {name} more than {_per_class}, which ids of id * {_per_class} + n cannot tell apart")
        drawer.polygon(corners, fill=value)
    return np.asarray(canvas).astype(np.uint16)


def _class_of(label: Any, where: str) -> tuple[str, bool]:
    """The class's name, and whether it is a group: `cargroup` is one of `car`, `polegroup` a class of its own."""
    for name, is_group in ((label, False), (label.removesuffix("group") if isinstance(label, str) else "", True)):
        if isinstance(name, str) and (name in BY_NAME or name in _UNDRAWN):
            return name, is_group
    raise LabelError(f"{where} has the label {str(label)[:60]!r}, which is none of Cityscapes")


def _corners(polygon: Any, where: str) -> list[tuple[float, float]]:
    """As cityscapesScripts takes them: two corners make a line."""
    if isinstance(polygon, list) and len(polygon) >= 2 and all(_is_point(point) for point in polygon):
        return [(point[0], point[1]) for point in polygon]
    raise LabelError(f"{where} has the polygon {str(polygon)[:60]}; needed: pairs x, y of at least two corners, in pixels")


def _is_point(point: Any) -> bool:
    return (
        isinstance(point, list)
        and len(point) >= 2
        and all(type(value) in (int, float) and math.isfinite(value) and abs(value) <= _far for value in point[:2])
    )
