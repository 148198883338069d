"""GeoJSON's polygons: found in a file, brought into a raster's coordinates, and burnt into the pixels whose centre they cover.

Files without a `crs` are in longitude and latitude (RFC 7946), unless an option says otherwise. What is wrong with a file is a
`LabelError` with the place, `features[17]`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtasks.errors import LabelError
from segtasks.readers._geo import Box, apply, faults, rasterio
from segtasks.readers._objects import is_text

_many = 500  # corners of a feature from which on it is cut to each window
_farthest = 1e12  # on any map
LONGITUDE_LATITUDE = "OGC:CRS84"
# GDAL would take other names for those of files and servers, and ask them
_known_crs = re.compile(
    r"[A-Za-z]\w*:\w+|(WGS|NAD|CRS)\d+|urn:(x-)?ogc:def:crs:\w+:[\w.]*:\w+|https?://(www\.)?opengis\.net/def/crs/\w+/[\w.]+/\w+", re.ASCII
)


@dataclass(frozen=True)
class Feature:
    """One object: a Polygon or MultiPolygon, and what `class_property` says of it (empty: there is no such property)."""

    geometry: dict[str, Any]
    name: str


@dataclass(frozen=True)
class Features:
    """The objects of a file. `crs` is as the file says it; empty where it does not."""

    crs: str
    features: tuple[Feature, ...]


def parse(data: bytes, path: str, class_property: str | None) -> Features:
    """The file's objects; an empty file has none. Features without a geometry are passed over, points and lines are refused."""
    if not data.strip():
        return Features("", ())
    try:
        return _parse(json.loads(data.decode("utf-8-sig")), path, class_property)
    except ValueError as error:
        raise LabelError(f"{path} is not valid JSON: {error}") from error
    except RecursionError as error:
        raise LabelError(f"{path} is not valid JSON of objects: it is nested too deeply") from error


def _parse(found: Any, path: str, class_property: str | None) -> Features:
    if not isinstance(found, dict):
        raise LabelError(f"{path} holds {_short(found)}; needed: a FeatureCollection")
    kind = found.get("type")
    listed = found.get("features") if kind == "FeatureCollection" else [found if kind == "Feature" else {"geometry": found}]
    if not isinstance(listed, list):
        raise LabelError(f"{path}: features is {_short(listed)}; needed: a list")
    features = []
    for number, one in enumerate(listed):
        where = f"{path}: features[{number}]"
        if not isinstance(one, dict):
            raise LabelError(f"{where} is {_short(one)}; needed: an object")
        properties = one.get("properties")
        value = properties.get(class_property) if isinstance(properties, dict) and class_property else None
        polygons = list(_polygons(one.get("geometry"), where))
        name = "" if value is None else str(value)
        if not is_text(name):
            raise LabelError(f"{where}: {class_property} is {_short(value)}; needed: the name of a class")
        if polygons:
            features.append(Feature({"type": "MultiPolygon", "coordinates": polygons}, name))
    return Features(_crs(found.get("crs"), path), tuple(features))


def to_crs(features: Features, crs: str, default: str | None, path: str) -> tuple[Feature, ...]:
    """The features in the coordinates of `crs` (empty: those of a raster without one, in which they must be already)."""
    package = rasterio()
    unsound: tuple[type[Exception], ...] = (*faults(), ValueError)
    given = features.crs or default or LONGITUDE_LATITUDE
    if not features.features or given == "raster":
        return features.features
    if not crs:
        raise LabelError(f"{path} is in {given[:60]}, and its raster has no CRS; needed: one (labels_crs: raster if they agree)")
    if given == LONGITUDE_LATITUDE and not features.crs:
        outside = next((point for one in features.features for point in _points(one) if abs(point[0]) > 360 or abs(point[1]) > 90), None)
        if outside is not None:
            raise LabelError(f"{path} has no crs, and {outside} is no longitude and latitude; say labels_crs (raster: that of the raster)")
    try:
        source, target = package.crs.CRS.from_user_input(given), package.crs.CRS.from_user_input(crs)
        if source == target:
            return features.features
        moved = package.warp.transform_geom(source, target, [one.geometry for one in features.features])
    except unsound as error:
        raise LabelError(f"{path} cannot be brought from {given[:60]} to {crs[:60]}: {error}") from error
    made = tuple(Feature(geometry, one.name) for geometry, one in zip(moved, features.features))
    if not all(math.isfinite(value) for one in made for point in _points(one) for value in point):
        raise LabelError(f"{path} has places that {crs[:60]} does not reach")
    return made


def bounds_of(features: Sequence[Feature]) -> NDArray[np.float64]:
    """Least x and y, largest x and y of each feature."""
    found = np.empty((len(features), 4))
    for at, one in enumerate(features):
        points = np.array(list(_points(one)))
        found[at, :2], found[at, 2:] = points.min(axis=0), points.max(axis=0)
    return found


def pixel_boxes(bounds: NDArray[np.float64], transform: Any) -> NDArray[np.float64]:
    """Top, left, bottom, right in pixels of the raster with this transform, from bounds on the map."""
    corners = [apply(~transform, bounds[:, x], bounds[:, y]) for x in (0, 2) for y in (1, 3)]
    columns, rows = (np.stack(values) for values in zip(*corners))
    return np.stack([rows.min(axis=0), columns.min(axis=0), rows.max(axis=0), columns.max(axis=0)], axis=1)


