"""COCO's JSON, found element by element and kept as text: instances and panoptic alike.

Parsed, it would take seven times its bytes. An element is parsed once to find its end and whose it is, and again when its
image's turn comes. Whatever is wrong with the file is an `InputError` with the place, `annotations[17]`.
"""

from __future__ import annotations

import json
import logging
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from segtasks.errors import InputError, did_you_mean
from segtasks.readers._json_walk import parse, skip, walk
from segtasks.storage import Store

log = logging.getLogger(__name__)
Id = int | str
lists = ("images", "annotations", "categories")
_kinds = ("segmentation", "segments_info", "bbox", "keypoints", "caption")  # what annotations are told apart by
_no_meta = {"id", "file_name", "width", "height", "license"}


@dataclass(frozen=True)
class Category:
    """An element of `categories`."""

    id: int
    name: str
    supercategory: str = ""
    isthing: bool | None = None
    color: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class ImageEntry:
    """An element of `images`. `size` is its height and width as they stand there, whatever they are."""

    id: Id
    file_name: str
    size: tuple[Any, Any]
    video: str
    meta: Mapping[str, str]


class CocoFile:
    """One annotation file. `images` and `annotations_of` parse their elements each time they are asked."""

    def __init__(self, source: Store, path: str) -> None:
        self.path = path
        self.categories: list[Category] = []
        self.used: set[int] = set()  # categories that an annotation names
        self.annotations = 0
        self.filled: Counter[str] = Counter()  # how many of them have a segmentation, a bbox, ...
        self._images = array("q")  # where each begins in the text
        self._annotations: dict[Id, array[int]] = {}
        self._text = _read_text(source, path)
        self._index()

    def images(self) -> Iterator[ImageEntry]:
        for start in self._images:
            found, _ = parse(self._text, start)
            meta = {
                _text(key): _text(value)
                for key, value in found.items()
                if key not in _no_meta and not key.endswith("url") and _is_plain(value)
            }
            size, video = (found.get("height"), found.get("width")), _text(found.get("video_id", ""))
            yield ImageEntry(found["id"], found["file_name"], size, video, {"coco_id": _text(found["id"]), **meta})

    def annotations_of(self, image: Id) -> list[dict[str, Any]]:
        """In the file's order."""
        return [parse(self._text, start)[0] for start in self._annotations.get(image, ())]

    def _index(self) -> None:
        images: set[Id] = set()
        keys: set[str] = set()
        try:
            for key, number, start, value in walk(self._text):
                keys.add(key)
                if key in lists:
                    self._add(key, number, start, value, images)
        except json.JSONDecodeError as error:
            end = " (the file ends there: cut off?)" if not self._text[error.pos :].strip() else ""
            raise InputError(f"{self.path} is not valid JSON: {error.msg}, line {error.lineno}, column {error.colno}{end}") from error
        except (ValueError, RecursionError) as error:  # a number of thousands of digits; lists in lists in lists
            raise InputError(f"{self.path} cannot be read as JSON: {error}") from error
        missing = [key for key in lists if key not in keys]
        if missing:
            raise InputError(f"{self.path} has no {missing[0]}; needed: {', '.join(lists)}; found {', '.join(sorted(keys)) or 'nothing'}")
        self._forget_unknown(images)

    def _add(self, key: str, number: int | None, start: int, value: Any, images: set[Id]) -> None:
        if number is None:
            if not isinstance(value, list):
                raise InputError(f"{self.path}: {key} is {_short(value)}; needed: a list")
            return
        where = f"{self.path}: {key}[{number}]"
        if not isinstance(value, dict):
            raise InputError(f"{where} is {_short(value)}; needed: an object")
        if key == "categories":
            self.categories.append(_category(value, where))
        elif key == "images":
            self._add_image(value, start, images, where)
        else:
            self._annotations.setdefault(_id(value, "image_id", where), array("q")).append(start)
            self._count(value)

    def _add_image(self, image: dict[str, Any], start: int, known: set[Id], where: str) -> None:
        number, name = _id(image, "id", where), image.get("file_name")
        if number in known:
            raise InputError(f"{where} has the id {number!r} of an image before it; needed: each id once")
        if not is_path(name):
            raise InputError(f"{where} has the file_name {_short(name)}; needed: the image's path")
        known.add(number)
        self._images.append(start)

    def _count(self, annotation: dict[str, Any]) -> None:
        self.annotations += 1
        for kind in _kinds:
            if annotation.get(kind):
                self.filled[kind] += 1
        for named in (annotation, *_objects(annotation.get("segments_info"))):
            if isinstance(named.get("category_id"), int):
                self.used.add(named["category_id"])

    def _forget_unknown(self, images: set[Id]) -> None:
        """Annotations of images that are not listed are passed over; where all are, ids are of two kinds."""
        unknown = [image for image in self._annotations if image not in images]
        if not unknown:
            return
        if len(unknown) == len(self._annotations):
            known = ", ".join(repr(image) for image in sorted(images, key=str)[:3]) or "none at all"
            raise InputError(f"{self.path}: no annotation's image_id is the id of an image: {unknown[:3]}; the images' ids are {known}")
        lost = sum(len(self._annotations.pop(image)) for image in unknown)
        log.warning("%s: %d annotations are passed over, as no image has their image_id: %s", self.path, lost, unknown[:3])


