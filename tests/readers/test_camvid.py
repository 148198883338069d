from __future__ import annotations

import io
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segtasks.errors import DataFault, InputError, LabelError
from segtasks.readers._camvid_classes import parse_colors
from segtasks.readers.camvid import CamvidReader, Config, build
from segtasks.spec import DatasetSpec
from segtasks.storage import open_store
from segtasks.testing.readers import check_sample


def put(folder: Path, path: str, array: np.ndarray) -> None:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for number, name in enumerate(("0001TP_006690", "0001TP_006720", "0006R0_f00930")):
        put(tmp_path, f"train/{name}.jpg", np.full((4, 6, 3), 40 * number, np.uint8))
        put(tmp_path, f"trainannot/{name}.png", np.full((4, 6), number, np.uint8))
    put(tmp_path, "val/Seq05VD_f00000.jpg", np.zeros((4, 6, 3), np.uint8))
    put(tmp_path, "valannot/Seq05VD_f00000.png", np.full((4, 6), 11, np.uint8))
    lines = [f"/SegNet/CamVid/train/{name}.jpg /SegNet/CamVid/trainannot/{name}.png" for name in ("0001TP_006720", "0006R0_f00930")]
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n\n")
    (tmp_path / "val.txt").write_text("/SegNet/CamVid/val/Seq05VD_f00000.jpg /SegNet/CamVid/valannot/Seq05VD_f00000.png\r\n")
    return tmp_path


def reader(folder: Path, classes: Literal[11, 32] = 11) -> CamvidReader:
    return build(Config(classes=classes), open_store(str(folder)))


def test_absolute_paths_in_the_lists_are_resolved_against_the_source(source: Path) -> None:
    items = list(reader(source).scan())
    assert [(item.image_id, item.split, item.group_id, dict(item.labels)) for item in items] == [
        ("train/0001TP_006720.jpg", "train", "0001TP", {"mask": "trainannot/0001TP_006720.png"}),
        ("train/0006R0_f00930.jpg", "train", "0006R0", {"mask": "trainannot/0006R0_f00930.png"}),
        ("val/Seq05VD_f00000.jpg", "val", "Seq05VD", {"mask": "valannot/Seq05VD_f00000.png"}),
    ]
    paths = source / "train/0001TP_006720.jpg", source / "trainannot/0001TP_006720.png"
    assert items[0].size == sum(path.stat().st_size for path in paths)


def test_without_lists_the_folders_are_listed(source: Path) -> None:
    for name in ("train.txt", "val.txt"):
        (source / name).unlink()
    items = list(reader(source).scan())
    assert [item.image_id for item in items] == [
        "train/0001TP_006690.jpg",
        "train/0001TP_006720.jpg",
        "train/0006R0_f00930.jpg",
        "val/Seq05VD_f00000.jpg",
    ]
    assert items[0].labels == {"mask": "trainannot/0001TP_006690.png"}


def test_lists_without_labels_and_with_relative_or_windows_paths_are_read(source: Path) -> None:
    (source / "train.txt").write_text("\ufefftrain/0001TP_006690.jpg\ntrain\\0001TP_006720.jpg trainannot\\0001TP_006720.png\n", "utf-8")
    items = list(reader(source).scan())
    assert [item.image_id for item in items][:2] == ["train/0001TP_006690.jpg", "train/0001TP_006720.jpg"]
    assert items[0].labels == {"mask": "trainannot/0001TP_006690.png"}


def test_labels_keep_their_indices_and_void_becomes_the_ignore_value(source: Path) -> None:
    camvid = reader(source)
    items = list(camvid.scan())
    sample = camvid.read(items[1])
    assert sample.image == (source / items[1].path).read_bytes()
    assert sample.mask is not None
    assert (sample.mask == 2).all()
    assert sample.mask.dtype == np.uint8
    void = camvid.read(items[2]).mask
    assert void is not None
    assert (void == camvid.spec().ignore_index).all()
    assert camvid.spec().ignore_index == 255
    assert camvid.spec().names[8] == "car"
    assert camvid.spec().classes[3].color == (128, 64, 128)
    assert camvid.spec().num_classes == 11


