"""COCO instances: `annotations/instances_<split>.json`, images in `<split>/` or `images/<split>/`; or as Roboflow, labelme, CVAT write it.

- Found without options: the above (train2017 is the split `train`), Roboflow's `<split>/_annotations.coco.json`, or the only JSON there.
- Class 0 is `background`, the categories follow in the order of their ids, gaps and all. A category of that name *is* class 0.
- Polygons of several parts are united, as pycocotools does; parts of fewer than three corners are left out and counted (`meta`).
- Area and box are those of the mask, in pixels (pycocotools' `area` and `toBbox`). The JSON's are the polygon's, and by its area COCO's AP
  tells small objects from large ones: `measures: json` keeps those, so that COCO's own numbers come out.
- An image without annotations is all background. Annotations of images that are not listed, and images that no file lists, are passed
  over with a warning that counts them.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Literal

from pydantic import Field

from segtasks.codecs import rle
from segtasks.codecs.image import orient, read_header
from segtasks.config import Config as BaseConfig
from segtasks.errors import InputError, LabelError
from segtasks.readers import _coco_layout as layout
from segtasks.readers._base import Instance, RawSample, SourceItem
from segtasks.readers._coco import CocoFile, ImageEntry, merge_categories
from segtasks.readers._listing import item_size, item_version
from segtasks.readers._objects import BACKGROUND, object_classes, object_of, paint
from segtasks.spec import DatasetSpec
from segtasks.storage import Entry, Store

_kept = ("id", "category_id", "iscrowd", "segmentation", "bbox", "area")  # of an annotation: what `read` needs of it


class AnnotationFile(BaseConfig):
    """A JSON that has another name than the usual ones."""

    file: str = Field(min_length=1, description="path of the JSON, relative to the source")
    images: str | None = Field(default=None, description="folder that its file names are relative to; none: beside it, images/, the source")
    split: str = Field(default="", description="the split that its images are in")


class Config(BaseConfig):
    """Options of the COCO reader."""

    annotations: tuple[AnnotationFile, ...] = Field(default=(), description="the JSON files; none: those of the usual names")
    without_mask: Literal["refuse", "skip", "box"] = Field(
        default="refuse",
        description="annotations without a segmentation (boxes, keypoints): refuse the image, skip them, or take the box as the mask",
    )
    measures: Literal["mask", "json"] = Field(
        default="mask",
        description="area and box of an object: mask: of its pixels; json: as the JSON says, which COCO's AP by size goes by",
    )
    semantic: bool = Field(default=True, description="also paint a semantic mask of the objects")


def build(config: Config, source: Store, spec: DatasetSpec | None = None) -> CocoReader:
    return CocoReader(config, source, spec)


class CocoReader:
    """See the module. Annotation files are read one after the other, each when its turn comes."""

    def __init__(self, config: Config, source: Store, spec: DatasetSpec | None = None) -> None:
        self._config, self._source, self._spec = config, source, spec

    def spec(self) -> DatasetSpec:
        if self._spec is None:
            self._spec = self._find_spec()
        return self._spec

    def scan(self) -> Iterator[SourceItem]:
        claimed: dict[str, str] = {}
        for part in self._parts:
            file = CocoFile(self._source, part.file)
            self._check_masks(file)
            for image, path in layout.images_of(file, part, self._listing, claimed):
                entry = self._listing.get(path)
                details = _details(image, file.annotations_of(image.id))
                version = f"{item_version(entry)}+{hashlib.sha256(details.encode()).hexdigest()[:32]}"
                yield SourceItem(path, path, item_size(entry) + len(details), version, part.split, image.video, details=details)
        if not claimed:
            raise InputError(f"{', '.join(part.file for part in self._parts)} at {self._source.url} list no images")
        layout.warn_unlisted(self._listing, claimed)

    def read(self, item: SourceItem) -> RawSample:
        data = self._source.read(item.path)
        truth = json.loads(item.details)
        height, width, orientation = layout.frame_of(truth["size"], read_header(data, self.spec().decode))
        notes: dict[str, int] = {}
        objects = []
        for annotation in truth["annotations"]:
            try:
                one = self._object(annotation, height, width, notes)
            except LabelError as fault:
                raise LabelError(f"annotation {annotation.get('id')}: {fault}") from fault
            if one is not None:
                objects.append(one)
        if orientation > 1:
            objects = [_turned(one, height, width, orientation) for one in objects]
            height, width = (width, height) if orientation >= 5 else (height, width)
        mask = paint(objects, height, width, ignore_index=self.spec().ignore_index) if self._config.semantic else None
        return RawSample(data, mask, tuple(objects), {**truth["meta"], **{key: str(count) for key, count in notes.items()}})

    def _object(self, annotation: Mapping[str, Any], height: int, width: int, notes: dict[str, int]) -> Instance | None:
        """None for what is no object; `notes` counts those."""
        category = annotation.get("category_id")
        index = self._index_of.get(category) if isinstance(category, int) else None
        if index is None:
            raise LabelError(f"it is of the category {category!r}, which categories do not have")
        crowd = annotation.get("iscrowd") or 0
        if crowd not in (0, 1):
            raise LabelError(f"iscrowd is {crowd!r}; needed: 0 or 1")
        counts = _counts(annotation.get("segmentation"), height, width, notes)
        if counts is None and self._config.without_mask == "box":
            counts = rle.encode_polygons([_corners(_box(annotation.get("bbox")))], height, width)
        if counts is None:
            if self._config.without_mask == "skip":
                notes["without_mask"] = notes.get("without_mask", 0) + 1
                return None
            raise LabelError("it has no segmentation; needed: polygons or run lengths (or without_mask: skip or box)")
        if index == 0:
            notes["of_background"] = notes.get("of_background", 0) + 1
            return None
        if self._config.measures == "mask":
            return object_of(index, counts, height, width, iscrowd=bool(crowd))
        area, bbox = _area(annotation.get("area")), _box(annotation.get("bbox"))
        return object_of(index, counts, height, width, iscrowd=bool(crowd), area=area, bbox=bbox)

    def _find_spec(self) -> DatasetSpec:
        categories = merge_categories(CocoFile(self._source, part.file) for part in self._parts)
        if not categories:
            raise InputError(
                f"{', '.join(part.file for part in self._parts)} at {self._source.url} have no categories: no classes to learn"
            )
        things = [one for one in categories if not _is_background(one.name)]
        classes = object_classes([one.name for one in things], [one.id for one in things], [one.supercategory for one in things])
        for one in categories:
            if _is_background(one.name):
                classes = (BACKGROUND.model_copy(update={"source_id": one.id}), *classes[1:])
        return DatasetSpec(
            name=self._source.url.rstrip("/").rsplit("/", 1)[-1], classes=classes, ignore_index=255 if len(classes) <= 255 else 65535
        )

    def _check_masks(self, file: CocoFile) -> None:
        """`InputError` where no annotation of the file can be a mask: nothing would be left but refused images."""
        if file.filled["segments_info"]:
            raise InputError(f"{file.path} is panoptic: its annotations have segments_info; use the format coco_panoptic")
        if file.annotations and not file.filled["segmentation"] and self._config.without_mask == "refuse":
            kinds = ", ".join(f"{file.filled[kind]} have a {kind}" for kind in ("bbox", "keypoints", "caption") if file.filled[kind])
            raise InputError(
                f"none of the {file.annotations} annotations of {file.path} has a segmentation ({kinds or 'they are empty'}); "
                "needed: polygons or run lengths; or the option without_mask: box takes boxes as masks, skip leaves them out"
            )

    @cached_property
    def _index_of(self) -> dict[int, int]:
        return {one.source_id: index for index, one in enumerate(self.spec().classes) if one.source_id is not None}

    @cached_property
    def _listing(self) -> dict[str, Entry]:
        return {entry.path: entry for entry in self._source.list()}

    @cached_property
    def _parts(self) -> list[layout.Part]:
        if self._config.annotations:
            return [layout.named(one.file, one.images, one.split) for one in self._config.annotations]
        found = layout.by_prefix(self._listing, "instances_") or layout.by_folder(self._listing) or layout.only_one(self._listing)
        if not found:
            usual = f"annotations/instances_<split>.json, <split>/{layout.roboflow}, or a single JSON"
            raise layout.nothing_found(self._source.url, self._listing, usual, "file, images, split")
        return found


def _details(image: ImageEntry, annotations: list[dict[str, Any]]) -> str:
    kept = [{key: one[key] for key in _kept if key in one} for one in annotations]
    return json.dumps({"size": image.size, "annotations": kept, "meta": image.meta}, separators=(",", ":"))


def _counts(segmentation: Any, height: int, width: int, notes: dict[str, int]) -> bytes | None:
    """Compressed counts of whichever of COCO's forms it is in; None where there is nothing that has an area."""
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        return _run_lengths(segmentation, height, width)
    if not isinstance(segmentation, list):
        raise LabelError(f"its segmentation is a {type(segmentation).__name__}; needed: polygons or run lengths")
    parts = [segmentation] if isinstance(segmentation[0], (int, float)) else segmentation  # one polygon without its outer brackets
    drawn = [part for part in parts if not (isinstance(part, list) and len(part) in (0, 2, 4))]
    if len(drawn) < len(parts):
        notes["parts_without_area"] = notes.get("parts_without_area", 0) + len(parts) - len(drawn)
    return rle.encode_polygons(drawn, height, width) if drawn else None


