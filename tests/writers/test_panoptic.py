from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from segtasks.codecs import rle
from segtasks.spec import ClassSpec, DatasetSpec
from segtasks.storage import open_store
from segtasks.writers import panoptic
from segtasks.writers._base import Labelled, Scored
from tests.contracts.worlds import coco_panoptic as world
from tests.contracts.worlds import folder as folder_world
from tests.stages.world import run_ingest
from tests.writers.roundtrip import run_export, there_and_back


def test_panoptic_comes_back_equal(tmp_path: Path) -> None:
    world.write(open_store(str(tmp_path / "source")))
    before, after = there_and_back(tmp_path / "source", tmp_path, "coco_panoptic", "panoptic", "coco_panoptic")
    assert len(before) == 3
    assert after == before
    theirs = json.loads((tmp_path / "source/annotations/panoptic_val2017.json").read_text())
    ours = json.loads((tmp_path / "exported/annotations/panoptic_val.json").read_text())
    assert {item["id"]: (item["name"], item["isthing"]) for item in ours["categories"]} == {
        item["id"]: (item["name"], item["isthing"]) for item in theirs["categories"]
    }
    facts = [
        {(one["category_id"], one["area"], one["iscrowd"], *one["bbox"]) for one in document["annotations"][0]["segments_info"]}
        for document in (theirs, ours)
    ]
    assert facts[0] == facts[1]


def test_every_pixel_of_a_segment_has_its_id(tmp_path: Path) -> None:
    folder_world.write(open_store(str(tmp_path / "source")))
    (tmp_path / "source/images/test/0.jpg").unlink()  # has no mask
    run_ingest(tmp_path / "source", tmp_path / "data")
    run_export(tmp_path / "data", tmp_path / "out", "panoptic")
    document = json.loads((tmp_path / "out/annotations/panoptic_train.json").read_text())
    for one in document["annotations"]:
        rgb = np.array(Image.open(tmp_path / "out/annotations/panoptic_train" / one["file_name"])).astype(int)
        ids = rgb[:, :, 0] + 256 * rgb[:, :, 1] + 65536 * rgb[:, :, 2]
        assert {segment["id"]: segment["area"] for segment in one["segments_info"]} == {
            int(value): int((ids == value).sum()) for value in np.unique(ids) if value
        }


def test_a_class_with_instances_is_of_things_where_the_source_does_not_say(tmp_path: Path) -> None:
    said = {"road": None, "car": None, "sky": False}
    spec = DatasetSpec(name="made", classes=tuple(ClassSpec(name=name, color=(1, 1, 1), isthing=one) for name, one in said.items()))
    writer = panoptic.build(panoptic.Config(), open_store(str(tmp_path)), spec)
    objects = tuple(Scored(index, (0, 0, 1, 1), 1.0, rle.encode(np.ones((1, 2), np.bool_))) for index in (1, 2))
    writer.finish({"train": [writer.write(Labelled("a.png", "train", 1, 2, np.zeros((1, 2), np.uint8), objects))]})
    document = json.loads((tmp_path / "annotations/panoptic_train.json").read_text())
    assert {item["name"]: item["isthing"] for item in document["categories"]} == {"road": 0, "car": 1, "sky": 0}
