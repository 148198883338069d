"""The objects of rasters from GeoJSON: in a raster's coordinates, named by their class, and given out window by window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtasks.errors import LabelError
from segtasks.readers import _geo, _geojson
from segtasks.readers._geo_classes import Naming, read_features
from segtasks.storage import Store

_margin = 2  # pixels around a window to which large features are cut


@dataclass(frozen=True)
class Objects:
    """`fault` is what is wrong with the file: then there are none, and its rasters are refused by `read`."""

    features: tuple[_geojson.Feature, ...]
    bounds: NDArray[np.float64]  # on the map, a row each
    fault: str = ""

    def inside(self, places: NDArray[np.float64], box: _geo.Box, place: _geo.Place) -> list[list[Any]]:
        """Class name and polygons of those that reach into the window. `places` are their boxes in pixels, `place` the raster's."""
        top, left, height, width = box
        edges = top - _margin, left - _margin, top + height + _margin, left + width + _margin
        bounds = _geo.bounds_of_pixels(place.transform, *edges)
        clipped = (_geojson.clip(self.features[at], bounds) for at in _geojson.touching(places, box))
        return [[one.name, one.geometry["coordinates"]] for one in clipped if one is not None]


def find_objects(source: Store, path: str, crs: str, naming: Naming, known: Sequence[str], default_crs: str | None) -> Objects:
    """`known` are the classes that there are."""
    named, classes = [], set(known)
    try:
        for one in _geojson.to_crs(read_features(source, path, naming.class_property), crs, default_crs, path):
            name = one.name if naming.class_property else known[0]
            if name not in classes:
                found = f"{naming.class_property} {name!r}" if name else f"no {naming.class_property}"
                raise LabelError(f"{path} has a feature with {found}; known classes: {', '.join(known[:20])}")
            named.append(_geojson.Feature(one.geometry, name))
    except LabelError as fault:
        return Objects((), np.empty((0, 4)), str(fault))
    return Objects(tuple(named), _geojson.bounds_of(named))
