"""The classes of labelled rasters: of polygons by a property, of masks by `dataset.yaml` or from the values of some of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from segtasks.codecs.mask import encode_mask
from segtasks.errors import DataFault, InputError, LabelError
from segtasks.readers import _describe, _geo, _geojson
from segtasks.readers._geo_layout import Layout
from segtasks.readers._infer import infer_spec
from segtasks.readers._objects import BACKGROUND, object_classes
from segtasks.spec import DatasetSpec, DecodePolicy
from segtasks.storage import Store

description_file = "dataset.yaml"
_look_side = 1024  # pixels
_most_classes = 65_000


@dataclass(frozen=True)
class Naming:
    """What the options say: see `geotiff.Config`."""

    class_property: str | None
    classes: tuple[str, ...]
    vectors: str | None
    infer_from: int


def find_spec(source: Store, layout: Layout, naming: Naming) -> DatasetSpec:
    """`InputError` where no class can be found."""
    name = source.url.rstrip("/").rsplit("/", 1)[-1]
    if naming.vectors or layout.has_vectors:
        classes = object_classes(naming.classes or _names(source, layout, naming))
        return DatasetSpec(name=name, classes=classes, ignore_index=255 if len(classes) <= 255 else 65535)
    if not layout.labels:
        return DatasetSpec(name=name)
    try:
        described = _describe.parse(source.read(description_file), description_file)
    except FileNotFoundError:
        return infer_spec(_some_masks(source, layout, naming.infer_from), len(layout.labels), name, DecodePolicy().max_pixels)
    return _describe.spec_of(described, name, color_masks=described.encoding == "color")


def read_features(source: Store, path: str, class_property: str | None) -> _geojson.Features:
    """`LabelError` where the file is missing or no GeoJSON of polygons."""
    try:
        return _geojson.parse(source.read(path), path, class_property)
    except FileNotFoundError as error:
        raise LabelError(f"{path} is missing") from error


def _names(source: Store, layout: Layout, naming: Naming) -> list[str]:
    """Classes that occur in the features, in order of their numbers or names."""
    found: set[str] = set()
    files = [naming.vectors] if naming.vectors else [entry.path for entry in layout.labels.values()]
    for path in files:
        try:
            found |= {one.name for one in read_features(source, path, naming.class_property).features}
        except LabelError as fault:  # otherwise the rasters of that file are refused by `read`
            if naming.vectors:
                raise InputError(f"the option vectors: {fault}") from fault
    if not naming.class_property:
        return ["object"]
    found.discard("")
    if not found:
        raise InputError(f"no feature has the property {naming.class_property}; needed: another class_property, or classes")
    if BACKGROUND.name in found:
        raise InputError(
            f"features have the {naming.class_property} {BACKGROUND.name!r}, which is where no object is; needed: another name"
        )
    if len(found) > _most_classes:
        raise InputError(f"features have {len(found)} values of {naming.class_property}; needed: a property that names their class")
    return sorted(found, key=lambda name: (not _is_number(name), int(name) if _is_number(name) else 0, name))


def _is_number(name: str) -> bool:
    return name.isdecimal() and len(name) < 20


def _some_masks(source: Store, layout: Layout, most: int) -> Iterator[tuple[str, bytes]]:
    """The values of masks evenly spread, as PNGs; of a very large one those of windows evenly spread over it."""
    entries = list(layout.labels.values())
    count, max_pixels = min(len(entries), most), DecodePolicy().max_pixels
    for number in range(count):
        path = entries[number * len(entries) // count].path
        found: set[int] = set()
        try:
            with _geo.open_raster(source, path, max_pixels) as raster:
                if raster.count > 1:
                    raise InputError(
                        f"{path} has {raster.count} bands; needed: one of class indices, or {description_file} with encoding: color"
                    )
                if raster.dtypes[0] not in ("uint8", "uint16"):
                    continue
                for box in _geo.spread(raster.height, raster.width, (_look_side, _look_side), max_pixels // _look_side**2):
                    values, valid = _geo.read_box(raster, [1], box)
                    found.update(np.unique(values[valid]).tolist())
        except DataFault:
            continue
        if found:
            yield path, encode_mask(np.array([sorted(found)], np.uint8 if max(found) < 256 else np.uint16), ())
