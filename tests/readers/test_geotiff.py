from __future__ import annotations

import io
import json
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtasks.codecs import rle
from segtasks.engines.local import LocalEngine
from segtasks.errors import DecodeError, InputError, LabelError, LimitError, StorageError
from segtasks.readers import _geo, geotiff
from segtasks.shards import open_snapshot
from segtasks.spec import DecodePolicy
from segtasks.stages.config import IngestConfig
from segtasks.stages.ingest import ingest
from segtasks.storage import open_store
from segtasks.testing.readers import check_reader
from tests.s3 import s3_bucket, s3_endpoint  # noqa: F401 (fixtures)

rasterio = pytest.importorskip("rasterio", reason="needs rasterio: pip install 'segtasks[geo]'")
from rasterio.features import rasterize  # noqa: E402
from rasterio.transform import Affine, from_origin  # noqa: E402
from rasterio.windows import Window  # noqa: E402

UTM = from_origin(733601.0, 3725139.0, 0.5, 0.5)
pytestmark = [
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.filterwarnings("ignore::rasterio.errors.NodataShadowWarning"),
]


def put(folder: Path, path: str, values: np.ndarray, *, crs: str | None = "EPSG:32616", transform=UTM, **profile) -> Path:
    """Write bands x height x width (or one band) as a GeoTIFF."""
    values = values if values.ndim == 3 else values[None]
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    options = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": values.dtype, "crs": crs, **profile}
    with rasterio.open(file, "w", transform=transform, **options) as made:
        made.write(values)
    return file


def noise(seed: int, shape: tuple[int, ...], low: int = 1, high: int = 256, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, shape, dtype=dtype)


def rectangle(top: float, left: float, height: float, width: float, transform=UTM) -> list[list[float]]:
    """A ring in the map's coordinates of a rectangle in pixels."""
    corners = ((left, top), (left + width, top), (left + width, top + height), (left, top + height), (left, top))
    return [list(_geo.apply(transform, *corner)) for corner in corners]


def polygon(*rings: list, **properties) -> dict:
    return {"type": "Feature", "properties": properties, "geometry": {"type": "Polygon", "coordinates": list(rings)}}


def put_json(folder: Path, path: str, *features: dict, crs: str | None = "urn:ogc:def:crs:EPSG::32616") -> None:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    member = {"crs": {"type": "name", "properties": {"name": crs}}} if crs else {}
    (folder / path).write_text(json.dumps({"type": "FeatureCollection", **member, "features": list(features)}))


def reader(folder: Path | str, spec=None, **options) -> geotiff.GeotiffReader:
    return geotiff.build(geotiff.Config(**options), open_store(str(folder)), spec)


def cut(height: int, width: int, overlap: int = 0) -> dict:
    return {"height": height, "width": width, "overlap": overlap}


def pixels(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)))


def box_of(sample) -> tuple[int, int, int, int]:
    return tuple(json.loads(sample.meta["window"]))


