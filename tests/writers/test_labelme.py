from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segtasks.codecs import rle
from segtasks.readers._objects import object_classes
from segtasks.spec import DatasetSpec
from segtasks.storage import open_store
from segtasks.writers import labelme
from segtasks.writers._base import Labelled, Scored
from tests.contracts.worlds import coco as coco_world
from tests.contracts.worlds import labelme as world
from tests.writers.roundtrip import there_and_back


@pytest.mark.parametrize(("shape", "fill"), [("mask", "labelme"), ("polygon", "coco")])
def test_labelme_comes_back_equal(tmp_path: Path, shape: str, fill: str) -> None:
    world.write(open_store(str(tmp_path / "source")))
    writer = {"name": "labelme", "options": {"shape": shape}}
    before, after = there_and_back(
        tmp_path / "source", tmp_path, "labelme", writer, {"name": "labelme", "options": {"fill": fill}}, name=str
    )
    assert before
    assert sorted(after.values(), key=str) == sorted(before.values(), key=str)


def test_cocos_objects_go_to_labelme_with_crowds_ignored(tmp_path: Path) -> None:
    coco_world.write(open_store(str(tmp_path / "source")))
    before, after = there_and_back(tmp_path / "source", tmp_path, "coco", "labelme", "labelme")
    for name, sample in before.items():
        assert sample.instances is not None
        if not any(crowd for _, crowd, _ in sample.instances):
            assert after[name] == sample
    (shape,) = json.loads((tmp_path / "exported/train/2.json").read_text())["shapes"]
    assert shape["label"] == "__ignore__"


def test_the_order_of_shapes_is_the_one_that_gives_the_mask(tmp_path: Path) -> None:
    """The large dog hides a cat in part, and is hidden by another."""
    cat, dog, other = np.zeros((3, 4, 6), np.bool_)
    cat[1:3, 0:3], dog[:, 1:5], other[0, 3:] = True, True, True
    mask = np.zeros((4, 6), np.uint8)
    for value, pixels in ((1, cat), (2, dog), (1, other)):
        mask[pixels] = value
    found: Any = [
        Scored(value, rle.bbox(rle.encode(part), 4, 6), float(part.sum()), rle.encode(part))
        for value, part in ((1, other), (2, dog), (1, cat))
    ]
    spec = DatasetSpec(name="made", classes=object_classes(["cat", "dog"]))
    labelme.build(labelme.Config(), open_store(str(tmp_path)), spec).write(Labelled("a/b.jpg", "", 4, 6, mask, tuple(found)))
    shapes = json.loads((tmp_path / "a/b.json").read_text())["shapes"]
    assert [shape["points"][0] for shape in shapes] == [[0, 1], [1, 0], [3, 0]]


def test_the_later_shape_is_the_smaller_object(tmp_path: Path) -> None:
    large, small = np.ones((4, 4), np.bool_), np.zeros((4, 4), np.bool_)
    small[1, 1] = True
    found: Any = [Scored(1, (0, 0, 0, 0), float(mask.sum()), rle.encode(mask)) for mask in (small, large)]
    spec = DatasetSpec(name="made", classes=object_classes(["cat"]))
    labelme.build(labelme.Config(), open_store(str(tmp_path)), spec).write(Labelled("a/b.jpg", "", 4, 4, None, tuple(found)))
    shapes = json.loads((tmp_path / "a/b.json").read_text())["shapes"]
    assert [shape["points"] for shape in shapes] == [[[0, 0], [3, 3]], [[1, 1], [1, 1]]]


def test_the_order_is_found_by_pixels_whatever_box_the_source_says(tmp_path: Path) -> None:
    """COCO's `measures: json` keeps the file's own boxes and areas. The large dog is on top here."""
    dog, cat = np.zeros((2, 40, 60), np.bool_)
    dog[5:35, 5:50], cat[30:38, 45:58] = True, True
    mask = np.zeros((40, 60), np.uint8)
    for value, pixels in ((1, cat), (2, dog)):
        mask[pixels] = value
    found: Any = [Scored(value, (0, 0, 0, 0), float(part.sum()), rle.encode(part)) for value, part in ((2, dog), (1, cat))]
    spec = DatasetSpec(name="made", classes=object_classes(["cat", "dog"]))
    labelme.build(labelme.Config(), open_store(str(tmp_path)), spec).write(Labelled("a/b.jpg", "", 40, 60, mask, tuple(found)))
    shapes = json.loads((tmp_path / "a/b.json").read_text())["shapes"]
    assert [(shape["label"], shape["points"]) for shape in shapes] == [("cat", [[45, 30], [57, 37]]), ("dog", [[5, 5], [49, 34]])]
