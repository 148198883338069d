"""COCO panoptic, as the reader `coco_panoptic` takes it: `annotations/panoptic_<split>.json` and a PNG of segment ids for each image.

The colour of a pixel is its segment's id, R + 256 G + 65536 B, and 0 is void. Things are the instances, stuff the classes of the mask. A
pixel has one segment: where instances overlap the smaller one has it. What is left of a thing's class beside its instances is one more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtasks.codecs import rle
from segtasks.codecs.image import encode_png
from segtasks.config import Config as BaseConfig
from segtasks.errors import ConfigError, LabelError
from segtasks.spec import DatasetSpec
from segtasks.storage import Store
from segtasks.writers._base import JSON, Labelled
from segtasks.writers._coco import Document, category, category_ids, file_of, image_ids, no_split
from segtasks.writers._files import by_name, put, require_unique


class Config(BaseConfig):
    """The format has no options."""


def build(config: Config, target: Store, spec: DatasetSpec) -> PanopticWriter:
    return PanopticWriter(target, spec)


class PanopticWriter:
    """See the module."""

    def __init__(self, target: Store, spec: DatasetSpec) -> None:
        if not spec.classes:
            raise ConfigError(f"{spec.name!r} has no classes, so there are no segments; format folder takes images alone")
        self._target, self._spec = target, spec
        self._ids = category_ids(spec.classes)

    def write(self, sample: Labelled) -> JSON:
        if sample.mask is None:
            raise LabelError(f"{sample.image_id} has no mask; needed: a class for every pixel")
        split = sample.split or no_split
        file = file_of(sample)
        label = f"{file.rpartition('.')[0] or file}.png"
        segments, ids = self._segments(sample, sample.mask)
        put(self._target, f"{split}/{file}", sample.image)
        rgb = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=2).astype(np.uint8)
        self._target.replace(f"annotations/panoptic_{split}/{label}", encode_png(rgb))
        size = [sample.height, sample.width]
        things = sorted({one.category_id for one in sample.instances or ()})
        entry = {"image_id": sample.image_id, "path": f"{split}/{label}", "file": file, "label": label, "size": size}
        return {**entry, "segments": segments, "things": things}

    def finish(self, splits: Mapping[str, Iterable[JSON]]) -> None:
        require_unique(splits, "path")
        things = {index for entries in splits.values() for entry in entries for index in entry["things"]}
        for name, entries in by_name(splits, no_split).items():
            document = Document(self._target, f"annotations/panoptic_{name}.json")
            document.add("images", self._images(entries))
            document.add("annotations", self._annotations(entries))
            document.add("categories", self._categories(things))
            document.close()

    def _segments(self, sample: Labelled, mask: NDArray[Any]) -> tuple[list[JSON], NDArray[np.uint32]]:
        """What the JSON says of each segment, and the id of each pixel's. Ids are 1, 2, ... in the image."""
        ids = np.zeros(mask.shape, np.uint32)
        classes: list[tuple[int, bool]] = [(0, False)]  # by segment id: class index, crowd
        for one in sorted(sample.instances or (), key=lambda one: (not one.iscrowd, -one.area)):
            ids[rle.decode(one.counts, *mask.shape)] = len(classes)
            classes.append((one.category_id, one.iscrowd))
        rest = (ids == 0) & (mask != self._spec.ignore_index)
        for index in np.unique(mask[rest]).tolist():
            ids[rest & (mask == index)] = len(classes)
            classes.append((index, False))
        segments = []
        for region in rle.encode_regions(ids.astype(np.int32)):
            index, crowd = classes[region.value]
            segments.append(
                {
                    "id": region.value,
                    "category_id": self._ids[index],
                    "area": region.area,
                    "bbox": [int(side) for side in region.bbox],
                    "iscrowd": int(crowd),
                }
            )
        return segments, ids

    def _images(self, entries: Iterable[JSON]) -> Iterator[JSON]:
        for entry, number in zip(entries, image_ids(entries), strict=True):
            height, width = entry["size"]
            yield {"id": number, "file_name": entry["file"], "height": height, "width": width}

    def _annotations(self, entries: Iterable[JSON]) -> Iterator[JSON]:
        for entry, number in zip(entries, image_ids(entries), strict=True):
            yield {"image_id": number, "file_name": entry["label"], "segments_info": entry["segments"]}

    def _categories(self, things: Set[int]) -> Iterator[JSON]:
        """Where the source does not say what a class is, one with instances is of things."""
        for index, (item, number) in enumerate(zip(self._spec.classes, self._ids, strict=True)):
            isthing = index in things if item.isthing is None else item.isthing
            yield {**category(item, number), "isthing": int(isthing), "color": list(item.color)}
