from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segtasks.errors import InputError, LabelError
from segtasks.readers._ade20k_classes import CLASSES, CODES, from_object_info
from segtasks.readers.ade20k import Ade20kReader, Config, build
from segtasks.storage import open_store

OBJECT_INFO = (
    "Idx\tRatio\tTrain\tVal\tName\n1\t0.15\t11664\t1172\twall\n2 \t0.10\t6046\t612\tscreen door, screen\n3\t0.1\t1\t1\tscreen, display\n"
)


def put(folder: Path, path: str, array: np.ndarray) -> None:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file)


def put_pair(folder: Path, name: str, values: np.ndarray | None = None) -> None:
    put(folder, f"images/{name}.jpg", np.zeros((2, 3, 3), np.uint8))
    if values is not None:
        put(folder, f"annotations/{name}.png", values)


def reader(folder: Path) -> Ade20kReader:
    return build(Config(), open_store(str(folder)))


VALUES = np.array([[0, 1, 2], [3, 149, 150]], np.uint8)


@pytest.mark.parametrize("root", ["", "ADEChallengeData2016/"])
def test_zero_is_ignored_and_the_others_move_down_by_one(tmp_path: Path, root: str) -> None:
    put_pair(tmp_path / root, "training/ADE_train_1", VALUES)
    put_pair(tmp_path / root, "validation/ADE_val_1", VALUES)
    put_pair(tmp_path / root, "testing/ADE_test_1")
    ade20k = reader(tmp_path)
    items = list(ade20k.scan())
    assert [(item.image_id, item.split) for item in items] == [
        (f"{root}images/testing/ADE_test_1.jpg", "test"),
        (f"{root}images/training/ADE_train_1.jpg", "train"),
        (f"{root}images/validation/ADE_val_1.jpg", "val"),
    ]
    np.testing.assert_array_equal(ade20k.read(items[1]).mask, [[255, 0, 1], [2, 148, 149]])  # type: ignore[arg-type]
    assert ade20k.read(items[0]).mask is None


def test_the_names_and_colours_are_built_in(tmp_path: Path) -> None:
    put_pair(tmp_path, "training/ADE_train_1", VALUES)
    spec = reader(tmp_path).spec()
    assert spec.num_classes == 150
    assert spec.ignore_index == 255
    assert [spec.names[index] for index in (0, 12, 41, 149)] == ["wall", "person", "box", "flag"]
    assert [spec.classes[index].color for index in (0, 1, 12)] == [(120, 120, 120), (180, 120, 120), (150, 5, 61)]
    assert [one.source_id for one in spec.classes] == list(range(1, 151))


