"""A folder of images and masks, as the reader `folder` takes it: `images/<split>/x.jpg`, `masks/<split>/x.png`, `dataset.yaml`.

Masks are palette PNGs of class indices. Instances become `instances/<split>/x.png`, an image of ids, where no two of them overlap; those of
an image in which they do, or that has no mask to say their classes, are left out, and counted in a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import yaml

from segtasks.codecs.mask import encode_mask
from segtasks.config import Config as BaseConfig
from segtasks.spec import DatasetSpec
from segtasks.storage import Store
from segtasks.writers._base import JSON, Labelled
from segtasks.writers._files import image_suffix, put, require_unique, stem_of
from segtasks.writers._objects import id_image

log = logging.getLogger(__name__)


class Config(BaseConfig):
    """The layout has no options."""


def build(config: Config, target: Store, spec: DatasetSpec) -> FolderWriter:
    return FolderWriter(target, spec)


class FolderWriter:
    """See the module."""

    def __init__(self, target: Store, spec: DatasetSpec) -> None:
        self._target, self._spec = target, spec

    def write(self, sample: Labelled) -> JSON:
        name = f"{sample.split}/{stem_of(sample)}" if sample.split else stem_of(sample, flat=True)
        ids = id_image(sample.instances, sample.height, sample.width) if sample.instances and sample.mask is not None else None
        put(self._target, f"images/{name}{image_suffix(sample)}", sample.image)
        if sample.mask is not None:
            put(self._target, f"masks/{name}.png", encode_mask(sample.mask, self._spec.palette))
        if ids is not None:
            put(self._target, f"instances/{name}.png", encode_mask(ids, self._spec.palette))
        lost = bool(sample.instances) and ids is None
        return {
            "image_id": sample.image_id,
            "file": name,
            "overlap": lost and sample.mask is not None,
            "bare": lost and sample.mask is None,
        }

    def finish(self, splits: Mapping[str, Iterable[JSON]]) -> None:
        require_unique(splits)
        overlapping = sum(entry["overlap"] for entries in splits.values() for entry in entries)
        if overlapping:
            log.warning(
                "the instances of %d images overlap and are left out: an image of ids cannot hold them, format coco can", overlapping
            )
        if bare := sum(entry["bare"] for entries in splits.values() for entry in entries):
            log.warning(
                "the instances of %d images without masks are left out: their classes are read from the mask; format coco has them", bare
            )
        if self._spec.classes:
            classes = [{"name": item.name, "color": list(item.color)} for item in self._spec.classes]
            described = {"name": self._spec.name, "classes": classes, "ignore": self._spec.ignore_index, "encoding": "index"}
            self._target.replace("dataset.yaml", yaml.safe_dump(described, sort_keys=False, allow_unicode=True).encode())
