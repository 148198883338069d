from __future__ import annotations

import base64
import contextlib
import io
import json
import logging
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from pycocotools import mask as coco

from segtasks.codecs import rle
from segtasks.errors import DataFault, DecodeError, InputError, LabelError
from segtasks.readers import _labelme
from segtasks.readers._base import RawSample, SourceItem
from segtasks.readers.labelme import Config, LabelmeReader, build
from segtasks.spec import DatasetSpec
from segtasks.storage import open_store
from segtasks.testing.readers import check_sample

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
HEIGHT, WIDTH = 40, 50


def shape(label: str, kind: str | None, *points: tuple[float, float], **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}, **more}


def box(label: str, left: float, top: float, right: float, bottom: float, **more: Any) -> dict[str, Any]:
    return shape(label, "rectangle", (left, top), (right, bottom), **more)


def photo(root: Path, path: str, height: int = HEIGHT, width: int = WIDTH, **save: Any) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(root / path, **save)


def annotate(root: Path, path: str, *shapes: Any, **fields: Any) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    name = Path(path).with_suffix(".jpg").name
    contents = {"version": "5.7.0", "flags": {}, "shapes": shapes, "imagePath": name, "imageData": None, **fields}
    (root / path).write_text(json.dumps(contents))


def reader(root: Path, spec: DatasetSpec | None = None, **options: object) -> LabelmeReader:
    return build(Config(**options), open_store(str(root)), spec)


def read(root: Path, *shapes: Any, fields: dict[str, Any] | None = None, **options: object) -> tuple[RawSample, list[str]]:
    """The sample of one photo with these shapes, and the names of the classes."""
    photo(root, "x.jpg")
    annotate(root, "x.json", *shapes, **fields or {})
    found = reader(root, **options)
    (item,) = found.scan()
    return found.read(item), found.spec().names


def refusal(root: Path, *shapes: Any, **options: object) -> str:
    with pytest.raises(LabelError) as caught:
        read(root, *shapes, **options)
    return str(caught.value)


def masks(sample: RawSample) -> list[np.ndarray]:
    assert sample.instances is not None
    return [rle.decode(one.counts, HEIGHT, WIDTH) for one in sample.instances]


def drawn(kind: str, *arguments: Any, **options: Any) -> np.ndarray:
    """What Pillow draws, as labelme's `shape_to_mask` calls it."""
    image = Image.new("L", (WIDTH, HEIGHT))
    getattr(ImageDraw.Draw(image), kind)(*arguments, fill=1, **options)
    return np.array(image) > 0


def embedded(height: int = HEIGHT, width: int = WIDTH) -> str:
    file = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(file, "JPEG")
    return base64.b64encode(file.getvalue()).decode()


