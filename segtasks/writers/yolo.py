"""Ultralytics' segmentation labels, as the reader `yolo` takes them: `images/<split>/x.jpg`, `labels/<split>/x.txt`, `data.yaml`.

- A line is one object: its class and one polygon. Holes and further parts are joined to it by a way there and back, as Ultralytics' own
  converter does. The polygon runs along the pixels' edges, so that filled by COCO's rule the mask comes back.
- Without instances every class of the mask is one object of the image. `background` is no class; a class's number is its place among the
  others. An image without objects has an empty file.
- Crowds and ignored pixels cannot be said: they are left out, crowds with a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import yaml

from segtasks.codecs.outline import outline
from segtasks.config import Config as BaseConfig
from segtasks.errors import ConfigError, LabelError
from segtasks.spec import DatasetSpec
from segtasks.storage import Store
from segtasks.writers._base import JSON, Labelled
from segtasks.writers._files import image_suffix, put, require_unique, stem_of
from segtasks.writers._objects import is_background, objects_of

log = logging.getLogger(__name__)
splits = ("train", "val", "test")


class Config(BaseConfig):
    """The layout has no options."""


def build(config: Config, target: Store, spec: DatasetSpec) -> YoloWriter:
    return YoloWriter(target, spec)


class YoloWriter:
    """See the module."""

    def __init__(self, target: Store, spec: DatasetSpec) -> None:
        self._target, self._spec = target, spec
        kept = [index for index in range(spec.num_classes) if not is_background(spec, index)]
        if not kept:
            raise ConfigError(f"{spec.name!r} has no classes of objects, so there is nothing to write")
        self._number = {index: number for number, index in enumerate(kept)}
        self._names = [spec.names[index] for index in kept]

    def write(self, sample: Labelled) -> JSON:
        split = sample.split or "train"
        if split not in splits:
            raise LabelError(f"{sample.image_id} is in split {split!r}; Ultralytics has {', '.join(splits)}")
        name = f"{split}/{stem_of(sample)}"
        objects = objects_of(sample, self._spec)
        lines = []
        for one in objects:
            corners = [] if one.iscrowd else outline(one.counts, sample.height, sample.width)
            if corners:
                sides = (sample.width, sample.height) * (len(corners) // 2)
                places = " ".join(f"{value / side:.10g}" for value, side in zip(corners, sides, strict=True))
                lines.append(f"{self._number[one.category_id]} {places}\n")
        put(self._target, f"images/{name}{image_suffix(sample)}", sample.image)
        self._target.replace(f"labels/{name}.txt", "".join(lines).encode())
        return {"image_id": sample.image_id, "file": name, "crowds": sum(one.iscrowd for one in objects)}

    def finish(self, splits: Mapping[str, Iterable[JSON]]) -> None:
        require_unique(splits)
        crowds = sum(entry["crowds"] for entries in splits.values() for entry in entries)
        if crowds:
            log.warning("%d crowds are left out: Ultralytics' labels have none; format coco has", crowds)
        names = [split or "train" for split in splits]
        if missing := {"train", "val"} - set(names):
            log.warning("no split %s, and Ultralytics wants train and val: name in data.yaml what to use", " nor ".join(sorted(missing)))
        places = {name: f"images/{name}" for name in names}  # without `path`, below this file; "." would be where Ultralytics is started
        described = {**places, "names": dict(enumerate(self._names))}
        self._target.replace("data.yaml", yaml.safe_dump(described, sort_keys=False, allow_unicode=True).encode())
