from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as pycoco

from segtasks.codecs import rle
from segtasks.codecs.image import decode_image
from segtasks.errors import DataFault, InputError, LabelError
from segtasks.readers._base import RawSample, SourceItem
from segtasks.readers.coco import CocoReader, Config, build
from segtasks.spec import DatasetSpec, DecodePolicy
from segtasks.storage import open_store

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
HEIGHT, WIDTH = 10, 14
SQUARE = [1, 1, 5, 1, 5, 5, 1, 5]
CATEGORIES = [{"id": 7, "name": "dog", "supercategory": "animal"}, {"id": 2, "name": "car"}]


def photo(folder: Path, *paths: str, height: int = HEIGHT, width: int = WIDTH, orientation: int = 1) -> None:
    for path in paths:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", (width, height), (90, 60, 30))
        exif = Image.Exif()
        exif[274] = orientation
        image.save(file, exif=exif)


def entry(number: int | str, name: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": number, "file_name": name or f"{number}.jpg", "height": HEIGHT, "width": WIDTH, **more}


def annotation(number: int, image: int | str, segmentation: Any, category: Any = 7, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": 0, **more}


def document(folder: Path, images: list[Any], annotations: list[Any], categories: Any = CATEGORIES, path: str = "a.json") -> None:
    put(folder, path, json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def put(folder: Path, path: str, text: str) -> None:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text(text, encoding="utf-8")


def reader(folder: Path, **options: Any) -> CocoReader:
    return build(Config(**options), open_store(str(folder)))


def spec_and_items(folder: Path) -> tuple[DatasetSpec, list[SourceItem]]:
    found = reader(folder)
    return found.spec(), list(found.scan())


def only(folder: Path, segmentation: Any, more: Mapping[str, Any] | None = None, **options: Any) -> RawSample:
    """The sample of one image with one annotation."""
    photo(folder, "1.jpg")
    document(folder, [entry(1)], [annotation(4, 1, segmentation, **(more or {}))])
    found = reader(folder, **options)
    (item,) = found.scan()
    return found.read(item)


def counts_of(sample: RawSample) -> list[bytes]:
    return [one.counts for one in sample.instances or ()]


def drawn(*parts: list[float]) -> bytes:
    return bytes(pycoco.merge(pycoco.frPyObjects(list(parts), HEIGHT, WIDTH))["counts"])


@pytest.mark.parametrize(
    ("images", "split"), [("train2017", "train2017"), ("images/train2017", "train2017"), ("images/train", "train"), ("images", "train")]
)
def test_splits_are_found_by_the_names_of_their_files_wherever_the_images_are(tmp_path: Path, images: str, split: str) -> None:
    photo(tmp_path, f"{images}/1.jpg", "val2017/2.jpg")
    document(tmp_path, [entry(1)], [annotation(1, 1, [SQUARE])], path=f"annotations/instances_{split}.json")
    document(tmp_path, [entry(2)], [], path="annotations/instances_val2017.json")
    put(tmp_path, "annotations/captions_train2017.json", "not looked at")
    assert [(item.image_id, item.split) for item in reader(tmp_path).scan()] == [(f"{images}/1.jpg", "train"), ("val2017/2.jpg", "val")]


def test_cvats_default_is_no_split_and_its_order_of_keys_does_not_matter(tmp_path: Path) -> None:
    photo(tmp_path, "images/default/1.jpg")
    reverse = {
        "annotations": [annotation(1, 1, [SQUARE])],
        "images": [entry(1)],
        "info": {"a": [{}]},
        "categories": CATEGORIES,
        "licenses": [],
    }
    put(tmp_path, "annotations/instances_default.json", json.dumps(reverse, indent="\t"))
    found = reader(tmp_path)
    (item,) = found.scan()
    assert (item.image_id, item.split) == ("images/default/1.jpg", "")
    assert counts_of(found.read(item)) == [drawn(SQUARE)]


def test_roboflows_folders_and_its_group_that_is_no_class(tmp_path: Path) -> None:
    categories = [
        {"id": 0, "name": "animals-x1", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "animals-x1"},
        {"id": 2, "name": "dog", "supercategory": "animals-x1"},
    ]
    photo(tmp_path, "train/1.jpg", "valid/1.jpg")
    for folder in ("train", "valid"):
        document(tmp_path, [entry(1)], [annotation(1, 1, [SQUARE], 2)], categories, f"{folder}/_annotations.coco.json")
    found = reader(tmp_path)
    assert [(item.image_id, item.split) for item in found.scan()] == [("train/1.jpg", "train"), ("valid/1.jpg", "val")]
    assert [(one.name, one.source_id) for one in found.spec().classes] == [("background", None), ("cat", 1), ("dog", 2)]
    document(tmp_path, [entry(1)], [annotation(1, 1, [SQUARE], 0)], categories, "train/_annotations.coco.json")
    assert reader(tmp_path).spec().names == ["background", "animals-x1", "cat", "dog"]  # an object is of it


def test_the_only_json_is_taken_and_an_option_names_any_other(tmp_path: Path) -> None:
    photo(tmp_path, "JPEGImages/1.jpg", "other/place/1.jpg")
    document(tmp_path, [entry(1, "JPEGImages/1.jpg")], [annotation(1, 1, [SQUARE])], path="annotations.json")
    (item,) = reader(tmp_path).scan()
    assert (item.image_id, item.split) == ("JPEGImages/1.jpg", "")
    document(tmp_path, [entry(1)], [annotation(1, 1, [SQUARE])], path="labels/mine.json")
    files = [{"file": "annotations.json"}, {"file": "labels/mine.json", "images": "other/place", "split": "test"}]
    found = list(reader(tmp_path, annotations=files).scan())
    assert [(item.image_id, item.split) for item in found] == [("JPEGImages/1.jpg", ""), ("other/place/1.jpg", "test")]


@pytest.mark.parametrize(
    "name",
    [
        "night/1.jpg",
        "/data/upload/night/1.jpg",
        "..\\media\\night\\1.jpg",
        "https://x.org/train/night/1.jpg?size=9",
        "s3://b/night/1.jpg",
        "http://[x/night/1.jpg",
        "./night/1.jpg",
    ],
)
def test_file_names_are_resolved_by_their_end(tmp_path: Path, name: str) -> None:
    photo(tmp_path, "images/night/1.jpg")
    photo(tmp_path, "images/1.jpg")
    document(tmp_path, [entry(1, name)], [])
    (item,) = reader(tmp_path).scan()
    assert item.image_id == "images/night/1.jpg"


def test_categories_come_in_the_order_of_their_ids_and_keep_them(tmp_path: Path) -> None:
    photo(tmp_path, "1.jpg")
    document(tmp_path, [entry(1)], [annotation(1, 1, [SQUARE], 2), annotation(2, 1, [SQUARE], 7)])
    found = reader(tmp_path)
    classes = [(one.name, one.source_id, one.supercategory, one.isthing) for one in found.spec().classes]
    assert classes == [("background", None, "", False), ("car", 2, "", True), ("dog", 7, "animal", True)]
    (item,) = found.scan()
    assert [one.category_id for one in found.read(item).instances or ()] == [1, 2]


def test_a_category_named_background_is_class_0_and_has_no_objects(tmp_path: Path) -> None:
    photo(tmp_path, "1.jpg")
    categories = [{"id": 0, "name": "_background_"}, {"id": 1, "name": "cell"}]
    document(tmp_path, [entry(1)], [annotation(1, 1, [SQUARE], 1), annotation(2, 1, [SQUARE], 0)], categories)
    found = reader(tmp_path)
    assert [(one.name, one.source_id) for one in found.spec().classes] == [("background", 0), ("cell", 1)]
    (item,) = found.scan()
    sample = found.read(item)
    assert [one.category_id for one in sample.instances or ()] == [1]
    assert sample.meta["of_background"] == "1"


def test_more_than_255_classes_have_another_ignore_value_and_a_wide_mask(tmp_path: Path) -> None:
    photo(tmp_path, "1.jpg")
    document(tmp_path, [entry(1)], [annotation(1, 1, [SQUARE], 300)], [{"id": at, "name": f"c{at}"} for at in range(1, 301)])
    found = reader(tmp_path)
    assert found.spec().ignore_index == 65535
    mask = found.read(next(iter(found.scan()))).mask
    assert mask is not None
    assert set(np.unique(mask).tolist()) == {0, 300}


def test_every_form_of_a_mask_is_the_same_as_pycocotools_makes_of_it(tmp_path: Path) -> None:
    two = [SQUARE, [7.5, 2, 12.25, 2, 9, 8.75]]
    mask = pycoco.decode({"size": [HEIGHT, WIDTH], "counts": drawn(*two)})
    runs = {"size": [HEIGHT, WIDTH], "counts": [*np.diff(np.flatnonzero(np.diff(mask.T.ravel(), prepend=0)), prepend=0).tolist()]}
    runs["counts"].append(HEIGHT * WIDTH - sum(runs["counts"]))
    text = drawn(*two).decode()
    as_python = {"size": [HEIGHT, WIDTH], "counts": str(text.encode())}
    for segmentation in (two, runs, {"size": [HEIGHT, WIDTH], "counts": text}, as_python):
        sample = only(tmp_path, segmentation)
        assert counts_of(sample) == [drawn(*two)]
        (one,) = sample.instances or ()
        assert one.area == mask.sum()
        assert list(one.bbox) == pycoco.toBbox({"size": [HEIGHT, WIDTH], "counts": one.counts}).tolist()
        assert sample.mask is not None
        assert np.array_equal(sample.mask, mask * 2)
    assert counts_of(only(tmp_path, SQUARE)) == [drawn(SQUARE)]  # without its outer brackets


def test_crowds_are_ignored_in_the_mask_and_overlaps_stay_in_the_instances(tmp_path: Path) -> None:
    photo(tmp_path, "1.jpg")
    crowd = {"size": [HEIGHT, WIDTH], "counts": [100, 40]}
    large = [0, 0, 8, 0, 8, 8, 0, 8]
    document(tmp_path, [entry(1)], [annotation(1, 1, [SQUARE]), annotation(2, 1, [large], 2), annotation(3, 1, crowd, iscrowd=1)])
    found = reader(tmp_path)
    sample = found.read(next(iter(found.scan())))
    assert [one.iscrowd for one in sample.instances or ()] == [False, False, True]
    assert counts_of(sample)[1] == drawn(large)
    assert sample.mask is not None
    assert sample.mask[2, 2] == 2  # the smaller one, though the larger comes later
    assert sample.mask[7, 7] == 1
    assert (sample.mask[:, 10:] == 255).all()


def test_an_image_without_annotations_is_all_background(tmp_path: Path) -> None:
    photo(tmp_path, "1.jpg")
    document(tmp_path, [entry(1)], [])
    found = reader(tmp_path)
    sample = found.read(next(iter(found.scan())))
    assert sample.instances == ()
    assert sample.mask is not None
    assert not sample.mask.any()
    without = reader(tmp_path, semantic=False)
    assert without.read(next(iter(without.scan()))).mask is None


def test_measures_are_the_masks_unless_the_jsons_are_asked_for(tmp_path: Path) -> None:
    measured = {"area": 15.75, "bbox": [1.5, 1.25, 4, 4]}
    (one,) = only(tmp_path, [SQUARE], measured).instances or ()
    assert (one.area, one.bbox) == (16.0, (1.0, 1.0, 4.0, 4.0))
    (one,) = only(tmp_path, [SQUARE], measured, measures="json").instances or ()
    assert (one.area, one.bbox) == (15.75, (1.5, 1.25, 4.0, 4.0))
    for wrong, what in (
        ({**measured, "area": None}, "area is None"),
        ({**measured, "bbox": [1, 2, 3]}, "bbox is"),
        ({**measured, "area": -1}, "area is -1"),
    ):
        with pytest.raises(LabelError, match=f"annotation 4: its {what}"):
            only(tmp_path, [SQUARE], wrong, measures="json")


def test_boxes_and_keypoints_are_refused_skipped_or_taken_as_masks(tmp_path: Path) -> None:
    photo(tmp_path, "1.jpg", "2.jpg")
    box = annotation(2, 2, [], bbox=[2, 3, 5, 4])
    document(tmp_path, [entry(1), entry(2)], [annotation(1, 1, [SQUARE]), box])
    refusing = reader(tmp_path)
    first, second = refusing.scan()
    assert len(counts_of(refusing.read(first))) == 1
    with pytest.raises(LabelError, match=r"annotation 2: it has no segmentation; .* without_mask: skip or box"):
        refusing.read(second)
    skipped = reader(tmp_path, without_mask="skip").read(second)
    assert skipped.instances == ()
    assert skipped.meta["without_mask"] == "1"
    boxed = reader(tmp_path, without_mask="box").read(second)
    assert counts_of(boxed) == [bytes(pycoco.frPyObjects(np.array([[2.0, 3, 5, 4]]), HEIGHT, WIDTH)[0]["counts"])]
    document(tmp_path, [entry(1), entry(2)], [box])
    with pytest.raises(InputError, match=r"none of the 1 annotations of a.json has a segmentation \(1 have a bbox\)"):
        list(reader(tmp_path).scan())
    assert len(list(reader(tmp_path, without_mask="box").scan())) == 2


def test_parts_of_fewer_than_three_corners_are_left_out_and_counted(tmp_path: Path) -> None:
    sample = only(tmp_path, [SQUARE, [3, 3], [8, 8, 9, 9]])
    assert counts_of(sample) == [drawn(SQUARE)]
    assert sample.meta["parts_without_area"] == "2"
    with pytest.raises(LabelError, match="annotation 4: it has no segmentation"):
        only(tmp_path, [[8, 8, 9, 9]])


@pytest.mark.parametrize(
    ("segmentation", "more", "message"),
    [
        ([SQUARE], {"category": 3}, r"of the category 3, which categories do not have"),
        ([SQUARE], {"category": [7]}, r"of the category \[7\]"),
        ([SQUARE], {"iscrowd": "yes"}, r"iscrowd is 'yes'; needed: 0 or 1"),
        ([[1, 1, 5, 1, 5, 5, 1]], {}, r"corners \[1, 1, 5, 1, 5, 5, 1\] \(7 numbers\); needed: x, y"),
        ([["a", 1, 5, 1, 5, 5]], {}, r"corners \['a', 1, 5, 1, 5, 5\]"),
        ([[10**400, 1, 5, 1, 5, 5]], {}, r"which are no numbers"),
        ([[[1, 1], [5, 1], [5, 5]]], {}, r"corners \[\[1, 1\], \[5, 1\], \[5, 5\]\] \(6 numbers\); needed"),
        ([{"x": 1}, SQUARE], {}, r"corners \{'x': 1\}, which are no numbers"),
        ([[float("nan"), 1, 5, 1, 5, 5]], {}, r"corners \[nan, 1,"),
        ("polygon", {}, r"segmentation is a str; needed: polygons or run lengths"),
        ({"size": [HEIGHT, WIDTH], "counts": [100, 41]}, {}, r"run lengths \[100, 41\] do not make a mask of 10x14 pixels"),
        ({"size": [WIDTH, HEIGHT], "counts": [100, 40]}, {}, r"of the size \[14, 10\]; the image is \[10, 14\] \(height, width\)"),
        ({"size": [HEIGHT, WIDTH], "counts": drawn(SQUARE).decode()[:-2]}, {}, r"do not make a mask of 10x14 pixels .* cut off"),
        ({"size": [HEIGHT, WIDTH], "counts": "b'cut"}, {}, r"cut off"),
        ({"size": [HEIGHT, WIDTH], "counts": None}, {}, r"counts are 'None'; needed"),
        ({"size": [HEIGHT, WIDTH]}, {}, r"counts are 'None'; needed"),
        ({"counts": [140]}, {}, r"of the size None"),
    ],
)
def test_a_bad_annotation_refuses_its_image_and_is_named(tmp_path: Path, segmentation: Any, more: dict[str, Any], message: str) -> None:
    with pytest.raises(LabelError, match=rf"^annotation 4: .*{message}"):
        only(tmp_path, segmentation, more)


def test_sizes_unlike_the_image_are_named_both(tmp_path: Path) -> None:
    photo(tmp_path, "1.jpg")
    for size, said in (
        ({"height": 20, "width": 28}, "20x28"),
        ({"height": "10", "width": 14}, "10x14"),
        ({"height": None, "width": 14}, "Nonex14"),
    ):
        document(tmp_path, [entry(1, **size)], [annotation(1, 1, [SQUARE])])
        found = reader(tmp_path)
        with pytest.raises(LabelError, match=rf"the JSON says that the image is {said}; it is 10x14 \(height x width\)"):
            found.read(next(iter(found.scan())))
    document(tmp_path, [{"id": 1, "file_name": "1.jpg"}], [annotation(1, 1, [SQUARE])])  # no size: the image's own
    found = reader(tmp_path)
    assert counts_of(found.read(next(iter(found.scan())))) == [drawn(SQUARE)]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_truth_of_a_turned_image_is_in_the_frame_that_its_size_says(tmp_path: Path, orientation: int) -> None:
    photo(tmp_path, "1.jpg", height=WIDTH, width=HEIGHT, orientation=orientation)  # stored upright, displayed lying
    document(tmp_path, [entry(1)], [annotation(1, 1, [SQUARE])])
    found = reader(tmp_path)
    item = next(iter(found.scan()))
    shown = found.read(item)
    assert decode_image(shown.image, DecodePolicy()).pixels.shape[:2] == (HEIGHT, WIDTH)
    assert counts_of(shown) == [drawn(SQUARE)]
    stored = json.loads(item.details)
    stored["size"] = [WIDTH, HEIGHT]
    turned = found.read(replace(item, details=json.dumps(stored)))
    upright = pycoco.decode(pycoco.merge(pycoco.frPyObjects([SQUARE], WIDTH, HEIGHT)))
    expected = np.array(_turn(Image.fromarray(upright), orientation))
    (one,) = turned.instances or ()
    assert np.array_equal(rle.decode(one.counts, HEIGHT, WIDTH), expected)
    assert list(one.bbox) == pycoco.toBbox(pycoco.encode(np.asfortranarray(expected))).tolist()
    assert turned.mask is not None
    assert np.array_equal(turned.mask, expected * 2)
    stored["size"] = [3, 4]
    with pytest.raises(LabelError, match=r"is 3x4; it is 10x14 \(14x10 before EXIF turns it\)"):
        found.read(replace(item, details=json.dumps(stored)))


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    turn = {5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90}
    return image.transpose(turn[orientation])


def test_a_listed_image_that_is_missing_stays_missing(tmp_path: Path) -> None:
    photo(tmp_path, "train/1.jpg")
    document(tmp_path, [entry(1), entry(2, "/data/set/2.jpg")], [], path="annotations/instances_train.json")
    found = reader(tmp_path)
    _, missing = found.scan()
    assert missing.image_id == "train/2.jpg"
    assert missing.version.startswith("missing+")
    with pytest.raises(FileNotFoundError):
        found.read(missing)
    (tmp_path / "train/1.jpg").unlink()
    with pytest.raises(
        InputError, match=r"none of the images of annotations/instances_train.json is there: 1.jpg was looked for in train/, images/train/"
    ):
        list(reader(tmp_path).scan())


def test_annotations_of_unlisted_images_are_counted_and_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photo(tmp_path, "1.jpg")
    document(tmp_path, [entry(1)], [annotation(1, 1, [SQUARE]), annotation(2, 99, [SQUARE]), annotation(3, 98, [SQUARE])])
    with caplog.at_level(logging.WARNING):
        (item,) = reader(tmp_path).scan()
    assert len(json.loads(item.details)["annotations"]) == 1
    assert "a.json: 2 annotations are passed over, as no image has their image_id: [99, 98]" in caplog.text
    document(tmp_path, [entry(1)], [annotation(1, "1", [SQUARE])])
    with pytest.raises(InputError, match=r"no annotation's image_id is the id of an image: \['1'\]; the images' ids are 1"):
        list(reader(tmp_path).scan())


def test_images_that_no_file_lists_are_counted_and_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photo(tmp_path, "train/1.jpg", "train/2.jpg", "elsewhere/3.jpg")
    document(tmp_path, [entry(1)], [], path="annotations/instances_train.json")
    with caplog.at_level(logging.WARNING):
        assert [item.image_id for item in reader(tmp_path).scan()] == ["train/1.jpg"]
    assert "1 images are in no annotation file and are passed over: train/2.jpg" in caplog.text


def test_the_version_changes_with_the_image_and_its_own_annotations_only(tmp_path: Path) -> None:
    photo(tmp_path, "1.jpg", "2.jpg")
    own, other = annotation(1, 1, [SQUARE]), annotation(2, 2, [SQUARE])
    document(tmp_path, [entry(1), entry(2)], [own, other])
    before = [item.version for item in reader(tmp_path).scan()]
    document(tmp_path, [entry(2), entry(1)], [other, {**own, "category_id": 2}])
    after = [item.version for item in reader(tmp_path).scan()]
    assert [after[0] == before[1], after[1] == before[0]] == [True, False]
    document(tmp_path, [entry(1), entry(2)], [own, other])
    photo(tmp_path, "1.jpg", height=HEIGHT + 1)
    assert [old == new.version for old, new in zip(before, reader(tmp_path).scan())] == [False, True]


def test_what_else_the_json_says_of_an_image_is_meta_and_its_video_the_group(tmp_path: Path) -> None:
    photo(tmp_path, "1.jpg")
    more = {"video_id": 3, "date_captured": "2013-11-20", "night": True, "coco_url": "http://x", "license": 2, "empty": "", "list": [1]}
    document(tmp_path, [entry(1, **more)], [])
    found = reader(tmp_path)
    (item,) = found.scan()
    assert item.group_id == "3"
    assert found.read(item).meta == {"coco_id": "1", "video_id": "3", "date_captured": "2013-11-20", "night": "True"}


def test_a_file_in_utf_8_with_a_mark_is_read_and_others_are_refused(tmp_path: Path) -> None:
    photo(tmp_path, "bär.jpg")
    text = json.dumps(
        {"images": [entry(1, "bär.jpg")], "annotations": [], "categories": [{"id": 1, "name": "Bär"}]}, ensure_ascii=False, indent=1
    )
    (tmp_path / "a.json").write_bytes(text.encode("utf-8-sig"))
    found = reader(tmp_path)
    assert [item.image_id for item in found.scan()] == ["bär.jpg"]
    assert found.spec().names[1] == "Bär"
    (tmp_path / "a.json").write_bytes(text.encode("utf-16"))
    with pytest.raises(InputError, match=r"a.json is no text in UTF-8"):
        list(reader(tmp_path).scan())


IMAGES, NOTHING = '"images": [{"id": 1, "file_name": "1.jpg"}]', '"annotations": [], "categories": []'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"a.json is not valid JSON: Expecting '\{', line 1, column 1 \(the file ends there: cut off\?\)"),
        ('{"images": [{"id": 1', r"not valid JSON: Expecting ',' delimiter, line 1, column 21 \(the file ends there: cut off\?\)"),
        ('{"images": [\n{"id" 1}]', r"not valid JSON: Expecting ':' delimiter, line 2, column 7$"),
        ("{" + IMAGES + "} {", r"Extra data, line 1, column 47"),
        ("{images: []}", r"Expecting a name in double quotes, line 1, column 2"),
        ("[" * 100_000, r"a.json holds a list; needed: an object with images, annotations, categories"),
        ('{"images": ' + "[" * 100_000, r"a.json cannot be read as JSON"),
        ('{"images": [' + "9" * 5000 + "]}", r"a.json cannot be read as JSON"),
        ('{"image": []}', r"a.json has no images; needed: images, annotations, categories; found image"),
        ("{" + IMAGES + ', "annotations": []}', r"a.json has no categories"),
        ('{"images": {}, ' + NOTHING + "}", r"a.json: images is \{\}; needed: a list"),
        ('{"images": [3], ' + NOTHING + "}", r"a.json: images\[0\] is 3; needed: an object"),
        ('{"images": [{"id": 1}], ' + NOTHING + "}", r"a.json: images\[0\] has the file_name None; needed: the image's path"),
        ('{"images": [{"id": null, "file_name": "x"}], ' + NOTHING + "}", r"images\[0\] has the id None; needed: a number or a text"),
        ('{"images": [{"ID": 1, "file_name": "x"}], ' + NOTHING + "}", r"images\[0\] has the id None; .*Known: ID, file_name"),
        (
            '{"images": [{"id": 1, "file_name": "x"}, {"id": 1, "file_name": "y"}], ' + NOTHING + "}",
            r"images\[1\] has the id 1 of an image before it",
        ),
        ('{"images": [{"id": 1, "file_name": "x\\u0000"}], ' + NOTHING + "}", r"images\[0\] has the file_name 'x\\x00'; needed"),
        ('{"images": [{"id": 1, "file_name": "\\ud800"}], ' + NOTHING + "}", r"images\[0\] has the file_name '\\ud800'; needed"),
        ("{" + IMAGES + ', "annotations": [{"id": 3}], "categories": []}', r"annotations\[0\] has the image_id None"),
        ("{" + IMAGES + ', "annotations": [[]], "categories": []}', r"annotations\[0\] is \[\]; needed: an object"),
        (
            "{" + IMAGES + ', "annotations": [], "categories": [{"id": "1", "name": "x"}]}',
            r"categories\[0\] has the id '1'; needed: a whole number",
        ),
        ("{" + IMAGES + ', "annotations": [], "categories": [{"id": 1, "name": 5}]}', r"categories\[0\] has the name 5; needed: a text"),
        ("{" + IMAGES + ", " + NOTHING + "}", r"have no categories: no classes to learn"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "x"}]}', r"list no images"),
    ],
)
def test_malformed_files_are_refused_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    photo(tmp_path, "1.jpg")
    put(tmp_path, "a.json", text)
    with pytest.raises(InputError, match=message):
        spec_and_items(tmp_path)


