from __future__ import annotations

import contextlib
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco
from yaml import safe_dump

from segtasks.codecs import rle
from segtasks.errors import DataFault, InputError, LabelError
from segtasks.readers._base import RawSample
from segtasks.readers._objects import object_classes
from segtasks.readers.yolo import Config, YoloReader, build
from segtasks.storage import open_store
from segtasks.testing.readers import check_sample

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
HEIGHT, WIDTH = 40, 50
YAML = "train: images/train\nval: images/val\nnames: [car, dog]\n"
SQUARE = "0.2 0.2 0.6 0.2 0.6 0.6 0.2 0.6"  # 20 x 16 pixels


def photo(root: Path, *paths: str, **save: Any) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)).save(root / path, **save)


def put(root: Path, path: str, text: str | bytes) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(text if isinstance(text, bytes) else text.encode())


def reader(root: Path, **options: object) -> YoloReader:
    return build(Config(**options), open_store(str(root)))


def read(root: Path, label: str | bytes, **options: object) -> RawSample:
    photo(root, "images/train/x.jpg")
    put(root, "data.yaml", "train: images/train\nnames: [car, dog]\n")
    put(root, "labels/train/x.txt", label)
    found = reader(root, **options)
    (item,) = found.scan()
    return found.read(item)


def listed(root: Path, yaml: str, **options: object) -> dict[str, str]:
    put(root, "data.yaml", yaml)
    return {item.image_id: item.split for item in reader(root, **options).scan()}


def test_a_polygon_has_the_pixels_that_pycocotools_gives_it(tmp_path: Path) -> None:
    star = [0.07, 0.061, 0.61, 0.2, 0.45, 0.93, 0.24, 0.51, -0.004, 1.008]
    sample = read(tmp_path, f"1 {' '.join(map(str, star))}\n0 {SQUARE}\n")
    assert sample.instances is not None
    scaled = [value * (HEIGHT if at % 2 else WIDTH) for at, value in enumerate(star)]
    wanted = coco.decode(coco.frPyObjects([scaled], HEIGHT, WIDTH))[:, :, 0]
    np.testing.assert_array_equal(rle.decode(sample.instances[0].counts, HEIGHT, WIDTH), wanted)
    assert [(one.category_id, one.area) for one in sample.instances] == [(2, wanted.sum()), (1, 320)]
    assert sample.instances[1].bbox == (10, 8, 20, 16)
    assert sample.mask is not None
    assert set(np.unique(sample.mask)) == {0, 1, 2}
    assert dict(sample.meta) == {}
    assert read(tmp_path, f"0 {SQUARE}", semantic=False).mask is None


def test_classes_follow_background_and_keep_their_numbers(tmp_path: Path) -> None:
    photo(tmp_path, "images/train/x.jpg")
    for names, expected in (
        ("names: [car, dog]\nnc: 2", [("background", None), ("car", 0), ("dog", 1)]),
        ("names: {0: car, 7: 8}", [("background", None), ("car", 0), ("8", 7)]),
        ("nc: 2", [("background", None), ("class_0", 0), ("class_1", 1)]),
        ("names: [car, background, dog]", [("background", 1), ("car", 0), ("dog", 2)]),
    ):
        put(tmp_path, "data.yaml", f"train: images/train\n{names}\n")
        assert [(one.name, one.source_id) for one in reader(tmp_path).spec().classes] == expected
    put(tmp_path, "labels/train/x.txt", f"1 {SQUARE}\n2 {SQUARE}\n")
    found = reader(tmp_path)
    (item,) = found.scan()
    assert [one.category_id for one in found.read(item).instances or ()] == [2]
    assert found.read(item).meta == {"of_background": "1"}


def test_the_size_is_the_images_as_displayed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    photo(tmp_path, "images/train/x.jpg", exif=exif)
    put(tmp_path, "data.yaml", "train: images/train\nnames: [car, dog]\n")
    put(tmp_path, "labels/train/x.txt", "0 0 0 1 0 1 0.1 0 0.1\n")
    found = reader(tmp_path)
    (item,) = found.scan()
    mask = found.read(item).mask
    assert mask is not None
    assert mask.shape == (WIDTH, HEIGHT)
    assert mask[:5].all()
    assert not mask[5:].any()


