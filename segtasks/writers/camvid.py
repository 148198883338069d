"""CamVid in SegNet's layout, as the reader `camvid` takes it: `train/x.png`, `trainannot/x.png` and `train.txt`; val and test too.

Labels are 0..10, and 11 for void. The classes must be CamVid's eleven, in any order: `class_map` of earlier stages brings others to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from segtasks.codecs.mask import encode_mask
from segtasks.config import Config as BaseConfig
from segtasks.errors import ConfigError, LabelError
from segtasks.readers._camvid_classes import segnet_spec
from segtasks.readers.camvid import splits
from segtasks.spec import DatasetSpec
from segtasks.storage import Store
from segtasks.writers._base import JSON, Labelled
from segtasks.writers._files import image_suffix, put, require_unique, stem_of


class Config(BaseConfig):
    """The layout has no options."""


def build(config: Config, target: Store, spec: DatasetSpec) -> CamvidWriter:
    return CamvidWriter(target, spec)


class CamvidWriter:
    """See the module."""

    def __init__(self, target: Store, spec: DatasetSpec) -> None:
        self._target = target
        camvid = segnet_spec()
        void = camvid.num_classes
        strange = sorted(set(spec.names) - set(camvid.names))
        if strange or not spec.classes:
            raise ConfigError(f"CamVid has no class for {strange or 'images without classes'}; needed: its {', '.join(camvid.names)}")
        self._labels = np.full(max(spec.num_classes, spec.ignore_index) + 1, void, np.uint8)
        self._labels[: spec.num_classes] = [camvid.names.index(name) for name in spec.names]
        self._palette = [*camvid.palette[:void], (0, 0, 0)]

    def write(self, sample: Labelled) -> JSON:
        if sample.split not in splits:
            raise LabelError(f"{sample.image_id} is in split {sample.split!r}; CamVid has {', '.join(splits)}")
        if sample.mask is None:
            raise LabelError(f"{sample.image_id} has no mask, and CamVid has a label for every image")
        name = stem_of(sample, flat=True)
        if any(mark.isspace() for mark in sample.image_id):
            raise LabelError(f"{sample.image_id!r} has white space, which divides image and label in a line of CamVid's lists")
        image, label = f"{sample.split}/{name}{image_suffix(sample)}", f"{sample.split}annot/{name}.png"
        put(self._target, image, sample.image)
        put(self._target, label, encode_mask(self._labels[sample.mask], self._palette))
        return {"image_id": sample.image_id, "file": label, "line": f"{image} {label}"}

    def finish(self, splits: Mapping[str, Iterable[JSON]]) -> None:
        require_unique(splits)
        for split, entries in splits.items():
            lines = "".join(f"{entry['line']}\n" for entry in entries)
            self._target.replace(f"{split}.txt", lines.encode())