def test_object_info_names_other_classes_by_their_first_names(tmp_path: Path) -> None:
    put_pair(tmp_path, "training/ADE_train_1", np.array([[0, 1, 2], [3, 3, 3]], np.uint8))
    (tmp_path / "objectInfo150.txt").write_text(OBJECT_INFO)
    ade20k = reader(tmp_path)
    assert ade20k.spec().names == ["wall", "screen door", "screen"]
    np.testing.assert_array_equal(ade20k.read(next(iter(ade20k.scan()))).mask, [[255, 0, 1], [2, 2, 2]])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "1\t0.1\t1\t1\twall\n3\t0.1\t1\t1\tsky\n",
            r"objectInfo150.txt, line 2: '3\\t0.1\\t1\\t1\\tsky' is not class 2; needed: number, ratio",
        ),
        ("1 0.1 1 1 wall\n", r"line 1: '1 0.1 1 1 wall' is not class 1"),
        ("Idx\tRatio\tTrain\tVal\tName\n", r"objectInfo150.txt names no class"),
        ("1\t0\t1\t1\twall\n2\t0\t1\t1\twall\n", r"names 'wall' twice"),
        ("".join(f"{number}\t0\t1\t1\tc{number}\n" for number in range(1, 300)), r"names 299 classes; masks of 8 bits"),
    ],
)
def test_broken_object_info_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    put_pair(tmp_path, "training/ADE_train_1", VALUES)
    (tmp_path / "objectInfo150.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        reader(tmp_path).spec()


def test_the_scene_is_in_meta(tmp_path: Path) -> None:
    put_pair(tmp_path, "training/ADE_train_1", VALUES)
    put_pair(tmp_path, "training/ADE_train_2", VALUES)
    (tmp_path / "sceneCategories.txt").write_text("ADE_train_1 airport_terminal\n\nADE_train_9 abbey\n")
    ade20k = reader(tmp_path)
    assert [dict(ade20k.read(item).meta) for item in ade20k.scan()] == [{"scene": "airport_terminal"}, {}]


def test_codes_of_the_full_release_become_the_classes_of_the_challenge(tmp_path: Path) -> None:
    codes = np.array([[2978, 1831, 774, 783], [401, 0, 3, 954]])  # wall, person, door twice, car, nothing, no class of the 150, flag
    colors = np.stack([codes // 256 * 10, codes % 256, np.ones_like(codes)], axis=2).astype(np.uint8)
    colors[0, 1, 0] += 1  # as R comes in some files: 71, not 70
    folder = tmp_path / "images/ADE/training/urban/street"
    put(folder, "ADE_train_1.jpg", np.zeros((2, 4, 3), np.uint8))
    put(folder, "ADE_train_1_seg.png", colors)
    put(folder, "ADE_train_1_parts_1.png", colors)
    put(folder, "ADE_train_1/instance_000_ADE_train_1.png", np.zeros((2, 4), np.uint8))
    put(tmp_path / "images/ADE/validation", "ADE_val_1.jpg", np.zeros((2, 4, 3), np.uint8))
    put(tmp_path / "images/ADE/validation", "ADE_val_1_seg.png", codes.astype(np.uint8))
    ade20k = reader(tmp_path)
    train, val = ade20k.scan()
    assert (train.image_id, train.split) == ("images/ADE/training/urban/street/ADE_train_1.jpg", "train")
    sample = ade20k.read(train)
    np.testing.assert_array_equal(sample.mask, [[0, 12, 14, 14], [20, 255, 255, 149]])  # type: ignore[arg-type]
    assert dict(sample.meta) == {"scene": "street"}
    with pytest.raises(LabelError, match=r"ADE_val_1_seg.png has one channel; needed: colour, with the class as R / 10 \* 256 \+ G"):
        ade20k.read(val)


def test_every_class_has_a_code_of_the_full_release() -> None:
    assert sorted(set(CODES.values())) == list(range(150))
    assert len(CODES) == 153  # three classes are made of two
    assert len({one.color for one in CLASSES}) == 149  # two share one in color150.mat


def test_an_image_without_its_mask_is_refused_and_a_mask_without_image_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put_pair(tmp_path, "training/ADE_train_1", VALUES)
    put_pair(tmp_path, "training/ADE_train_2")
    put(tmp_path, "annotations/validation/ADE_val_1.png", VALUES)
    ade20k = reader(tmp_path)
    good, bad = ade20k.scan()
    assert "1 masks have no image and are passed over: validation/ADE_val_1" in caplog.text
    assert ade20k.read(good).mask is not None
    with pytest.raises(LabelError, match=r"annotations/training/ADE_train_2.png is missing"):
        ade20k.read(bad)
    put(tmp_path, "annotations/training/ADE_train_1.png", np.full((2, 3), 151, np.uint8))
    with pytest.raises(LabelError, match=r"ADE_train_1.png has values that are no class: \[151\]"):
        ade20k.read(good)


def test_other_layouts_are_refused_saying_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no ADE20K data at .*: looked for images/training/x.jpg .*; found no image"):
        list(reader(tmp_path).scan())
    put_pair(tmp_path, "training/x")
    put(tmp_path, "annotations/training/y.png", VALUES)
    with pytest.raises(InputError, match=r"no mask at .* belongs to an image: masks training/y; images training/x; needed: the same split"):
        list(reader(tmp_path).scan())
    put_pair(tmp_path / "copy", "training/x", VALUES)
    with pytest.raises(InputError, match=r"has several data sets: ., copy; make one of them the source"):
        list(reader(tmp_path).scan())


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=100) | st.from_regex(r"\A([1-3]\t0\.1\t\d\t\d\t[a-b, ]{0,4}\n?){0,3}\Z"))
def test_any_object_info_is_read_or_refused(text: str) -> None:
    try:
        assert from_object_info(text, "objectInfo150.txt")
    except InputError:
        return