def _run_lengths(found: Mapping[str, Any], height: int, width: int) -> bytes:
    size, counts = found.get("size"), found.get("counts")
    if size != [height, width]:
        raise LabelError(f"its run lengths are of the size {size}; the image is [{height}, {width}] (height, width)")
    if isinstance(counts, list):
        return rle.encode_runs(counts, height, width)
    if not isinstance(counts, str) or not counts.isascii():
        raise LabelError(f"its counts are {str(counts)[:60]!r}; needed: COCO's compressed text, or a list of run lengths")
    if counts.startswith(("b'", 'b"')):  # the text of Python's bytes: no letter of COCO's is a quote
        try:
            return bytes(ast.literal_eval(counts))
        except (ValueError, SyntaxError) as error:
            raise LabelError(f"its counts are {counts[:60]!r}, cut off; needed: COCO's compressed text") from error
    return counts.encode()


def _box(bbox: Any) -> rle.BBox:
    if not (isinstance(bbox, list) and len(bbox) == 4 and all(_is_number(side) for side in bbox) and bbox[2] >= 0 and bbox[3] >= 0):
        raise LabelError(f"its bbox is {str(bbox)[:60]}; needed: x, y, width, height")
    return float(bbox[0]), float(bbox[1]), float(bbox[2]), float(bbox[3])


def _area(area: Any) -> float:
    if not _is_number(area) or area < 0:
        raise LabelError(f"its area is {area!r}; needed: a number of pixels")
    return float(area)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e12


def _corners(box: rle.BBox) -> list[float]:
    x, y, w, h = box
    return [x, y, x, y + h, x + w, y + h, x + w, y]


def _turned(one: Instance, height: int, width: int, orientation: int) -> Instance:
    """An object drawn on the image as stored, as it is displayed. Its box is the turned mask's."""
    mask = orient(rle.decode(one.counts, height, width), orientation)
    return object_of(one.category_id, rle.encode(mask), *mask.shape, iscrowd=one.iscrowd, area=one.area)


def _is_background(name: str) -> bool:
    return name.strip("_ ").lower() == "background"
