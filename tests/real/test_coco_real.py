from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as pycoco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segtasks.codecs import rle
from segtasks.errors import DataFault, InputError
from segtasks.readers import coco, coco_panoptic
from segtasks.readers._base import RawSample
from segtasks.storage import open_store
from tests.real import data_folder

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
SAMPLE = {"file": "sample_data/panoptic_examples.json", "images": "sample_data/input_images"}


def samples(reader: Any) -> dict[str, RawSample]:
    return {item.image_id: reader.read(item) for item in reader.scan()}


def theirs(path: Path, capsys: pytest.CaptureFixture[str]) -> COCO:
    answer = COCO(str(path))
    capsys.readouterr()
    return answer


def test_all_705_objects_of_coco_equal_pycocotools(capsys: pytest.CaptureFixture[str]) -> None:
    root = data_folder("coco_tiny")
    answer = theirs(root / "annotations/instances_train2017.json", capsys)
    reader = coco.build(coco.Config(), open_store(str(root)))
    classes = reader.spec().classes
    assert [(one.source_id, one.name) for one in classes[1:]] == [(one["id"], one["name"]) for one in answer.loadCats(answer.getCatIds())]
    crowds, parts = 0, 0
    read = samples(reader)
    assert len(read) == 80
    for sample in read.values():
        annotations = answer.loadAnns(answer.getAnnIds(imgIds=int(sample.meta["coco_id"])))
        assert sample.instances is not None
        for ours, one in zip(sample.instances, annotations, strict=True):
            expected = answer.annToRLE(one)
            assert ours.counts == expected["counts"]
            assert ours.area == pycoco.area(expected)
            assert list(ours.bbox) == pycoco.toBbox(expected).tolist()
            assert classes[ours.category_id].source_id == one["category_id"]
            assert ours.iscrowd == (one["iscrowd"] == 1)
            crowds += ours.iscrowd
            parts += isinstance(one["segmentation"], list) and len(one["segmentation"]) > 1
    assert sum(len(sample.instances or ()) for sample in read.values()) == 705
    assert (crowds, parts) == (6, 55)


