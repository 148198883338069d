"""Objects, masks and class pixels of real data sets go through preprocess as pycocotools and NumPy say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from segtasks.codecs.mask import decode_mask
from segtasks.shards import open_snapshot, verify
from segtasks.training.index import index_split
from segtasks.training.oversample import repeat_factors
from tests.real import data_folder
from tests.stages import world

SIDE = 96


def rows(url: Path) -> dict[str, dict[str, Any]]:
    snapshot = open_snapshot(str(url))
    columns = ["image_id", "height", "width", "mask", "class_pixels", "instances", "meta"]
    return {row["image_id"]: row for record in snapshot.shards() for row in snapshot.read(record, columns).to_pylist()}


def decoded(one: dict[str, Any]) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = np.asarray(coco.decode({"size": one["size"], "counts": one["counts"]}))
    return found


def nearest(array: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """By pixel centres, in exact fractions."""
    places = [[((2 * at + 1) * source) // (2 * target) for at in range(target)] for source, target in zip(array.shape, (height, width))]
    found: NDArray[Any] = array[np.ix_(*places)]
    return found


def test_cocos_objects_crowds_and_areas_are_resized_and_tiled_without_a_pixel_lost(tmp_path: Path) -> None:
    world.run_ingest(data_folder("coco_tiny"), tmp_path / "data", format="coco")
    world.run_preprocess(tmp_path / "data", tmp_path / "small", resize={"policy": "longest", "size": SIDE})
    world.run_preprocess(tmp_path / "data", tmp_path / "tiles", tile={"height": 128, "width": 128, "edge": "pad"})
    before, small, tiles = rows(tmp_path / "data"), rows(tmp_path / "small"), rows(tmp_path / "tiles")
    kept = vanished = 0
    for image_id, row in before.items():
        after = small[image_id]
        assert max(after["height"], after["width"]) == SIDE
        np.testing.assert_array_equal(
            decode_mask(after["mask"]["bytes"], 1 << 24),
            nearest(decode_mask(row["mask"]["bytes"], 1 << 24), after["height"], after["width"]),
        )
        expected = [(one["iscrowd"], nearest(decoded(one), after["height"], after["width"])) for one in row["instances"]]
        wanted = [(iscrowd, mask) for iscrowd, mask in expected if mask.any()]
        assert len(after["instances"]) == len(wanted)
        for one, (iscrowd, mask) in zip(after["instances"], wanted, strict=True):
            np.testing.assert_array_equal(decoded(one), mask)
            assert (one["iscrowd"], one["area"]) == (iscrowd, float(mask.sum()))
        gone = {pair["key"]: pair["value"] for pair in after["meta"] or ()}.get("instances_vanished", "0")
        assert int(gone) == len(expected) - len(wanted)
        kept, vanished = kept + len(wanted), vanished + int(gone)
    assert kept + vanished == 705
    assert vanished > 0
    # tiles without overlap: every pixel of every object is in one of them
    pixels = Counter[str]()
    for tile_id, row in tiles.items():
        pixels[tile_id.partition("#")[0]] += sum(int(decoded(one).sum()) for one in row["instances"])
    assert pixels == {image_id: sum(int(decoded(one).sum()) for one in row["instances"]) for image_id, row in before.items()}
    for name in ("small", "tiles"):
        assert verify(str(tmp_path / name)).problems == ()


def test_camvids_recorded_class_pixels_are_numpys_and_its_rare_classes_come_more_often(tmp_path: Path) -> None:
    world.run_ingest(data_folder("camvid_png_sample"), tmp_path / "data", format="camvid")
    for row in rows(tmp_path / "data").values():
        assert row["class_pixels"] == np.bincount(decode_mask(row["mask"]["bytes"], 1 << 24).reshape(-1), minlength=256)[:11].tolist()
    index = index_split(open_snapshot(str(tmp_path / "data")), "train")
    present = index.present(11)
    assert present is not None
    share = present.mean(axis=0)
    factors = repeat_factors(present, 1.0)
    rarest = share[share > 0].min()
    assert rarest < 1
    assert set(np.flatnonzero(factors == factors.max())) == set(np.flatnonzero(present[:, share == rarest].any(axis=1)))