def merge_categories(files: Iterable[CocoFile]) -> list[Category]:
    """Those of all files in the order of their ids, gaps and all.

    Roboflow's first category, which is only the group of the others, is left out where nothing is of it. `InputError` where
    files disagree about an id, or two ids have one name.
    """
    found: dict[int, tuple[Category, str]] = {}
    used: set[int] = set()
    for file in files:
        used |= file.used
        for one in file.categories:
            known, where = found.setdefault(one.id, (one, file.path))
            if known.name != one.name:
                raise InputError(f"category {one.id} is {known.name!r} in {where} and {one.name!r} in {file.path}; needed: one name an id")
    groups = {one.supercategory for one, _ in found.values()}
    kept = [
        (one, where) for _, (one, where) in sorted(found.items()) if one.id in used or one.supercategory != "none" or one.name not in groups
    ]
    ids: dict[str, int] = {}
    for one, where in kept:
        if one.name in ids:
            raise InputError(f"{where}: categories {ids[one.name]} and {one.id} are both named {one.name!r}; needed: one name a category")
        ids[one.name] = one.id
    return [one for one, _ in kept]


def is_path(value: Any) -> TypeGuard[str]:
    """Whether it is a text that can name a file."""
    return isinstance(value, str) and bool(value.strip("/\\. ")) and "\0" not in value and _text(value) == value


def _read_text(source: Store, path: str) -> str:
    try:
        text = source.read(path).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing at {source.url}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8: {error}; needed: JSON") from error
    start = skip(text, 0)
    if text[start : start + 1] == "[":
        raise InputError(f"{path} holds a list; needed: an object with {', '.join(lists)}")
    return text


def _category(value: dict[str, Any], where: str) -> Category:
    number, name, thing, color = value.get("id"), value.get("name"), value.get("isthing"), value.get("color")
    if not isinstance(number, int) or isinstance(number, bool):
        raise InputError(f"{where} has the id {_short(number)}; needed: a whole number")
    if not isinstance(name, str) or not name:
        raise InputError(f"{where} has the name {_short(name)}; needed: a text")
    is_color = isinstance(color, list) and len(color) == 3 and all(isinstance(one, int) and 0 <= one <= 255 for one in color)
    return Category(
        id=number,
        name=_text(name),
        supercategory=_text(value.get("supercategory") or ""),
        isthing=None if thing is None else bool(thing),
        color=(color[0], color[1], color[2]) if is_color and color else None,
    )


def _id(value: dict[str, Any], key: str, where: str) -> Id:
    found = value.get(key)
    if not isinstance(found, (int, str)) or isinstance(found, bool):
        raise InputError(
            f"{where} has the {key} {_short(found)}; needed: a number or a text.{did_you_mean(key, value) if key not in value else ''}"
        )
    return found


def _objects(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    """As text without half characters, which JSON can hold and nothing can store."""
    return str(value).encode("utf-8", "replace").decode()


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float)) and value != ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