def test_files_that_disagree_or_list_an_image_twice_are_refused(tmp_path: Path) -> None:
    photo(tmp_path, "images/1.jpg")
    document(tmp_path, [entry(1)], [], path="annotations/instances_train.json")
    document(tmp_path, [entry(5, "1.jpg")], [], [{"id": 7, "name": "cat"}], path="annotations/instances_val.json")
    with pytest.raises(
        InputError, match=r"category 7 is 'dog' in annotations/instances_train.json and 'cat' in annotations/instances_val.json"
    ):
        reader(tmp_path).spec()
    with pytest.raises(InputError, match=r"instances_val.json lists images/1.jpg, which annotations/instances_train.json listed before"):
        list(reader(tmp_path).scan())
    document(tmp_path, [entry(5, "1.jpg")], [], [{"id": 9, "name": "dog"}], path="annotations/instances_val.json")
    with pytest.raises(InputError, match=r"categories 7 and 9 are both named 'dog'"):
        reader(tmp_path).spec()


def test_other_layouts_and_formats_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"looked for annotations/instances_<split>.json, .*; found no JSON; .* the option annotations"):
        list(reader(tmp_path).scan())
    document(tmp_path, [entry(1)], [], path="annotations/captions_train.json")
    document(tmp_path, [entry(1)], [], path="annotations/captions_val.json")
    with pytest.raises(InputError, match=r"found annotations/captions_train.json, annotations/captions_val.json"):
        reader(tmp_path).spec()
    document(tmp_path, [entry(1)], [], path="below/annotations/instances_train.json")
    with pytest.raises(InputError, match=rf"is the source {tmp_path}/below\?"):
        reader(tmp_path).spec()
    photo(tmp_path, "1.jpg")
    document(tmp_path, [entry(1)], [{"image_id": 1, "segments_info": [{"id": 1, "category_id": 7}]}])
    with pytest.raises(InputError, match=r"a.json is panoptic: .* use the format coco_panoptic"):
        list(reader(tmp_path, annotations=[{"file": "a.json"}]).scan())
    with pytest.raises(InputError, match=r"b.json is missing"):
        list(reader(tmp_path, annotations=[{"file": "b.json"}]).scan())


