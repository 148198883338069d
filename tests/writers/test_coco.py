from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from segtasks.codecs import rle
from segtasks.errors import ConfigError
from segtasks.spec import ClassSpec, DatasetSpec
from segtasks.storage import open_store
from segtasks.writers import coco
from segtasks.writers._base import Labelled, Scored
from segtasks.writers._coco import image_ids
from tests.contracts.worlds import camvid as camvid_world
from tests.contracts.worlds import coco as world
from tests.writers.roundtrip import there_and_back

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools


def opened(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


@pytest.mark.parametrize("segmentation", ["rle", "polygon"])
def test_coco_comes_back_equal_with_its_crowds_and_category_ids(tmp_path: Path, segmentation: str) -> None:
    world.write(open_store(str(tmp_path / "source")))
    writer = {"name": "coco", "options": {"segmentation": segmentation}}
    before, after = there_and_back(tmp_path / "source", tmp_path, "coco", writer, "coco")
    assert len(before) == 4
    assert after == before
    written = json.loads((tmp_path / "exported/annotations/instances_train.json").read_text())
    assert written["categories"] == [
        {"id": 3, "name": "car", "supercategory": "vehicle"},
        {"id": 18, "name": "dog", "supercategory": "animal"},
    ]
    assert [image["id"] for image in written["images"]] == [int(Path(image["file_name"]).stem) for image in written["images"]]


def test_pycocotools_opens_what_is_written_and_draws_the_same_pixels(tmp_path: Path) -> None:
    world.write(open_store(str(tmp_path / "source")))
    there_and_back(tmp_path / "source", tmp_path, "coco", {"name": "coco", "options": {"segmentation": "polygon"}}, "coco")
    theirs, ours = (
        opened(tmp_path / path) for path in ("source/annotations/instances_train2017.json", "exported/annotations/instances_train.json")
    )
    for image in (1, 2):
        drawn = [
            sorted(api.annToMask(one).tobytes() for one in api.loadAnns(api.getAnnIds(imgIds=image, iscrowd=None)))
            for api in (theirs, ours)
        ]
        assert drawn[0] == drawn[1]


def test_a_semantic_mask_becomes_one_annotation_a_class(tmp_path: Path) -> None:
    camvid_world.write(open_store(str(tmp_path / "source")))
    there_and_back(tmp_path / "source", tmp_path, "camvid", "coco", "coco")
    document = json.loads((tmp_path / "exported/annotations/instances_val.json").read_text())
    names = [item["name"] for item in document["categories"]]
    assert len(names) == 11
    assert len(document["annotations"]) == 11
    stored = camvid_world.labels(0, 12)
    for one in document["annotations"]:
        label = names.index(next(item["name"] for item in document["categories"] if item["id"] == one["category_id"]))
        np.testing.assert_array_equal(coco_mask.decode(one["segmentation"]).astype(bool), stored == label)


def test_predictions_with_scores_are_taken_by_load_res(tmp_path: Path) -> None:
    classes = (
        ClassSpec(name="background", color=(0, 0, 0), isthing=False),
        ClassSpec(name="cat", color=(1, 1, 1), source_id=17, isthing=True),
    )
    writer = coco.build(coco.Config(), open_store(str(tmp_path)), DatasetSpec(name="cats", classes=classes))
    mask = np.zeros((5, 7), np.bool_)
    mask[1:3, 2:6] = True
    counts = rle.encode(mask)
    one = Scored(1, rle.bbox(counts, 5, 7), 8.0, counts, score=0.75)
    writer.finish({"": [writer.write(Labelled("a.jpg", "", 5, 7, None, (one,)))]})
    truth = opened(tmp_path / "annotations/instances_default.json")
    with contextlib.redirect_stdout(io.StringIO()):
        results = truth.loadRes(str(tmp_path / "annotations/predictions_default.json"))
    (found,) = results.loadAnns(results.getAnnIds())
    assert (found["category_id"], found["score"], found["bbox"]) == (17, 0.75, [2, 1, 4, 2])
    np.testing.assert_array_equal(results.annToMask(found).astype(bool), mask)


def test_images_without_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no classes"):
        coco.build(coco.Config(), open_store(str(tmp_path)), DatasetSpec(name="bare"))


def test_a_category_of_id_0_keeps_it(tmp_path: Path) -> None:
    classes = tuple(ClassSpec(name=name, color=(1, 1, 1), source_id=number) for name, number in (("cat", 0), ("dog", 2), ("new", None)))
    writer = coco.build(coco.Config(), open_store(str(tmp_path)), DatasetSpec(name="zero", classes=classes))
    writer.finish({"train": [writer.write(Labelled("a.jpg", "train", 1, 3, np.array([[0, 1, 2]], np.uint8), None))]})
    document = json.loads((tmp_path / "annotations/instances_train.json").read_text())
    assert [item["id"] for item in document["categories"]] == [0, 2, 3]
    assert [one["category_id"] for one in document["annotations"]] == [0, 2, 3]


def test_an_object_without_pixels_can_be_read_by_pycocotools(tmp_path: Path) -> None:
    spec = DatasetSpec(name="cats", classes=(ClassSpec(name="cat", color=(1, 1, 1)),))
    writer = coco.build(coco.Config(segmentation="polygon"), open_store(str(tmp_path)), spec)
    one = Scored(0, (0, 0, 0, 0), 0.0, rle.encode(np.zeros((2, 3), np.bool_)))
    writer.finish({"train": [writer.write(Labelled("a.jpg", "train", 2, 3, None, (one,)))]})
    api = opened(tmp_path / "annotations/instances_train.json")
    assert api.annToMask(api.loadAnns(api.getAnnIds())[0]).sum() == 0


@pytest.mark.parametrize(
    ("files", "ids"),
    [
        (["000000032773.jpg", "a/7.jpg"], [32773, 7]),
        (["7.jpg", "a/7.jpg"], [1, 2]),
        (["7.jpg", "b.jpg"], [1, 2]),
        (["0.jpg"], [1]),
        (["²³.jpg"], [1]),
        (["1234567890123456789012.jpg"], [1]),
        ([], []),
    ],
)
def test_images_have_the_numbers_that_they_are_called_by(files: list[str], ids: list[int]) -> None:
    assert list(image_ids([{"file": file} for file in files])) == ids
