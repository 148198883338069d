"""COCO instances, as the reader `coco` and pycocotools take it: `annotations/instances_<split>.json`, images in `<split>/`.

- Segmentations are compressed RLE, which loses nothing. `segmentation: polygon` is for tools that read none: drawn along the pixels'
  edges, so that filled by pycocotools' rule the mask comes back too. Crowds are always RLE.
- Categories keep the ids of their source (COCO's 1..90 with gaps). `background` is no category.
- Without instances every class of the mask becomes one annotation of the image; ignored pixels are in none.
- Predictions with scores are also written as `predictions_<split>.json`, the list that pycocotools' `loadRes` takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from pydantic import Field

from segtasks.codecs.outline import outlines
from segtasks.config import Config as BaseConfig
from segtasks.errors import ConfigError
from segtasks.spec import DatasetSpec
from segtasks.storage import Store
from segtasks.writers._base import JSON, Labelled, Scored
from segtasks.writers._coco import Document, category, category_ids, file_of, image_ids, no_split, put_list
from segtasks.writers._files import by_name, put, require_unique
from segtasks.writers._objects import is_background, objects_of


class Config(BaseConfig):
    """Options of the COCO writer."""

    segmentation: Literal["rle", "polygon"] = Field(default="rle", description="how an object's pixels are written; crowds are always rle")


def build(config: Config, target: Store, spec: DatasetSpec) -> CocoWriter:
    return CocoWriter(config, target, spec)


class CocoWriter:
    """See the module."""

    def __init__(self, config: Config, target: Store, spec: DatasetSpec) -> None:
        if not spec.classes:
            raise ConfigError(f"{spec.name!r} has no classes, so there is nothing to annotate; format folder takes images alone")
        self._config, self._target, self._spec = config, target, spec
        self._categories = [None if is_background(spec, index) else item for index, item in enumerate(spec.classes)]
        self._ids = category_ids(self._categories)

    def write(self, sample: Labelled) -> JSON:
        file = file_of(sample)
        folder = sample.split or no_split
        path = f"{folder}/{file}"
        objects = [self._annotation(one, sample.height, sample.width) for one in objects_of(sample, self._spec)]
        put(self._target, path, sample.image)
        return {"image_id": sample.image_id, "path": path, "file": file, "size": [sample.height, sample.width], "objects": objects}

    def finish(self, splits: Mapping[str, Iterable[JSON]]) -> None:
        require_unique(splits, "path")
        for name, entries in by_name(splits, no_split).items():
            document = Document(self._target, f"annotations/instances_{name}.json")
            document.add("images", self._images(entries))
            document.add("annotations", self._annotations(entries))
            document.add("categories", self._category_list())
            document.close()
            put_list(self._target, f"annotations/predictions_{name}.json", self._predictions(entries))

    def _annotation(self, one: Scored, height: int, width: int) -> JSON:
        polygons = outlines(one.counts, height, width) if self._config.segmentation == "polygon" and not one.iscrowd else []
        found: JSON = {
            "category_id": self._ids[one.category_id],
            "segmentation": polygons or {"size": [height, width], "counts": one.counts.decode()},  # pycocotools takes no empty list
            "area": one.area,
            "bbox": list(one.bbox),
            "iscrowd": int(one.iscrowd),
        }
        return found if one.score is None else {**found, "score": one.score}

    def _images(self, entries: Iterable[JSON]) -> Iterator[JSON]:
        for entry, number in zip(entries, image_ids(entries), strict=True):
            height, width = entry["size"]
            yield {"id": number, "file_name": entry["file"], "height": height, "width": width}

    def _objects(self, entries: Iterable[JSON]) -> Iterator[tuple[int, JSON]]:
        for entry, number in zip(entries, image_ids(entries), strict=True):
            yield from ((number, one) for one in entry["objects"])

    def _annotations(self, entries: Iterable[JSON]) -> Iterator[JSON]:
        for place, (number, one) in enumerate(self._objects(entries), 1):
            yield {"id": place, "image_id": number, **one}

    def _predictions(self, entries: Iterable[JSON]) -> Iterator[JSON]:
        for number, one in self._objects(entries):
            if one.get("score") is not None:
                yield {"image_id": number, **{key: value for key, value in one.items() if key not in ("iscrowd", "area")}}

    def _category_list(self) -> Iterator[JSON]:
        for item, number in zip(self._categories, self._ids, strict=True):
            if item is not None:
                yield category(item, number)
