from __future__ import annotations

import io
import json

import numpy as np
import rasterio
from rasterio.io import MemoryFile

from segtasks.storage import Store

options = {"window": {"height": 32, "width": 32, "overlap": 8}, "class_property": "kind"}


def write(store: Store) -> None:
    for name, side, seed in (("train/a", 50, 0), ("train/small", 24, 1), ("val/b", 40, 2)):
        store.create(f"images/{name}.tif", raster(seed, side))
        squares = [square(4, 4, 12, "house"), square(10, 10, 20, "field")]
        store.create(f"labels/{name}.geojson", json.dumps({"type": "FeatureCollection", "features": squares}).encode())
    store.create("images/test/c.tif", raster(3, 20))  # a split without labels


def break_one(store: Store) -> str:
    store.replace("labels/train/small.geojson", b'{"type": "FeatureCollection", "features": [{"geometry"')
    return "images/train/small.tif#y=0000,x=0000"


def raster(seed: int, side: int) -> bytes:
    """16-bit colour; its upper left corner at 10 east, 50 north, a pixel 0.001 degrees."""
    values = np.random.default_rng(seed).integers(1, 4000, (3, side, side), dtype=np.uint16)
    values[:, :2] = 0
    transform = rasterio.transform.from_origin(10, 50, 0.001, 0.001)
    profile = {"driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint16", "crs": "EPSG:4326", "nodata": 0}
    with MemoryFile() as memory:
        with memory.open(**profile, transform=transform) as made:
            made.write(values)
        return io.BytesIO(memory.read()).getvalue()


def square(top: int, left: int, side: int, kind: str) -> dict[str, object]:
    north, west, size = 50 - top / 1000, 10 + left / 1000, side / 1000
    ring = [[west, north], [west + size, north], [west + size, north - size], [west, north - size], [west, north]]
    return {"type": "Feature", "properties": {"kind": kind}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
