from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtasks.errors import InputError, LabelError
from segtasks.readers.camvid import CamvidReader, Config, build
from segtasks.storage import open_store


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


def reader(folder: Path) -> CamvidReader:
    return build(Config(), open_store(str(folder)))


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