def test_values_that_are_no_class_are_named(source: Path) -> None:
    put(source, "trainannot/0001TP_006720.png", np.array([[0, 12], [77, 11]], np.uint8))
    camvid = reader(source)
    with pytest.raises(LabelError, match=r"trainannot/0001TP_006720.png has values that are no class: \[12, 77\]"):
        camvid.read(next(iter(camvid.scan())))


def test_a_missing_label_is_the_items_fault_and_a_missing_image_stays_missing(source: Path) -> None:
    (source / "trainannot/0001TP_006720.png").unlink()
    (source / "train/0006R0_f00930.jpg").unlink()
    camvid = reader(source)
    without_label, without_image, _ = list(camvid.scan())
    with pytest.raises(LabelError, match=r"trainannot/0001TP_006720.png is missing"):
        camvid.read(without_label)
    with pytest.raises(FileNotFoundError):
        camvid.read(without_image)
    assert without_image.image_id == "train/0006R0_f00930.jpg"
    assert without_image.version.startswith("missing+")


def test_the_version_changes_with_the_image_and_with_the_label(source: Path) -> None:
    before = [item.version for item in reader(source).scan()]
    assert before == [item.version for item in reader(source).scan()]
    put(source, "trainannot/0001TP_006720.png", np.full((9, 6), 5, np.uint8))
    put(source, "val/Seq05VD_f00000.jpg", np.full((9, 6, 3), 5, np.uint8))
    after = [item.version for item in reader(source).scan()]
    assert [old == new for old, new in zip(before, after)] == [False, True, False]


def test_an_undecodable_label_is_named_with_its_reason(source: Path) -> None:
    (source / "trainannot/0001TP_006720.png").write_bytes(b"no picture")
    camvid = reader(source)
    with pytest.raises(LabelError, match=r"trainannot/0001TP_006720.png: not an image of an allowed format"):
        camvid.read(next(iter(camvid.scan())))