@pytest.mark.parametrize("profile", [{}, {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"}])
@pytest.mark.parametrize("overlap", [0, 7])
def test_windows_put_together_are_the_whole_raster(tmp_path, profile, overlap):
    stored = noise(0, (4, 75, 110))
    file = put(tmp_path, "a.tif", stored, photometric="RGB", alpha="no", **profile)
    made = reader(tmp_path, window=cut(32, 40, overlap))
    with rasterio.open(file) as raster:
        whole = raster.read([1, 2, 3]).transpose(1, 2, 0)
    together = np.zeros_like(whole)
    times = np.zeros(whole.shape[:2], int)
    for item in made.scan():
        top, left, height, width = box_of(sample := made.read(item))
        together[top : top + height, left : left + width] = pixels(sample.image)
        times[top : top + height, left : left + width] += 1
        assert item.image_id == f"a.tif#y={top:04d},x={left:04d}"
        assert item.group_id == "a.tif"
    np.testing.assert_array_equal(together, whole)
    assert times.min() == 1
    assert times.max() == (1 if not overlap else 4)


def test_16_bit_windows_put_together_are_the_whole_band(tmp_path):
    stored = noise(0, (2, 50, 60), 0, 65536, np.uint16)
    put(tmp_path, "a.tif", stored)
    made = reader(tmp_path, window=cut(32, 32), bands=(2,), depth=16, percentiles=None)
    together = np.zeros((50, 60), np.uint16)
    for item in made.scan():
        top, left, height, width = box_of(sample := made.read(item))
        together[top : top + height, left : left + width] = pixels(sample.image)
    np.testing.assert_array_equal(together, stored[1])


def test_without_a_window_a_raster_is_one_image(tmp_path):
    stored = noise(0, (1, 40, 30))
    put(tmp_path, "images/train/a.tif", stored)
    made = reader(tmp_path, window=None)
    (item,) = made.scan()
    assert (item.image_id, item.split) == ("images/train/a.tif", "train")
    np.testing.assert_array_equal(pixels(made.read(item).image), np.repeat(stored[0][:, :, None], 3, axis=2))
    spec = made.spec().model_copy(update={"decode": DecodePolicy(max_pixels=1000)})
    with pytest.raises(LimitError, match=r"images/train/a\.tif is 40x30; decode\.max_pixels is 1000: cut it into windows"):
        reader(tmp_path, spec, window=None).read(item)


def test_16_bits_are_scaled_by_percentiles_of_the_file_or_by_a_range(tmp_path):
    stored = noise(0, (3, 300, 280), 100, 3000, np.uint16)
    stored[0] //= 2
    put(tmp_path, "a.tif", stored)
    made = reader(tmp_path, window=cut(200, 200))
    limits = [np.percentile(band, (2, 98)) for band in stored.astype(float)]
    for item in made.scan():
        top, left, height, width = box_of(sample := made.read(item))
        part = stored[:, top : top + height, left : left + width].astype(float)
        expected = [np.rint(np.clip((band - low) / (high - low), 0, 1) * 255) for band, (low, high) in zip(part, limits)]
        np.testing.assert_array_equal(pixels(sample.image), np.stack(expected, axis=2))
        np.testing.assert_allclose(json.loads(sample.meta["scaled_from"]), limits)
    made = reader(tmp_path, window=None, range=(0, 2550))
    (item,) = made.scan()
    expected = np.rint(np.clip(stored / 2550, 0, 1) * 255)
    np.testing.assert_array_equal(pixels(made.read(item).image), expected.transpose(1, 2, 0))


def test_percentiles_of_a_large_raster_are_those_of_blocks_spread_over_it(tmp_path):
    stored = np.tile(np.arange(3000, dtype=np.uint16), (2500, 1))
    file = put(tmp_path, "a.tif", stored, tiled=True, compress="deflate")
    with rasterio.open(file) as raster:
        ((low, high),) = _geo.percentiles(raster, [1], (10, 90))
    assert abs(low - 300) < 60
    assert abs(high - 2700) < 60


def test_no_data_is_black_and_ignored_and_a_window_of_it_makes_an_empty_row(tmp_path):
    stored = noise(0, (1, 64, 64), 1, 5000, np.uint16)
    stored[:, :32, :32] = 0
    stored[:, 40:50, 40:50] = 0
    put(tmp_path, "images/a.tif", stored, nodata=0)
    put(tmp_path, "labels/a.tif", noise(1, (64, 64), 0, 2))
    made = reader(tmp_path, window=cut(32, 32))
    empty, *_, last = made.scan()
    assert made.read(empty).empty
    sample = made.read(last)
    hole = np.zeros((32, 32), bool)
    hole[8:18, 8:18] = True
    np.testing.assert_array_equal(sample.mask == 255, hole)
    assert not pixels(sample.image)[hole].any()
    assert sample.meta["no_data"] == f"{100 / 1024:.4f}"
    kept = reader(tmp_path, window=cut(32, 32), empty="keep").read(empty)
    assert not pixels(kept.image).any()
    assert (kept.mask == 255).all()
    config = IngestConfig(
        source=str(tmp_path),
        output=str(tmp_path / "out"),
        format={"name": "geotiff", "options": {"window": cut(32, 32), "images": "images"}},
    )
    ingest(config, LocalEngine(workers=0))
    counts = open_snapshot(str(tmp_path / "out")).counts
    assert (counts.rows, counts.done, counts.empty, counts.quarantined) == (4, 3, 1, 0)


def test_masks_alpha_and_nan_are_no_data_too(tmp_path):
    stored = noise(0, (1, 20, 20), 1, 200).astype(np.float32)
    stored[0, :5] = np.nan
    put(tmp_path, "nan.tif", stored)
    rgba = noise(1, (4, 20, 20))
    rgba[3] = 255
    rgba[3, :, :3] = 0
    put(tmp_path, "rgba.tif", rgba, photometric="RGB", alpha="yes")
    file = put(tmp_path, "masked.tif", noise(2, (1, 20, 20)))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(file, "r+") as raster:  # beside it, in masked.tif.msk
        raster.write_mask(np.repeat([[255] * 19 + [0]], 20, axis=0).astype(np.uint8))
    assert (tmp_path / "masked.tif.msk").exists()
    made = reader(tmp_path, range=(0, 255))
    holes = {}
    for item in made.scan():
        image = pixels(made.read(item).image)
        holes[item.path] = (image == 0).all(axis=2)
    assert holes["nan.tif"][:5].all()
    assert not holes["nan.tif"][5:].any()
    assert holes["rgba.tif"][:, :3].all()
    assert not holes["rgba.tif"][:, 3:].any()
    assert holes["masked.tif"][:, 19].all()
    assert not holes["masked.tif"][:, :19].any()


def test_polygons_of_every_kind_are_what_rasterize_makes_of_them(tmp_path):
    put(tmp_path, "images/a.tif", noise(0, (1, 90, 100)))
    random = np.random.default_rng(0)
    turns = np.sort(random.uniform(0, 2 * np.pi, 12))
    star = [
        list(_geo.apply(UTM, 70 + radius * np.cos(turn), 30 + radius * np.sin(turn)))
        for turn, radius in zip(turns, random.uniform(8, 20, 12))
    ]
    shapes = {
        "hole": {"type": "Polygon", "coordinates": [rectangle(5, 5, 30, 30), rectangle(12.3, 12.7, 10, 11)]},
        "parts": {"type": "MultiPolygon", "coordinates": [[rectangle(50, 2, 20.5, 9.5)], [rectangle(60.5, 20.5, 12, 30)]]},
        "star": {"type": "Polygon", "coordinates": [[*star, star[0]]]},
        "outside": {"type": "Polygon", "coordinates": [rectangle(80, 90, 40, 40)]},
    }
    features = [{"type": "Feature", "properties": {"kind": kind}, "geometry": shape} for kind, shape in shapes.items()]
    nowhere = {"type": "Feature", "properties": {"kind": "hole"}, "geometry": None}
    put_json(tmp_path, "labels/a.geojson", *features, nowhere)
    for all_touched in (False, True):
        made = reader(tmp_path, window=cut(40, 64, 8), class_property="kind", all_touched=all_touched)
        assert made.spec().names == ["background", "hole", "outside", "parts", "star"]
        found = set()
        for item in made.scan():
            sample = made.read(item)
            top, left, height, width = box_of(sample)
            for one in sample.instances:
                kind = made.spec().names[one.category_id]
                expected = rasterize([(shapes[kind], 1)], out_shape=(90, 100), transform=UTM, all_touched=all_touched, dtype=np.uint8)
                expected = expected[top : top + height, left : left + width] == 1
                np.testing.assert_array_equal(rle.decode(one.counts, height, width), expected)
                assert one.area == expected.sum()
                found.add(kind)
            order = sorted(sample.instances, key=lambda one: -one.area)
            painted = np.zeros((height, width), np.uint8)
            for one in order:
                painted[rle.decode(one.counts, height, width)] = one.category_id
            np.testing.assert_array_equal(sample.mask, painted)
        assert found == set(shapes)


def test_areas_of_polygons_agree_with_the_shoelace_formula(tmp_path):
    put(tmp_path, "images/a.tif", noise(0, (1, 400, 400)))
    corners = np.array([(50, 40), (300, 80), (350, 300), (200, 360), (60, 250)], float)
    ring = [list(_geo.apply(UTM, *corner)) for corner in corners]
    put_json(tmp_path, "labels/a.geojson", polygon([*ring, ring[0]]))
    (item,) = (made := reader(tmp_path)).scan()
    (one,) = made.read(item).instances
    x, y = corners.T
    area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    assert abs(one.area - area) / area < 0.002
    assert made.spec().names == ["background", "object"]


def test_polygons_in_longitude_and_latitude_are_brought_to_the_raster(tmp_path):
    put(tmp_path, "images/a.tif", noise(0, (1, 100, 100)))
    ring = rectangle(20, 30, 25, 40)
    put_json(tmp_path, "labels/a.geojson", polygon(ring))
    (item,) = (made := reader(tmp_path)).scan()
    exact = made.read(item)
    geometry = rasterio.warp.transform_geom("EPSG:32616", "EPSG:4326", {"type": "Polygon", "coordinates": [ring]})
    for crs in (None, "urn:ogc:def:crs:OGC:1.3:CRS84", "EPSG:4326"):
        put_json(tmp_path, "labels/a.geojson", {"type": "Feature", "properties": {}, "geometry": geometry}, crs=crs)
        (item,) = (made := reader(tmp_path)).scan()
        assert (made.read(item).mask != exact.mask).sum() <= 1
    assert exact.mask.sum() == 25 * 40


def test_geojson_without_crs_may_be_in_that_of_the_raster(tmp_path):
    put(tmp_path, "images/a.tif", noise(0, (1, 50, 50)))
    put_json(tmp_path, "labels/a.geojson", polygon(rectangle(10, 10, 5, 6)), crs=None)
    (item,) = (made := reader(tmp_path)).scan()
    with pytest.raises(LabelError, match=r"labels/a\.geojson has no crs, and \(.*\) is no longitude and latitude; say labels_crs"):
        made.read(item)
    for crs in ("raster", "EPSG:32616"):
        (item,) = (made := reader(tmp_path, labels_crs=crs)).scan()
        assert made.read(item).mask.sum() == 30


@pytest.mark.parametrize("text", ["", " \n", '{"type": "FeatureCollection", "features": []}'])
def test_an_empty_geojson_is_an_image_without_objects(tmp_path, text):
    put(tmp_path, "images/a.tif", noise(0, (1, 50, 50)))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.geojson").write_text(text)
    (item,) = (made := reader(tmp_path)).scan()
    sample = made.read(item)
    assert sample.instances == ()
    assert not sample.mask.any()


def test_one_file_may_have_the_objects_of_all_rasters(tmp_path):
    put(tmp_path, "a.tif", noise(0, (1, 50, 50)))
    east = from_origin(733601.0 + 25, 3725139.0, 0.5, 0.5)
    put(tmp_path, "b.tif", noise(1, (1, 50, 50)), transform=east)
    put_json(tmp_path, "all.geojson", polygon(rectangle(10, 40, 10, 20), kind=7), polygon(rectangle(30, 60, 5, 5), kind=12))
    made = reader(tmp_path, vectors="all.geojson", class_property="kind", semantic=False)
    first, second = (made.read(item) for item in made.scan())
    assert made.spec().names == ["background", "7", "12"]
    assert [(one.category_id, one.bbox, one.area) for one in first.instances] == [(1, (40, 10, 10, 10), 100)]
    assert [(one.category_id, one.bbox, one.area) for one in second.instances] == [(1, (0, 10, 10, 10), 100), (2, (10, 30, 5, 5), 25)]
    assert first.mask is None


def test_a_changed_object_changes_the_windows_that_it_reaches(tmp_path):
    put(tmp_path, "images/a.tif", noise(0, (1, 64, 64)))
    put_json(tmp_path, "labels/a.geojson", polygon(rectangle(5, 5, 10, 10)), polygon(rectangle(40, 40, 10, 10)))
    before = [item.version for item in reader(tmp_path, window=cut(32, 32)).scan()]
    put_json(tmp_path, "labels/a.geojson", polygon(rectangle(5, 5, 10, 10)), polygon(rectangle(40, 40, 10, 12)))
    after = [item.version for item in reader(tmp_path, window=cut(32, 32)).scan()]
    assert [old == new for old, new in zip(before, after)] == [True, True, True, False]
    put(tmp_path, "images/a.tif", noise(1, (1, 64, 64)))
    assert not {item.version for item in reader(tmp_path, window=cut(32, 32)).scan()} & {*before, *after}


def test_masks_are_read_by_window_and_mapped_as_the_description_says(tmp_path):
    put(tmp_path, "images/train/a.tif", noise(0, (3, 50, 60)))
    stored = noise(1, (50, 60), 0, 3)
    put(tmp_path, "labels/train/a_mask.tif", stored, nodata=0)
    (tmp_path / "dataset.yaml").write_text("classes: [field, house]\nvalue_map: {1: field, 2: house}\n")
    made = reader(tmp_path, window=cut(30, 30), label_suffix="_mask")
    assert made.spec().names == ["field", "house"]
    for item in made.scan():
        top, left, height, width = box_of(sample := made.read(item))
        expected = np.array([255, 0, 1], np.uint8)[stored[top : top + height, left : left + width]]
        np.testing.assert_array_equal(sample.mask, expected)
        assert sample.instances is None


def test_without_a_description_classes_come_from_the_masks_and_png_masks_do(tmp_path):
    put(tmp_path, "images/a.tif", noise(0, (3, 20, 30)))
    stored = noise(1, (20, 30), 0, 3)
    (tmp_path / "labels").mkdir()
    Image.fromarray(stored).save(tmp_path / "labels/a.png")
    made = reader(tmp_path)
    (item,) = made.scan()
    np.testing.assert_array_equal(made.read(item).mask, stored)
    assert made.spec().num_classes == 3


def test_masks_in_colour_are_read_where_the_description_says_so(tmp_path):
    put(tmp_path, "images/a.tif", noise(0, (3, 20, 30)))
    stored = noise(1, (20, 30), 0, 2)
    colors = np.array([(255, 255, 255), (0, 0, 255)], np.uint8)
    put(tmp_path, "labels/a.tif", colors[stored].transpose(2, 0, 1))
    with pytest.raises(InputError, match=r"has 3 bands; needed: one of class indices, or dataset\.yaml with encoding: color"):
        reader(tmp_path).spec()
    (tmp_path / "dataset.yaml").write_text(
        "encoding: color\nclasses: [{name: street, color: [255, 255, 255]}, {name: house, color: [0, 0, 255]}]\n"
    )
    made = reader(tmp_path)
    np.testing.assert_array_equal(made.read(next(made.scan())).mask, stored)


@pytest.mark.parametrize(
    ("path", "values", "options", "message"),
    [
        ("labels/a.tif", noise(0, (20, 21), 0, 2), {}, r"labels/a\.tif is 20x21, images/a\.tif 20x20; needed: the same size"),
        ("labels/a.tif", noise(0, (20, 20), 7, 8), {}, r"labels/a\.tif has values that are no class: \[7\]"),
        ("labels/a.tif", noise(0, (3, 20, 20), 0, 2), {}, r"labels/a\.tif has 3 bands; needed: 1"),
        (
            "labels/a.tif",
            noise(0, (20, 20), 0, 2),
            {"transform": from_origin(0, 0, 1, 1)},
            r"labels/a\.tif does not lie where images/a\.tif does",
        ),
        ("labels/c.tif", noise(0, (20, 20), 0, 2), {}, r"labels/a\.tif is missing"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_alone(tmp_path, path, values, options, message):
    for name in "abc":
        put(tmp_path, f"images/{name}.tif", noise(0, (1, 20, 20)))
    put(tmp_path, "labels/b.tif", noise(0, (20, 20), 0, 2))
    put(tmp_path, path, values, **options)
    (tmp_path / "dataset.yaml").write_text("classes: [x, y]\n")
    made = reader(tmp_path)
    first, second, _ = made.scan()
    with pytest.raises(LabelError, match=message):
        made.read(first)
    assert made.read(second).mask is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type": "Feat', "is not valid JSON"),
        ("[1, 2]", r"holds \[1, 2\]; needed: a FeatureCollection"),
        ('{"type": "FeatureCollection"}', "features is null; needed: a list"),
        ('{"type": "FeatureCollection", "features": [3]}', r"features\[0\] is 3; needed: an object"),
        ('{"type": "Point", "coordinates": [1, 2]}', r'features\[0\] is a "Point"; needed: Polygon or MultiPolygon'),
        ('{"type": "Polygon", "coordinates": [[[1, 2], [3, 4]]]}', "needed: at least three corners"),
        ('{"type": "Polygon", "coordinates": [[["a", 2], [3, 4], [4, 5]]]}', "needed: a list of positions"),
        ('{"type": "Polygon", "coordinates": {"a": 1}}', "needed: lists"),
        ('{"type": "Polygon", "coordinates": [[[1, NaN], [3, 4], [4, 5]]]}', "of finite numbers"),
        ('{"type": "Polygon", "coordinates": [5]}', "needed: a list of positions"),
        ('{"type": "FeatureCollection", "features": [], "crs": "x"}', "needed: a name such as"),
        (
            '{"type": "Polygon", "coordinates": [[[1, 2], [3, 4], [4, 5]]], "crs": {"properties": {"name": "EPSG:1"}}}',
            "cannot be brought from EPSG:1",
        ),
        ('{"type": "Polygon", "coordinates": [["12", "34", "56"]]}', "needed: a list of positions"),
        ('{"type": "Polygon", "coordinates": [[[1, 1e13], [3, 4], [4, 5]]]}', "of finite numbers that are places"),
        (f'{{"type": "Polygon", "coordinates": [[[1, 1{"0" * 400}], [3, 4], [4, 5]]]}}', "needed: a list of positions"),
        (
            '{"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1]]], "crs": {"properties": {"name": "EPSG:32633"}}}',
            "cannot be brought from EPSG:32633 to EPSG:32616: Point outside of projection domain",
        ),
        ('{"type": "GeometryCollection", "geometries": [' * 3000 + "]}" * 3000, "it is nested too deeply"),
        ("[" * 100_000, "is nested too deeply"),
    ],
)
def test_malformed_geojson_is_refused_with_its_place(tmp_path, text, message):
    put(tmp_path, "images/a.tif", noise(0, (1, 20, 20)))
    put(tmp_path, "images/b.tif", noise(0, (1, 20, 20)))
    put_json(tmp_path, "labels/b.geojson", polygon(rectangle(1, 1, 5, 5)))
    (tmp_path / "labels/a.geojson").write_text(text)
    made = reader(tmp_path)
    first, second = made.scan()
    with pytest.raises(LabelError, match=rf"labels/a\.geojson.*{message}"):
        made.read(first)
    assert made.read(second).mask.sum() == 25


def test_a_feature_of_an_unknown_class_is_refused(tmp_path):
    put(tmp_path, "images/a.tif", noise(0, (1, 20, 20)))
    for properties, message in (
        ({"kind": "tree"}, "a feature with kind 'tree'; known classes: house"),
        ({}, "a feature with no kind; known"),
    ):
        put_json(tmp_path, "labels/a.geojson", polygon(rectangle(1, 1, 5, 5), **properties))
        made = reader(tmp_path, class_property="kind", classes=("house",))
        with pytest.raises(LabelError, match=message):
            made.read(next(made.scan()))
    with pytest.raises(InputError, match="no feature has the property sort"):
        reader(tmp_path, class_property="sort").spec()


def test_what_is_no_raster_or_has_no_real_numbers_is_one_refused_image(tmp_path):
    put(tmp_path, "complex.tif", noise(0, (1, 20, 20)).astype(np.complex64))
    put(tmp_path, "good.tif", noise(0, (1, 20, 20)))
    whole = put(tmp_path, "cut.tif", noise(0, (1, 200, 200))).read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[:20000])
    (tmp_path / "text.tif").write_text("no raster")
    other = f"<SimpleSource><SourceFilename>{tmp_path}/good.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource>"
    band = f'<VRTRasterBand dataType="Byte" band="1">{other}</VRTRasterBand>'
    (tmp_path / "vrt.tif").write_text(f'<VRTDataset rasterXSize="20" rasterYSize="20">{band}</VRTDataset>')
    made = reader(tmp_path, window=cut(100, 100))
    items = {item.image_id: item for item in made.scan()}
    assert [name for name in items if "#" not in name] == ["complex.tif", "text.tif", "vrt.tif"]
    with pytest.raises(DecodeError, match=r"complex\.tif has complex64 values; needed: real numbers"):
        made.read(items["complex.tif"])
    for name in ("text.tif", "vrt.tif"):
        with pytest.raises(DecodeError, match=rf"{name} cannot be read as a raster: '{name}' not recognized"):
            made.read(items[name])
    with pytest.raises(DecodeError, match=r"cut\.tif cannot be read as a raster"):
        made.read(items["cut.tif#y=0100,x=0100"])
    assert made.read(items["good.tif#y=0000,x=0000"]).image


@pytest.mark.parametrize(
    ("options", "dtype", "message"),
    [
        ({"bands": (1, 2, 3)}, np.uint8, "has 1 bands; the option bands asks for"),
        ({"percentiles": None}, np.uint16, "has uint16 values; needed: a range or percentiles to bring them to 8 bits"),
        ({"percentiles": None, "depth": 16}, np.float32, "has float32 values; needed: a range or percentiles to bring them to 16 bits"),
    ],
)
def test_options_that_do_not_fit_a_raster_are_said(tmp_path, options, dtype, message):
    put(tmp_path, "a.tif", noise(0, (1, 20, 20)).astype(dtype))
    made = reader(tmp_path, **options)
    with pytest.raises(DecodeError, match=message):
        made.read(next(made.scan()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bands": (1, 2)}, "needed: one or three"),
        ({"bands": (0,)}, "counted from 1"),
        ({"bands": (1, 2, 3), "depth": 16}, "depth 16 stores one band"),
        ({"range": (5, 5)}, "range goes from 5"),
        ({"percentiles": (98, 2)}, "percentiles goes from 98"),
        ({"window": cut(10, 10, 10)}, "leaves no step"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        geotiff.Config(**options)


def test_layouts_that_are_not_this_one_are_told_what_is_needed(tmp_path):
    with pytest.raises(InputError, match=r"no rasters at .*: looked for images/<split>/x.tif.*; found nothing"):
        list(reader(tmp_path).scan())
    put(tmp_path, "images/a.tif", noise(0, (1, 20, 20)))
    put(tmp_path, "labels/b.tif", noise(0, (20, 20), 0, 2))
    with pytest.raises(InputError, match=r"no label has the stem of a raster at .*: labels b, rasters a"):
        list(reader(tmp_path).scan())
    put_json(tmp_path, "labels/a.geojson")
    with pytest.raises(InputError, match="labels/ has masks and GeoJSON"):
        list(reader(tmp_path).scan())
    with pytest.raises(InputError, match=r"the option vectors: none\.geojson is missing"):
        list(reader(tmp_path, vectors="none.geojson").scan())
    with pytest.raises(InputError, match="no label's stem ends in label_suffix '_x'"):
        list(reader(tmp_path, label_suffix="_x").scan())


def test_meta_places_the_window_and_spacing_is_the_size_of_a_pixel(tmp_path):
    transform = Affine(0.5, 0, 733601.0, 0, -0.25, 3725139.0)
    file = put(tmp_path, "a.tif", noise(0, (1, 50, 60)), transform=transform)
    made = reader(tmp_path, window=cut(30, 30))
    item = list(made.scan())[3]
    sample = made.read(item)
    with rasterio.open(file) as raster:
        window = Window(30, 30, 30, 20)
        expected, bounds = raster.window_transform(window), raster.window_bounds(window)
    assert json.loads(sample.meta["transform"]) == list(expected)[:6]
    np.testing.assert_allclose(json.loads(sample.meta["bounds"]), bounds)
    assert (sample.meta["crs"], sample.meta["raster"], sample.meta["bands"]) == ("EPSG:32616", "a.tif", "[1]")
    assert sample.spacing == (0.25, 0.5)
    put(tmp_path, "a.tif", noise(0, (1, 50, 60)), crs="EPSG:4326", transform=from_origin(10, 50, 0.1, 0.1))
    made = reader(tmp_path)
    assert made.read(next(made.scan())).spacing == ()
    put(tmp_path, "a.tif", noise(0, (1, 50, 60)), crs=None, transform=None)
    made = reader(tmp_path)
    sample = made.read(next(made.scan()))
    assert (sample.meta["crs"], sample.spacing) == ("", ())


class Weather:
    """A store whose reads fail once they are past the header."""

    def __init__(self, store, after):
        self._store, self._after = store, after

    def __getattr__(self, name):
        return getattr(self._store, name)

    def open(self, path):
        file, after = self._store.open(path), self._after

        class File(io.RawIOBase):
            def seek(self, *where):
                return file.seek(*where)

            def tell(self):
                return file.tell()

            def read(self, size=-1):
                if file.tell() > after:
                    raise StorageError("the network is down")
                return file.read(size)

            def close(self):
                file.close()
                super().close()

        return File()


@pytest.mark.parametrize("after", [-1, 5000])
def test_a_failing_store_is_no_fault_of_the_raster(tmp_path, after):
    put(tmp_path, "a.tif", noise(0, (1, 300, 300)))
    store = open_store(str(tmp_path))
    (item,) = geotiff.build(geotiff.Config(), store).scan()
    made = geotiff.build(geotiff.Config(), Weather(store, after), geotiff.build(geotiff.Config(), store).spec())
    with pytest.raises(StorageError, match="the network is down"):
        made.read(item)
    store.delete("a.tif")
    with pytest.raises(FileNotFoundError):
        geotiff.build(geotiff.Config(), store, made.spec()).read(item)


def test_threads_read_windows_of_several_rasters_at_once(tmp_path):
    stored = {name: noise(seed, (3, 100, 100)) for seed, name in enumerate("abc")}
    for name, values in stored.items():
        put(tmp_path, f"{name}.tif", values, tiled=True, blockxsize=32, blockysize=32, compress="deflate")
    made = reader(tmp_path, window=cut(25, 25))
    items = list(made.scan())
    with ThreadPoolExecutor(4) as pool:
        for item, sample in zip(items, pool.map(made.read, items)):
            top, left, height, width = box_of(sample)
            whole = stored[item.path[0]].transpose(1, 2, 0)
            np.testing.assert_array_equal(pixels(sample.image), whole[top : top + height, left : left + width])


def test_windows_are_read_by_range_from_a_bucket(s3_bucket, tmp_path):  # noqa: F811
    url, storage = s3_bucket
    stored = noise(0, (1, 1500, 1500))
    file = put(tmp_path, "a.tif", stored, tiled=True, blockxsize=256, blockysize=256)
    source = open_store(f"{url}/in", storage)
    source.create("a.tif", file.read_bytes())
    fetched = []

    class Counted(type(source)):
        def read_range(self, path, start, end):
            fetched.append(end - start)
            return super().read_range(path, start, end)

    counted = Counted(source.url, source.options)
    made = geotiff.build(geotiff.Config(window=geotiff.Window(height=256, width=256)), counted)
    items = list(made.scan())
    fetched.clear()
    np.testing.assert_array_equal(pixels(made.read(items[7]).image)[:, :, 0], stored[0, 256:512, 256:512])
    assert len(items) == 36
    assert sum(fetched) < 600_000 < 2_250_000 < file.stat().st_size
    check_reader(geotiff, source, {"window": cut(1000, 1000)})


def test_boxes_cover_everything_once_without_overlap():
    assert list(_geo.boxes(5, 7, (3, 4), 0)) == [(0, 0, 3, 4), (0, 4, 3, 3), (3, 0, 2, 4), (3, 4, 2, 3)]
    assert list(_geo.boxes(3, 4, (10, 10), 2)) == [(0, 0, 3, 4)]
    assert [(box[1], box[3]) for box in _geo.boxes(1, 10, (5, 4), 2)] == [(0, 4), (2, 4), (4, 4), (6, 4)]
    assert [(box[1], box[3]) for box in _geo.boxes(1, 11, (5, 4), 2)] == [(0, 4), (2, 4), (4, 4), (6, 4), (8, 3)]


def test_a_feature_of_very_many_corners_is_cut_to_each_window_and_its_pixels_stay(tmp_path):
    put(tmp_path, "images/a.tif", noise(0, (1, 400, 400)))
    turns = np.linspace(0, 2 * np.pi, 4001)[:-1]
    radii = 150 + 30 * np.sin(40 * turns) + np.random.default_rng(0).uniform(-3, 3, turns.size)
    outer = [list(_geo.apply(UTM, 190 + radius * np.cos(turn), 205 + radius * np.sin(turn))) for turn, radius in zip(turns, radii)]
    hole = [list(_geo.apply(UTM, 180 + 60 * np.cos(turn), 200 + 50 * np.sin(turn))) for turn in turns]
    shape = polygon([*outer, outer[0]], [*hole, hole[0]])
    put_json(tmp_path, "labels/a.geojson", shape)
    whole = rasterize([(shape["geometry"], 1)], out_shape=(400, 400), transform=UTM, dtype=np.uint8)
    made = reader(tmp_path, window=cut(64, 64))
    items = list(made.scan())
    for item in items:
        top, left, height, width = box_of(sample := made.read(item))
        np.testing.assert_array_equal(sample.mask, whole[top : top + height, left : left + width])
    assert sum(len(item.details) for item in items) < 3 * (tmp_path / "labels/a.geojson").stat().st_size


def test_a_raster_that_is_gone_when_it_is_listed_is_refused_alone(tmp_path):
    put(tmp_path, "a.tif", noise(0, (1, 20, 20)))
    put(tmp_path, "b.tif", noise(0, (1, 20, 20)))
    made = reader(tmp_path)
    made.spec()  # the listing is made
    (tmp_path / "a.tif").unlink()
    assert [item.image_id for item in made.scan()] == ["a.tif", "b.tif#y=0000,x=0000"]


def header_alone(side: int, tile: int) -> bytes:
    """A TIFF of 8-bit grey, packed by Deflate in tiles, of which there is none."""
    tags = ((256, side), (257, side), (258, 8), (259, 8), (262, 1), (277, 1), (322, tile), (323, tile), (324, 0), (325, 0))
    return (
        struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags) + bytes(4)
    )


@pytest.mark.parametrize(
    ("side", "tile", "message"),
    [
        (10**6, 256, r"claims 1000000x1000000 pixels, and has \d+ bytes: cut off, or a bomb"),
        (10**4, 10**4, r"has blocks of 10000x10000 pixels, 100000000 bytes; decode\.max_pixels allows 3000000: store it in tiles"),
    ],
)
def test_a_header_that_claims_too_much_is_refused_before_anything_is_made_room_for(tmp_path, side, tile, message):
    (tmp_path / "a.tif").write_bytes(header_alone(side, tile))
    spec = reader(tmp_path).spec().model_copy(update={"decode": DecodePolicy(max_pixels=10**6)})
    made = reader(tmp_path, spec)
    (item,) = made.scan()
    with pytest.raises(LimitError, match=message):
        made.read(item)
    (tmp_path / "images").mkdir()
    (tmp_path / "a.tif").rename(tmp_path / "images/a.tif")
    put(tmp_path, "labels/a.tif", noise(0, (20, 20), 0, 2))
    (tmp_path / "labels/b.tif").write_bytes(header_alone(side, tile))
    put(tmp_path, "images/b.tif", noise(0, (1, 20, 20)))
    assert reader(tmp_path).spec().num_classes == 2


def test_classes_of_a_mask_are_found_wherever_they_are_in_it(tmp_path):
    put(tmp_path, "images/a.tif", noise(0, (1, 1500, 1300)))
    stored = np.zeros((1500, 1300), np.uint8)
    stored[1400, 1200] = 3
    put(tmp_path, "labels/a.tif", stored)
    assert reader(tmp_path).spec().num_classes == 4


@pytest.mark.parametrize("scale", [1e-200, 1e200, float("nan")])
def test_a_raster_that_lies_nowhere_is_refused(tmp_path, scale):
    data = put(tmp_path, "a.tif", noise(0, (1, 20, 20))).read_bytes()
    (tmp_path / "a.tif").write_bytes(data.replace(struct.pack("<dd", 0.5, 0.5), struct.pack("<dd", scale, scale)))
    made = reader(tmp_path)
    (item,) = made.scan()
    with pytest.raises(DecodeError, match=r"a\.tif has the transform \[.*\], which puts its pixels nowhere"):
        made.read(item)


def test_more_than_255_classes_of_features_have_another_ignore_value(tmp_path):
    put(tmp_path, "images/a.tif", noise(0, (1, 20, 20)))
    put_json(tmp_path, "labels/a.geojson", *(polygon(rectangle(kind % 18, 1, 1, 1), kind=kind) for kind in range(300)))
    made = reader(tmp_path, class_property="kind")
    (item,) = made.scan()
    assert (made.spec().num_classes, made.spec().ignore_index, made.read(item).mask.dtype) == (301, 65535, np.uint16)
    put_json(tmp_path, "labels/a.geojson", polygon(rectangle(1, 1, 5, 5), kind="background"))
    with pytest.raises(InputError, match="features have the kind 'background', which is where no object is; needed: another name"):
        reader(tmp_path, class_property="kind").spec()


def test_a_crs_of_geojson_is_never_asked_of_a_file_or_a_server(tmp_path, monkeypatch):
    put(tmp_path, "images/a.tif", noise(0, (1, 50, 50)))
    (tmp_path / "mine").write_text(rasterio.crs.CRS.from_epsg(32616).to_wkt())
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "./mine", str(tmp_path / "mine"), "ESRI::mine", "http://127.0.0.1:9/mine", "/vsicurl/http://127.0.0.1:9/mine"):
        put_json(tmp_path, "labels/a.geojson", polygon(rectangle(10, 10, 5, 6)), crs=name)
        made = reader(tmp_path)
        with pytest.raises(LabelError, match=r"labels/a\.geojson: crs is .*needed: a name such as urn:ogc:def:crs:EPSG::32616"):
            made.read(next(made.scan()))
    for name in ("EPSG:32616", "epsg:32616", "urn:ogc:def:crs:EPSG:9.9.1:32616", "http://www.opengis.net/def/crs/EPSG/0/32616"):
        put_json(tmp_path, "labels/a.geojson", polygon(rectangle(10, 10, 5, 6)), crs=name)
        made = reader(tmp_path)
        assert made.read(next(made.scan())).mask.sum() == 30
