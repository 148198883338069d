from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtasks.codecs import rle
from segtasks.engines.local import LocalEngine
from segtasks.errors import DecodeError
from segtasks.readers import geotiff
from segtasks.shards import open_snapshot
from segtasks.stages.config import IngestConfig
from segtasks.stages.ingest import ingest
from segtasks.storage import open_store
from tests.real import data_folder

rasterio = pytest.importorskip("rasterio", reason="needs rasterio: pip install 'segtasks[geo]'")
from rasterio.features import rasterize  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def place(tmp_path: Path, raster: str, labels: str) -> Path:
    """The one raster with the one label file, in the reader's layout."""
    root = data_folder("solaris_geotiff")
    for name, folder, ending in ((raster, "images", ".tif"), (labels, "labels", ".geojson")):
        (tmp_path / folder).mkdir(parents=True)
        shutil.copy(root / name, tmp_path / folder / f"scene{ending}")
    return tmp_path


def test_buildings_of_a_satellite_image_are_what_rasterio_burns(tmp_path: Path) -> None:
    source = place(tmp_path, "sample_geotiff.tif", "geotiff_labels.geojson")
    reader = geotiff.build(geotiff.Config(window=geotiff.Window(height=400, width=400)), open_store(str(source)))
    with rasterio.open(source / "images/scene.tif") as raster:
        whole, transform, valid = raster.read(1), raster.transform, raster.read_masks(1) > 0
    shapes = [one["geometry"] for one in json.loads((source / "labels/scene.geojson").read_text())["features"]]
    burnt = rasterize([(shape, 1) for shape in shapes], out_shape=whole.shape, transform=transform, dtype=np.uint8)
    low, high = np.percentile(whole[valid].astype(float), (2, 98))
    items = list(reader.scan())
    assert len(items) == 9
    areas = 0.0
    for item in items:
        sample = reader.read(item)
        top, left, height, width = json.loads(sample.meta["window"])
        part = np.s_[top : top + height, left : left + width]
        expected = np.where(valid[part], burnt[part], 255)
        np.testing.assert_array_equal(sample.mask, expected)
        image = np.array(Image.open(io.BytesIO(sample.image)))
        scaled = np.rint(np.clip((whole[part].astype(float) - low) / (high - low), 0, 1) * 255) * valid[part]
        np.testing.assert_array_equal(image, np.repeat(scaled[:, :, None], 3, axis=2))
        assert sample.spacing == (0.5, 0.5)
        assert sample.meta["crs"] == "EPSG:32616"
        areas += sum(one.area for one in sample.instances)
    each = [rasterize([(shape, 1)], out_shape=whole.shape, transform=transform, dtype=np.uint8).sum() for shape in shapes]
    assert areas == sum(each)


def test_one_truth_in_two_crs_is_one_mask(tmp_path: Path) -> None:
    masks = []
    for labels in ("gt.geojson", "gt_epsg4326.json"):
        made = place(tmp_path / labels, "sample_geotiff.tif", labels)
        reader = geotiff.build(geotiff.Config(window=None), open_store(str(made)))
        (item,) = reader.scan()
        masks.append(reader.read(item))
    assert len(masks[0].instances or ()) == len(masks[1].instances or ())
    assert (masks[0].mask != masks[1].mask).mean() < 1e-4


def test_a_custom_projection_with_negative_nodata_is_read(tmp_path: Path) -> None:
    source = place(tmp_path, "sample_geotiff_custom_proj.tif", "geotiff_custom_proj_labels.geojson")
    reader = geotiff.build(geotiff.Config(window=None, labels_crs="raster"), open_store(str(source)))
    (item,) = reader.scan()
    sample = reader.read(item)
    with rasterio.open(source / "images/scene.tif") as raster:
        shapes = [(one["geometry"], 1) for one in json.loads((source / "labels/scene.geojson").read_text())["features"]]
        burnt = rasterize(shapes, out_shape=raster.shape, transform=raster.transform, dtype=np.uint8)
        valid = (raster.read_masks() > 0).any(axis=0)
    np.testing.assert_array_equal(sample.mask, np.where(valid, burnt, 255))
    assert sample.instances
    total = sum(rle.decode(one.counts, *burnt.shape).astype(int) for one in sample.instances)
    np.testing.assert_array_equal(total > 0, burnt > 0)
    assert sample.meta["crs"].startswith("PROJCS[")
    assert sample.spacing == (30.0, 30.0)


def test_an_empty_geojson_has_no_building(tmp_path: Path) -> None:
    source = place(tmp_path, "sample_geotiff.tif", "empty.geojson")
    reader = geotiff.build(geotiff.Config(), open_store(str(source)))
    (item,) = reader.scan()
    sample = reader.read(item)
    assert sample.instances == ()
    assert set(np.unique(sample.mask)) <= {0, 255}


def test_every_raster_of_the_folder_is_done_or_refused_with_its_reason(tmp_path: Path) -> None:
    root = data_folder("solaris_geotiff")
    config = IngestConfig(source=str(root), output=str(tmp_path), format="geotiff")
    ingest(config, LocalEngine(workers=0))
    snapshot = open_snapshot(str(tmp_path))
    assert {row["image_id"]: row["error_type"] for row in snapshot.quarantined()} == {"preproc_tutorial/sar_hh.tif": DecodeError.__name__}
    assert snapshot.counts.done == len(list(root.rglob("*.tif"))) - 1
