from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtasks.codecs.image import decode_image
from segtasks.errors import InputError
from segtasks.readers import camvid, folder
from segtasks.spec import DecodePolicy
from segtasks.storage import open_store
from tests.real import data_folder


@pytest.mark.parametrize(("name", "suffix", "train", "val"), [("camvid", "jpg", 367, 101), ("camvid_png_sample", "png", 6, 3)])
def test_camvid_is_listed_whole_and_read_as_its_labels_are(name: str, suffix: str, train: int, val: int) -> None:
    root = data_folder(name)
    reader = camvid.build(camvid.Config(), open_store(str(root)))
    items = list(reader.scan())
    assert Counter(item.split for item in items) == {"train": train, "val": val}
    assert len({item.image_id for item in items}) == train + val
    assert all(item.image_id.endswith(suffix) and "missing" not in item.version for item in items)
    if name == "camvid":
        assert Counter(item.group_id for item in items) == {"0001TP": 62, "0006R0": 101, "0016E5": 305}
    for item in items[:: len(items) // 3]:
        sample = reader.read(item)
        stored = np.array(Image.open(root / item.labels["mask"]))
        assert sample.mask is not None
        np.testing.assert_array_equal(sample.mask, np.where(stored == 11, 255, stored))
        decoded = decode_image(sample.image, DecodePolicy())
        np.testing.assert_array_equal(decoded.pixels, np.array(Image.open(root / item.path).convert("RGB")))
        assert decoded.pixels.shape[:2] == sample.mask.shape == (360, 480)


def test_a_published_copy_with_a_test_split_is_read(tmp_path: Path) -> None:
    root = data_folder("odd_datasets") / "datumaro/camvid_dataset"
    reader = camvid.build(camvid.Config(), open_store(str(root)))
    items = list(reader.scan())
    assert Counter(item.split for item in items) == {"train": 1, "val": 1, "test": 2}
    assert {item.group_id for item in items} == {"0001TP", "0016E5"}
    masks = [reader.read(item).mask for item in items]  # its labels are in the 32 colours
    names = [{reader.spec().names[index] for index in mask.reshape(-1)} for mask in masks if mask is not None]
    assert names == [{"road", "bicyclist"}, {"pedestrian"}, {"sky", "road", "pedestrian"}, {"building", "tree"}]


def test_membrane_labels_of_0_and_255_are_two_classes() -> None:
    root = data_folder("unet_membrane") / "data/membrane/train"
    reader = folder.build(folder.Config(images="image", masks="label"), open_store(str(root)))
    items = list(reader.scan())
    assert len(items) == 30
    assert reader.spec().names == ["background", "foreground"]
    mask = reader.read(items[0]).mask
    assert mask is not None
    np.testing.assert_array_equal(mask, np.array(Image.open(root / items[0].labels["mask"])) // 255)


def test_voc_is_a_folder_too_with_its_palette_and_void(tmp_path: Path) -> None:
    voc = data_folder("voc2012_subset") / "VOCdevkit/VOC2012"
    shutil.copytree(voc / "JPEGImages", tmp_path / "images")
    shutil.copytree(voc / "SegmentationClass", tmp_path / "masks")
    reader = folder.build(folder.Config(), open_store(str(tmp_path)))
    items = list(reader.scan())
    spec = reader.spec()
    assert spec.ignore_index == 255
    palette = np.array(Image.open(tmp_path / items[0].labels["mask"]).getpalette()).reshape(-1, 3)
    assert [item.color for item in spec.classes] == [tuple(color) for color in palette[: spec.num_classes].tolist()]
    labelled = [item for item in items if (tmp_path / item.labels["mask"]).exists()]
    assert labelled
    for item in labelled:
        mask = reader.read(item).mask
        assert mask is not None
        np.testing.assert_array_equal(mask, np.array(Image.open(tmp_path / item.labels["mask"])))


def test_cityscapes_raw_ids_are_indices_and_its_things_have_instances(tmp_path: Path) -> None:
    root = data_folder("cityscapes")
    photo = next(iter(sorted(root.glob("leftImg8bit/train/*/*.png"))))
    stem = photo.name.removesuffix("_leftImg8bit.png")
    labels = root / "gtFine/train" / photo.parent.name
    masks, instances = labels / f"{stem}_gtFine_labelIds.png", labels / f"{stem}_gtFine_instanceIds.png"
    for path, target in ((photo, "images"), (masks, "masks"), (instances, "instances")):
        (tmp_path / target).mkdir()
        shutil.copy(path, tmp_path / target / f"{stem}.png")
    reader = folder.build(folder.Config(), open_store(str(tmp_path)))
    (item,) = reader.scan()
    sample = reader.read(item)
    ids = np.array(Image.open(labels / f"{stem}_gtFine_instanceIds.png"))
    assert sample.instances is not None
    values = [value for value in np.unique(ids).tolist() if value]
    assert [one.category_id for one in sample.instances] == [value if value < 1000 else value // 1000 for value in values]
    assert [one.area for one in sample.instances] == [(ids == value).sum() for value in values]


def test_other_layouts_are_refused_by_name() -> None:
    odd = data_folder("odd_datasets")
    other_stems = odd / "datumaro/common_semantic_segmentation_dataset/non_standard_dataset"
    with pytest.raises(InputError, match="no mask has the stem of an image"):
        list(folder.build(folder.Config(), open_store(str(other_stems))).scan())
    with pytest.raises(InputError, match="no CamVid data"):
        list(camvid.build(camvid.Config(), open_store(str(odd / "mindspore/testVOC2012"))).scan())