def test_other_layouts_are_refused_saying_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"looked for train.txt, .*; found nothing"):
        list(reader(tmp_path).scan())
    put(tmp_path, "leftImg8bit/train/x.png", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(InputError, match=r"found leftImg8bit/train/x.png"):
        list(reader(tmp_path).scan())


def test_broken_lists_are_refused_with_their_line(source: Path) -> None:
    (source / "train.txt").write_text("train/0001TP_006720.jpg a b\n")
    with pytest.raises(InputError, match=r"train.txt, line 1 has 3 parts"):
        list(reader(source).scan())
    (source / "train.txt").write_text("train/0001TP_006720.jpg\n/x/train/0001TP_006720.jpg\n")
    with pytest.raises(InputError, match=r"line 2 names train/0001TP_006720.jpg, which train.txt, line 1 named before"):
        list(reader(source).scan())
    image = io.BytesIO()
    Image.new("RGB", (2, 2)).save(image, "PNG")
    (source / "train.txt").write_bytes(image.getvalue())
    with pytest.raises(InputError, match=r"train.txt is no text in UTF-8"):
        list(reader(source).scan())


COLORS = np.array([(128, 128, 128), (0, 128, 64), (128, 0, 192), (64, 128, 64), (192, 0, 192), (0, 0, 0)], np.uint8)
LABEL_COLORS = (
    "128 128 128\tSky\n0 128 64\tBridge\n128 0 192\tLaneMkgsDriv\n64 128 64\tAnimal\n192 0 192 \tMotorcycleScooter\n0 0 0\tVoid\n"
)


@pytest.fixture
def original(tmp_path: Path) -> Path:
    for number, name in enumerate(("0001TP_006690", "0006R0_f00930", "Seq05VD_f00000")):
        put(tmp_path, f"701_StillsRaw_full/{name}.png", np.full((2, 3, 3), number, np.uint8))
        put(tmp_path, f"LabeledApproved_full/{name}_L.png", np.roll(COLORS, number, axis=0).reshape(2, 3, 3))
    return tmp_path


def test_the_32_colours_are_grouped_as_segnet_did(original: Path) -> None:
    camvid = reader(original)
    items = list(camvid.scan())
    assert [(item.image_id, item.split, item.group_id) for item in items] == [
        ("701_StillsRaw_full/0001TP_006690.png", "", "0001TP"),
        ("701_StillsRaw_full/0006R0_f00930.png", "", "0006R0"),
        ("701_StillsRaw_full/Seq05VD_f00000.png", "", "Seq05VD"),
    ]
    expected = np.array([0, 1, 3, 9, 10, 255])  # sky, building, road, pedestrian, bicyclist, void
    for number, item in enumerate(items):
        np.testing.assert_array_equal(camvid.read(item).mask, np.roll(expected, number).reshape(2, 3))  # type: ignore[arg-type]
    assert camvid.spec().classes == reader_of_segnet(original).classes


def reader_of_segnet(folder: Path) -> DatasetSpec:
    put(folder / "segnet", "train/x.png", np.zeros((2, 2, 3), np.uint8))
    return reader(folder / "segnet").spec()


def test_each_of_the_32_colours_can_be_a_class_and_void_is_ignored(original: Path) -> None:
    camvid = reader(original, 32)
    spec = camvid.spec()
    assert spec.num_classes == 31
    assert "Void" not in spec.names
    mask = camvid.read(next(iter(camvid.scan()))).mask
    assert mask is not None
    names = [spec.names[index] if index != 255 else "" for index in mask.reshape(-1).tolist()]
    assert names == ["Sky", "Bridge", "LaneMkgsDriv", "Animal", "MotorcycleScooter", ""]
    (original / "label_colors.txt").write_text(LABEL_COLORS)
    assert reader(original, 32).spec().names == ["Sky", "Bridge", "LaneMkgsDriv", "Animal", "MotorcycleScooter"]
    assert reader(original).spec().num_classes == 11


def test_lists_make_the_splits_of_the_stills(original: Path, caplog: pytest.LogCaptureFixture) -> None:
    (original / "train.txt").write_text("Seq05VD_f00000\n")
    (original / "val.txt").write_text("/data/stills/0006R0_f00930.png /data/LabeledApproved_full/0006R0_f00930_L.png\n")
    with caplog.at_level("INFO"):
        items = list(reader(original).scan())
    assert [(item.image_id, item.split, item.labels["mask"]) for item in items] == [
        ("701_StillsRaw_full/Seq05VD_f00000.png", "train", "LabeledApproved_full/Seq05VD_f00000_L.png"),
        ("701_StillsRaw_full/0006R0_f00930.png", "val", "LabeledApproved_full/0006R0_f00930_L.png"),
    ]
    assert "1 stills are in no list and are passed over" in caplog.text


def test_folders_called_train_and_val_are_the_splits(tmp_path: Path) -> None:
    for split, name in (("train", "0001TP_006690"), ("train", "0001TP_006720"), ("val", "0016E5_07959")):
        put(tmp_path, f"CamVid/{split}/{name}.png", np.zeros((2, 3, 3), np.uint8))
        if name != "0001TP_006720":
            put(tmp_path, f"CamVid/{split}_labels/{name}_L.png", COLORS.reshape(2, 3, 3))
    (tmp_path / "CamVid/class_dict.csv").write_text("name,r,g,b\nSky,128,128,128\nBridge,0,128,64\nVoid,0,0,0\n")
    camvid = reader(tmp_path, 32)
    items = list(camvid.scan())
    assert [(item.split, item.labels["mask"]) for item in items] == [
        ("train", "CamVid/train_labels/0001TP_006690_L.png"),
        ("train", "CamVid/train_labels/0001TP_006720_L.png"),
        ("val", "CamVid/val_labels/0016E5_07959_L.png"),
    ]
    assert camvid.spec().names == ["Sky", "Bridge"]
    with pytest.raises(LabelError, match=r"0001TP_006690_L.png has colours that are no class: .*\(64, 128, 64\)"):
        camvid.read(items[0])
    with pytest.raises(LabelError, match=r"0001TP_006720_L.png is missing"):
        camvid.read(items[1])


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("label_colors.txt", "128 128 Sky\n", r"label_colors.txt, line 1: '128 128 Sky' is no class; needed: red, green and blue"),
        ("label_colors.txt", "0 0 0 Void\n0 0 256 Sky\n", r"line 2: '0 0 256 Sky' is no class"),
        ("label_colors.txt", "0 0 0 Void\n0 0 0 Sky\n", r"line 2: Sky \(0, 0, 0\) comes a second time"),
        ("label_colors.txt", "\n", r"label_colors.txt names no class"),
        ("class_dict.csv", "name,r,g,b\nSky,1\n", r"class_dict.csv, line 2: '1 Sky' is no class"),
        ("label_colors.txt", "1 2 3 Zebra\n", r"label_colors.txt names classes that are in no group of SegNet's: Zebra; use classes: 32"),
    ],
)
def test_broken_colour_files_are_refused_with_their_line(original: Path, file: str, text: str, message: str) -> None:
    (original / file).write_text(text)
    with pytest.raises(InputError, match=message):
        reader(original).spec()