def png(mask: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


STAR = [(3.4, 2.7), (30.2, 8.1), (22.9, 37.6), (12.0, 20.5), (-4.0, 33.3)]


def test_shapes_have_the_pixels_that_labelmes_own_scripts_give_them(tmp_path: Path) -> None:
    octagon = np.eye(6, dtype=np.uint8) * 255
    sample, names = read(
        tmp_path,
        shape("a", "polygon", *STAR),
        shape("b", "rectangle", (30.5, 20.2), (10.1, 5.9)),  # drawn from the lower right corner
        shape("c", "circle", (40.2, 20.0), (44.1, 26.3)),
        shape("d", "mask", (45, 36), (50, 41), mask=png(octagon)),  # over the image's edges
        shape("e", None, *STAR),  # labelme 3 had polygons only
        shape("f", "oriented_rectangle", (10, 10), (20, 15), (15, 25), (5, 20)),
    )
    assert names == ["background", "a", "b", "c", "d", "e", "f"]
    radius = math.hypot(3.9, 6.3)
    pasted = np.zeros((HEIGHT, WIDTH), bool)
    pasted[36:40, 45:50] = octagon[:4, :5] > 0
    expected = [
        drawn("polygon", STAR, outline=1),
        drawn("rectangle", [(10.1, 5.9), (30.5, 20.2)], outline=1),
        drawn("ellipse", [40.2 - radius, 20 - radius, 40.2 + radius, 20 + radius], outline=1),
        pasted,
        drawn("polygon", STAR, outline=1),
        drawn("polygon", [(10, 10), (20, 15), (15, 25), (5, 20)], outline=1),
    ]
    for found, wanted in zip(masks(sample), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert sample.instances is not None
    assert [one.area for one in sample.instances] == [wanted.sum() for wanted in expected]


def test_cocos_rule_of_filling_is_an_option(tmp_path: Path) -> None:
    circle = shape("c", "circle", (40.2, 20.0), (44.1, 26.3))
    sample, _ = read(tmp_path, shape("a", "polygon", *STAR), box("b", 10.1, 5.9, 30.5, 20.2), circle, fill="coco")
    flat = [value for point in STAR for value in point]
    corners = [10.1, 5.9, 30.5, 5.9, 30.5, 20.2, 10.1, 20.2]
    for found, polygon in zip(masks(sample), (flat, corners)):
        np.testing.assert_array_equal(found, coco.decode(coco.frPyObjects([polygon], HEIGHT, WIDTH))[:, :, 0])
    radius = math.hypot(3.9, 6.3)
    assert masks(sample)[2].sum() == pytest.approx(math.pi * radius**2, rel=0.06)


def test_masks_at_the_edges_and_in_the_dialects_of_others(tmp_path: Path) -> None:
    patch = np.array([[1, 1, 0], [0, 1, 1]], np.uint8) * 255
    corners = [(10, 10), (20, 10), (20, 20), (10, 20)]
    sample, _ = read(
        tmp_path,
        shape("a", "mask", (-1, -1), (1, 0), mask=png(patch)),
        shape("b", "mask", (5.4, 5.4), (7.6, 6.4), mask=png(patch)),  # labelme 6: the mask says its size
        shape("c", "mask", (20, 20), (21, 20), mask=png(patch)),  # larger than its box: cropped
        shape("d", "mask", (60, 60), (62, 61), mask=png(patch)),
        shape("e", "rectangle", *corners),  # X-AnyLabeling's
        shape("f", "rotation", *corners),
    )
    wanted = np.zeros((3, HEIGHT, WIDTH), bool)
    wanted[0, 0, :2] = True  # the lower row without its left column
    wanted[1, 5:7, 5:8] = patch > 0
    wanted[2, 20, 20:22] = True
    np.testing.assert_array_equal(masks(sample)[:3], wanted)
    np.testing.assert_array_equal(masks(sample)[3:], [drawn("polygon", corners, outline=1)] * 2)
    assert dict(sample.meta) == {"shapes_without_pixels": "1"}


def test_shapes_of_one_label_and_group_are_one_object(tmp_path: Path) -> None:
    sample, names = read(
        tmp_path,
        box("car", 0, 0, 4, 4, group_id=1),
        box("car", 3, 3, 6, 6, group_id=1),  # overlaps its other part
        box("dog", 10, 0, 14, 4, group_id=1),  # labelme: another label is another object
        box("car", 20, 0, 24, 4, group_id=2),
        box("car", 30, 0, 34, 4),
        box("car", 40, 0, 44, 4),
    )
    assert sample.instances is not None
    found = [(names[one.category_id], one.area) for one in sample.instances]
    assert found == [("car", 25 + 16 - 4), ("dog", 25), ("car", 25), ("car", 25), ("car", 25)]


def test_the_mask_has_the_later_shape_and_objects_keep_their_pixels(tmp_path: Path) -> None:
    sample, names = read(
        tmp_path,
        box("small", 2, 2, 3, 3),
        box("large", 0, 0, 9, 9),
        box("_background_", 8, 0, 9, 9),
        box("__ignore__", 0, 8, 9, 9),
    )
    assert names == ["background", "large", "small"]
    assert sample.mask is not None
    wanted = np.zeros((HEIGHT, WIDTH), np.uint8)
    wanted[:10, :10] = 1
    wanted[:10, 8:10] = 0
    wanted[8:10, :10] = 255
    np.testing.assert_array_equal(sample.mask, wanted)
    assert sample.instances is not None
    assert [(one.category_id, one.area) for one in sample.instances] == [(2, 4), (1, 100)]
    assert dict(sample.meta) == {"shapes_ignored": "1"}


def test_points_and_lines_are_counted_or_drawn(tmp_path: Path) -> None:
    lines = [
        shape("crack", "linestrip", (5, 5), (20, 20), (40, 10)),
        shape("line", "line", (0, 30), (49, 30)),
        shape("spot", "point", (25, 25)),
    ]
    sample, names = read(tmp_path, *lines, box("car", 0, 0, 4, 4))
    assert names == ["background", "car"]
    assert [int(mask.sum()) for mask in masks(sample)] == [25]
    assert dict(sample.meta) == {"shapes_without_area": "3"}
    sample, names = read(tmp_path, *lines, line_width=4)
    assert names == ["background", "crack", "line", "spot"]
    strip, line, spot = masks(sample)
    np.testing.assert_array_equal(strip, drawn("line", [(5, 5), (20, 20), (40, 10)], width=4))
    np.testing.assert_array_equal(line, drawn("line", [(0, 30), (49, 30)], width=4))
    np.testing.assert_array_equal(spot, drawn("ellipse", [23, 23, 27, 27], outline=1))


def test_labels_txt_names_the_classes_in_its_order(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\nzebra\n\nant\r\ntv/monitor")
    sample, names = read(tmp_path, box("ant", 0, 0, 4, 4), box("zebra", 5, 5, 6, 6))
    assert names == ["background", "zebra", "ant", "tv/monitor"]
    assert sample.instances is not None
    assert [one.category_id for one in sample.instances] == [2, 1]
    assert "x.json: shapes[0] has the label 'zebr', which is no class. Did you mean 'zebra'?" in refusal(tmp_path, box("zebr", 0, 0, 4, 4))
    for text, said in ((b"a\nb\na\n", "labels.txt names a twice"), ("bär".encode("latin-1"), "labels.txt is no text in UTF-8")):
        (tmp_path / "labels.txt").write_bytes(text)
        with pytest.raises(InputError, match=said):
            reader(tmp_path).spec()
    with pytest.raises(InputError, match=r"classes.txt is missing"):
        reader(tmp_path, labels="classes.txt").spec()


def test_classes_are_collected_from_all_jsons_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photo(tmp_path, "a.jpg")
    photo(tmp_path, "b.jpg")
    annotate(tmp_path, "a.json", box("dog", 0, 0, 4, 4), box("__ignore__", 0, 0, 4, 4), {"label": 7}, "x")
    annotate(tmp_path, "b.json", box("cat", 0, 0, 4, 4), box("Background", 0, 0, 4, 4))
    caplog.set_level(logging.INFO)
    assert reader(tmp_path).spec().names == ["background", "cat", "dog"]
    assert "no labels.txt: from 2 JSON files concluded 2 classes: cat, dog" in caplog.text


def test_numbered_labels_of_labelme_3_are_objects(tmp_path: Path) -> None:
    parts = [box("person-1", 0, 0, 4, 4), box("person-2", 10, 0, 14, 4), box("person-1", 0, 10, 4, 14), box("t-shirt", 30, 0, 34, 4)]
    sample, names = read(tmp_path, *parts, numbered=True)
    assert names == ["background", "person", "t-shirt"]
    assert sample.instances is not None
    assert [(one.category_id, one.area) for one in sample.instances] == [(1, 50), (1, 25), (2, 25)]
    (tmp_path / "labels.txt").write_text("person\n")
    assert "'person-1', which is no class. The option numbered takes it as class and object." in refusal(tmp_path, *parts)


def only(root: Path, **options: object) -> SourceItem:
    (item,) = reader(root, **options).scan()
    return item


@pytest.mark.parametrize(
    ("json_path", "image_path", "written"),
    [
        ("a/x.json", "a/x.jpg", "renamed_since.jpg"),
        ("a/labels/x.json", "a/images/x.jpg", "../images/x.jpg"),
        ("a/labels/x.json", "a/images/x.jpg", "..\\images\\x.jpg"),
        ("a/labels/x.json", "images/x.jpg", "C:\\Users\\me\\images\\x.jpg"),
        ("a/labels/x.json", "a/images/x.jpg", "/home/me/data/images/x.jpg"),
        ("a/labels/y.json", "a/labels/deep/x.png", "deep/x.png"),
    ],
)
def test_the_image_is_found_by_its_name_or_the_end_of_its_path(tmp_path: Path, json_path: str, image_path: str, written: str) -> None:
    photo(tmp_path, image_path)
    annotate(tmp_path, json_path, box("car", 0, 0, 4, 4), imagePath=written)
    assert (only(tmp_path).image_id, only(tmp_path).labels) == (image_path, {"json": json_path})


def test_of_two_images_of_the_stem_the_one_that_is_named_is_meant(tmp_path: Path) -> None:
    photo(tmp_path, "x.jpg")
    photo(tmp_path, "x.png")
    annotate(tmp_path, "x.json", box("car", 0, 0, 4, 4), imagePath="x.png")
    assert only(tmp_path).image_id == "x.png"


def test_an_embedded_image_is_taken_where_none_lies_beside(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    data = embedded()
    annotate(tmp_path, "train/x.json", box("car", 0, 0, 4, 4), imageData=data, imageHeight=HEIGHT, imageWidth=WIDTH)
    item = only(tmp_path)
    assert (item.image_id, item.path, item.split) == ("train/x.json", "train/x.json", "train")
    assert item.size == (tmp_path / "train/x.json").stat().st_size
    sample = reader(tmp_path).read(item)
    assert sample.image == base64.b64decode(data)
    assert [mask.sum() for mask in masks(sample)] == [25]


def test_an_embedded_image_is_not_that_of_another_name_which_the_json_was_copied_from(tmp_path: Path) -> None:
    photo(tmp_path, "x.jpg")
    annotate(tmp_path, "x.json", box("car", 0, 0, 4, 4), imageData=embedded())
    annotate(tmp_path, "x_flipped.json", box("car", 0, 0, 4, 4), imageData=embedded(), imagePath="x.jpg")
    assert [item.image_id for item in reader(tmp_path).scan()] == ["x.jpg", "x_flipped.json"]
    annotate(tmp_path, "x_flipped.json", box("car", 0, 0, 4, 4), imagePath="x.jpg")
    with pytest.raises(InputError, match=r"x.json and x_flipped.json are both of the image x.jpg"):
        list(reader(tmp_path).scan())


def test_the_scan_reads_no_embedded_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    annotate(tmp_path, "x.json", box("car", 0, 0, 4, 4), imageData="A" * (3 << 20))
    store, read_bytes = open_store(str(tmp_path)), []
    ranged = store.read_range
    monkeypatch.setattr(store, "read_range", lambda path, start, end: read_bytes.append(end - start) or ranged(path, start, end))
    found = build(Config(), store, DatasetSpec(name="x"))
    monkeypatch.setattr(store, "read", lambda path: pytest.fail(f"{path} is read whole"))
    assert [item.image_id for item in found.scan()] == ["x.json"]
    assert sum(read_bytes) <= 1 << 20


def test_an_image_data_that_comes_first_is_read_too(tmp_path: Path) -> None:
    contents = {"imageData": embedded(), "shapes": [box('the "imageData": "', 0, 0, 4, 4)], "imagePath": "gone.jpg"}
    (tmp_path / "x.json").write_text(json.dumps(contents))
    found = reader(tmp_path)
    assert found.spec().names == ["background", 'the "imageData": "']
    assert len(found.read(only(tmp_path)).instances or ()) == 1


def test_images_without_json_are_passed_over_or_background(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photo(tmp_path, "train/x.jpg")
    photo(tmp_path, "train/y.jpg")
    annotate(tmp_path, "train/x.json", box("car", 0, 0, 4, 4))
    assert only(tmp_path).image_id == "train/x.jpg"
    assert "1 images have no JSON and are passed over: train/y.jpg" in caplog.text
    found = reader(tmp_path, without_json="background")
    first, bare = found.scan()
    assert (first.image_id, bare.image_id, bare.split) == ("train/x.jpg", "train/y.jpg", "train")
    sample = found.read(bare)
    assert sample.instances == ()
    assert sample.mask is not None
    assert sample.mask.shape == (HEIGHT, WIDTH)
    assert not sample.mask.any()
    annotate(tmp_path, "train/y.json")
    assert [item.version for item in found.scan()][1:] == [bare.version]  # the listing is made once
    assert [item.version for item in reader(tmp_path).scan()][1] != bare.version


def test_the_frame_is_the_image_as_displayed_or_as_stored_if_the_json_says_so(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # to be turned a quarter clockwise
    photo(tmp_path, "x.jpg", height=20, width=30, exif=exif)
    annotate(tmp_path, "x.json", box("car", 0, 0, 9, 4), imageHeight=30, imageWidth=20)
    found = reader(tmp_path)
    mask = found.read(only(tmp_path)).mask
    assert mask is not None
    assert mask.shape == (30, 20)
    assert mask[:5, :10].all()
    annotate(tmp_path, "x.json", box("car", 0, 0, 9, 4), imageHeight=20, imageWidth=30)
    sample = found.read(only(tmp_path))
    assert sample.mask is not None
    assert sample.mask.shape == (30, 20)
    assert sample.mask[:10, 15:].all()
    assert sample.mask.sum() == 50
    assert [one.bbox for one in sample.instances or ()] == [(15, 0, 5, 10)]
    annotate(tmp_path, "x.json", box("car", 0, 0, 9, 4), imageHeight=60, imageWidth=40)
    with pytest.raises(LabelError, match="the JSON says that the image is 60x40; it is 30x20"):
        found.read(only(tmp_path))


def test_flags_are_meta(tmp_path: Path) -> None:
    fields = {"flags": {"night": True, "rain": False}}
    sample, _ = read(tmp_path, box("a", 0, 0, 4, 4, flags={"truncated": True, "hard": False}), box("a", 80, 0, 90, 4), fields=fields)
    assert dict(sample.meta) == {"flag_night": "true", "flag_rain": "false", "shapes_truncated": "1", "shapes_without_pixels": "1"}
    assert len(sample.instances or ()) == 1


def test_no_semantic_mask_is_painted_where_none_is_wanted(tmp_path: Path) -> None:
    sample, _ = read(tmp_path, box("a", 0, 0, 4, 4), semantic=False)
    assert sample.mask is None
    assert len(sample.instances or ()) == 1


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("x", r"x.json: shapes\[1\] is 'x'; needed: an object"),
        ({"points": [[0, 0]]}, r"shapes\[1\] has the label None"),
        (shape("a", "heart", (0, 0)), "is of the shape_type 'heart'; known: polygon"),
        (shape("a", "polygon", (0, 0), (1, 1)), "is a polygon of 2 points; needed: three or more"),
        (shape("a", "rectangle", (0, 0), (1, 1), (2, 2)), "is a rectangle of 3 points; needed: two"),
        (shape("a", "circle", (0, 0)), "is a circle of 1 points; needed: two"),
        (shape("a", "circle", (0, 0), (1e6, 1e6)), "is a circle with a radius of 1414214 pixels; needed: 100000 at most"),
        (shape("a", "polygon"), r"has the points \(?\[?"),
        (shape("a", "polygon", (0, 0), (math.nan, 1), (2, 2)), "has the points .*nan.*pixels"),
        (shape("a", "polygon", (0, 0), (1e300, 1), (2, 2)), "has the points .*1e\\+300.*pixels"),
        (shape("a", "polygon", (0, 0), (1, 1, 1), (2, 2)), "which are no pairs of numbers"),
        ({**shape("a", "polygon"), "points": {"x": 1}}, "has the points {'x': 1}"),
        (shape("a", "polygon", *STAR, group_id=[1]), r"has the group_id \[1\]"),
        (shape("a", "mask", (0, 0), (2, 2)), "is a mask of 2 points and no mask"),
        (shape("a", "mask", (0, 0), (2, 2), mask="AAAA"), "its mask is no image"),
        (shape("a", "mask", (0, 0), (2, 2), mask="A"), "its mask is no image"),
        (shape("a", "mask", (3, 0), (0, 2), mask=png(np.eye(3, dtype=np.uint8))), "its mask is 3x0, its box 3x-2"),
        (shape("a", "mask", (0, 0), (4, 2), mask=png(np.eye(3, dtype=np.uint8))), "its mask is 3x3, its box 3x5"),
    ],
)
def test_a_malformed_shape_is_refused_with_its_place(tmp_path: Path, broken: Any, said: str) -> None:
    photo(tmp_path, "x.jpg")
    annotate(tmp_path, "x.json", box("a", 0, 0, 4, 4), broken)
    found = reader(tmp_path)
    with pytest.raises(LabelError, match=said):
        found.read(only(tmp_path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'{"shapes": [', r"x.json is not valid JSON: Expecting value, line 1, column 13"),
        (b"", "is not valid JSON"),
        ('{"shapes": "bär"}'.encode("latin-1"), "cannot be read as JSON"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b"[1]", "x.json is none of labelme's: it is a list"),
        (b'{"images": [], "annotations": []}', "x.json is none of labelme's: it has annotations, images"),
        (b'{"shapes": {}}', "none of labelme's"),
    ],
)
def test_a_broken_json_is_refused_and_its_neighbour_read(tmp_path: Path, text: bytes, said: str) -> None:
    photo(tmp_path, "x.jpg")
    (tmp_path / "x.json").write_bytes(text)
    photo(tmp_path, "y.jpg")
    annotate(tmp_path, "y.json", box("a", 0, 0, 4, 4))
    found = reader(tmp_path)
    first, second = found.scan()
    with pytest.raises(LabelError, match=said):
        found.read(first)
    assert len(found.read(second).instances or ()) == 1


def test_what_has_no_image_is_refused_and_other_jsons_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    annotate(tmp_path, "gone.json", box("a", 0, 0, 4, 4), imagePath="far/away.jpg")
    annotate(tmp_path, "bad64.json", box("a", 0, 0, 4, 4), imageData="A")
    annotate(tmp_path, "nameless.json", box("a", 0, 0, 4, 4), imagePath=None)
    (tmp_path / "cut.json").write_text('{"shapes"')
    (tmp_path / "coco.json").write_text('{"images": []}')
    found = reader(tmp_path)
    items = {item.image_id: item for item in found.scan()}
    assert list(items) == ["bad64.json", "cut.json", "away.jpg", "nameless.json"]
    assert "1 JSON files are none of labelme's and are passed over: coco.json" in caplog.text
    with pytest.raises(FileNotFoundError):  # which the stage takes as a missing object
        found.read(items["away.jpg"])
    for name, error, said in (
        ("bad64", DecodeError, "imageData is no base64"),
        ("nameless", DecodeError, "has no imageData"),
        ("cut", LabelError, "is not valid JSON"),
    ):
        with pytest.raises(error, match=said):
            found.read(items[f"{name}.json"])


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4), lambda inner: st.lists(inner, max_size=4), max_leaves=8
)
places = st.floats(-9, 60) | st.sampled_from([0, -1e6, 1e6, 1e5])
any_shape = st.fixed_dictionaries(
    {
        "label": st.sampled_from(["a", "b-1", "__ignore__", "_background_"]),
        "points": st.lists(st.tuples(places, places), min_size=1, max_size=5) | anything,
        "shape_type": st.sampled_from([*_labelme.AREAS, *_labelme.LINES]),
    },
    optional={"group_id": st.integers(0, 1) | anything, "flags": anything, "mask": st.just(png(np.eye(5, dtype=np.uint8))) | anything},
)


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(st.lists(any_shape, min_size=1, max_size=2))
def test_any_shapes_are_read_or_refused(shapes: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        photo(Path(folder), "x.jpg")
        annotate(Path(folder), "x.json", box("a", 0, 0, 4, 4), *shapes, box("b", 0, 0, 4, 4))
        for options in ({"line_width": 3}, {"fill": "coco", "numbered": True}):
            found = reader(Path(folder), **options)
            with contextlib.suppress(LabelError):
                check_sample(found.read(only(Path(folder), **options)), found.spec(), "x.jpg")


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | st.recursive(anything, lambda inner: st.dictionaries(st.text(max_size=9), inner)).map(json.dumps))
def test_any_file_is_read_or_refused(contents: bytes | str) -> None:
    data = contents if isinstance(contents, bytes) else contents.encode()
    for file in ("x.json", "nowhere.json", "labels.txt"):
        with tempfile.TemporaryDirectory() as folder:
            photo(Path(folder), "x.jpg")
            annotate(Path(folder), "x.json", box("a", 0, 0, 4, 4))
            (Path(folder) / file).write_bytes(data)
            with contextlib.suppress(InputError):
                found = reader(Path(folder))
                found.spec()
                for item in found.scan():
                    with contextlib.suppress(DataFault, FileNotFoundError):
                        found.read(item)


def test_other_layouts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no labelme data at .*x.json with a list of shapes.*found no JSON"):
        reader(tmp_path).spec()
    (tmp_path / "coco.json").write_text('{"images": []}')
    for ask in (lambda: reader(tmp_path).spec(), lambda: list(reader(tmp_path).scan())):
        with pytest.raises(InputError, match=r"no labelme data at .*found coco.json"):
            ask()
