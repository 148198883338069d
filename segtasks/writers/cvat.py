"""CVAT for images 1.1: `<split>/annotations.xml` and `<split>/images/`, a task a split, and `labels.json` for the raw editor of labels.

- An object is a `mask`, which loses nothing. `shape: polygon` draws polygons along the pixels' edges, one a connected part, joined by their
  `group_id`; CVAT's importer for whole projects takes those alone.
- Without instances every class of the mask but `background` is one object. Ignored pixels are in none: CVAT has no word for them.
- Where objects overlap the smaller one is on a higher layer (`z_order`). Crowds have the attribute `is_crowd`, as CVAT's COCO has it, and
  predictions `score`: CVAT keeps these where the task's labels have them, which those of `labels.json` do.
- CVAT finds an image by its name in the task, and where it finds none takes its number: these are in the order of names, as CVAT sorts.
"""

from __future__ import annotations

import json
import posixpath
import tempfile
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from segtasks.codecs import rle
from segtasks.codecs.outline import outlines
from segtasks.config import Config as BaseConfig
from segtasks.errors import ConfigError, LabelError
from segtasks.spec import DatasetSpec
from segtasks.storage import Store
from segtasks.writers._base import JSON, Labelled, Scored
from segtasks.writers._coco import no_split
from segtasks.writers._files import by_name, image_suffix, put, require_unique, stem_of
from segtasks.writers._objects import is_background, objects_of
from segtasks.writers._xml import Document, is_xml, web_color


class Config(BaseConfig):
    """Options of the CVAT writer."""

    shape: Literal["mask", "polygon"] = Field(default="mask", description="kind of shape an object becomes")
    names: Literal["flat", "path", "base", "id"] = Field(
        default="flat",
        description="how images are called, as it must be in the task: flat has folders in the name (a__b.jpg), path keeps them, base has "
        "none (nor has what is uploaded in the browser), id is the image's id, for tasks made of the source itself",
    )
    image_root: str = Field(default="", description="put before each image's name, where the task has images of a share or bucket")
    source: Literal["auto", "manual"] = Field(default="auto", description="who made the labels, as CVAT's files have it")


def build(config: Config, target: Store, spec: DatasetSpec) -> CvatWriter:
    return CvatWriter(config, target, spec)


class CvatWriter:
    """See the module."""

    def __init__(self, config: Config, target: Store, spec: DatasetSpec) -> None:
        self._config, self._target, self._spec = config, target, spec
        self._classes = [item for index, item in enumerate(spec.classes) if not is_background(spec, index)]
        if not self._classes:
            raise ConfigError(f"{spec.name!r} has no classes of objects, so there is nothing to annotate")
        for name in (spec.name, config.image_root, *spec.names):
            if not is_xml(name):
                raise ConfigError(f"{name!r} has a character that XML cannot hold; needed: another name")

    def write(self, sample: Labelled) -> JSON:
        split, name = sample.split or no_split, self._name(sample)
        if not is_xml(name):
            raise LabelError(f"{name!r} has a character that XML cannot hold")
        shapes = self._shapes(sample)
        put(self._target, f"{split}/images/{name}", sample.image)
        known = posixpath.splitext(f"{split}/{name}")[0]  # CVAT looks at no suffix
        size = [sample.height, sample.width]
        return {"image_id": sample.image_id, "known": known, "name": name, "size": size, "shapes": shapes}

    def finish(self, splits: Mapping[str, Iterable[JSON]]) -> None:
        require_unique(splits, "known")
        attributes = {name for entries in splits.values() for entry in entries for shape in entry["shapes"] for name in shape["attributes"]}
        labels = [_label(item.name, item.color, attributes) for item in self._classes]
        self._target.replace("labels.json", json.dumps(labels, ensure_ascii=False, indent=1).encode())
        for split, entries in by_name(splits, no_split).items():
            with tempfile.TemporaryFile("w+b") as file:
                _write(Document(file), f"{self._spec.name} {split}", labels, entries, self._config.image_root)
                file.seek(0)
                self._target.replace(f"{split}/annotations.xml", file.read())

    def _name(self, sample: Labelled) -> str:
        path = f"{stem_of(sample)}{image_suffix(sample)}"  # refuses an id that leads elsewhere
        return {"flat": path.replace("/", "__"), "path": path, "base": posixpath.basename(path), "id": sample.image_id}[self._config.names]

    def _shapes(self, sample: Labelled) -> list[JSON]:
        """Large objects first. `group` counts in the image, from 1; 0 is none."""
        shapes: list[JSON] = []
        groups = 0
        layers = np.full((sample.height, sample.width), -1, np.int32)
        for one in sorted(objects_of(sample, self._spec), key=lambda one: -one.area):
            left, top, width, height = (int(side) for side in rle.bbox(one.counts, sample.height, sample.width))
            if not width:
                continue
            crop = rle.decode_box(one.counts, sample.height, sample.width, (top, left, height, width))
            below = layers[top : top + height, left : left + width]
            layer = int(below[crop].max()) + 1
            below[crop] = layer
            said = {"label": self._spec.names[one.category_id], "source": self._config.source, "occluded": "0", "z_order": str(layer)}
            attributes = _attributes(one)
            if self._config.shape == "mask":
                box = {"left": str(left), "top": str(top), "width": str(width), "height": str(height)}
                shapes.append({"tag": "mask", "group": 0, "said": {**said, "rle": _runs(crop), **box}, "attributes": attributes})
                continue
            parts = outlines(one.counts, sample.height, sample.width)
            groups += len(parts) > 1
            for part in parts:
                points = ";".join(f"{x:.10g},{y:.10g}" for x, y in zip(part[0::2], part[1::2], strict=True))
                group = groups if len(parts) > 1 else 0
                shapes.append({"tag": "polygon", "group": group, "said": {**said, "points": points}, "attributes": attributes})
        return shapes