_values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
_json = st.recursive(
    _values,
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.sampled_from(["size", "counts", "id", "x"]), inner, max_size=4),
    max_leaves=20,
)
_counts = _json | st.text(st.characters(min_codepoint=48, max_codepoint=111)) | st.lists(st.integers(0, HEIGHT * WIDTH))
_masks = st.builds(lambda counts: {"size": [HEIGHT, WIDTH], "counts": counts}, _counts)


@pytest.fixture(scope="module")
def one_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    photo(folder, "1.jpg")
    document(folder, [entry(1)], [annotation(1, 1, [SQUARE])])
    return folder


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(_json | _masks)
def test_whatever_stands_as_a_segmentation_is_a_mask_of_the_image_or_a_label_error(one_image: Path, segmentation: Any) -> None:
    found = reader(one_image, without_mask="skip", annotations=[{"file": "a.json"}])
    item = next(iter(found.scan()))
    try:
        sample = found.read(
            replace(item, details=json.dumps({"size": [10, 14], "annotations": [annotation(1, 1, segmentation)], "meta": {}}))
        )
    except LabelError:
        return
    for one in sample.instances or ():
        assert rle.decode(one.counts, HEIGHT, WIDTH).sum() == one.area


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(st.data())
def test_a_spoilt_file_is_an_input_error_or_spoils_single_images(one_image: Path, data: st.DataObject) -> None:
    text = (one_image / "a.json").read_text()
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, min(len(text), start + 30)))
    put(one_image, "b.json", text[:start] + data.draw(st.text(st.sampled_from('{}[]":,019.-eInfNa\\ '), max_size=6)) + text[stop:])
    found = reader(one_image, annotations=[{"file": "b.json"}])
    try:
        found.spec()
        for item in found.scan():
            try:
                found.read(item)
            except (DataFault, FileNotFoundError):
                continue
    except InputError:
        return
