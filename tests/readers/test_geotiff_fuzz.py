"""Any raster and any GeoJSON is read, or refused in our own words."""

from __future__ import annotations

import contextlib
import json
import struct
import tempfile
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segtasks.errors import DataFault, InputError
from segtasks.readers import geotiff
from segtasks.readers._base import SourceItem
from segtasks.testing.readers import check_sample
from tests.readers.test_geotiff import UTM, cut, noise, put, rasterio, reader

pytestmark = [
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.filterwarnings("ignore::rasterio.errors.NodataShadowWarning"),
]

numbers = st.sampled_from([0, 1, 2, 3, 4, 8, 16, 20, 64, 255, 256, 65535, 65536, 10**5, 10**6, 2**31 - 1, 2**32 - 1])
profiles = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["uint8", "uint16", "float32", "int8", "float64", "int64", "complex64"]),
        "count": st.sampled_from([1, 3, 4]),
    },
    optional={
        "compress": st.sampled_from(["deflate", "lzw", "packbits", "lzma"]),
        "interleave": st.sampled_from(["pixel", "band"]),
        "tiled": st.just(True),
        "nodata": st.just(0),
    },
)


@st.composite
def rasters(draw: st.DrawFn) -> bytes:
    """GeoTIFFs with entries of their directory, and other bytes, replaced by others, and some cut off."""
    profile = draw(profiles)
    if profile.get("tiled"):
        profile |= {"blockxsize": 16, "blockysize": 16}
    with rasterio.io.MemoryFile() as memory:
        with memory.open(driver="GTiff", height=20, width=20, crs="EPSG:32616", transform=UTM, **profile) as made:
            made.write(noise(0, (profile["count"], 20, 20), 0, 100).astype(profile["dtype"]))
        data = bytearray(memory.read())
    start, entries = struct.unpack_from("<I", data, 4)[0] + 2, struct.unpack_from("<H", data, 8)[0]
    for _ in range(draw(st.integers(0, 3))):
        at = start + 12 * draw(st.integers(0, entries - 1))
        part = draw(st.sampled_from(["tag", "type", "count", "value", "value", "value"]))
        value = draw(numbers | st.integers(0, 2**32 - 1))
        form, offset = {"tag": ("<H", 0), "type": ("<H", 2), "count": ("<I", 4), "value": ("<I", 8)}[part]
        struct.pack_into(form, data, at + offset, value % (1 << (16 if form == "<H" else 32)))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data) - 8))
        data[at : at + 8] = draw(
            st.sampled_from([b"\0" * 8, b"\xff" * 8, struct.pack("<d", np.nan), struct.pack("<d", 1e308)]) | st.binary(max_size=8)
        )
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


def read_or_refuse(made: geotiff.GeotiffReader) -> None:
    """All items; more than there are of a sound raster come from a lie in its header, and a few of them will do."""
    with contextlib.suppress(InputError):
        for item in islice(made.scan(), 40):
            with contextlib.suppress(DataFault):
                check_sample(made.read(SourceItem(**json.loads(json.dumps(asdict(item))))), made.spec(), item.image_id)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    data=rasters(),
    options=st.sampled_from(
        [{}, {"window": None}, {"depth": 16}, {"bands": (1,), "range": (0, 100)}, {"window": cut(16, 16, 4), "empty": "keep"}]
    ),
)
def test_any_raster_is_read_or_refused_as_image_and_as_mask(data: bytes, options: dict) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.tif").write_bytes(data)
        read_or_refuse(reader(folder, **options))
        (Path(folder) / "labels").mkdir()
        (Path(folder) / "a.tif").rename(Path(folder) / "labels/a.tif")
        put(Path(folder), "images/a.tif", noise(0, (1, 20, 20)))
        read_or_refuse(reader(folder, window=cut(16, 16)))
        (Path(folder) / "dataset.yaml").write_text("classes: [a, b]\nvalue_map: {1: a, 2: b}\n")
        read_or_refuse(reader(folder))


@pytest.fixture(scope="module")
def two_rasters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("geojson")
    put(folder, "images/a.tif", noise(0, (1, 20, 20)))
    put(folder, "images/b.tif", noise(0, (1, 20, 20)), crs=None)
    (folder / "labels").mkdir()
    return folder


places = st.floats() | st.integers() | st.sampled_from([1e308, -1e11, 10**400, None, True, "1", [1]])
positions = st.tuples(st.floats(733590, 733620), st.floats(3725120, 3725150)) | st.tuples(st.floats(-181, 181), st.floats(-91, 91))
positions |= st.lists(places, max_size=3)
rings = st.lists(positions, max_size=6) | st.lists(positions, min_size=3, max_size=5).map(lambda ring: [*ring, ring[0]])
shapes = st.fixed_dictionaries({"type": st.just("Polygon"), "coordinates": st.lists(rings, max_size=3)})
shapes |= st.fixed_dictionaries({"type": st.just("MultiPolygon"), "coordinates": st.lists(st.lists(rings, max_size=2), max_size=2)})
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "coordinates", "name", "k", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
geometries = st.recursive(
    shapes | anything,
    lambda inner: st.fixed_dictionaries({"type": st.just("GeometryCollection"), "geometries": st.lists(inner, max_size=3)}),
    max_leaves=4,
)
features = st.fixed_dictionaries(
    {"type": st.just("Feature"), "geometry": geometries},
    optional={
        "properties": st.fixed_dictionaries({"k": st.sampled_from(["a", "b", "background", "7", "²", "\ud800", "9" * 5000]) | anything})
        | anything
    },
)
crs = st.sampled_from(
    [
        "urn:ogc:def:crs:EPSG::32616",
        "EPSG:4326",
        "OGC:CRS84",
        "EPSG:3857",
        "EPSG:4978",
        "epsg:x",
        "EPSG:",
        "a.prj",
        "http://127.0.0.1:9/",
        "\ud800",
    ]
).map(lambda name: {"type": "name", "properties": {"name": name}})
documents = st.fixed_dictionaries(
    {"type": st.just("FeatureCollection"), "features": st.lists(features, max_size=4) | anything}, optional={"crs": crs | anything}
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    text=(documents | geometries | anything).map(json.dumps) | st.text(st.sampled_from('{}[]":,019.-eInfNa\\ ')),
    options=st.fixed_dictionaries(
        {},
        optional={
            "class_property": st.just("k"),
            "classes": st.just(("a", "b")),
            "labels_crs": st.sampled_from(["raster", "EPSG:32616"]),
            "all_touched": st.just(True),
            "window": st.just(cut(8, 8, 2)),
        },
    ),
)
def test_any_geojson_is_read_or_refused(two_rasters: Path, text: str, options: dict) -> None:
    for name in "ab":
        (two_rasters / f"labels/{name}.geojson").write_text(text)
    read_or_refuse(reader(two_rasters, **options))
    read_or_refuse(reader(two_rasters, vectors="labels/a.geojson", **options))
