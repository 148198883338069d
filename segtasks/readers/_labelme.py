"""labelme's JSON: its shapes checked, and drawn as masks. Whatever is wrong with one is a `LabelError` that names it."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segtasks.codecs import rle
from segtasks.codecs.mask import decode_label
from segtasks.errors import DataFault, LabelError
from segtasks.storage import Entry, Store

Fill = Literal["labelme", "coco"]
POLYGONS = ("polygon", "oriented_rectangle", "rotation")  # labelme 6's and X-AnyLabeling's words for a turned rectangle
AREAS = (*POLYGONS, "rectangle", "circle", "mask")
LINES = ("line", "linestrip", "point", "points")
_head_bytes = 1 << 20
_far = 1e6  # pixels from the origin, as in `rle.encode_polygons`
_largest_radius = 1e5  # Pillow takes minutes for circles of a million pixels
_image_data = re.compile(rb'(?<!\\)"imageData"\s*:\s*"')


@dataclass(frozen=True)
class Shape:
    """One shape as labelme draws it. `points` is Nx2, x and y in pixels of the image as labelme shows it."""

    label: str
    kind: str
    points: NDArray[np.float64]
    group: int | str | None
    mask: str  # of the kind `mask`: a PNG in base64
    flags: tuple[str, ...]  # those that are set


def read_head(source: Store, entry: Entry) -> Any:
    """The JSON, of an embedded image only that there is one (labelme writes it last). `ValueError` or `RecursionError` for no JSON."""
    start = source.read_range(entry.path, 0, min(entry.size, _head_bytes)) if entry.size else b""  # stores refuse empty ranges
    found = _image_data.search(start)
    if found:
        try:
            fields = json.loads(start[: found.start()].rstrip().removesuffix(b",") + b"}")
        except ValueError:
            fields = {}
        if "shapes" in fields and "imagePath" in fields:
            return {**fields, "imageData": "embedded"}
    return json.loads(start if len(start) == entry.size else source.read(entry.path))


def parse(data: bytes, path: str) -> dict[str, Any]:
    """`LabelError` for what is no JSON, or none of labelme's."""
    try:
        fields = json.loads(data)
    except json.JSONDecodeError as error:
        raise LabelError(f"{path} is not valid JSON: {error.msg}, line {error.lineno}, column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # no UTF-8; a number of thousands of digits; lists in lists in lists
        raise LabelError(f"{path} cannot be read as JSON: {error}") from error
    if not is_labelme(fields):
        found = f"has {', '.join(sorted(fields)[:6]) or 'nothing'}" if isinstance(fields, dict) else f"is a {type(fields).__name__}"
        raise LabelError(f"{path} is none of labelme's: it {found}; needed: an object with a list of shapes")
    return dict(fields)


def is_labelme(fields: Any) -> bool:
    return isinstance(fields, dict) and isinstance(fields.get("shapes"), list)


def labels(fields: Mapping[str, Any], *, lines: bool) -> Iterator[str]:
    """Of the shapes that have an area (or are drawn); malformed ones are passed over."""
    kinds = (*AREAS, *LINES) if lines else AREAS
    for shape in fields["shapes"]:
        label = shape.get("label") if isinstance(shape, dict) else None
        if isinstance(label, str) and label.strip() and (shape.get("shape_type") or "polygon") in kinds:
            yield label.strip()


def shapes(fields: Mapping[str, Any], path: str) -> Iterator[tuple[str, Shape]]:
    """Where each shape is, for messages, and the shape."""
    for number, found in enumerate(fields["shapes"]):
        where = f"{path}: shapes[{number}]"
        if not isinstance(found, dict):
            raise LabelError(f"{where} is {_short(found)}; needed: an object")
        label, kind, group = found.get("label"), found.get("shape_type") or "polygon", found.get("group_id")
        if not isinstance(label, str) or not label.strip():
            raise LabelError(f"{where} has the label {_short(label)}; needed: the name of a class")
        if kind not in AREAS and kind not in LINES:
            raise LabelError(f"{where} is of the shape_type {_short(kind)}; known: {', '.join((*AREAS, *LINES))}")
        if group is not None and (not isinstance(group, (int, str)) or isinstance(group, bool)):
            raise LabelError(f"{where} has the group_id {_short(group)}; needed: a number")
        flags = found.get("flags")
        marked = tuple(str(flag) for flag, on in flags.items() if on is True) if isinstance(flags, dict) else ()
        mask = found.get("mask")
        yield where, Shape(label.strip(), kind, _points(found.get("points"), where), group, mask if isinstance(mask, str) else "", marked)


def draw(shape: Shape, height: int, width: int, where: str, *, fill: Fill, line_width: int, max_pixels: int) -> bytes:
    """Compressed counts of the shape's pixels, by labelme's own rule (Pillow: outlines belong to it) or by that of pycocotools.

    Lines are `line_width` wide, points discs of that width. Masks are pasted whatever the rule.
    """
    count = len(shape.points)
    if shape.kind == "mask":
        return _paste(shape, height, width, where, max_pixels)
    if (shape.kind in ("line", "circle") and count != 2) or (shape.kind == "rectangle" and count not in (2, 4)):
        raise LabelError(f"{where} is a {shape.kind} of {count} points; needed: two")
    if shape.kind in POLYGONS and count < 3:
        raise LabelError(f"{where} is a {shape.kind} of {count} points; needed: three or more")
    if shape.kind == "circle" and _radius(shape) > _largest_radius:
        raise LabelError(f"{where} is a circle with a radius of {_radius(shape):.0f} pixels; needed: {_largest_radius:.0f} at most")
    if fill == "coco" and shape.kind not in LINES:
        try:
            return rle.encode_polygons([_corners(shape).reshape(-1).tolist()], height, width)
        except LabelError as fault:
            raise LabelError(f"{where}: {fault}") from fault
    image = Image.new("L", (width, height))
    _draw(shape, ImageDraw.Draw(image), line_width)
    box = image.getbbox()
    left, top = box[:2] if box else (0, 0)
    return rle.encode_at(np.array(image.crop(box) if box else image.crop((0, 0, 1, 1)), dtype=bool), top, left, height, width)


def _draw(shape: Shape, pen: ImageDraw.ImageDraw, line_width: int) -> None:
    """As labelme's `shape_to_mask` does."""
    points = [(x, y) for x, y in shape.points.tolist()]
    if shape.kind == "circle":
        (x, y), radius = points[0], _radius(shape)
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=1, fill=1)
    elif shape.kind == "rectangle" and len(points) == 2:
        left, top, right, bottom = _sides(shape)
        pen.rectangle((left, top, right, bottom), outline=1, fill=1)
    elif shape.kind in ("point", "points"):
        for x, y in points:
            pen.ellipse((x - line_width / 2, y - line_width / 2, x + line_width / 2, y + line_width / 2), outline=1, fill=1)
    elif shape.kind in LINES:
        pen.line(points, fill=1, width=line_width)
    else:
        pen.polygon(points, outline=1, fill=1)


