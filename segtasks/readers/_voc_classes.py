"""VOC's classes and colours, and what labelme's `class_names.txt` and CVAT's `labelmap.txt` say instead.

A spec by `labelmap.txt` is encoded by colour; a class that is not at its index in that file, since an ignored one comes before it, has its
place there as `source_id`.
"""

from __future__ import annotations

from collections.abc import Sequence

from segtasks.errors import InputError
from segtasks.readers._describe import Color, voc_color
from segtasks.spec import ClassSpec, DatasetSpec, LabelEncoding
from segtasks.storage import Store

# In index order; the colours are those of VOCdevkit's VOClabelcolormap.m.
CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
VOID_COLOR = (224, 224, 192)  # index 255 of the palette
VOID = 255
_ignored = ("__ignore__", "ignored")  # labelme's and Datumaro's word for void
_background = ("background", "_background_")


def find_spec(source: Store, root: str, name: str) -> DatasetSpec:
    """By `labelmap.txt` or `class_names.txt` in `root` or the source, else VOC's own classes."""
    for folder in dict.fromkeys((root, "")):
        for file, parse in (("labelmap.txt", _from_labelmap), ("class_names.txt", _from_names)):
            path = f"{folder}/{file}" if folder else file
            try:
                text = source.read(path).decode("utf-8-sig")
            except FileNotFoundError:
                continue
            except UnicodeDecodeError as error:
                raise InputError(f"{path} is no text in UTF-8: {error}; needed: a class in each line") from error
            return parse(text, path, name)
    return _spec(name, CLASSES, [voc_color(index) for index in range(len(CLASSES))])


def background_of(spec: DatasetSpec) -> int | None:
    return next((index for index, name in enumerate(spec.names) if name in _background), None)


def by_color(spec: DatasetSpec) -> DatasetSpec:
    """The spec for masks in the classes' colours."""
    if spec.label_encoding.kind == "color":
        return spec
    return _encoded(spec, "color", {**{pack(one.color): index for index, one in enumerate(spec.classes)}, pack(VOID_COLOR): VOID})


def by_index(spec: DatasetSpec) -> DatasetSpec:
    """The spec for masks of indices."""
    table = {index if one.source_id is None else one.source_id: index for index, one in enumerate(spec.classes)}
    return _encoded(spec, "value", {**table, VOID: VOID})


def by_voc_color(spec: DatasetSpec) -> DatasetSpec:
    """The spec for object ids in the colours of VOC's palette."""
    return _encoded(spec, "color", {pack(voc_color(index)): index for index in range(256)})


def pack(color: Color) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]


def _encoded(spec: DatasetSpec, kind: str, table: dict[int, int]) -> DatasetSpec:
    return spec.model_copy(update={"label_encoding": LabelEncoding.model_validate({"kind": kind, "table": tuple(sorted(table.items()))})})


def _from_names(text: str, path: str, name: str) -> DatasetSpec:
    """One name a line, in index order; `__ignore__` before the first is -1, stored as 255."""
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if names[:1] == ["__ignore__"]:
        names = names[1:]
    _check(names, path)
    return _spec(name, names, [voc_color(index) for index in range(len(names))])


def _from_labelmap(text: str, path: str, name: str) -> DatasetSpec:
    """Lines of `label:r,g,b:parts:actions`."""
    names: list[str] = []
    colors: list[Color] = []
    places: list[int] = []
    table = {pack(VOID_COLOR): VOID}
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip() and not line.startswith("#")]
    for place, (number, line) in enumerate(lines):
        parts = line.rsplit(":", 3)
        label, color = parts[0].strip(), _color(parts[1], place) if len(parts) == 4 else None
        if color is None or not label:
            raise InputError(f"{path}, line {number}: {line[:120]!r} is no class; needed: label:red,green,blue:parts:actions")
        if label in _ignored or color == VOID_COLOR:
            table[pack(color)] = VOID
            continue
        if pack(color) in table:
            raise InputError(f"{path}, line {number}: {label!r} has the colour {color} of another class; needed: a colour for each")
        table[pack(color)] = len(names)
        names.append(label)
        colors.append(color)
        places.append(place)
    _check(names, path)
    spec = _spec(name, names, colors)
    pairs = enumerate(zip(spec.classes, places))
    moved = [one if place == index else one.model_copy(update={"source_id": place}) for index, (one, place) in pairs]
    return _encoded(spec.model_copy(update={"classes": tuple(moved)}), "color", table)


def _color(text: str, place: int) -> Color | None:
    """Of `r,g,b`; a label without one has VOC's colour of its place. None where it is neither."""
    if not text.strip():
        return voc_color(place)
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and int(part) < 256 for part in parts):
        return None
    red, green, blue = map(int, parts)
    return red, green, blue


def _check(names: Sequence[str], path: str) -> None:
    if not names:
        raise InputError(f"{path} names no class; needed: one in each line")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{path} names {twice[0]!r} twice; needed: each class once")
    if len(names) > VOID:
        raise InputError(f"{path} names {len(names)} classes; masks of 8 bits have at most {VOID}, as {VOID} is void")


def _spec(name: str, names: Sequence[str], colors: Sequence[Color]) -> DatasetSpec:
    classes = tuple(
        ClassSpec(name=label, color=color, isthing=label not in _background) for label, color in zip(names, colors, strict=True)
    )
    return DatasetSpec(name=name, classes=classes)
