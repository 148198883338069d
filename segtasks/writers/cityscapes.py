"""Cityscapes, as the reader `cityscapes` takes it: `leftImg8bit/<split>/<city>/x_leftImg8bit.png`, `gtFine/.../x_gtFine_labelIds.png`.

- The classes must be Cityscapes' own, by name: the 19 of the benchmark or any of the 34. Ignored pixels become `unlabeled` (0).
- Instances of classes that have such become `x_gtFine_instanceIds.png`: id * 1000 + n, a crowd the id alone. Where two overlap the
  smaller one has the pixel.
- Images become PNG, whatever they were. The city is the beginning of a name like `aachen_000000_000019`; others are of the city `other`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from segtasks.codecs import rle
from segtasks.codecs.image import decode_image, encode_png
from segtasks.codecs.mask import encode_mask
from segtasks.config import Config as BaseConfig
from segtasks.errors import ConfigError, LabelError, did_you_mean
from segtasks.readers._cityscapes_labels import BY_NAME, LABELS
from segtasks.spec import DatasetSpec
from segtasks.storage import Store
from segtasks.writers._base import JSON, Labelled
from segtasks.writers._files import put, require_unique, stem_of

_RECORDING = re.compile(r"(?P<city>[^_]+)_\d+_\d+")
_PALETTE = [label.color for label in LABELS]
_most_objects = 1000  # of a class


class Config(BaseConfig):
    """The layout has no options."""


def build(config: Config, target: Store, spec: DatasetSpec) -> CityscapesWriter:
    return CityscapesWriter(target, spec)


class CityscapesWriter:
    """See the module."""

    def __init__(self, target: Store, spec: DatasetSpec) -> None:
        self._target, self._spec = target, spec
        for name in spec.names:
            if name not in BY_NAME:
                raise ConfigError(f"Cityscapes has no class {name!r}.{did_you_mean(name, BY_NAME)}")
        if not spec.classes:
            raise ConfigError(f"{spec.name!r} has no classes, so there are no labels; format folder takes images alone")
        self._raw = np.zeros(max(spec.num_classes, spec.ignore_index) + 1, np.uint8)
        self._raw[: spec.num_classes] = [BY_NAME[name].id for name in spec.names]

    def write(self, sample: Labelled) -> JSON:
        if not sample.split:
            raise LabelError(f"{sample.image_id} is in no split, and Cityscapes has a folder for each")
        stem = stem_of(sample).rpartition("/")[2].removesuffix("_leftImg8bit")
        recording = _RECORDING.match(stem)
        name = f"{sample.split}/{recording['city'] if recording else 'other'}/{stem}"
        raw = None if sample.mask is None else self._raw[sample.mask]
        ids = None if raw is None or sample.instances is None else self._ids(sample, raw)
        put(self._target, f"leftImg8bit/{name}_leftImg8bit.png", self._png(sample))
        if raw is not None:
            put(self._target, f"gtFine/{name}_gtFine_labelIds.png", encode_mask(raw, _PALETTE))
        if ids is not None:
            put(self._target, f"gtFine/{name}_gtFine_instanceIds.png", encode_mask(ids, _PALETTE))
        return {"image_id": sample.image_id, "file": name}

    def finish(self, splits: Mapping[str, Iterable[JSON]]) -> None:
        require_unique(splits)

    def _ids(self, sample: Labelled, raw: NDArray[np.uint8]) -> NDArray[np.uint16]:
        ids = raw.astype(np.uint16)
        numbers: Counter[int] = Counter()
        for one in sorted(sample.instances or (), key=lambda one: (not one.iscrowd, -one.area)):
            label = BY_NAME[self._spec.names[one.category_id]]
            if not label.has_instances or numbers[label.id] == _most_objects:
                raise LabelError(f"{sample.image_id} has an object of {label.name!r} that Cityscapes cannot number")
            ids[rle.decode(one.counts, *ids.shape)] = label.id if one.iscrowd else label.id * 1000 + numbers[label.id]
            numbers[label.id] += not one.iscrowd
        return ids

    def _png(self, sample: Labelled) -> bytes | None:
        if sample.image is None or sample.media_type == "image/png":
            return sample.image
        return encode_png(decode_image(sample.image, self._spec.decode).pixels)