def test_cocos_own_evaluation_is_the_same_on_what_was_read(capsys: pytest.CaptureFixture[str]) -> None:
    root = data_folder("coco_tiny")
    answer = theirs(root / "annotations/instances_train2017.json", capsys)
    reader = coco.build(coco.Config(measures="json"), open_store(str(root)))
    again: dict[str, Any] = {key: answer.dataset[key] for key in ("images", "categories")}
    again["annotations"] = []
    detections = []
    rng = np.random.default_rng(0)
    for sample in samples(reader).values():
        image = int(sample.meta["coco_id"])
        height, width = sample.mask.shape  # type: ignore[union-attr]
        for one in sample.instances or ():
            segmentation = {"size": [height, width], "counts": one.counts.decode()}
            own = {"image_id": image, "category_id": reader.spec().classes[one.category_id].source_id, "segmentation": segmentation}
            number = len(again["annotations"]) + 1
            again["annotations"].append({**own, "id": number, "iscrowd": int(one.iscrowd), "area": one.area, "bbox": list(one.bbox)})
            moved = np.roll(rle.decode(one.counts, height, width), rng.integers(0, 9, 2), (0, 1))
            detections.append(
                {**own, "segmentation": {"size": [height, width], "counts": rle.encode(moved).decode()}, "score": rng.random()}
            )
    ours = COCO()
    ours.dataset = again
    ours.createIndex()
    stats = []
    for truth in (answer, ours):
        evaluation = COCOeval(truth, truth.loadRes([dict(one) for one in detections]), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        stats.append(evaluation.stats)
    capsys.readouterr()
    np.testing.assert_array_equal(stats[0], stats[1])
    assert (stats[0][:6] > 0).all()


def test_labelmes_coco_has_its_background_first_and_agrees_with_its_voc_masks(capsys: pytest.CaptureFixture[str]) -> None:
    root = data_folder("labelme_examples") / "instance_segmentation"
    reader = coco.build(coco.Config(), open_store(str(root / "data_dataset_coco")))
    assert reader.spec().classes[0].source_id == 0
    assert reader.spec().names[15] == "person"
    answer = theirs(root / "data_dataset_coco/annotations.json", capsys)
    read = samples(reader)
    assert sorted(read) == ["JPEGImages/2011_000003.jpg", "JPEGImages/2011_000006.jpg", "JPEGImages/2011_000025.jpg"]
    for image, sample in read.items():
        annotations = answer.loadAnns(answer.getAnnIds(imgIds=int(sample.meta["coco_id"])))
        expected = [(one["category_id"], answer.annToRLE(one)["counts"]) for one in annotations]
        assert [(one.category_id, one.counts) for one in sample.instances or ()] == expected
        voc = np.array(Image.open(root / "data_dataset_voc/SegmentationClass" / Path(image).with_suffix(".png").name))
        known = voc != 255
        assert (sample.mask == voc)[known].mean() > 0.99  # labelme draws outlines one pixel thicker than pycocotools


def test_panoptic_areas_and_boxes_equal_the_jsons_and_masks_those_of_its_detection_format() -> None:
    root = data_folder("coco_panoptic_sample")
    reader = coco_panoptic.build(coco_panoptic.Config(annotations=[SAMPLE]), open_store(str(root)))
    listed = json.loads((root / "panoptic_coco_categories.json").read_text())
    assert [(one.source_id, one.name, one.color, one.isthing) for one in reader.spec().classes] == [
        (one["id"], one["name"], tuple(one["color"]), bool(one["isthing"])) for one in sorted(listed, key=lambda one: one["id"])
    ]
    document = json.loads((root / SAMPLE["file"]).read_text())
    converted = json.loads((root / "sample_data/panoptic_coco_detection_format.json").read_text())["annotations"]
    index = {one.source_id: at for at, one in enumerate(reader.spec().classes)}
    things = 0
    for sample in samples(reader).values():
        image = int(sample.meta["coco_id"])
        (segments,) = (one["segments_info"] for one in document["annotations"] if one["image_id"] == image)
        by_json = Counter((index[one["category_id"]], one["area"], tuple(one["bbox"])) for one in segments if listed_thing(listed, one))
        assert Counter((one.category_id, one.area, one.bbox) for one in sample.instances or ()) == by_json
        masks = [(index[one["category_id"]], one["segmentation"]) for one in converted if one["image_id"] == image]
        assert {one.counts for one in sample.instances or ()} <= {one["counts"].encode() for _, one in masks}
        expected = np.full(sample.mask.shape, 255)  # type: ignore[union-attr]
        for at, segmentation in masks:
            expected[pycoco.decode(segmentation) == 1] = at
        np.testing.assert_array_equal(sample.mask, expected)
        pixels = Counter[int]()
        for one in segments:
            pixels[index[one["category_id"]]] += one["area"]
        values, counts = np.unique(sample.mask[sample.mask != 255], return_counts=True)  # type: ignore[index]
        assert dict(zip(values.tolist(), counts.tolist())) == +pixels
        things += len(sample.instances or ())
    assert things == 43


def listed_thing(listed: list[dict[str, Any]], segment: dict[str, Any]) -> bool:
    return any(one["id"] == segment["category_id"] and one["isthing"] for one in listed)


@pytest.mark.parametrize("folder", ["coco", "coco_instances", "coco_roboflow", "mmdet_coco"])
def test_datumaros_layouts_are_one_data_set_with_a_box_that_is_no_mask(folder: str) -> None:
    store = open_store(str(data_folder("odd_datasets") / "datumaro/coco_dataset" / folder))
    with pytest.raises(InputError, match=r"none of the 1 annotations of .* has a segmentation \(1 have a bbox\).* without_mask: box"):
        list(coco.build(coco.Config(), store).scan())
    for policy, areas in (("skip", []), ("box", [3.0])):
        reader = coco.build(coco.Config(without_mask=policy), store)
        splits = {item.split: reader.read(item).instances for item in reader.scan()}
        assert [one.area for one in splits["train"] or ()] == areas
        assert [(one.category_id, one.area, one.iscrowd) for one in splits["val"] or ()] == [(1, 2.0, False), (2, 20.0, True)]
        assert [one.source_id for one in reader.spec().classes] == [None, 1, 2, 4]


@pytest.mark.parametrize(
    ("folder", "file", "message"),
    [
        ("datumaro/coco_dataset/coco_labels", "annotations/labels_val.json", "none of the 2 annotations of .* .they are empty"),
        ("datumaro/coco_dataset/coco_captions", "annotations/captions_val.json", "have no categories: no classes to learn"),
        ("datumaro/coco_dataset/coco_image_info", "annotations/image_info_val.json", "have no categories: no classes to learn"),
        ("datumaro/coco_dataset/coco_panoptic", "annotations/panoptic_val.json", "is panoptic: .* use the format coco_panoptic"),
        ("datumaro/roboflow_dataset/createml", "train/_annotations.createml.json", "holds a list; needed: an object with images"),
        ("datumaro/segment_anything_dataset", "a.json", r"annotations\[0\] has the image_id None"),
        ("mindspore/testCOCO", "annotations/invalid.json", "not valid JSON: Expecting ':' delimiter, line 1, column 276"),
        ("mindspore/testCOCO", "annotations/lack_of_images.json", "has no images; .* found annotations, categories, image, info"),
        ("mindspore/testCOCO", "annotations/captions.json", "has no categories; needed: images, annotations, categories"),
        ("mindspore/testCOCO", "annotations/key_point.json", "has no categories; needed: images, annotations, categories"),
    ],
)
def test_look_alikes_are_refused_with_what_is_wrong(folder: str, file: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        outcome(coco, folder, file=file)
    with pytest.raises(InputError, match=r"no annotation file of a known name at .*; found .*\.json"):
        coco.build(coco.Config(), open_store(str(data_folder("odd_datasets") / folder))).spec()


def test_bad_polygons_refuse_their_images_alone() -> None:
    found = outcome(coco, "mindspore/testCOCO", file="annotations/train.json", images="train")
    refused = {
        image[-10:-4]: re.findall(r"^LabelError: (annotation \d+): a polygon .* \((\d+ numbers)\)$", text) for image, text in found.items()
    }
    assert refused == {
        "391895": [("annotation 10006", "5 numbers")],
        "318219": [("annotation 10001", "11 numbers")],
        "554625": [],
        "574769": [("annotation 10003", "13 numbers")],
        "060623": [],
        "309022": [("annotation 10005", "7 numbers")],
    }
    assert found["train/000000554625.jpg"] == found["train/000000060623.jpg"] == "1 objects"
    found = outcome(coco, "mindspore/testCOCO", file="annotations/invalid_category_id.json", images="train")
    assert found["train/000000391895.jpg"] == "LabelError: annotation 10006: it is of the category 7, which categories do not have"


def test_panoptic_stubs_read_or_say_what_is_wrong() -> None:
    reader = coco_panoptic.build(coco_panoptic.Config(), open_store(str(data_folder("odd_datasets") / "datumaro/coco_dataset/coco")))
    assert [np.unique(sample.mask).tolist() for sample in samples(reader).values()] == [[0, 255], [0, 1, 255]]  # type: ignore[arg-type]
    found = outcome(coco_panoptic, "datumaro/coco_dataset/coco_panoptic")
    assert found == {
        "images/train/a.jpg": "LabelError: annotations/panoptic_train/a.png is 5x5; the image is 5x10 (height x width)",
        "images/val/b.jpg": "0 objects",
    }
    found = outcome(coco_panoptic, "mindspore/testCOCO", file="annotations/panoptic.json", images="train")
    assert set(found.values()) == {f"LabelError: annotations/panoptic/{name} is missing" for name in ("000000391895", "000000574769.png")}
    vistas = {"file": "val/v2.0/panoptic/panoptic_2020.json", "segments": "val/v2.0/panoptic", "images": "val/images"}
    assert outcome(coco_panoptic, "datumaro/mapillary_vistas_dataset", **vistas) == {
        "val/images/0.jpg": "2 objects",
        "val/images/1.jpg": "3 objects",
    }


def outcome(module: ModuleType, folder: str, **named: str) -> dict[str, str]:
    """What became of each image: how many objects, or why it is refused (without what would be needed)."""
    config = module.Config(annotations=[named] if named else [])
    reader = module.build(config, open_store(str(data_folder("odd_datasets") / folder)))
    reader.spec()
    found = {}
    for item in reader.scan():
        try:
            found[item.image_id] = f"{len(reader.read(item).instances)} objects"
        except DataFault as fault:
            found[item.image_id] = f"{type(fault).__name__}: {fault}".partition("; needed")[0]
    return found
