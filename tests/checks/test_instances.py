from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from segtasks.checks.instances import InstanceFacts, instance_facts
from segtasks.codecs import rle
from segtasks.errors import LabelError

NAMES = ["background", "cat", "dog"]
HEIGHT, WIDTH = 40, 50


def region(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def row(mask: np.ndarray, category: int = 1, **changes: Any) -> dict[str, Any]:
    counts = rle.encode(mask)
    code = {"size": [HEIGHT, WIDTH], "counts": counts}
    sound = {
        "category_id": category,
        "bbox": coco.toBbox(code).tolist(),
        "area": float(coco.area(code)),
        "counts": counts,
        "iscrowd": False,
    }
    return {**sound, **changes}


def facts(*rows: dict[str, Any], mask: np.ndarray | None = None) -> InstanceFacts:
    return instance_facts(rows, HEIGHT, WIDTH, NAMES, mask, 255)


def test_pycocotools_areas_and_boxes_are_right() -> None:
    random = np.random.default_rng(0)
    rows = [row(random.random((HEIGHT, WIDTH)) < share, 1 + number % 2) for number, share in enumerate((0.01, 0.2, 0.9))]
    found = facts(*rows)
    assert found.faults == ()
    assert list(found.pixels) == [one["area"] for one in rows]


def test_each_fault_is_named_with_the_instance_and_its_amount() -> None:
    sound = row(region(2, 3, 10, 12))
    found = facts(
        sound,
        row(region(20, 20, 10, 10), 2, area=400.0),
        row(region(5, 30, 8, 8), bbox=[30.0, 5.0, 8.0, 14.0]),
        dict(sound),
        row(np.zeros((HEIGHT, WIDTH), bool), bbox=[0.0, 0.0, 0.0, 0.0]),
    )
    assert {fault.kind: (fault.what, fault.amount) for fault in found.faults} == {
        "instance_area": ("instance 1 (dog) has area 400, but 100 pixels", pytest.approx((300 - 20) / 400)),
        "instance_box": ("instance 2 (cat) has box (30, 5, 8, 14), its pixels (30, 5, 8, 8)", 6.0),
        "instance_duplicate": ("instance 0 (cat) and 3 have the same pixels", 1),
        "instance_empty": ("instance 4 (cat) without a pixel", 1),
    }
    assert found.pixels == (120, 100, 64, 120, 0)


def test_equal_pixels_of_another_class_are_no_duplicate() -> None:
    assert facts(row(region(2, 3, 4, 5), 1), row(region(2, 3, 4, 5), 2)).faults == ()


def test_the_area_of_a_polygon_is_not_held_against_the_pixels_on_its_border() -> None:
    mask = region(10, 10, 11, 11)  # a polygon from 10.5 to 20.5 has area 100 and touches 121 pixels
    assert facts(row(mask, area=100.0, bbox=[10.5, 10.5, 10.0, 10.0])).faults[0].kind == "instance_box"
    assert facts(row(mask, area=100.0)).faults == ()


def test_the_mask_is_compared_with_any_of_the_instances_that_overlap() -> None:
    cat, dog = region(0, 0, 10, 10), region(5, 0, 10, 10)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[cat], mask[dog] = 1, 2
    assert facts(row(cat, 1), row(dog, 2), mask=mask).faults == ()
    mask[0, 0:10] = 2  # the first line of the cat: 10 of 150 pixels
    (fault,) = facts(row(cat, 1), row(dog, 2), mask=mask).faults
    assert (fault.kind, fault.amount) == ("mask_disagrees", pytest.approx(10 / 150))
    mask[0, 0:10] = 255
    assert facts(row(cat, 1), row(dog, 2), mask=mask).faults == ()


def test_a_crowd_is_neither_small_nor_compared_with_the_mask() -> None:
    found = facts(row(region(0, 0, 1, 2), iscrowd=True), mask=np.zeros((HEIGHT, WIDTH), np.uint8))
    assert found == InstanceFacts((), ())


def test_counts_of_another_size_are_a_label_error() -> None:
    with pytest.raises(LabelError):
        facts(row(np.ones((3, 3), bool), bbox=[0, 0, 3, 3]))
