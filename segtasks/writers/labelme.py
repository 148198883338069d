"""labelme's JSON files, as the reader `labelme` takes them: `<split>/x.json` beside `<split>/x.jpg`, and `labels.txt`.

- An object is a shape of the kind `mask` (labelme 5.3 and later), which loses nothing; `shape: polygon` draws polygons along the pixels'
  edges, one a connected part, joined by their `group_id`: they can be edited, and the reader's `fill: coco` gives the masks back.
- Without instances every class of the mask is one object. They come in the order that gives the mask, as labelme shows the later of two.
- Crowds and ignored pixels are shapes of the label `__ignore__`; `background` is `_background_`, and has none.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from segtasks.codecs import rle
from segtasks.codecs.outline import outlines
from segtasks.config import Config as BaseConfig
from segtasks.spec import DatasetSpec
from segtasks.storage import Store
from segtasks.writers._base import JSON, Labelled, Scored
from segtasks.writers._files import image_suffix, put, require_unique, stem_of
from segtasks.writers._objects import is_background, objects_of
from segtasks.writers._order import drawing_order, placed

IGNORE = "__ignore__"
_version = "5.4.1"  # of labelme, whose format this is


class Config(BaseConfig):
    """Options of the labelme writer."""

    shape: Literal["mask", "polygon"] = Field(default="mask", description="kind of shape an object becomes")


def build(config: Config, target: Store, spec: DatasetSpec) -> LabelmeWriter:
    return LabelmeWriter(config, target, spec)


class LabelmeWriter:
    """See the module."""

    def __init__(self, config: Config, target: Store, spec: DatasetSpec) -> None:
        self._config, self._target, self._spec = config, target, spec
        self._labels = ["_background_" if is_background(spec, index) else name for index, name in enumerate(spec.names)]

    def write(self, sample: Labelled) -> JSON:
        name = f"{sample.split}/{stem_of(sample)}" if sample.split else stem_of(sample)
        shapes = [shape for number, (one, label) in enumerate(self._ordered(sample)) for shape in self._shapes(one, label, number, sample)]
        document: JSON = {
            "version": _version,
            "flags": {},
            "shapes": shapes,
            "imagePath": f"{name}{image_suffix(sample)}".rpartition("/")[2],
            "imageData": None,
            "imageHeight": sample.height,
            "imageWidth": sample.width,
        }
        put(self._target, f"{name}{image_suffix(sample)}", sample.image)
        self._target.replace(f"{name}.json", json.dumps(document, ensure_ascii=False, indent=1).encode())
        return {"image_id": sample.image_id, "file": name}

    def finish(self, splits: Mapping[str, Iterable[JSON]]) -> None:
        require_unique(splits)
        self._target.replace("labels.txt", "".join(f"{label}\n" for label in (IGNORE, *self._labels)).encode())

    def _ordered(self, sample: Labelled) -> Iterator[tuple[Scored, str]]:
        """Objects with their labels in the order of drawing, and last what the mask has where no object is seen: ignored pixels, and
        background on objects."""
        objects = objects_of(sample, self._spec)
        places = [placed(one.counts, sample.height, sample.width) for one in objects]
        drawn = np.zeros((sample.height, sample.width), np.int32)
        for place in drawing_order(objects, places, sample.mask):
            one = objects[place]
            drawn[places[place].inside][places[place].pixels] = self._spec.ignore_index if one.iscrowd else one.category_id
            yield one, IGNORE if one.iscrowd else self._labels[one.category_id]
        if sample.mask is None:
            return
        rest = [(sample.mask == self._spec.ignore_index, IGNORE)]
        rest += [(sample.mask == index, label) for index, label in enumerate(self._labels) if is_background(self._spec, index)]
        for wanted, label in rest:
            missing = wanted & (drawn != sample.mask)
            if missing.any():
                counts = rle.encode(missing)
                yield Scored(0, rle.bbox(counts, *missing.shape), float(missing.sum()), counts), label

    def _shapes(self, one: Scored, label: str, number: int, sample: Labelled) -> Iterator[dict[str, Any]]:
        if self._config.shape == "mask":
            top, left, crop = placed(one.counts, sample.height, sample.width)
            if crop.size:
                corners: list[list[Any]] = [[left, top], [left + crop.shape[1] - 1, top + crop.shape[0] - 1]]
                yield {**_shape(label, "mask", corners, None), "mask": _png(crop)}
            return
        parts = outlines(one.counts, sample.height, sample.width)
        for part in parts:
            corners = [[x, y] for x, y in zip(part[0::2], part[1::2], strict=True)]
            yield _shape(label, "polygon", corners, number if len(parts) > 1 else None)


def _shape(label: str, kind: str, points: list[list[Any]], group: int | None) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": group, "description": "", "shape_type": kind, "flags": {}}


def _png(mask: NDArray[np.bool_]) -> str:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