def _corners(shape: Shape) -> NDArray[np.float64]:
    """Those of a polygon; of a rectangle and a circle as labelme2coco writes them."""
    if shape.kind == "rectangle" and len(shape.points) == 2:
        left, top, right, bottom = _sides(shape)
        return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    if shape.kind != "circle":
        return shape.points
    radius = _radius(shape)
    count = max(int(math.pi / math.acos(1 - 1 / radius)), 12) if radius > 1 else 12  # nowhere more than a pixel from the circle
    angles = 2 * math.pi / count * np.arange(count)
    (x, y), _ = shape.points.tolist()
    return np.stack([x + radius * np.sin(angles), y + radius * np.cos(angles)], axis=1)


def _radius(shape: Shape) -> float:
    """Of a circle about its first point through its second."""
    return math.dist(*shape.points.tolist())


def _sides(shape: Shape) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a rectangle of two points, which may be any of its corners."""
    (left, top), (right, bottom) = shape.points.min(axis=0).tolist(), shape.points.max(axis=0).tolist()
    return left, top, right, bottom


def _paste(shape: Shape, height: int, width: int, where: str, max_pixels: int) -> bytes:
    """The mask in the box of its two points; their pixels belong to it. A larger mask is cropped, as labelme does."""
    if len(shape.points) != 2 or not shape.mask:
        raise LabelError(f"{where} is a mask of {len(shape.points)} points{'' if shape.mask else ' and no mask'}; needed: two, and a PNG")
    try:
        values = decode_label(base64.b64decode(shape.mask), max_pixels)
    except (DataFault, binascii.Error, ValueError) as error:
        raise LabelError(f"{where}: its mask is no image: {error}") from error
    patch = (values if values.ndim == 2 else values.max(axis=2)) != 0
    (left, top), (right, bottom) = shape.points.round().astype(int).tolist()
    if (shape.points == np.trunc(shape.points)).all():
        patch = patch[: max(0, bottom - top + 1), : max(0, right - left + 1)]
        if patch.shape != (bottom - top + 1, right - left + 1):
            found = f"{patch.shape[0]}x{patch.shape[1]}"
            raise LabelError(f"{where}: its mask is {found}, its box {bottom - top + 1}x{right - left + 1} (height x width)")
    inside = patch[max(0, -top) : max(0, height - top), max(0, -left) : max(0, width - left)]
    if not inside.size:
        return rle.encode_polygons([], height, width)
    return rle.encode_at(inside, max(0, top), max(0, left), height, width)


def _points(found: Any, where: str) -> NDArray[np.float64]:
    try:
        points = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise LabelError(f"{where} has the points {_short(found)}, which are no pairs of numbers") from error
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all() or np.abs(points).max() > _far:
        raise LabelError(f"{where} has the points {_short(found)}; needed: a list of [x, y] in pixels")
    return points


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