def test_a_missing_or_empty_label_file_means_no_objects_and_a_split_without_any_no_truth(tmp_path: Path) -> None:
    photo(tmp_path, "images/train/a.jpg", "images/train/b.jpg", "images/train/c.jpg", "images/val/d.jpg")
    put(tmp_path, "data.yaml", YAML)
    put(tmp_path, "labels/train/a.txt", f"0 {SQUARE}\n")
    put(tmp_path, "labels/train/b.txt", "\n  \n")
    found = reader(tmp_path)
    items = list(found.scan())
    samples = [found.read(item) for item in items]
    assert [None if one.instances is None else len(one.instances) for one in samples] == [1, 0, 0, None]
    assert [None if one.mask is None else int(one.mask.sum()) for one in samples] == [320, 0, 0, None]
    assert [dict(one.meta) for one in samples] == [{}, {}, {"label_file": "missing"}, {}]
    put(tmp_path, "labels/train/c.txt", "")
    assert [a.version == b.version for a, b in zip(items, reader(tmp_path).scan(), strict=True)] == [True, True, False, True]
    (tmp_path / "labels/train/a.txt").unlink()
    with pytest.raises(LabelError, match=r"labels/train/a.txt is missing"):
        found.read(items[0])


def test_a_line_that_comes_twice_counts_once(tmp_path: Path) -> None:
    other = SQUARE.replace("0.2", "0.3", 1)
    sample = read(tmp_path, f"0 {SQUARE}\n0.0  {SQUARE.replace('0.6', '0.60')}\r\n1 {SQUARE}\n0 {other}\n")
    assert len(sample.instances or ()) == 3
    assert dict(sample.meta) == {"duplicates": "1"}


def test_boxes_are_refused_taken_as_rectangles_or_skipped(tmp_path: Path) -> None:
    label = f"0 {SQUARE}\n1 0.5 0.5 0.4 0.2\n"
    with pytest.raises(LabelError, match=r"labels/train/x.txt, line 2 is a box \(five numbers\)"):
        read(tmp_path, label)
    sample = read(tmp_path, label, boxes="rectangle")
    assert [(one.category_id, one.bbox, one.area) for one in sample.instances or ()] == [
        (1, (10, 8, 20, 16), 320),
        (2, (15, 16, 20, 8), 160),
    ]
    sample = read(tmp_path, label, boxes="skip")
    assert [one.category_id for one in sample.instances or ()] == [1]
    assert dict(sample.meta) == {"boxes": "1"}


def test_a_data_set_of_boxes_alone_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    photo(tmp_path, "images/train/a.jpg", "images/train/b.jpg")
    put(tmp_path, "data.yaml", "train: images/train\nnames: [car, dog]\n")
    put(tmp_path, "labels/train/a.txt", "0 0.5 0.5 0.4 0.2\n1 0.5 0.5 0.4 0.2\n")
    put(tmp_path, "labels/train/b.txt", "\xff\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"are boxes \(five numbers a line, for example labels/train/a.txt\).*boxes: rectangle"):
        reader(tmp_path).spec()
    assert reader(tmp_path, boxes="rectangle").spec().num_classes == 3


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (f"0 {SQUARE}\n\n1 0.1 0.1 0.5 0.1 0.5 1.2\n", "labels/train/x.txt, line 3 has the coordinate 1.2; needed: 0 to 1"),
        ("0 -0.02 0.1 0.5 0.1 0.5 0.2", "line 1 has the coordinate -0.02"),
        ("0 10 10 50 10 50 20", "has the coordinate 50; needed: 0 to 1, parts of the image's width and height"),
        (f"2 {SQUARE}", "line 1 is of class 2; known: 0 car, 1 dog"),
        (f"-1 {SQUARE}", "line 1 is of class -1"),
        (f"0.5 {SQUARE}", "a class that is not whole"),
        (f"car {SQUARE}", "line 1 is no line of numbers: 'car 0.2"),
        ("0 0.1 nan 0.5 0.1 0.5 0.2", "has numbers that are none"),
        ("0 0.1 inf 0.5 0.1 0.5 0.2", "has numbers that are none"),
        ("1e400 0.1 0.1 0.5 0.1 0.5 0.2", "has numbers that are none"),
        ("0", "has 0 numbers after the class; needed"),
        ("0 0.1 0.2", "has 2 numbers after the class; needed"),
        (f"0 {SQUARE} 0.93", r"has 9 numbers after the class \(an odd number: a confidence at its end, or keypoints\?\)"),
        ("0 0.1\u00a00.2\u2028", "numbers after the class"),
        (b"0 0.1 \xff", "labels/train/x.txt is no text in UTF-8"),
        (b"\x00\x01\x02", "no line of numbers"),
    ],
)
def test_a_malformed_line_is_refused_with_its_number(tmp_path: Path, label: str | bytes, said: str) -> None:
    with pytest.raises(LabelError, match=said):
        read(tmp_path, label)


