from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtasks.codecs import rle
from segtasks.errors import InputError, LabelError
from segtasks.readers import cityscapes
from segtasks.storage import open_store
from tests.real import data_folder

# Raw ids by train id, as published with the benchmark.
TRAIN_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
THINGS = (24, 25, 26, 27, 28, 31, 32, 33)


def reader(root: Path, **options: str) -> cityscapes.CityscapesReader:
    return cityscapes.build(cityscapes.Config.model_validate(options), open_store(str(root)))


def test_masks_are_the_train_ids_and_objects_decode_by_thousands(caplog: pytest.LogCaptureFixture) -> None:
    root = data_folder("cityscapes")
    found = reader(root)
    items = list(found.scan())
    assert Counter((item.split, item.group_id) for item in items) == {("train", f"aachen_00000{number}"): 1 for number in range(5)}
    assert "2 labels have no photo and are passed over: val/frankfurt/frankfurt_000000_000576" in caplog.text
    objects, crowds = 0, 0
    for item in items:
        sample = found.read(item)
        raw = np.array(Image.open(root / item.labels["mask"]))
        expected = np.full(raw.shape, 255)
        for index, raw_id in enumerate(TRAIN_IDS):
            expected[raw == raw_id] = index
        np.testing.assert_array_equal(sample.mask, expected)  # type: ignore[arg-type]
        ids = np.array(Image.open(root / item.labels["instances"])).astype(int)
        values = [value for value in np.unique(ids).tolist() if (value if value < 1000 else value // 1000) in THINGS]
        assert sample.instances is not None
        for value, one in zip(values, sample.instances, strict=True):
            assert TRAIN_IDS[one.category_id] == (value if value < 1000 else value // 1000)
            assert one.iscrowd == (value < 1000)
            np.testing.assert_array_equal(rle.decode(one.counts, *ids.shape), ids == value)
            assert set(np.unique(expected[ids == value]).tolist()) == {one.category_id}
        objects += sum(not one.iscrowd for one in sample.instances)
        crowds += sum(one.iscrowd for one in sample.instances)
    assert (objects, crowds) == (72, 3)


def test_the_mask_of_instance_ids_is_that_of_label_ids(tmp_path: Path) -> None:
    root = data_folder("cityscapes")
    whole = reader(root, classes="all")
    item = next(iter(whole.scan()))
    for path in (item.path, item.labels["instances"]):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).symlink_to(root / path)
    alone = reader(tmp_path, classes="all")
    (other,) = alone.scan()
    assert other.labels["mask"].endswith("_instanceIds.png")
    np.testing.assert_array_equal(alone.read(other).mask, whole.read(item).mask)  # type: ignore[arg-type]


def test_look_alikes_are_read_or_say_what_they_lack() -> None:
    odd = data_folder("odd_datasets")
    only_instances = reader(odd / "datumaro/cityscapes_dataset/dataset")
    samples = {item.image_id.rpartition("/")[2][:26]: only_instances.read(item) for item in only_instances.scan()}
    assert [sorted(set(sample.mask.reshape(-1).tolist())) for sample in samples.values() if sample.mask is not None] == [
        [14, 255],
        [3, 16, 255],
        [11, 255],
        [255],
    ]
    nineteen = reader(odd / "datumaro/cityscapes_dataset/train_dataset")  # its labelTrainIds have 19 for background
    items = list(nineteen.scan())
    assert Counter(item.split for item in items) == {"train": 1, "val": 1, "test": 2}
    with pytest.raises(LabelError, match=r"labelTrainIds.png has values that are no class: \[19\]"):
        nineteen.read(items[0])
    drawn = reader(odd / "mindspore/testCityscapesData/cityscapes/testTaskJson")
    (item,) = drawn.scan()
    mask = drawn.read(item).mask
    assert mask is not None
    assert mask.shape == (1024, 2048)  # the photo has another size: ingest refuses it
    with pytest.raises(InputError, match=r"gtFine has only color files"):
        list(reader(odd / "mindspore/testCityscapesData/cityscapes").scan())
    with pytest.raises(InputError, match=r"it has dataset/leftImg8bit: make .* the source"):
        list(reader(odd / "datumaro/cityscapes_dataset").scan())
