from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtasks.codecs import rle
from segtasks.errors import InputError, LabelError
from segtasks.readers import voc
from segtasks.storage import open_store
from tests.real import data_folder


def reader(root: Path, **options: str) -> voc.VocReader:
    return voc.build(voc.Config(**options), open_store(str(root)))


def test_voc2012_is_read_as_pillow_reads_its_masks() -> None:
    root = data_folder("voc2012_subset")
    found = reader(root)
    items = list(found.scan())
    assert Counter(item.split for item in items) == {"train": 10}
    seen: set[int] = set()
    for item in items:
        stored = np.array(Image.open(root / item.labels["mask"]))
        mask = found.read(item).mask
        assert mask is not None
        np.testing.assert_array_equal(mask, stored)
        seen |= set(np.unique(mask).tolist())
    assert seen == {0, 3, 5, 6, 7, 9, 10, 12, 14, 15, 18, 255}
    palette = np.array(Image.open(root / items[0].labels["mask"]).getpalette()).reshape(-1, 3)
    assert [one.color for one in found.spec().classes] == [tuple(color) for color in palette[:21].tolist()]


def test_objects_of_labelme_are_those_of_its_object_images() -> None:
    root = data_folder("labelme_examples") / "instance_segmentation"
    found = reader(root)  # data_dataset_coco beside it has JPEGImages too, but no masks
    items = list(found.scan())
    assert len(items) == 3
    assert found.spec().names[:2] == ["_background_", "aeroplane"]
    for item in items:
        sample = found.read(item)
        classes = np.array(Image.open(root / item.labels["mask"]))
        ids = np.array(Image.open(root / item.labels["instances"]))
        np.testing.assert_array_equal(sample.mask, classes)  # type: ignore[arg-type]
        assert sample.instances is not None
        values = [value for value in np.unique(ids).tolist() if value not in (0, 255)]
        for value, one in zip(values, sample.instances, strict=True):
            np.testing.assert_array_equal(rle.decode(one.counts, *ids.shape), ids == value)
            assert set(np.unique(classes[ids == value]).tolist()) == {one.category_id}
            ys, xs = np.nonzero(ids == value)
            assert one.bbox == (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)


def test_an_export_without_objects_has_masks_alone_and_two_exports_are_a_question() -> None:
    root = data_folder("labelme_examples")
    semantic = reader(root, folder="semantic_segmentation/data_dataset_voc")
    for item in semantic.scan():
        sample = semantic.read(item)
        np.testing.assert_array_equal(sample.mask, np.array(Image.open(root / item.labels["mask"])))  # type: ignore[arg-type]
        assert sample.instances is None
    with pytest.raises(InputError, match=r"say which is meant by the option folder"):
        list(reader(root).scan())


def test_masks_in_colour_and_lists_of_absent_images_are_met_image_by_image() -> None:
    odd = data_folder("odd_datasets")
    colored = reader(odd / "datumaro/voc_dataset/voc_dataset1")
    train, test = colored.scan()
    sample = colored.read(train)
    assert set(np.unique(sample.mask).tolist()) == {2}  # type: ignore[arg-type]
    assert [(one.category_id, one.area) for one in sample.instances or ()] == [(2, 200.0)]
    assert colored.read(test).mask is None
    photos_as_masks = reader(odd / "mindspore/testVOC2012")
    items = list(photos_as_masks.scan())
    assert Counter(item.split for item in items) == {"train": 10, "val": 1}
    assert [item.version.startswith("missing") for item in items].count(True) == 8
    with pytest.raises(LabelError, match=r"SegmentationClass/32.png has colours that are no class"):
        photos_as_masks.read(items[0])


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("datumaro/voc_dataset/voc_dataset2", "no VOC data at"),  # annotations and lists without an image
        ("datumaro/voc_dataset/voc_dataset3", "has 1 images in JPEGImages and no masks"),  # boxes only
        ("datumaro/roboflow_dataset/voc", "no VOC data at"),
    ],
)
def test_what_has_no_masks_of_voc_is_refused(folder: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(reader(data_folder("odd_datasets") / folder).scan())