def test_indices_are_no_32_classes_and_a_still_has_one_label(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has labels of indices, not of the 32 colours \(x_L.png\); needed for them: classes: 11"):
        reader(source, 32).spec()
    for folder in ("a", "b"):
        put(tmp_path, f"{folder}/0001TP_1_L.png", COLORS.reshape(2, 3, 3))
    with pytest.raises(InputError, match=r"a/0001TP_1_L.png and b/0001TP_1_L.png are both the label of one still"):
        list(reader(tmp_path).scan())


def test_segnets_layout_with_labels_in_colour_is_read_by_colour(source: Path) -> None:
    for split, name in (("train", "0001TP_006720"), ("train", "0006R0_f00930"), ("val", "Seq05VD_f00000")):
        put(source, f"{split}annot/{name}.png", COLORS.reshape(2, 3, 3))
    camvid = reader(source)
    mask = camvid.read(next(iter(camvid.scan()))).mask
    np.testing.assert_array_equal(mask, [[0, 1, 3], [9, 10, 255]])  # type: ignore[arg-type]
    put(source, "trainannot/0001TP_006720.png", COLORS.reshape(2, 3, 3)[:1, :1])  # sky alone
    assert camvid.read(next(iter(camvid.scan()))).mask == 0
    (source / "label_colors.txt").write_text(LABEL_COLORS.replace("Sky", "cat"))  # classes of one's own, as from CVAT
    own = reader(source, 32)
    assert own.spec().names == ["cat", "Bridge", "LaneMkgsDriv", "Animal", "MotorcycleScooter"]
    np.testing.assert_array_equal(own.read(list(own.scan())[1]).mask, [[0, 1, 2], [3, 4, 255]])  # type: ignore[arg-type]


def test_a_colour_file_beside_labels_of_indices_changes_nothing(source: Path) -> None:
    (source / "label_colors.txt").write_text(LABEL_COLORS)
    camvid = reader(source)
    np.testing.assert_array_equal(camvid.read(next(iter(camvid.scan()))).mask, np.full((4, 6), 1))  # type: ignore[arg-type]


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=100) | st.from_regex(r"\A(\d{0,3}[ ,\t]\d{1,3}[ ,]\d{0,4}[ ,\t][a-z,]{0,3}\n?){0,4}\Z"))
def test_any_colour_file_is_read_or_refused(text: str) -> None:
    for path in ("label_colors.txt", "class_dict.csv"):
        try:
            assert parse_colors(text, path)
        except InputError:
            continue


words = st.sampled_from(
    ["train/a.png", "trainannot/a.png", "/CamVid/train/a.png", "a", "..", "/", "train/a.png/b.png", "x\0.png", "b" * 300]
)
lines = st.lists(st.lists(words | st.text(max_size=3), max_size=3).map(" ".join))


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(data=lines.map(lambda found: "\n".join(found).encode()) | st.binary(max_size=30))
def test_any_list_is_read_or_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        put(Path(folder), "train/a.png", np.zeros((4, 6, 3), np.uint8))
        put(Path(folder), "trainannot/a.png", np.zeros((4, 6), np.uint8))
        (Path(folder) / "train.txt").write_bytes(data)
        camvid = reader(Path(folder))
        with suppress(InputError):
            for item in camvid.scan():
                with suppress(DataFault, FileNotFoundError):
                    check_sample(camvid.read(item), camvid.spec(), item.image_id)