def _attributes(one: Scored) -> dict[str, str]:
    found = {"is_crowd": "true"} if one.iscrowd else {}
    return found if one.score is None else {**found, "score": f"{one.score:.6g}"}


def _runs(crop: NDArray[np.bool_]) -> str:
    """Lengths of the runs of the box row by row, of pixels that are not set first."""
    flat = crop.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(edges, prepend=0, append=flat.size).tolist()
    return ", ".join(map(str, [0, *lengths] if flat[0] else lengths))


def _label(name: str, color: tuple[int, int, int], attributes: set[str]) -> JSON:
    known = {
        "is_crowd": {"input_type": "checkbox", "default_value": "false", "values": ["false"]},
        "score": {"input_type": "text", "default_value": "", "values": [""]},  # CVAT's numbers are whole
    }
    chosen = [{"name": key, "mutable": False, **value} for key, value in known.items() if key in attributes]
    return {"name": name, "color": web_color(color), "type": "any", "attributes": chosen}


def _write(xml: Document, name: str, labels: list[JSON], entries: Iterable[JSON], root: str) -> None:
    names = [entry["name"] for entry in entries]
    numbers = dict(zip(sorted(names), range(len(names)), strict=True))
    with xml.element("annotations"):
        xml.text("version", "1.1")
        with xml.element("meta"), xml.element("task"):
            for key, value in (("id", "0"), ("name", name), ("size", str(len(names))), ("mode", "annotation"), ("overlap", "0")):
                xml.text(key, value)
            with xml.element("labels"):
                for label in labels:
                    _write_label(xml, label)
        groups = 0  # so far: a task has one numbering
        for entry in entries:
            height, width = entry["size"]
            number, path = str(numbers[entry["name"]]), posixpath.join(root, entry["name"])
            with xml.element("image", {"id": number, "name": path, "width": str(width), "height": str(height)}):
                for shape in entry["shapes"]:
                    group = {"group_id": str(groups + shape["group"])} if shape["group"] else {}
                    with xml.element(shape["tag"], {**shape["said"], **group}):
                        for key, value in shape["attributes"].items():
                            xml.text("attribute", value, {"name": key})
            groups += max((shape["group"] for shape in entry["shapes"]), default=0)
    xml.close()


def _write_label(xml: Document, label: JSON) -> None:
    with xml.element("label"):
        for key in ("name", "color", "type"):
            xml.text(key, label[key])
        with xml.element("attributes"):
            for attribute in label["attributes"]:
                with xml.element("attribute"):
                    for key in ("name", "mutable", "input_type", "default_value"):
                        xml.text(key, str(attribute[key]))
                    xml.text("values", "\n".join(attribute["values"]))
