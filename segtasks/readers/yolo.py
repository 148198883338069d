"""Ultralytics' segmentation labels: `data.yaml`, `images/<split>/x.jpg`, and `labels/<split>/x.txt` with lines of `class x1 y1 x2 y2 ...`.

- `train`, `val` and `test` of the YAML are folders or lists of images; paths of other machines (Roboflow's `../train/images`) are resolved
  by their end. An image that two splits have is in the first.
- Class 0 is `background`, class n of the YAML is n + 1. Without a label file an image has no objects; in a split with no label file at
  all, images have no truth.
- Corners are parts of the width and height as displayed, 0 to 1 with Ultralytics' tolerance of 0.01. Polygons are filled by COCO's rule.
- A line that comes twice counts once (`meta`). A line of five numbers is a box and no mask: refused, unless `boxes` says otherwise.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from typing import Literal

from pydantic import Field

from segtasks.codecs import rle
from segtasks.codecs.image import read_header
from segtasks.config import Config as BaseConfig
from segtasks.errors import InputError, LabelError
from segtasks.readers import _yolo_layout as layout
from segtasks.readers._base import Instance, RawSample, SourceItem
from segtasks.readers._listing import MISSING, item_size, item_version
from segtasks.readers._objects import BACKGROUND, object_classes, object_of, paint
from segtasks.spec import DatasetSpec
from segtasks.storage import Entry, Store

log = logging.getLogger(__name__)
tolerance = 0.01  # of width or height outside the image: as much as Ultralytics takes
_looked_at = 8  # label files, to tell boxes from polygons


class Config(BaseConfig):
    """Options of the Ultralytics reader."""

    data: str = Field(default="", description="the YAML, relative to the source; empty: data.yaml, or the only one there")
    boxes: Literal["refuse", "rectangle", "skip"] = Field(
        default="refuse", description="lines of five numbers, which are boxes: refuse the image, take them as rectangles, or skip them"
    )
    semantic: bool = Field(default=True, description="also paint a semantic mask of the objects")


def build(config: Config, source: Store, spec: DatasetSpec | None = None) -> YoloReader:
    return YoloReader(config, source, spec)


class YoloReader:
    """See the module. The listing is made once, when it is first needed."""

    def __init__(self, config: Config, source: Store, spec: DatasetSpec | None = None) -> None:
        self._config, self._source, self._spec = config, source, spec

    def spec(self) -> DatasetSpec:
        if self._spec is None:
            names = self._description.names
            things = {number: name for number, name in names.items() if name.strip("_ ").lower() != BACKGROUND.name}
            classes = object_classes(list(things.values()), list(things))
            for number in names.keys() - things.keys():
                classes = (BACKGROUND.model_copy(update={"source_id": number}), *classes[1:])
            name = self._source.url.rstrip("/").rsplit("/", 1)[-1]
            self._check_labels()
            self._spec = DatasetSpec(name=name, classes=classes, ignore_index=255 if len(classes) <= 255 else 65535)
        return self._spec

    def scan(self) -> Iterator[SourceItem]:
        labelled = {split for image, split in self._images if layout.label_of(image) in self._listing}
        unlabelled = {split for _, split in self._images} - labelled
        if not labelled:
            raise self._no_labels()
        if unlabelled:
            log.warning("no label files for %s: images without truth", ", ".join(sorted(unlabelled)) or "images of no split")
        for image, split in self._images:
            path = layout.label_of(image)
            files: list[Entry | None] = [self._listing.get(image)]
            labels, details = {}, ""
            if split in labelled:
                files.append(self._listing.get(path))
                labels, details = {"objects": path}, "" if path in self._listing else MISSING
            yield SourceItem(image, image, item_size(*files), item_version(*files), split, labels=labels, details=details)

    def read(self, item: SourceItem) -> RawSample:
        image, path = self._source.read(item.path), item.labels.get("objects")
        if path is None:
            return RawSample(image)
        header = read_header(image, self.spec().decode)
        notes: Counter[str] = Counter()
        objects = () if item.details else tuple(self._objects(path, header.height, header.width, notes))
        mask = paint(objects, header.height, header.width, ignore_index=self.spec().ignore_index) if self._config.semantic else None
        meta = {"label_file": MISSING} if item.details else {key: str(count) for key, count in notes.items()}
        return RawSample(image, mask, objects, meta)

    def _objects(self, path: str, height: int, width: int, notes: Counter[str]) -> Iterator[Instance]:
        seen = set()
        for where, line in self._lines(path):
            number, corners = _parse(line, where)
            index = self._index_of.get(number)
            if index is None:
                known = ", ".join(f"{known} {self.spec().names[index]}" for known, index in list(self._index_of.items())[:12])
                raise LabelError(f"{where} is of class {number}; known: {known}{', ...' if len(self._index_of) > 12 else ''}")
            if len(corners) == 4:
                notes["boxes"] += 1
                if self._config.boxes == "refuse":
                    raise LabelError(f"{where} is a box (five numbers); needed: a polygon, or the option boxes: rectangle or skip")
                if self._config.boxes == "skip":
                    continue
                x, y, w, h = corners
                corners = (x - w / 2, y - h / 2, x - w / 2, y + h / 2, x + w / 2, y + h / 2, x + w / 2, y - h / 2)
            if (index, corners) in seen:
                notes["duplicates"] += 1
                continue
            seen.add((index, corners))
            scaled = [value * (height if at % 2 else width) for at, value in enumerate(corners)]
            one = object_of(index, rle.encode_polygons([scaled], height, width), height, width)
            if index == 0 or not one.area:
                notes["of_background" if index == 0 else "objects_without_pixels"] += 1
                continue
            yield one

    def _lines(self, path: str) -> Iterator[tuple[str, str]]:
        """Where each line that is not empty is, for messages, and the line."""
        try:
            text = self._source.read(path).decode("utf-8-sig")
        except FileNotFoundError as error:
            raise LabelError(f"{path} is missing") from error
        except UnicodeDecodeError as error:
            raise LabelError(f"{path} is no text in UTF-8: {error}") from error
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield f"{path}, line {number}", line

    def _check_labels(self) -> None:
        """`InputError` where some label files have boxes alone: nothing would be left but refused images."""
        if self._config.boxes != "refuse":
            return
        paths = [path for image, _ in self._images if (path := layout.label_of(image)) in self._listing]
        chosen = min(_looked_at, len(paths))
        lengths = set()
        for path in (paths[at * len(paths) // chosen] for at in range(chosen)):
            try:
                lengths |= {len(line.split()) for _, line in self._lines(path)}
            except LabelError:
                continue
        if lengths == {5}:
            raise InputError(
                f"the labels at {self._source.url} are boxes (five numbers a line, for example {paths[0]}), not polygons; "
                "needed: a segmentation data set, or the option boxes: rectangle"
            )

    def _no_labels(self) -> InputError:
        image = self._images[0][0] if self._images else ""
        found = f"{layout.label_of(image)} for {image} is not there, nor any other" if image else "there are no images"
        return InputError(f"no labels at {self._source.url}: {found}; needed: labels/<split>/x.txt for images/<split>/x.jpg")

    @cached_property
    def _index_of(self) -> dict[int, int]:
        return {one.source_id: index for index, one in enumerate(self.spec().classes) if one.source_id is not None}

    @cached_property
    def _listing(self) -> dict[str, Entry]:
        return {entry.path: entry for entry in self._source.list()}

    @cached_property
    def _description(self) -> layout.Description:
        return layout.describe(self._source, self._listing, self._config.data)

    @cached_property
    def _images(self) -> list[tuple[str, str]]:
        return list(layout.images_of(self._source, self._listing, self._description))


def _parse(line: str, where: str) -> tuple[int, tuple[float, ...]]:
    """Class and corners x, y, x, y, ...; four are a box's centre and size."""
    try:
        first, *corners = (float(word) for word in line.split())
    except ValueError as error:
        raise LabelError(f"{where} is no line of numbers: {line[:60]!r}") from error
    if not all(map(math.isfinite, (first, *corners))) or first != int(first):
        raise LabelError(f"{where} has numbers that are none, or a class that is not whole: {line[:60]!r}")
    if len(corners) % 2 or len(corners) < 4:
        odd = " (an odd number: a confidence at its end, or keypoints?)" if len(corners) % 2 else ""
        raise LabelError(f"{where} has {len(corners)} numbers after the class{odd}; needed: x and y of three corners or more")
    if min(corners) < -tolerance or max(corners) > 1 + tolerance:
        far = min(corners) if min(corners) < -tolerance else max(corners)
        raise LabelError(f"{where} has the coordinate {far:g}; needed: 0 to 1, parts of the image's width and height")
    return int(first), tuple(corners)