words = st.sampled_from(
    ["images/train/x.jpg", "y\0.jpg", "0", "1", "2", "0.5", "-0.01", "1.01", "nan", "1e999", "-", "\u0663", "0x1", "1_0", "\x00"]
) | st.text(max_size=3)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(
    st.binary(max_size=40) | st.lists(st.lists(words, max_size=9).map(" ".join), max_size=4).map(lambda lines: "\n".join(lines).encode())
)
def test_any_label_file_and_yaml_are_read_or_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.suppress(LabelError):
            check_sample(read(Path(folder), data, boxes="rectangle"), reader(Path(folder), boxes="rectangle").spec(), "x.jpg")
        for file in ("data.yaml", "train.txt"):
            put(Path(folder), "data.yaml", "train: train.txt\nnames: [car]\n")
            put(Path(folder), file, data)
            with contextlib.suppress(InputError):
                found = reader(Path(folder))
                for item in found.scan():
                    with contextlib.suppress(DataFault, FileNotFoundError):
                        check_sample(found.read(item), found.spec(), item.image_id)


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ('names: ["\\ud800"]', r"a class has the name '\\ud800'; needed: a text"),
        ("nc: 10000000000", "nc is 10000000000, and there are no names; needed: names, or a number of classes up to 65534"),
        ("names: &a [*a]", r"data.yaml is not valid YAML: \*a, line 2, stands for a list"),
    ],
)
def test_names_that_are_none_or_too_many_are_refused(tmp_path: Path, yaml: str, said: str) -> None:
    photo(tmp_path, "images/train/x.jpg")
    put(tmp_path, "data.yaml", f"train: images/train\n{yaml}\n")
    with pytest.raises(InputError, match=said):
        reader(tmp_path).spec()
    with pytest.raises(InputError, match=r"there are 65535 classes, 'c0', .*; needed: 65534 at most"):
        object_classes([f"c{number}" for number in range(65_535)])


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=4) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2) | st.integers(-1, 3), inner, max_size=3),
    max_leaves=6,
)
places = st.sampled_from(
    ["images", "./images/", "images/train", "../x/images", "train.txt", "", "/", "C:\\images", "labels/train/x.txt", "data.yaml"]
)
class_names = st.sampled_from(["car", "dog", "background", "", " "]) | st.text(st.characters(), max_size=2)
documents = st.fixed_dictionaries(
    {"train": places | st.lists(places, max_size=2) | anything},
    optional={
        "names": st.lists(class_names, max_size=3)
        | st.dictionaries(st.integers(-1, 3) | st.text(max_size=2), class_names, max_size=3)
        | anything,
        "nc": st.integers(-1, 3) | st.just(10**10) | anything,
        "path": places | anything,
        "val": places | anything,
        "kpt_shape": anything,
    },
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given((documents | anything).map(lambda found: safe_dump(found).encode()) | st.binary(max_size=40))
def test_any_yaml_is_read_or_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        photo(Path(folder), "images/train/x.jpg")
        put(Path(folder), "labels/train/x.txt", f"0 {SQUARE}")
        put(Path(folder), "train.txt", "images/train/x.jpg\n")
        put(Path(folder), "data.yaml", data)
        with contextlib.suppress(InputError):
            found = reader(Path(folder))
            for item in found.scan():
                with contextlib.suppress(DataFault, FileNotFoundError):
                    check_sample(found.read(item), found.spec(), item.image_id)


def test_a_byte_order_mark_is_no_fault_and_a_speck_of_no_pixel_is_counted(tmp_path: Path) -> None:
    sample = read(tmp_path, f"\ufeff0 {SQUARE}\n1 0.5 0.5 0.501 0.5 0.5 0.501\n")
    assert len(sample.instances or ()) == 1
    assert dict(sample.meta) == {"objects_without_pixels": "1"}


@pytest.mark.parametrize(
    "yaml",
    [
        "train: images/train\nval: images/val\n",
        "path: ../datasets/tiny\ntrain: ./images/train/\nval: [images/val]\n",
        "path: /home/me/tiny\ntrain: /home/me/tiny/images/train\nvalidation: C:\\tiny\\images\\val\n",
        "train: ../images/train\nval: ../images/val\ntest: ../test/images\n",  # Roboflow's; it names a test split without one
        "train: train.txt\nval: val.txt\n",
    ],
)
def test_paths_of_the_yaml_are_found_by_their_end(tmp_path: Path, yaml: str) -> None:
    photo(tmp_path, "images/train/a.jpg", "images/train/deep/b.PNG", "images/val/c.jpg")
    put(tmp_path, "labels/train/deep/b.txt", f"0 {SQUARE}")
    put(tmp_path, "train.txt", "./images/train/a.jpg\n/data/tiny/images/train/deep/b.PNG\nnotes.md\n")
    put(tmp_path, "val.txt", "data\\images\\val\\c.jpg\n")
    found = {"images/train/a.jpg": "train", "images/train/deep/b.PNG": "train", "images/val/c.jpg": "val"}
    assert listed(tmp_path, f"{yaml}names: [car]\n") == found


def test_labels_are_where_ultralytics_looks_for_them(tmp_path: Path) -> None:
    photo(tmp_path, "train/images/a.jpg", "train/images/images/b.jpg", "train/images/c.d.jpg", "flat/e.jpg")
    put(tmp_path, "data.yaml", "train: [train/images, flat]\nnames: [car]\n")
    for path in ("train/labels/a.txt", "train/images/labels/b.txt", "train/labels/c.d.txt", "flat/e.txt"):
        put(tmp_path, path, f"0 {SQUARE}")
    found = reader(tmp_path)
    assert [len(found.read(item).instances or ()) for item in found.scan()] == [1, 1, 1, 1]


def test_an_image_of_two_splits_stays_in_the_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photo(tmp_path, "images/train/a.jpg", "images/val/b.jpg")  # COCO8 and COCO128 name one folder twice
    put(tmp_path, "labels/train/a.txt", f"0 {SQUARE}")
    found = listed(tmp_path, "train: images/train\nval: [images/train, images/val]\nnames: [car]\n")
    assert found == {"images/train/a.jpg": "train", "images/val/b.jpg": "val"}
    assert "data.yaml: 1 images of val are of another split too and stay there" in caplog.text


def test_a_listed_image_that_is_not_there_is_listed(tmp_path: Path) -> None:
    photo(tmp_path, "images/train/a.jpg")
    put(tmp_path, "labels/train/a.txt", f"0 {SQUARE}")
    put(tmp_path, "lists/train.txt", "images/train/a.jpg\nimages/train/gone.jpg\n")
    assert list(listed(tmp_path, "train: lists/train.txt\nnames: [car]\n")) == ["images/train/a.jpg", "lists/images/train/gone.jpg"]


def test_the_yaml_may_have_another_name_or_place(tmp_path: Path) -> None:
    photo(tmp_path, "tiny/images/train/a.jpg")
    put(tmp_path, "tiny/labels/train/a.txt", f"0 {SQUARE}")
    put(tmp_path, "coco8-seg.yml", "path: /data/tiny\ntrain: images/train\nnames: [car]\n")
    assert [item.split for item in reader(tmp_path).scan()] == ["train"]
    (tmp_path / "coco8-seg.yml").rename(tmp_path / "tiny/mine.yaml")
    assert [item.split for item in reader(tmp_path, data="tiny/mine.yaml").scan()] == ["train"]
    with pytest.raises(InputError, match=r"found yours.yaml \(missing\)"):
        reader(tmp_path, data="yours.yaml").spec()


def test_label_studios_export_has_names_and_no_yaml(tmp_path: Path) -> None:
    photo(tmp_path, "images/a.jpg", "images/val/b.jpg")
    put(tmp_path, "labels/a.txt", f"1 {SQUARE}")
    put(tmp_path, "classes.txt", "car\ndog\n")
    found = reader(tmp_path)
    items = list(found.scan())
    assert [item.split for item in items] == ["", "val"]
    assert [one.category_id for one in found.read(items[0]).instances or ()] == [2]


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("train: [", "data.yaml is not valid YAML"),
        (b"train: \xff", "data.yaml is not valid YAML"),
        ("- car", "data.yaml holds a list; needed: names, train and val"),
        ("names: [car]", "has none of train, val and test; found names"),
        ("train: images/train", "names is 'None'; needed: a list of class names"),
        ("train: images/train\nnames: obj.names", "names is 'obj.names'"),
        ("train: images/train\nnames: {a: car}", "names is .*needed: a list"),
        ("train: images/train\nnames: [car, dog, car]", "the name of class 2, 'car', is that of class 0 too"),
        ("train: images/train\nnames: [car, '']", "the name of class 1, '', is empty"),
        ("train: images/train\nnames: [car]\nnc: 2", "nc is 2, and names are 1"),
        ("train: 7\nnames: [car]", "data.yaml: train is '7'; needed: a folder"),
        ("train: images/train\nnames: [car]\nkpt_shape: [17, 3]", "its labels are keypoints"),
        ("train: images/train\nval: images/nowhere\nnames: [car]", "val is 'images/nowhere', and no folder of that end has images"),
        ("train: bad.txt\nnames: [car]", "bad.txt is no text in UTF-8"),
        ("train: images/train\nnames: [car]", "no labels at .*labels/train/a.txt for images/train/a.jpg is not there"),
    ],
)
def test_a_yaml_that_is_not_sound_is_refused_with_what_it_has(tmp_path: Path, yaml: str | bytes, said: str) -> None:
    photo(tmp_path, "images/train/a.jpg")
    put(tmp_path, "bad.txt", b"\xff")
    put(tmp_path, "data.yaml", yaml)
    with pytest.raises(InputError, match=said):
        list(reader(tmp_path).scan())


def test_other_layouts_are_refused(tmp_path: Path) -> None:
    for ask in (lambda: reader(tmp_path).spec(), lambda: list(reader(tmp_path).scan())):
        with pytest.raises(InputError, match=r"no Ultralytics data set at .*looked for data.yaml.*found no YAML but nothing"):
            ask()
    for name in ("one.yaml", "two.yaml"):
        put(tmp_path, name, YAML)
    with pytest.raises(InputError, match=r"found one.yaml, two.yaml; another YAML is named by the option data"):
        reader(tmp_path).spec()


def test_splits_without_labels_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    photo(tmp_path, "images/train/a.jpg", "images/val/b.jpg")
    put(tmp_path, "labels/train/a.txt", f"0 {SQUARE}")
    listed(tmp_path, YAML)
    assert "no label files for val: images without truth" in caplog.text
