"""COCO panoptic: `annotations/panoptic_<split>.json` and a folder of its name with one PNG an image, the segment of each pixel.

A segment's id is R + 256 G + 65536 B, and 0 is void, which becomes `ignore_index`. Stuff covers the image, so that there is no background
class: classes are the categories in the order of their ids, gaps and all. The mask holds each segment's class, crowds included; things have
instances. An id that only the PNG or only the JSON has refuses the image. Areas and boxes are the PNG's, which COCO's JSON repeats.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from segtasks.codecs.image import orient, read_header
from segtasks.codecs.mask import decode_label
from segtasks.codecs.rle import encode_regions
from segtasks.config import Config as BaseConfig
from segtasks.errors import DataFault, InputError, LabelError
from segtasks.readers import _coco_layout as layout
from segtasks.readers._base import Instance, RawSample, SourceItem
from segtasks.readers._coco import CocoFile, ImageEntry, is_path, merge_categories
from segtasks.readers._describe import voc_color
from segtasks.readers._labels import pack_colors
from segtasks.readers._listing import item_size, item_version, stem
from segtasks.spec import ClassSpec, DatasetSpec
from segtasks.storage import Entry, Store

shown = 8  # ids named in a message


class AnnotationFile(BaseConfig):
    """A JSON that has another name than the usual ones."""

    file: str = Field(min_length=1, description="path of the JSON, relative to the source")
    segments: str | None = Field(default=None, description="folder of the PNGs; none: the JSON's path without its suffix")
    images: str | None = Field(default=None, description="folder that its file names are relative to; none: beside it, images/, the source")
    split: str = Field(default="", description="the split that its images are in")


class Config(BaseConfig):
    """Options of the COCO panoptic reader."""

    annotations: tuple[AnnotationFile, ...] = Field(default=(), description="the JSON files; none: those of the usual names")


def build(config: Config, source: Store, spec: DatasetSpec | None = None) -> CocoPanopticReader:
    return CocoPanopticReader(config, source, spec)


class CocoPanopticReader:
    """See the module. Annotation files are read one after the other, each when its turn comes."""

    def __init__(self, config: Config, source: Store, spec: DatasetSpec | None = None) -> None:
        self._config, self._source, self._spec = config, source, spec

    def spec(self) -> DatasetSpec:
        if self._spec is None:
            self._spec = self._find_spec()
        return self._spec

    def scan(self) -> Iterator[SourceItem]:
        claimed: dict[str, str] = {}
        for part, folders in self._parts:
            file = CocoFile(self._source, part.file)
            if file.annotations and not file.filled["segments_info"]:
                raise InputError(f"{file.path}: no annotation has segments_info; needed: the panoptic format (format coco reads instances)")
            for image, path in layout.images_of(file, part, self._listing, claimed):
                annotations = file.annotations_of(image.id)
                names = [name for name in (one.get("file_name") for one in annotations) if is_path(name)]
                labels = {"segments": layout.resolve(names[0], folders, self._listing)} if names else {}
                files = [self._listing.get(one) for one in (path, *labels.values())]
                details = _details(image, annotations)
                version = f"{item_version(*files)}+{hashlib.sha256(details.encode()).hexdigest()[:32]}"
                yield SourceItem(path, path, item_size(*files) + len(details), version, part.split, image.video, labels, details)
        if not claimed:
            raise InputError(f"{', '.join(part.file for part, _ in self._parts)} at {self._source.url} list no images")
        layout.warn_unlisted(self._listing, claimed)

    def read(self, item: SourceItem) -> RawSample:
        data = self._source.read(item.path)
        truth = json.loads(item.details)
        if len(truth["segments"]) != 1 or "segments" not in item.labels:
            raise LabelError(
                f"the JSON has {len(truth['segments'])} annotations of it, and a file_name for {len(item.labels)}; needed: one"
            )
        ids = self._read_ids(item.labels["segments"])
        height, width, orientation = layout.frame_of(truth["size"], read_header(data, self.spec().decode))
        if ids.shape != (height, width):
            raise LabelError(f"{item.labels['segments']} is {ids.shape[0]}x{ids.shape[1]}; the image is {height}x{width} (height x width)")
        if orientation > 1:
            ids = orient(ids, orientation)
        segments = self._segments(truth["segments"][0], item.labels["segments"])
        return RawSample(data, *self._truth(ids, segments, item.labels["segments"]), truth["meta"])

    def _truth(
        self, ids: NDArray[np.uint32], segments: Mapping[int, tuple[int, bool]], path: str
    ) -> tuple[NDArray[Any], tuple[Instance, ...]]:
        spec = self.spec()
        values, places = np.unique(ids, return_inverse=True)
        present = set(values.tolist()) - {0}
        for missing, where, other in (
            (present - segments.keys(), path, "segments_info"),
            (segments.keys() - present, "segments_info", path),
        ):
            if missing:
                raise LabelError(f"{where} has the segments {sorted(missing)[:shown]}, which {other} has not; needed: the same ids in both")
        table = np.array([segments[value][0] if value else spec.ignore_index for value in values.tolist()])
        mask = table.astype(np.uint8 if spec.ignore_index < 256 else np.uint16)[places].reshape(ids.shape)
        instances = []
        for region in encode_regions(ids):
            index, crowd = segments[region.value]
            if spec.classes[index].isthing:
                instances.append(Instance(index, region.bbox, float(region.area), region.counts, crowd))
        return mask, tuple(instances)

    def _segments(self, found: Any, path: str) -> dict[int, tuple[int, bool]]:
        """Class index and crowd of each segment."""
        segments: dict[int, tuple[int, bool]] = {}
        for one in found if isinstance(found, list) else [found]:
            number, category = (one.get("id"), one.get("category_id")) if isinstance(one, dict) else (None, None)
            if not isinstance(number, int) or not 0 < number < 1 << 24:
                raise LabelError(
                    f"segments_info of {path} has {str(one)[:80]}; needed: an id of 1 to {(1 << 24) - 1}, which a PNG can hold"
                )
            if number in segments:
                raise LabelError(f"segments_info of {path} has the id {number} twice")
            if not isinstance(category, int) or category not in self._index_of:
                raise LabelError(f"segment {number} of {path} is of the category {category!r}, which categories do not have")
            segments[number] = self._index_of[category], bool(one.get("iscrowd"))
        return segments

    def _read_ids(self, path: str) -> NDArray[np.uint32]:
        try:
            colors = decode_label(self._source.read(path), self.spec().decode.max_pixels, ("PNG",))
        except FileNotFoundError as error:
            raise LabelError(f"{path} is missing") from error
        except DataFault as fault:
            raise LabelError(f"{path}: {fault}") from fault
        if colors.ndim != 3:
            raise LabelError(f"{path} has one channel; needed: RGB, in which a segment's id is R + 256 G + 65536 B")
        return pack_colors(colors[:, :, ::-1])  # which packs R first

    def _find_spec(self) -> DatasetSpec:
        parts = ", ".join(part.file for part, _ in self._parts)
        categories = merge_categories(CocoFile(self._source, part.file) for part, _ in self._parts)
        if not categories:
            raise InputError(f"{parts} at {self._source.url} have no categories: no classes to learn")
        vague = [one.name for one in categories if one.isthing is None]
        if vague:
            raise InputError(f"{parts}: categories do not say isthing (1: has instances, 0: stuff): {', '.join(vague[:shown])}")
        classes = tuple(
            ClassSpec(
                name=one.name,
                color=one.color or voc_color(index + 1),
                source_id=one.id,
                isthing=one.isthing,
                supercategory=one.supercategory,
            )
            for index, one in enumerate(categories)
        )
        name = self._source.url.rstrip("/").rsplit("/", 1)[-1]
        return DatasetSpec(name=name, classes=classes, ignore_index=255 if len(classes) <= 255 else 65535)

    @cached_property
    def _index_of(self) -> dict[int, int]:
        return {one.source_id: index for index, one in enumerate(self.spec().classes) if one.source_id is not None}

    @cached_property
    def _listing(self) -> dict[str, Entry]:
        return {entry.path: entry for entry in self._source.list()}

    @cached_property
    def _parts(self) -> list[tuple[layout.Part, Sequence[str]]]:
        """Each annotation file with the folders that its PNGs may be in."""
        if self._config.annotations:
            return [
                (layout.named(one.file, one.images, one.split), (stem(one.file) if one.segments is None else one.segments.strip("/"),))
                for one in self._config.annotations
            ]
        parts = layout.by_prefix(self._listing, "panoptic_")
        if not parts:
            usual = "annotations/panoptic_<split>.json"
            raise layout.nothing_found(self._source.url, self._listing, usual, "file, segments, images, split")
        return [(part, (stem(part.file), posixpath.basename(stem(part.file)))) for part in parts]


def _details(image: ImageEntry, annotations: list[dict[str, Any]]) -> str:
    segments = [one.get("segments_info") for one in annotations]
    return json.dumps({"size": image.size, "segments": segments, "meta": image.meta}, separators=(",", ":"))
