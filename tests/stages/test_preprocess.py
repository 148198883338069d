"""Image, mask and objects go through crop, resize and tiles together; what changes no pixel goes through untouched."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segtasks.codecs import rle
from segtasks.codecs.image import decode_image
from segtasks.codecs.mask import decode_mask
from segtasks.config import validate
from segtasks.engines import open_engine
from segtasks.errors import ConfigError, InputError
from segtasks.shards import open_snapshot, verify
from segtasks.spec import DecodePolicy, Resize
from segtasks.stages import _prepare, preprocess
from segtasks.stages.compact import compact
from segtasks.stages.config import CompactConfig, PreprocessConfig
from segtasks.stages.result import StageResult
from segtasks.storage import open_store
from segtasks.transforms.fit import fit_mask, plan_fit
from segtasks.transforms.histogram import class_pixels
from tests.stages import world
from tests.training.world import publish_rows, refused, row, scene

SIZE = (24, 32)
DOT = 3  # category of an object that is not painted into the mask
POLICIES = [
    {"height": 12, "width": 20},
    {"policy": "letterbox", "height": 20, "width": 20},
    {"policy": "longest", "size": 48},
    {"policy": "shortest", "size": 13},
]


def object_of(mask: np.ndarray, category: int, **more: Any) -> dict[str, Any]:  # type: ignore[type-arg]
    height, width = mask.shape
    counts = rle.encode(mask)
    box = list(rle.bbox(counts, height, width))
    one = {"category_id": category, "bbox": box, "area": float(mask.sum()), "iscrowd": False, "size": [height, width], "counts": counts}
    return {**one, **more}


def sample(number: int, **more: Any) -> dict[str, Any]:
    """A scene with an object for its disc and its box, a crowd over both, and one of a single pixel at row 0, column 1."""
    image, mask = scene(number, *SIZE)
    dot = np.zeros(SIZE, bool)
    dot[0, 1] = True
    objects = [object_of(mask == 1, 1), object_of(mask == 2, 2), object_of((mask == 1) | (mask == 2), 2, iscrowd=True), object_of(dot, DOT)]
    return row(f"i{number}.png", "train", image, mask, instances=objects, spacing=[0.5, 0.25], axes="YXC", source_version="1", **more)


def publish(url: Path, rows: list[dict[str, Any]]) -> None:
    publish_rows(open_store(str(url)), [("train", rows)])


def rows_of(url: Path) -> list[dict[str, Any]]:
    snapshot = open_snapshot(str(url))
    return [row for record in snapshot.shards() for row in snapshot.read(record).to_pylist()]


def facts(one: dict[str, Any]) -> dict[str, str]:
    return {pair["key"]: pair["value"] for pair in one["meta"] or ()}


def mask_of(one: dict[str, Any]) -> np.ndarray:  # type: ignore[type-arg]
    return decode_mask(one["mask"]["bytes"], 1 << 24)


def pixels_of(one: dict[str, Any]) -> np.ndarray:  # type: ignore[type-arg]
    return decode_image(one["image"]["bytes"], DecodePolicy()).pixels


def require_objects_lie_on_the_mask(one: dict[str, Any], mask: np.ndarray) -> None:  # type: ignore[type-arg]
    for found in one["instances"]:
        shown = rle.decode(found["counts"], *found["size"])
        wanted = np.isin(mask, (1, 2)) if found["iscrowd"] else mask == found["category_id"]
        if found["category_id"] == DOT:
            continue
        np.testing.assert_array_equal(shown, wanted)
        assert (found["bbox"], found["area"]) == (list(rle.bbox(found["counts"], *found["size"])), float(wanted.sum()))


@pytest.mark.parametrize("resize", POLICIES)
def test_objects_stay_on_their_mask_under_every_policy(tmp_path: Path, resize: dict[str, Any]) -> None:
    publish(tmp_path / "data", [sample(number) for number in range(4)])
    world.run_preprocess(tmp_path / "data", tmp_path / "out", resize=resize)
    after = rows_of(tmp_path / "out")
    for number, one in enumerate(after):
        fit = plan_fit(*SIZE, Resize(**resize))
        mask = fit_mask(scene(number, *SIZE)[1], fit, 255)
        np.testing.assert_array_equal(mask_of(one), mask)
        assert (one["height"], one["width"]) == pixels_of(one).shape[:2] == fit.canvas
        assert one["class_pixels"] == class_pixels(mask, 3).tolist()
        require_objects_lie_on_the_mask(one, mask)
        assert sum(found["iscrowd"] for found in one["instances"]) == 1
        assert one["spacing"] == pytest.approx([0.5 * SIZE[0] / fit.height, 0.25 * SIZE[1] / fit.width])
    assert open_snapshot(str(tmp_path / "out")).spec.resize == Resize(**resize)
    assert verify(str(tmp_path / "out")).problems == ()


def test_objects_that_vanish_are_counted(tmp_path: Path) -> None:
    publish(tmp_path / "data", [sample(0)])
    world.run_preprocess(tmp_path / "data", tmp_path / "half", resize={"height": 12, "width": 16})
    (half,) = rows_of(tmp_path / "half")
    assert len(half["instances"]) == 3  # row 0 is not shown: centres fall on rows 1, 3, ...
    assert facts(half)["instances_vanished"] == "1"
    world.run_preprocess(tmp_path / "half", tmp_path / "dot", resize={"height": 1, "width": 1})
    (dot,) = rows_of(tmp_path / "dot")
    assert int(facts(dot)["instances_vanished"]) == 4 - len(dot["instances"])
    world.run_preprocess(tmp_path / "data", tmp_path / "same", resize={"height": 24, "width": 32})
    assert "instances_vanished" not in facts(rows_of(tmp_path / "same")[0])


@pytest.mark.parametrize(
    "settings", [{}, {"resize": {"height": 24, "width": 32}}, {"crop": {"height": 24, "width": 32}, "encoding": "jpeg"}]
)
def test_bytes_pass_through_untouched_where_no_pixel_changes(tmp_path: Path, settings: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(scene(0, *SIZE)[0]).save(buffer, "JPEG", quality=60)
    given = {**sample(0), "image": {"bytes": buffer.getvalue(), "path": None}, "media_type": "image/jpeg"}
    publish(tmp_path / "data", [given])
    world.run_preprocess(tmp_path / "data", tmp_path / "out", **settings)
    before, after = rows_of(tmp_path / "data")[0], rows_of(tmp_path / "out")[0]
    assert after["image"]["bytes"] == buffer.getvalue()
    assert {**after, "image": None} == {**before, "image": None}


def test_tiles_of_one_size_as_large_as_the_image_keep_its_bytes(tmp_path: Path) -> None:
    publish(tmp_path / "data", [sample(0)])
    world.run_preprocess(tmp_path / "data", tmp_path / "out", tile={"height": 24, "width": 32})
    (before,), (after,) = rows_of(tmp_path / "data"), rows_of(tmp_path / "out")
    assert (after["image_id"], after["parent_id"]) == ("i0.png#y=0000,x=0000", "i0.png")
    assert after["image"]["bytes"] == before["image"]["bytes"]
    assert after["instances"] == before["instances"]


def test_tiles_are_regions_of_the_resized_image_and_name_it(tmp_path: Path) -> None:
    publish(tmp_path / "data", [sample(0), refused("bad.png", "train"), sample(1), sample(2)])
    resize = {"height": 30, "width": 40}
    world.run_preprocess(tmp_path / "data", tmp_path / "whole", resize=resize)
    result = world.run_preprocess(tmp_path / "data", tmp_path / "tiles", resize=resize, tile={"height": 16, "width": 16, "overlap": 2})
    counts = {name: result.counts[name] for name in ("rows", "done", "quarantined", "empty", "inputs")}
    assert counts == {"rows": 18, "done": 18, "quarantined": 0, "empty": 0, "inputs": 3}
    whole = {one["image_id"]: one for one in rows_of(tmp_path / "whole")}
    tiles = rows_of(tmp_path / "tiles")
    assert [one["image_id"] for one in tiles[:3]] == [f"i0.png#y=0000,x={x:04d}" for x in (0, 14, 24)]
    for one in tiles:
        parent = whole[one["parent_id"]]
        top, left = int(facts(one)["tile_top"]), int(facts(one)["tile_left"])
        assert one["image_id"] == f"{one['parent_id']}#y={top:04d},x={left:04d}"
        assert (one["group_id"], one["source_version"], one["height"], one["width"]) == (one["parent_id"], "1", 16, 16)
        box = np.s_[top : top + 16, left : left + 16]
        np.testing.assert_array_equal(pixels_of(one), pixels_of(parent)[box])
        np.testing.assert_array_equal(mask_of(one), mask_of(parent)[box])
        assert one["class_pixels"] == class_pixels(mask_of(one), 3).tolist()
        shown = [rle.decode(found["counts"], *found["size"])[box] for found in parent["instances"]]
        expected = [rle.encode(mask) for mask in shown if mask.any()]
        assert [found["counts"] for found in one["instances"]] == expected
    assert verify(str(tmp_path / "tiles")).problems == ()
    again = world.run_preprocess(tmp_path / "data", tmp_path / "tiles", resize=resize, tile={"height": 16, "width": 16, "overlap": 2})
    assert again.already_done


def test_images_smaller_than_a_tile_are_padded_and_ignored_there(tmp_path: Path) -> None:
    publish(tmp_path / "data", [sample(0)])
    world.run_preprocess(tmp_path / "data", tmp_path / "out", tile={"height": 30, "width": 30, "fill": [1, 2, 3]})
    first, second = rows_of(tmp_path / "out")
    image, mask = scene(0, *SIZE)
    np.testing.assert_array_equal(pixels_of(first)[:24], image[:, :30])
    assert (pixels_of(first)[24:] == (1, 2, 3)).all()
    np.testing.assert_array_equal(mask_of(second)[:24], mask[:, 2:])
    assert (mask_of(second)[24:] == 255).all()


def test_empty_tiles_are_kept_by_the_stated_share_and_an_image_of_none_is_counted(tmp_path: Path) -> None:
    image = scene(0, *SIZE)[0]
    names = ["empty.png", "truthless.png", "full.png"]
    masks = [np.zeros(SIZE, np.uint8), None, np.full(SIZE, 1, np.uint8)]
    publish(tmp_path / "data", [row(name, "train", image, truth) for name, truth in zip(names, masks, strict=True)])
    tile = {"height": 12, "width": 16, "background": ["GROUND"]}
    result = world.run_preprocess(tmp_path / "data", tmp_path / "out", tile={**tile, "keep_empty": 0})
    counts = {name: result.counts[name] for name in ("rows", "done", "empty", "inputs")}
    assert counts == {"rows": 9, "done": 8, "empty": 1, "inputs": 3}
    assert {one["parent_id"] for one in rows_of(tmp_path / "out")} == {"truthless.png", "full.png"}
    assert verify(str(tmp_path / "out")).problems == ()
    world.run_preprocess(tmp_path / "data", tmp_path / "all", tile=tile)
    assert len(rows_of(tmp_path / "all")) == 12
    whole = {"height": 24, "width": 32, "background": ["ground"], "keep_empty": 0}
    world.run_preprocess(tmp_path / "data", tmp_path / "untouched", tile=whole)
    assert [one["parent_id"] for one in rows_of(tmp_path / "untouched")] == ["truthless.png", "full.png"]


def test_a_model_learns_from_tiles_and_predicts_tiles_and_whole_images(tmp_path: Path) -> None:
    world.write_images(tmp_path / "source", 9)
    world.write_images(tmp_path / "source", 3, split="val", start=100)
    world.run_ingest(tmp_path / "source", tmp_path / "data")
    settings = {"resize": {"height": 48, "width": 64}, "tile": {"height": 32, "width": 32, "overlap": 8}}
    world.run_preprocess(tmp_path / "data", tmp_path / "tiles", **settings)
    world.run_train(tmp_path / "tiles", tmp_path / "model", val_split="val", epochs=2, lr=1e-2)
    world.run_infer(tmp_path / "tiles", tmp_path / "model", tmp_path / "on-tiles")
    found = rows_of(tmp_path / "on-tiles")
    assert len(found) == 12 * 6
    assert {(one["height"], one["width"]) for one in found} == {(32, 32)}
    assert all(one["parent_id"] == one["image_id"] for one in found)
    score = world.run_evaluate(tmp_path / "on-tiles", tmp_path / "tiles", tmp_path / "score")
    assert score.counts["done"] == 72
    world.run_infer(tmp_path / "data", tmp_path / "model", tmp_path / "on-images")
    assert {(one["height"], one["width"]) for one in rows_of(tmp_path / "on-images")} == {(24, 32)}
    for name in ("on-tiles", "on-images", "score"):
        assert verify(str(tmp_path / name)).problems == ()


def test_tiles_of_a_map_know_their_place_on_it(tmp_path: Path) -> None:
    meta = [{"key": "crs", "value": "EPSG:32616"}, {"key": "transform", "value": "[0.5, 0, 1000, 0, -0.5, 2000]"}]
    publish(tmp_path / "data", [sample(0, meta=meta)])
    settings = {"crop": {"top": 4, "left": 8, "height": 16, "width": 16}, "resize": {"policy": "letterbox", "height": 32, "width": 64}}
    world.run_preprocess(tmp_path / "data", tmp_path / "out", **settings, tile={"height": 32, "width": 32})
    first, second = (facts(one) for one in rows_of(tmp_path / "out"))
    # 32x32 pixels of a quarter, 16 of padding on either side
    assert json.loads(first["transform"]) == [0.25, 0, 1000 + 8 * 0.5 - 16 * 0.25, 0, -0.25, 2000 - 4 * 0.5]
    assert json.loads(second["bounds"]) == [1000 + 4 - 4 + 8, 1998 - 8, 1000 + 4 - 4 + 16, 1998]


def test_an_image_that_goes_or_changes_takes_all_its_tiles_along(tmp_path: Path) -> None:
    world.write_images(tmp_path / "source", 4)
    world.run_ingest(tmp_path / "source", tmp_path / "data")
    tile = {"height": 16, "width": 16}
    world.run_preprocess(tmp_path / "data", tmp_path / "tiles", tile=tile)
    (tmp_path / "source/images/train/i0001.png").unlink()
    (tmp_path / "source/masks/train/i0001.png").unlink()
    world.write_images(tmp_path / "other", 1, start=50)
    os.replace(tmp_path / "other/images/train/i0050.png", tmp_path / "source/images/train/i0002.png")
    os.replace(tmp_path / "other/masks/train/i0050.png", tmp_path / "source/masks/train/i0002.png")
    world.run_ingest(tmp_path / "source", tmp_path / "data", deleted="drop")
    result = world.run_preprocess(tmp_path / "data", tmp_path / "tiles", tile=tile)
    assert (result.counts["inputs"], result.counts["done"]) == (3, 12)
    tiles = rows_of(tmp_path / "tiles")
    assert {one["parent_id"].rpartition("/")[2] for one in tiles} == {"i0000.png", "i0002.png", "i0003.png"}
    new = np.asarray(Image.open(tmp_path / "source/images/train/i0002.png"))
    changed = [one for one in tiles if "i0002" in one["parent_id"]]
    np.testing.assert_array_equal(pixels_of(changed[0]), new[:16, :16])
    assert verify(str(tmp_path / "tiles")).problems == ()


def test_after_a_compaction_of_the_data_tiles_are_copied_and_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for start in (0, 3, 6):
        world.write_images(tmp_path / "source", 3, start=start)
        world.run_ingest(tmp_path / "source", tmp_path / "data")
    tile = {"height": 16, "width": 16}
    world.run_preprocess(tmp_path / "data", tmp_path / "tiles", tile=tile)
    before = rows_of(tmp_path / "tiles")
    compacted = compact(validate(CompactConfig, {"output": str(tmp_path / "data"), "engine": world.inline}), open_engine(world.inline))
    assert compacted.counts["shards"] == 1
    monkeypatch.setattr(_prepare.Preparer, "rows", None)
    monkeypatch.setattr(preprocess, "most_shard_bytes", 16 * 16 * 3 * 4 * 4)
    result = world.run_preprocess(tmp_path / "data", tmp_path / "tiles", tile=tile)
    assert result.counts["inputs"] == 9
    by_id = {one["image_id"]: one for one in rows_of(tmp_path / "tiles")}
    assert by_id == {one["image_id"]: one for one in before}
    assert len(open_snapshot(str(tmp_path / "tiles")).shards()) == 3
    assert verify(str(tmp_path / "tiles")).problems == ()


def test_what_would_not_fit_into_a_shard_becomes_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    world.write_images(tmp_path / "source", 10)
    world.run_ingest(tmp_path / "source", tmp_path / "data", shard_rows=10)
    resize = {"height": 48, "width": 64}
    monkeypatch.setattr(preprocess, "most_shard_bytes", 4 * 48 * 64 * 3)
    result = world.run_preprocess(tmp_path / "data", tmp_path / "out", resize=resize)
    assert len(open_snapshot(str(tmp_path / "data")).shards()) == 1
    shards = open_snapshot(str(tmp_path / "out")).shards()
    assert [record.rows for record in shards] == pytest.approx([4, 4, 2], abs=2)
    assert sorted(record.rows for record in shards) == [2, 4, 4]
    assert result.counts["done"] == 10
    assert world.run_preprocess(tmp_path / "data", tmp_path / "out", resize=resize).already_done
    assert verify(str(tmp_path / "out")).problems == ()
    world.run_infer(tmp_path / "out", model, tmp_path / "predictions")
    assert world.run_evaluate(tmp_path / "predictions", tmp_path / "out", tmp_path / "score").counts["done"] == 10


def test_an_image_whose_tiles_exceed_a_shard_is_refused_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "data", [sample(0), sample(1)])
    monkeypatch.setattr(_prepare, "most_image_bytes", 2000)
    result = world.run_preprocess(tmp_path / "data", tmp_path / "out", tile={"height": 16, "width": 16, "overlap": 8})
    assert (result.counts["quarantined"], result.counts["inputs"]) == (2, 2)
    (bad, _) = open_snapshot(result.url).quarantined()
    assert bad["error_type"] == "LimitError"
    assert "use encoding jpeg, or have it read in windows" in bad["error"]
    assert verify(result.url).problems == ()


def test_a_crop_is_what_the_model_is_shown_of_whole_images_and_the_rest_is_ignored(tmp_path: Path) -> None:
    world.write_images(tmp_path / "source", 8)
    world.run_ingest(tmp_path / "source", tmp_path / "data")
    crop = {"top": 4, "left": 8, "height": 16, "width": 20}
    resize = {"height": 32, "width": 40}
    world.run_preprocess(tmp_path / "data", tmp_path / "out", crop=crop, resize=resize)
    before, after = rows_of(tmp_path / "data"), rows_of(tmp_path / "out")
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(mask_of(other)[::2, ::2], mask_of(one)[4:20, 8:28])
    world.run_train(tmp_path / "out", tmp_path / "model")
    world.run_infer(tmp_path / "out", tmp_path / "model", tmp_path / "on-crops")
    world.run_infer(tmp_path / "data", tmp_path / "model", tmp_path / "on-images")
    assert {mask_of(one).shape for one in rows_of(tmp_path / "on-crops")} == {(32, 40)}
    for one in rows_of(tmp_path / "on-images"):
        mask = mask_of(one)
        inside = np.zeros(mask.shape, bool)
        inside[4:20, 8:28] = True
        assert (mask[~inside] == 255).all()
        assert (mask[inside] != 255).all()
    world.run_preprocess(tmp_path / "data", tmp_path / "resized", resize=resize)
    with pytest.raises(InputError, match=r"trained on the region 16x20 at row 4, column 8 of images; the data are whole images, resized"):
        world.run_infer(tmp_path / "resized", tmp_path / "model", tmp_path / "refused")
    with pytest.raises(ConfigError, match="is resized already; needed: a crop of the data as ingested"):
        world.run_preprocess(tmp_path / "resized", tmp_path / "refused", crop=crop)


def test_a_crop_of_a_crop_is_remembered_in_the_sources_pixels(tmp_path: Path) -> None:
    publish(tmp_path / "data", [sample(0)])
    world.run_preprocess(tmp_path / "data", tmp_path / "one", crop={"top": 4, "left": 8, "height": 16, "width": 20})
    world.run_preprocess(tmp_path / "one", tmp_path / "two", crop={"top": 1, "left": 2, "height": 5, "width": 6})
    crop = open_snapshot(str(tmp_path / "two")).spec.crop
    assert crop is not None
    np.testing.assert_array_equal(mask_of(rows_of(tmp_path / "two")[0]), scene(0, *SIZE)[1][crop.inside])


def test_tiles_are_cropped_and_resized_before_and_not_afterwards(tmp_path: Path) -> None:
    publish(tmp_path / "data", [sample(0)])
    world.run_preprocess(tmp_path / "data", tmp_path / "tiles", tile={"height": 16, "width": 16})
    for settings in ({"resize": {"height": 8, "width": 8}}, {"crop": {"height": 8, "width": 8}}):
        with pytest.raises(ConfigError, match="holds tiles; needed: the data as ingested"):
            world.run_preprocess(tmp_path / "tiles", tmp_path / "refused", **settings)
    again = world.run_preprocess(tmp_path / "tiles", tmp_path / "smaller", tile={"height": 8, "width": 8})
    assert again.counts["inputs"] == 4
    last = rows_of(tmp_path / "smaller")[-1]
    assert (last["image_id"], last["parent_id"]) == ("i0.png#y=0008,x=0016#y=0008,x=0008", "i0.png#y=0008,x=0016")
    np.testing.assert_array_equal(mask_of(last), scene(0, *SIZE)[1][16:24, 24:32])


def test_a_crop_over_the_edge_refuses_that_image_alone(tmp_path: Path) -> None:
    publish(tmp_path / "data", [sample(0), row("small.png", "train", *scene(1, 12, 16))])
    result = world.run_preprocess(tmp_path / "data", tmp_path / "out", crop={"top": 8, "height": 16, "width": 32})
    assert (result.counts["done"], result.counts["quarantined"]) == (1, 1)
    (bad,) = open_snapshot(result.url).quarantined()
    assert (bad["image_id"], bad["error_type"]) == ("small.png", "ShapeError")
    assert "the image is 12x16, crop takes rows 8 to 24 and columns 0 to 32" in bad["error"]


def test_without_an_output_the_settings_name_it_and_what_was_made_with_them_is_found_again(tmp_path: Path) -> None:
    publish(tmp_path / "data", [sample(0)])

    def run(**settings: Any) -> StageResult:
        config = validate(PreprocessConfig, {"data": str(tmp_path / "data"), "engine": world.inline, **settings})
        return preprocess.preprocess(config, open_engine(world.inline))

    small, again, other = run(resize={"height": 12, "width": 16}), run(resize={"width": 16, "height": 12}, max_quarantined=0.5), run()
    assert small.url.startswith(f"{tmp_path}/data-prepared/")
    assert (again.url, again.already_done) == (small.url, True)
    assert other.url != small.url
    by_number = validate(PreprocessConfig, {"data": f"{tmp_path}/data@1", "resize": {"height": 12, "width": 16}})
    assert by_number.output == small.url
    assert validate(PreprocessConfig, {"data": "a", "output": "b"}).output == "b"
    with pytest.raises(ConfigError, match="data: missing"):
        validate(PreprocessConfig, {})