def touching(places: NDArray[np.float64], box: Box) -> list[int]:
    """Which of the boxes of `pixel_boxes` reach into the window."""
    top, left, height, width = box
    inside = (places[:, 2] > top) & (places[:, 0] < top + height) & (places[:, 3] > left) & (places[:, 1] < left + width)
    return [int(at) for at in np.flatnonzero(inside)]


def clip(one: Feature, bounds: tuple[float, float, float, float]) -> Feature | None:
    """A feature of very many corners cut to a box on the map, along whose edge it then goes on; None where nothing is left.

    Otherwise a coast line would be handed on whole to each of its ten thousand windows. Others are as they are.
    """
    if sum(1 for _ in _points(one)) <= _many:
        return one
    kept = []
    for polygon in one.geometry["coordinates"]:
        rings = [_cut(ring, bounds) for ring in polygon]
        if rings[0]:
            kept.append([ring for ring in rings if ring])
    return Feature({"type": "MultiPolygon", "coordinates": kept}, one.name) if kept else None


def _cut(ring: list[list[float]], bounds: tuple[float, float, float, float]) -> list[list[float]]:
    """Sutherland and Hodgman 1974: against one side of the box after the other."""
    for side in range(4):
        axis, limit, sign = side % 2, bounds[side], 1 if side < 2 else -1
        made: list[list[float]] = []
        for before, point in pairwise(ring):
            inside, was_inside = sign * (point[axis] - limit) >= 0, sign * (before[axis] - limit) >= 0
            if inside != was_inside:
                share = (limit - before[axis]) / (point[axis] - before[axis])
                crossing = [before[0] + share * (point[0] - before[0]), before[1] + share * (point[1] - before[1])]
                crossing[axis] = limit
                made.append(crossing)
            if inside:
                made.append(point)
        if not made:
            return []
        ring = [*made, made[0]]
    return ring


def burn(geometry: dict[str, Any], transform: Any, height: int, width: int, *, all_touched: bool) -> NDArray[np.bool_]:
    """The pixels HxW that GDAL's rasteriser sets; only the part that the geometry reaches is looked at."""
    mask = np.zeros((height, width), np.bool_)
    top, left, bottom, right = pixel_boxes(bounds_of([Feature(geometry, "")]), transform)[0]
    first_row, first_column = max(0, math.floor(top) - 1), max(0, math.floor(left) - 1)
    rows, columns = min(height, math.ceil(bottom) + 1) - first_row, min(width, math.ceil(right) + 1) - first_column
    if rows <= 0 or columns <= 0:
        return mask
    part = rasterio().features.rasterize(
        [(geometry, 1)],
        out_shape=(rows, columns),
        transform=rasterio().windows.transform(rasterio().windows.Window(first_column, first_row, columns, rows), transform),
        all_touched=all_touched,
        dtype=np.uint8,
    )
    mask[first_row : first_row + rows, first_column : first_column + columns] = part != 0
    return mask


def _points(feature: Feature) -> Iterator[tuple[float, float]]:
    return ((point[0], point[1]) for polygon in feature.geometry["coordinates"] for ring in polygon for point in ring)


def _polygons(geometry: Any, where: str) -> Iterator[list[Any]]:
    """The polygons of a geometry, each a list of rings of x, y."""
    if geometry is None:
        return
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    inside = geometry.get("geometries" if kind == "GeometryCollection" else "coordinates") if isinstance(geometry, dict) else None
    if kind not in ("Polygon", "MultiPolygon", "GeometryCollection"):
        raise LabelError(f"{where} is a {_short(kind)}; needed: Polygon or MultiPolygon (give points and lines a width first)")
    if not isinstance(inside, list):
        raise LabelError(f"{where}: the {kind} has the coordinates {_short(inside)}; needed: lists")
    if kind == "GeometryCollection":
        for one in inside:
            yield from _polygons(one, where)
        return
    for polygon in [inside] if kind == "Polygon" else inside:
        if polygon:  # an empty one is no place
            yield [_ring(ring, where) for ring in (polygon if isinstance(polygon, list) else [polygon])]


def _ring(ring: Any, where: str) -> list[list[float]]:
    try:
        if not isinstance(ring, list) or not all(isinstance(point, list) for point in ring):
            raise TypeError("no list of lists")
        points = [[float(x), float(y)] for x, y, *_ in ring]
    except (TypeError, ValueError, OverflowError) as error:
        raise LabelError(f"{where}: a ring is {_short(ring)}; needed: a list of positions x, y") from error
    if len(points) < 3 or not all(abs(value) < _farthest for point in points for value in point):
        raise LabelError(f"{where}: a ring is {_short(ring)}; needed: at least three corners, of finite numbers that are places")
    return points if points[0] == points[-1] else [*points, points[0]]


def _crs(member: Any, path: str) -> str:
    """GeoJSON 2008: {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32616"}}."""
    if member is None:
        return ""
    properties = member.get("properties") if isinstance(member, dict) else None
    name = properties.get("name") if isinstance(properties, dict) else None
    if not isinstance(name, str) or not _known_crs.fullmatch(name):
        raise LabelError(f"{path}: crs is {_short(member)}; needed: a name such as urn:ogc:def:crs:EPSG::32616, or none")
    return name


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:60]}..."
