"""Large rasters cut into windows: `images/<split>/x.tif`, and labels of the same stem, masks or GeoJSON; without `images` every TIFF.

- An image is a window, `images/a.tif#y=0000,x=1024`. Those at the lower and right edge are smaller. One raster is one group.
- One band is grey, three are RGB. 8-bit bands are taken as they are; others are brought to 8 bits by percentiles or a stated range.
- Pixels without data (nodata value, internal mask, alpha, NaN) are 0 and ignored. A window without any is not an image: it is counted
  as an empty row.
- Labels are rasters of the same size, or polygons (instances, and a mask with `background`) in any CRS. An empty GeoJSON has no object.
- CRS, transform and bounds of the window are in `meta`, the size of a pixel in `spacing` where the CRS has a unit of length.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from segtasks.codecs import rle
from segtasks.config import Config as BaseConfig
from segtasks.errors import DataFault, DecodeError, LabelError, LimitError
from segtasks.readers import _geo, _geojson
from segtasks.readers._base import Instance, RawSample, SourceItem
from segtasks.readers._geo_classes import Naming, find_spec
from segtasks.readers._geo_layout import Layout, split_of
from segtasks.readers._geo_objects import Objects, find_objects
from segtasks.readers._labels import to_indices
from segtasks.readers._listing import item_version
from segtasks.readers._objects import object_of, paint
from segtasks.spec import DatasetSpec
from segtasks.storage import Entry, Store

_limits_kept = 1000  # files


class Window(BaseConfig):
    """The size of a window, and how many pixels it shares with the next."""

    height: int = Field(default=1024, ge=1, description="pixels")
    width: int = Field(default=1024, ge=1, description="pixels")
    overlap: int = Field(default=0, ge=0, description="pixels shared with the next window, in both directions")

    @model_validator(mode="after")
    def _goes_on(self) -> Window:
        if self.overlap >= min(self.height, self.width):
            raise ValueError(f"overlap {self.overlap} leaves no step to the next window of {self.height}x{self.width}")
        return self


class Config(BaseConfig):
    """Options of the geotiff reader."""

    images: str = Field(default="images", min_length=1, description="folder of the rasters; where it is not there, all of the source")
    labels: str = Field(default="labels", min_length=1, description="folder of masks or GeoJSON, of the rasters' stems")
    label_suffix: str = Field(default="", description="what a label's stem has after the raster's, for example _mask")
    vectors: str | None = Field(
        default=None, description="one GeoJSON file with the objects of all rasters, instead of the folder of labels"
    )
    suffixes: tuple[str, ...] = Field(default=(".tif", ".tiff"), min_length=1, description="files that are rasters; .jp2 is read too")
    window: Window | None = Field(default=Window(), description="how rasters are cut; none: each is one image")
    bands: tuple[int, ...] | None = Field(
        default=None, description="one band or three (red, green, blue), from 1; none: the first three, or the first"
    )
    depth: Literal[8, 16] = Field(default=8, description="bits of the stored image; 16: one band as 16-bit grey")
    range: tuple[float, float] | None = Field(default=None, description="values that become black and white, in all bands and files")
    percentiles: tuple[float, float] | None = Field(
        default=(2.0, 98.0),
        description="without range: percentiles of each band of a file that become black and white; of 8-bit bands none are taken. "
        "none: values are stored as they are, which 8-bit bands and with depth 16 also 16-bit ones allow",
    )
    empty: Literal["skip", "keep"] = Field(
        default="skip", description="skip: a window without data makes an empty row; keep: a black image"
    )
    class_property: str | None = Field(default=None, description="property of a feature that names its class; none: all are one class")
    classes: tuple[str, ...] = Field(
        default=(), description="classes of the features after background; none: those that occur, or with no class_property `object`"
    )
    labels_crs: str | None = Field(
        default=None, description="CRS of GeoJSON that states none: EPSG:..., or raster for that of the raster; none: longitude, latitude"
    )
    all_touched: bool = Field(default=False, description="a polygon covers every pixel it touches; false: those whose centre it covers")
    semantic: bool = Field(default=True, description="also paint a semantic mask of the objects")
    infer_from: int = Field(default=16, ge=1, description="masks looked at, evenly spread, where classes have to be inferred")

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.bands is not None and (len(self.bands) not in (1, 3) or min(self.bands) < 1):
            raise ValueError(f"bands are {list(self.bands)}; needed: one or three, counted from 1")
        if self.depth == 16 and self.bands is not None and len(self.bands) == 3:
            raise ValueError("depth 16 stores one band; name one in bands, or take depth 8")
        for name, low, high in ((name, *limits) for name in ("range", "percentiles") if (limits := getattr(self, name)) is not None):
            if not low < high:
                raise ValueError(f"{name} goes from {low} to {high}; needed: a low value, then a higher one")
        return self


def build(config: Config, source: Store, spec: DatasetSpec | None = None) -> GeotiffReader:
    return GeotiffReader(config, source, spec)


class GeotiffReader:
    """See the module. The listing is made once, when it is first needed."""

    def __init__(self, config: Config, source: Store, spec: DatasetSpec | None = None) -> None:
        self._config, self._source, self._spec = config, source, spec
        self._layout = Layout(source, config.images, config.labels, config.label_suffix, config.suffixes, config.vectors)
        self._limits: dict[str, list[tuple[float, float]]] = {}
        self._naming = Naming(config.class_property, config.classes, config.vectors, config.infer_from)
        self._last: tuple[tuple[str, str], Objects] | None = None
        self._lock = threading.Lock()

    def spec(self) -> DatasetSpec:
        if self._spec is None:
            self._spec = find_spec(self._source, self._layout, self._naming)
        return self._spec

    def scan(self) -> Iterator[SourceItem]:
        for entry in self._layout.rasters:
            yield from self._windows(entry)

    def read(self, item: SourceItem) -> RawSample:
        details, config = json.loads(item.details), self._config
        if details["fault"]:
            raise LabelError(details["fault"])
        with _geo.open_raster(self._source, item.path, self.spec().decode.max_pixels, details["beside"]) as raster:
            bands = _geo.bands_of(raster, config.bands, config.depth, item.path)
            size = raster.height, raster.width
            box = tuple(details["box"]) or (0, 0, *size)
            if box[2] * box[3] > self.spec().decode.max_pixels:
                raise LimitError(
                    f"{item.path} is {box[2]}x{box[3]}; decode.max_pixels is {self.spec().decode.max_pixels}: cut it into windows"
                )
            values, valid = _geo.read_box(raster, bands, box)
            has_data = valid.any(axis=0)
            if config.empty == "skip" and not has_data.any():
                return RawSample(b"", empty=True)
            limits = self._limits_of(raster, bands, item.path)
            place = _geo.place_of(raster, box, item.path)
        mask, instances = self._truth(item, details, size, box, place)
        if mask is not None:
            mask[~has_data] = self.spec().ignore_index
        meta = {**place.meta(box), "raster": item.path, "window": json.dumps(box), "bands": json.dumps(bands)}
        if limits is not None:
            meta["scaled_from"] = json.dumps(limits)
        if not has_data.all():
            meta["no_data"] = f"{1 - has_data.mean():.4f}"
        image = _geo.encode(_geo.scale(values, valid, limits, config.depth))
        return RawSample(image, mask, instances, meta, spacing=place.spacing())

    def _windows(self, entry: Entry) -> Iterator[SourceItem]:
        """The raster's windows; one that cannot be opened is one item, which `read` refuses."""
        config, layout = self._config, self._layout
        name = layout.name(entry.path)
        split = split_of(name)
        beside = [path for path in _geo.sidecars_of(entry.path) if path in layout.listing]
        labels: dict[str, str] = {}
        if config.vectors:
            labels["vectors"] = config.vectors
        elif split in layout.labelled_splits:
            labels["vectors" if layout.has_vectors else "mask"] = layout.label_path(name)
        files = [entry, *(layout.listing[path] for path in beside), *((layout.labels.get(name),) if "mask" in labels else ())]
        shared: dict[str, Any] = {"path": entry.path, "split": split, "group_id": entry.path, "labels": labels}
        try:
            with _geo.open_raster(self._source, entry.path, self.spec().decode.max_pixels, beside) as raster:
                bands = _geo.bands_of(raster, config.bands, config.depth, entry.path)
                size, place = (raster.height, raster.width), _geo.place_of(raster, (0, 0, 1, 1), entry.path)
        except (DataFault, FileNotFoundError):
            whole = _details((), beside)
            yield SourceItem(image_id=entry.path, size=max(1, entry.size), version=item_version(*files), details=whole, **shared)
            return
        objects = self._objects(labels["vectors"], place.crs) if "vectors" in labels else None
        places = _geojson.pixel_boxes(objects.bounds, place.transform) if objects else None
        window, digits = config.window, max(4, len(str(max(size))))
        for box in _geo.boxes(*size, (window.height, window.width), window.overlap) if window else [(0, 0, *size)]:
            version = item_version(*files)
            inside: list[Any] | None = None
            if objects is not None and places is not None:
                inside = objects.inside(places, box, place)
                version += f"+{hashlib.sha256(json.dumps([inside, objects.fault]).encode()).hexdigest()[:16]}"
            yield SourceItem(
                image_id=f"{entry.path}#y={box[0]:0{digits}d},x={box[1]:0{digits}d}" if window else entry.path,
                size=box[2] * box[3] * len(bands) * config.depth // 8,
                version=version,
                details=_details(box, beside, inside, objects.fault if objects else ""),
                **shared,
            )

    def _objects(self, path: str, crs: str) -> Objects:
        """The file's features in coordinates of `crs`. The last ones are kept: many rasters may share a file."""
        if self._last is None or self._last[0] != (path, crs):
            naming, known = self._naming, self.spec().names[1:]
            self._last = (path, crs), find_objects(self._source, path, crs, naming, known, self._config.labels_crs)
        return self._last[1]

    def _truth(
        self, item: SourceItem, details: dict[str, Any], size: tuple[int, int], box: _geo.Box, place: _geo.Place
    ) -> tuple[NDArray[Any] | None, tuple[Instance, ...] | None]:
        if "mask" in item.labels:
            return self._mask(item.labels["mask"], item.path, size, box, place), None
        if details["objects"] is None:
            return None, None
        instances = []
        for name, coordinates in details["objects"]:
            geometry = {"type": "MultiPolygon", "coordinates": coordinates}
            covered = _geojson.burn(geometry, place.transform, box[2], box[3], all_touched=self._config.all_touched)
            if covered.any():
                instances.append(object_of(self.spec().names.index(name), rle.encode(covered), box[2], box[3]))
        found = tuple(instances)
        return paint(found, box[2], box[3], ignore_index=self.spec().ignore_index) if self._config.semantic else None, found

    def _mask(self, path: str, image: str, size: tuple[int, int], box: _geo.Box, place: _geo.Place) -> NDArray[Any]:
        """The window of a mask; what is no data there is ignored. `LabelError` where it does not lie on the image."""
        spec = self.spec()
        bands = [1, 2, 3] if spec.label_encoding.kind == "color" else [1]
        try:
            with _geo.open_raster(self._source, path, spec.decode.max_pixels) as raster:
                if (raster.height, raster.width) != size:
                    raise LabelError(f"{path} is {raster.height}x{raster.width}, {image} {size[0]}x{size[1]}; needed: the same size")
                if raster.count != len(bands):
                    raise LabelError(f"{path} has {raster.count} bands; needed: {len(bands)} ({spec.label_encoding.kind} of the class)")
                _geo.bands_of(raster, bands, 8, path)
                values, valid = _geo.read_box(raster, bands, box)
                there = _geo.place_of(raster, box, path)
        except FileNotFoundError as error:
            raise LabelError(f"{path} is missing") from error
        except (DecodeError, LimitError) as fault:
            raise LabelError(str(fault)) from fault
        if there.crs and place.crs and _moved(there, place, box):
            raise LabelError(f"{path} does not lie where {image} does: {there.meta(box)['bounds']}, {place.meta(box)['bounds']}")
        known = valid.all(axis=0)
        mask = np.full(known.shape, spec.ignore_index, np.uint8 if max(spec.num_classes - 1, spec.ignore_index) < 256 else np.uint16)
        if known.any():
            flat = values[:, known].transpose(1, 0)[None] if len(bands) == 3 else values[0][known][None]
            mask[known] = to_indices(flat, spec, path)[0]
        return mask

    def _limits_of(self, raster: Any, bands: list[int], path: str) -> list[tuple[float, float]] | None:
        """What becomes black and white in each band; None where values are stored as they are."""
        config, kinds = self._config, {raster.dtypes[band - 1] for band in bands}
        if config.range is not None:
            return [config.range] * len(bands)
        if kinds == {"uint8"}:
            return None
        if config.percentiles is None:
            if config.depth == 16 and kinds == {"uint16"}:
                return None
            raise DecodeError(
                f"{path} has {', '.join(sorted(kinds))} values; needed: a range or percentiles to bring them to {config.depth} bits"
            )
        with self._lock:
            if path not in self._limits:
                if len(self._limits) >= _limits_kept:
                    self._limits.clear()
                self._limits[path] = _geo.percentiles(raster, bands, config.percentiles)
            return self._limits[path]


def _details(box: tuple[int, ...], beside: list[str], objects: list[Any] | None = None, fault: str = "") -> str:
    return json.dumps({"box": box, "beside": beside, "objects": objects, "fault": fault})


def _moved(one: _geo.Place, other: _geo.Place, box: _geo.Box) -> bool:
    """Whether two windows lie apart on the map by more than half a pixel."""
    if one.crs != other.crs:
        return True
    corners = [(0, 0), (box[3], 0), (0, box[2]), (box[3], box[2])]
    back = [_geo.apply(~other.transform, *_geo.apply(one.transform, *corner)) for corner in corners]
    return any(abs(x - column) > 0.5 or abs(y - row) > 0.5 for (x, y), (column, row) in zip(back, corners))
