from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as pycoco

from segtasks.errors import DataFault, InputError, LabelError
from segtasks.readers._base import RawSample
from segtasks.readers.coco_panoptic import CocoPanopticReader, Config, build
from segtasks.storage import open_store
from segtasks.testing.readers import check_sample

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
CATEGORIES = [
    {"id": 200, "name": "road", "isthing": 0, "color": [128, 64, 128]},
    {"id": 3, "name": "car", "supercategory": "vehicle", "isthing": 1},
]
IDS = np.zeros((4, 6), np.uint32)
IDS[2:], IDS[0, 1:4], IDS[1, 3:] = 70_001, 300, 5
SEGMENTS = [{"id": 300, "category_id": 3}, {"id": 70_001, "category_id": 200}, {"id": 5, "category_id": 3, "iscrowd": 1}]


def put(folder: Path, path: str, array: np.ndarray, orientation: int = 1) -> None:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(array).save(file, exif=exif)


def colors(ids: np.ndarray) -> np.ndarray:
    """As panopticapi's `id2rgb`."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)


def write(folder: Path, segments: Any = SEGMENTS, ids: np.ndarray = IDS, categories: Any = CATEGORIES, **more: Any) -> None:
    put(folder, "train2017/1.jpg", np.zeros((*ids.shape, 3), np.uint8))
    put(folder, "annotations/panoptic_train2017/1.png", colors(ids))
    annotations = [{"image_id": 1, "file_name": "1.png", "segments_info": segments}]
    document(folder, [{"id": 1, "file_name": "1.jpg", "height": ids.shape[0], "width": ids.shape[1]}], annotations, categories, **more)


def document(
    folder: Path,
    images: Sequence[Any],
    annotations: Sequence[Any],
    categories: Any = CATEGORIES,
    path: str = "annotations/panoptic_train2017.json",
) -> None:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def reader(folder: Path, **options: Any) -> CocoPanopticReader:
    return build(Config(**options), open_store(str(folder)))


def only(folder: Path) -> RawSample:
    found = reader(folder)
    (item,) = found.scan()
    return found.read(item)


def test_segments_become_classes_void_is_ignored_and_there_is_no_background(tmp_path: Path) -> None:
    write(tmp_path)
    found = reader(tmp_path)
    classes = [(one.name, one.source_id, one.isthing, one.supercategory) for one in found.spec().classes]
    assert classes == [("car", 3, True, "vehicle"), ("road", 200, False, "")]
    assert found.spec().classes[1].color == (128, 64, 128)
    assert only(tmp_path).mask is not None
    expected = np.full((4, 6), 255)
    expected[2:], expected[0, 1:4], expected[1, 3:] = 1, 0, 0
    np.testing.assert_array_equal(only(tmp_path).mask, expected)


def test_things_have_instances_equal_to_pycocotools_and_stuff_has_none(tmp_path: Path) -> None:
    write(tmp_path)
    instances = only(tmp_path).instances or ()
    assert [(one.category_id, one.iscrowd) for one in instances] == [(0, True), (0, False)]
    for one, value in zip(instances, (5, 300)):
        expected = pycoco.encode(np.asfortranarray(value == IDS, dtype=np.uint8))
        assert one.counts == expected["counts"]
        assert one.area == pycoco.area(expected)
        assert list(one.bbox) == pycoco.toBbox(expected).tolist()


@pytest.mark.parametrize("images", ["train2017", "images/train2017", "train", "images/train", "images"])
@pytest.mark.parametrize("segments", ["annotations/panoptic_train2017", "panoptic_train2017"])
def test_images_and_segments_are_found_where_they_usually_are(tmp_path: Path, images: str, segments: str) -> None:
    put(tmp_path, f"{images}/1.jpg", np.zeros((4, 6, 3), np.uint8))
    put(tmp_path, f"{segments}/1.png", colors(IDS))
    document(tmp_path, [{"id": "1", "file_name": "1.jpg"}], [{"image_id": "1", "file_name": "1.png", "segments_info": SEGMENTS}])
    (item,) = reader(tmp_path).scan()
    assert (item.image_id, item.split, dict(item.labels)) == (f"{images}/1.jpg", "train", {"segments": f"{segments}/1.png"})
    assert reader(tmp_path).read(item).meta == {"coco_id": "1"}


def test_an_option_names_other_files(tmp_path: Path) -> None:
    put(tmp_path, "photos/1.jpg", np.zeros((4, 6, 3), np.uint8))
    put(tmp_path, "v2/panoptic/1.png", colors(IDS))
    annotations = [{"image_id": 1, "file_name": "1.png", "segments_info": SEGMENTS}]
    document(tmp_path, [{"id": 1, "file_name": "1.jpg"}], annotations, path="v2/panoptic/all.json")
    named = {"file": "v2/panoptic/all.json", "segments": "v2/panoptic", "images": "photos/", "split": "test"}
    (item,) = reader(tmp_path, annotations=[named]).scan()
    assert (item.image_id, item.split, item.labels["segments"]) == ("photos/1.jpg", "test", "v2/panoptic/1.png")


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        (SEGMENTS[:2], r"1.png has the segments \[5\], which segments_info has not"),
        ([*SEGMENTS, {"id": 9, "category_id": 3}], r"segments_info has the segments \[9\], which .*1.png has not"),
        ([*SEGMENTS, SEGMENTS[0]], r"has the id 300 twice"),
        ([*SEGMENTS[:2], {"id": 5, "category_id": 4}], r"segment 5 of .*1.png is of the category 4, which categories do not have"),
        ([*SEGMENTS, {"id": 0, "category_id": 3}], r"has \{'id': 0, .* needed: an id of 1 to 16777215"),
        ([*SEGMENTS, {"id": 35650815, "category_id": 3}], r"has \{'id': 35650815, .* needed: an id of 1 to 16777215"),
        ([*SEGMENTS, 5], r"has 5; needed: an id"),
        ({"id": 5}, r"segment 5 of .* is of the category None"),
        ("road", r"has road; needed: an id"),
    ],
)
def test_png_and_json_that_disagree_refuse_the_image(tmp_path: Path, segments: Any, message: str) -> None:
    write(tmp_path, segments)
    with pytest.raises(LabelError, match=message):
        only(tmp_path)


def test_pngs_that_are_missing_of_another_size_or_kind_refuse_the_image(tmp_path: Path) -> None:
    write(tmp_path)
    path = "annotations/panoptic_train2017/1.png"
    put(tmp_path, path, colors(IDS.T))
    with pytest.raises(LabelError, match=rf"{path} is 6x4; the image is 4x6 \(height x width\)"):
        only(tmp_path)
    put(tmp_path, path, IDS.astype(np.uint8))
    with pytest.raises(LabelError, match=rf"{path} has one channel; needed: RGB"):
        only(tmp_path)
    (tmp_path / path).write_bytes(b"no picture")
    with pytest.raises(LabelError, match=rf"{path}: not an image of an allowed format"):
        only(tmp_path)
    (tmp_path / path).unlink()
    with pytest.raises(LabelError, match=rf"{path} is missing"):
        only(tmp_path)


def test_an_image_with_no_annotation_or_two_or_none_that_names_its_png_is_refused(tmp_path: Path) -> None:
    one = {"image_id": 1, "file_name": "1.png", "segments_info": SEGMENTS}
    for own, found in (
        ([], "0 annotations of it, and a file_name for 0"),
        ([one, one], "2 annotations of it"),
        ([{**one, "file_name": None}], "for 0"),
    ):
        write(tmp_path)
        put(tmp_path, "train2017/2.jpg", np.zeros((4, 6, 3), np.uint8))
        put(tmp_path, "annotations/panoptic_train2017/2.png", colors(IDS))
        images = [{"id": number, "file_name": f"{number}.jpg"} for number in (1, 2)]
        document(tmp_path, images, [*own, {**one, "image_id": 2, "file_name": "2.png"}])
        read = reader(tmp_path)
        bad, good = read.scan()
        with pytest.raises(LabelError, match=found):
            read.read(bad)
        assert read.read(good).mask is not None


def test_segments_of_a_turned_image_are_turned_where_they_lie_as_it_is_stored(tmp_path: Path) -> None:
    write(tmp_path)
    upright = only(tmp_path)
    put(tmp_path, "train2017/1.jpg", np.zeros((4, 6, 3), np.uint8), orientation=6)  # displayed 6 high, 4 wide
    turned = only(tmp_path)
    assert upright.mask is not None
    assert turned.mask is not None
    np.testing.assert_array_equal(turned.mask, np.array(Image.fromarray(upright.mask).transpose(Image.Transpose.ROTATE_270)))
    assert sorted(one.area for one in turned.instances or ()) == sorted(one.area for one in upright.instances or ())


def test_the_version_changes_with_the_image_its_png_and_its_own_segments(tmp_path: Path) -> None:
    def version() -> str:
        (item,) = reader(tmp_path).scan()
        return item.version

    write(tmp_path)
    before = version()
    annotations = [{"image_id": 1, "file_name": "1.png", "segments_info": SEGMENTS}]
    document(
        tmp_path,
        [{"id": 1, "file_name": "1.jpg", "height": 4, "width": 6}],
        annotations,
        [*CATEGORIES, {"id": 9, "name": "x", "isthing": 0}],
    )
    assert version() == before
    put(tmp_path, "annotations/panoptic_train2017/1.png", colors(IDS[:2]))
    assert version() != before
    seen = version()
    annotations[0]["segments_info"] = SEGMENTS[:2]
    document(tmp_path, [{"id": 1, "file_name": "1.jpg", "height": 4, "width": 6}], annotations)
    assert version() != seen


def test_other_layouts_and_formats_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"looked for annotations/panoptic_<split>.json; found no JSON; .* \{file, segments, images, split\}"
    ):
        list(reader(tmp_path).scan())
    write(tmp_path, categories=[{"id": 3, "name": "car"}, *CATEGORIES[:1]])
    with pytest.raises(InputError, match=r"categories do not say isthing \(1: has instances, 0: stuff\): car"):
        reader(tmp_path).spec()
    document(tmp_path, [{"id": 1, "file_name": "1.jpg"}], [{"image_id": 1, "category_id": 3, "segmentation": [[0, 0, 3, 0, 3, 3]]}])
    with pytest.raises(InputError, match=r"no annotation has segments_info; needed: the panoptic format \(format coco reads instances\)"):
        list(reader(tmp_path).scan())
    document(tmp_path, [], [])
    with pytest.raises(InputError, match="list no images"):
        list(reader(tmp_path).scan())
    document(tmp_path, [], [], [])
    with pytest.raises(InputError, match="have no categories"):
        reader(tmp_path).spec()


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "name", "category_id", "x"]), inner, max_size=3),
    max_leaves=6,
)
segments_of = st.fixed_dictionaries(
    {"id": st.sampled_from([300, 70_001, 5]) | anything, "category_id": st.sampled_from([200, 3, 7]) | anything},
    optional={"iscrowd": anything},
)
categories_of = st.fixed_dictionaries(
    {
        "id": st.sampled_from([200, 3]) | anything,
        "name": st.sampled_from(["road", "car"]) | anything,
        "isthing": st.sampled_from([0, 1]) | anything,
    },
    optional={"color": st.lists(st.integers(-1, 256), max_size=4) | anything, "supercategory": anything},
)


@pytest.mark.slow
@settings(max_examples=250, deadline=None)
@given(
    segments=st.just(SEGMENTS) | st.lists(segments_of, max_size=4) | anything,
    categories=st.just(CATEGORIES) | st.lists(categories_of, max_size=3) | anything,
    image=st.fixed_dictionaries({}, optional={"id": anything, "file_name": anything, "height": anything, "width": anything}),
    annotation=st.fixed_dictionaries({}, optional={"image_id": anything, "file_name": anything}),
)
def test_any_segments_and_categories_are_read_or_refused(
    segments: Any, categories: Any, image: dict[str, Any], annotation: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        images = [{"id": 1, "file_name": "1.jpg", "height": 4, "width": 6, **image}]
        document(Path(folder), images, [{"image_id": 1, "file_name": "1.png", "segments_info": segments, **annotation}], categories)
        with contextlib.suppress(InputError):
            found = reader(Path(folder))
            for item in found.scan():
                with contextlib.suppress(DataFault, FileNotFoundError):
                    check_sample(found.read(item), found.spec(), item.image_id)
