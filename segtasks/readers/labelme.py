"""labelme's JSON files, one an image: `x.json` beside `x.jpg`, or elsewhere with the image's place in `imagePath` or itself in `imageData`.

- The image is the only one beside the JSON that has its stem; else the one that `imagePath` names (Windows paths, `..` and paths of
  other machines are resolved by their end); else the one embedded. An image without a JSON is not annotated yet, and passed over.
- Classes are those of `labels.txt`, else the labels of all JSONs, sorted. `_background_` is class 0; `__ignore__` becomes `ignore_index`.
- Shapes are filled by labelme's own rule, so that masks equal those of its labelme2voc; `fill: coco` makes those of its labelme2coco.
- Shapes of one label and `group_id` are one object. Where shapes overlap the mask has the later one, as labelme's; objects keep theirs.
- Points and lines have no area: they are passed over and counted (`meta`), or drawn `line_width` wide.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import Field

from segtasks.codecs import rle
from segtasks.codecs.image import orient, read_header
from segtasks.config import Config as BaseConfig
from segtasks.errors import DecodeError, InputError, LabelError, did_you_mean
from segtasks.readers import _labelme
from segtasks.readers._base import RawSample, SourceItem
from segtasks.readers._coco_layout import frame_of
from segtasks.readers._labelme_files import LabelmeFiles
from segtasks.readers._listing import item_size, item_version, usual_split
from segtasks.readers._objects import BACKGROUND, fill, object_classes, object_of
from segtasks.spec import DatasetSpec
from segtasks.storage import Store

log = logging.getLogger(__name__)
IGNORE = "__ignore__"


class Config(BaseConfig):
    """Options of the labelme reader."""

    labels: str = Field(
        default="labels.txt", min_length=1, description="file of class names, one a line; where it is not, the JSONs' labels are taken"
    )
    fill: _labelme.Fill = Field(
        default="labelme", description="which pixels a polygon has: labelme: as its own scripts, outline included; coco: as pycocotools"
    )
    line_width: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="pixels; lines are drawn so wide and points as discs (labelme's scripts: 10); 0: they are passed over",
    )
    numbered: bool = Field(default=False, description="labels are class and object, person-1, as was labelme 3's way before group_id")
    without_json: Literal["skip", "background"] = Field(
        default="skip", description="an image without a JSON: pass it over as not annotated, or take it as one without objects"
    )
    semantic: bool = Field(default=True, description="also paint a semantic mask of the shapes")


def build(config: Config, source: Store, spec: DatasetSpec | None = None) -> LabelmeReader:
    return LabelmeReader(config, source, spec)


class LabelmeReader:
    """See the module."""

    def __init__(self, config: Config, source: Store, spec: DatasetSpec | None = None) -> None:
        self._config, self._source, self._spec = config, source, spec

    def spec(self) -> DatasetSpec:
        if self._spec is None:
            names = self._listed_names()
            names = self._used_names() if names is None else names
            classes = object_classes([name for name in names if not _is_no_class(name)])
            name = self._source.url.rstrip("/").rsplit("/", 1)[-1]
            self._spec = DatasetSpec(name=name, classes=classes, ignore_index=255 if len(classes) <= 255 else 65535)
        return self._spec

    def scan(self) -> Iterator[SourceItem]:
        images = self._files.images
        bare = dict(images)
        for path, entry in self._files.pairs():
            bare.pop(path, None)
            files = (entry,) if path == entry.path else (images.get(path), entry)
            yield SourceItem(path, path, item_size(*files), item_version(*files), _split(path), labels={"json": entry.path})
        if self._files.strangers:
            some = ", ".join(self._files.strangers[:3])
            log.warning("%d JSON files are none of labelme's and are passed over: %s", len(self._files.strangers), some)
        if bare and self._config.without_json == "skip":
            log.warning("%d images have no JSON and are passed over: %s", len(bare), ", ".join(list(bare)[:3]))
            return
        for path, entry in bare.items():
            yield SourceItem(path, path, entry.size, item_version(entry, None), _split(path))

    def read(self, item: SourceItem) -> RawSample:
        json_path = item.labels.get("json")
        if json_path is None:
            return self._draw(self._source.read(item.path), {"shapes": []}, item.path)
        try:
            fields = _labelme.parse(self._source.read(json_path), json_path)
        except FileNotFoundError as error:
            raise LabelError(f"{json_path} is missing") from error
        data = _embedded(fields, json_path) if item.path == json_path else self._source.read(item.path)
        return self._draw(data, fields, json_path)

    def _draw(self, data: bytes, fields: Mapping[str, Any], path: str) -> RawSample:
        spec = self.spec()
        size = fields.get("imageHeight"), fields.get("imageWidth")
        height, width, orientation = frame_of(size, read_header(data, spec.decode))
        columns = np.zeros(height * width, np.uint8 if spec.ignore_index < 256 else np.uint16)
        objects: dict[tuple[int, Any], bytes] = {}
        notes: Counter[str] = Counter()
        for number, (where, shape) in enumerate(_labelme.shapes(fields, path)):
            notes.update(f"shapes_{flag}" for flag in shape.flags)
            if shape.kind in _labelme.LINES and not self._config.line_width:
                notes["shapes_without_area"] += 1
                continue
            index, group = self._meaning(shape, where)
            counts = _labelme.draw(
                shape, height, width, where, fill=self._config.fill, line_width=self._config.line_width, max_pixels=spec.decode.max_pixels
            )
            fill(columns, counts, height, width, index)
            if not rle.area(counts, height, width):
                notes["shapes_without_pixels"] += 1
            elif index == spec.ignore_index:
                notes["shapes_ignored"] += 1
            elif index != 0:
                key = index, ("shape", number) if group is None else group
                objects[key] = rle.union([objects[key], counts], height, width) if key in objects else counts
        mask = orient(columns.reshape(width, height).T, orientation)
        if orientation > 1:
            objects = {key: rle.encode(orient(rle.decode(counts, height, width), orientation)) for key, counts in objects.items()}
        instances = tuple(object_of(index, counts, *mask.shape) for (index, _), counts in objects.items())
        meta = {**_flags(fields), **{key: str(count) for key, count in notes.items()}}
        return RawSample(data, mask if self._config.semantic else None, instances, meta)

    def _meaning(self, shape: _labelme.Shape, where: str) -> tuple[int, Any]:
        """Class index (or `ignore_index`) and group."""
        name, number = _name_and_number(shape.label) if self._config.numbered else (shape.label, None)
        group = shape.group if number is None else number
        if name == IGNORE:
            return self.spec().ignore_index, group
        if _is_background(name):
            return 0, group
        index = self._index_of.get(name)
        if index is None:
            hint = did_you_mean(name, self._index_of)
            if not self._config.numbered and _name_and_number(name)[0] in self._index_of:
                hint = " The option numbered takes it as class and object."
            raise LabelError(f"{where} has the label {name!r}, which is no class.{hint}")
        return index, group

    def _listed_names(self) -> list[str] | None:
        """Those of the file of names; None where there is none."""
        file = self._config.labels
        try:
            text = self._source.read(file).decode("utf-8-sig")
        except FileNotFoundError as error:
            if file != Config.model_fields["labels"].default:
                raise InputError(f"{file} is missing at {self._source.url}; needed: class names, one a line") from error
            return None
        except UnicodeDecodeError as error:
            raise InputError(f"{file} is no text in UTF-8: {error}; needed: class names, one a line") from error
        names = [line.strip() for line in text.splitlines() if line.strip()]
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        if twice:
            raise InputError(f"{file} names {', '.join(twice[:3])} twice; needed: each class once")
        return names

    def _used_names(self) -> list[str]:
        """The labels of all shapes that have an area."""
        used: set[str] = set()
        files = 0
        for _, fields in self._files.heads():
            files += 1
            used.update(_labelme.labels(fields, lines=self._config.line_width > 0))
        if not files:
            raise self._files.nothing_found()
        labels = {_name_and_number(label)[0] for label in used} if self._config.numbered else used
        names = sorted(label for label in labels if not _is_no_class(label))
        log.info("no %s: from %d JSON files concluded %d classes: %s", self._config.labels, files, len(names), ", ".join(names[:40]))
        return names

    @cached_property
    def _index_of(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.spec().names) if index}

    @cached_property
    def _files(self) -> LabelmeFiles:
        return LabelmeFiles(self._source)


def _embedded(fields: Mapping[str, Any], path: str) -> bytes:
    data = fields.get("imageData")
    if not isinstance(data, str) or not data:
        raise DecodeError(f"{path} has no imageData, and no image is where its imagePath says: {str(fields.get('imagePath'))[:80]}")
    try:
        return base64.b64decode(data)
    except (binascii.Error, ValueError) as error:
        raise DecodeError(f"{path}: imageData is no base64: {error}") from error


def _flags(fields: Mapping[str, Any]) -> dict[str, str]:
    flags = fields.get("flags")
    return {f"flag_{flag}": str(on).lower() for flag, on in flags.items() if isinstance(on, bool)} if isinstance(flags, dict) else {}


def _name_and_number(label: str) -> tuple[str, str | None]:
    """`person-1` is the object 1 of class person."""
    name, _, number = label.rpartition("-")
    return (name, f"-{number}") if name and number.isdigit() else (label, None)


def _is_background(name: str) -> bool:
    return name.strip("_ ").lower() == BACKGROUND.name


def _is_no_class(name: str) -> bool:
    return name == IGNORE or _is_background(name)


def _split(path: str) -> str:
    return next((word for folder in path.split("/")[:-1] if (word := usual_split(folder))), "")
