"""PASCAL VOC, as the reader `voc` takes it: `JPEGImages/x.jpg`, `SegmentationClass/x.png`, `SegmentationObject/x.png`, lists of names.

- Masks hold class indices in VOC's palette and 255 for ignored pixels, as VOC's void. Classes other than VOC's own are named in
  `class_names.txt`, labelme's way, and may be 255 at most.
- Instances become an image of ids, unless two of them overlap, there are more than 254, or the image has no mask: those of such an image
  are left out, and counted in a warning. Crowds are objects like others.
- Images keep their bytes, so that `JPEGImages` may hold a PNG too. Folders of names become a part of the name.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import numpy as np

from segtasks.codecs.mask import encode_mask
from segtasks.config import Config as BaseConfig
from segtasks.errors import ConfigError, LabelError
from segtasks.readers._describe import voc_color
from segtasks.readers._voc_classes import CLASSES, VOID, VOID_COLOR
from segtasks.spec import DatasetSpec
from segtasks.storage import Store
from segtasks.writers._base import JSON, Labelled
from segtasks.writers._coco import no_split
from segtasks.writers._files import by_name, image_suffix, put, require_unique, stem_of
from segtasks.writers._objects import id_image

log = logging.getLogger(__name__)
_PALETTE = [*(voc_color(index) for index in range(VOID)), VOID_COLOR]
_most_objects = 254


class Config(BaseConfig):
    """The layout has no options."""


def build(config: Config, target: Store, spec: DatasetSpec) -> VocWriter:
    return VocWriter(target, spec)


class VocWriter:
    """See the module."""

    def __init__(self, target: Store, spec: DatasetSpec) -> None:
        if not 0 < spec.num_classes <= VOID:
            raise ConfigError(f"{spec.name!r} has {spec.num_classes} classes; VOC's masks hold 1 to {VOID}")
        self._target, self._spec = target, spec

    def write(self, sample: Labelled) -> JSON:
        name = stem_of(sample, flat=True)
        if name != name.strip() or len(name.splitlines()) > 1:
            raise LabelError(f"{sample.image_id!r} has white space at an end or a line break, which a line of VOC's lists cannot hold")
        ids = None
        if sample.instances is not None and sample.mask is not None:
            ids = id_image(sample.instances, sample.height, sample.width, _most_objects)
        put(self._target, f"JPEGImages/{name}{image_suffix(sample)}", sample.image)
        if sample.mask is None:  # as VOC's test images
            return {"image_id": sample.image_id, "file": name, "left_out": False, "bare": bool(sample.instances)}
        mask = np.where(sample.mask == self._spec.ignore_index, VOID, sample.mask).astype(np.uint8)
        put(self._target, f"SegmentationClass/{name}.png", encode_mask(mask, _PALETTE))
        if ids is not None:
            void = np.where((ids == 0) & (mask == VOID), VOID, ids).astype(np.uint8)
            put(self._target, f"SegmentationObject/{name}.png", encode_mask(void, _PALETTE))
        return {"image_id": sample.image_id, "file": name, "left_out": sample.instances is not None and ids is None, "bare": False}

    def finish(self, splits: Mapping[str, Iterable[JSON]]) -> None:
        require_unique(splits)
        left_out = sum(entry["left_out"] for entries in splits.values() for entry in entries)
        if left_out:
            log.warning("instances of %d images overlap or are too many for an image of ids: left out, format coco has them", left_out)
        if bare := sum(entry["bare"] for entries in splits.values() for entry in entries):
            log.warning("instances of %d images without masks: left out, as VOC has no objects without; format coco has them", bare)
        for split, entries in by_name(splits, no_split).items():
            names = "".join(f"{entry['file']}\n" for entry in entries)
            self._target.replace(f"ImageSets/Segmentation/{split}.txt", names.encode())
        if tuple(self._spec.names) != CLASSES:
            self._target.replace("class_names.txt", "".join(f"{name}\n" for name in ("__ignore__", *self._spec.names)).encode())
