from __future__ import annotations

import numpy as np

from segtasks.checks.config import CheckSettings
from segtasks.checks.masks import ClassTotals, background_of, class_pixels, mask_kinds
from segtasks.checks.shape import odd_sizes, odd_traits
from segtasks.spec import ClassSpec, DatasetSpec

SETTINGS = CheckSettings()


def spec_of(*names: str) -> DatasetSpec:
    return DatasetSpec(name="made", classes=tuple(ClassSpec(name=name, color=(1, 2, 3)) for name in names))


def kinds(counts: list[list[int]], *names: str, **settings: object) -> dict[str, list[int]]:
    background = background_of(spec_of(*names), CheckSettings(**settings))  # type: ignore[arg-type]
    return {kind: rows.tolist() for kind, rows in mask_kinds(np.array(counts), background).items() if len(rows)}


def test_pixels_are_counted_by_class_and_the_rest_is_ignored() -> None:
    mask = np.array([[0, 2, 2], [255, 255, 2]], np.uint8)
    assert class_pixels(mask, spec_of("a", "b", "c")) == ([1, 0, 3], 2)
    assert class_pixels(mask.astype(np.uint16), spec_of("a", "b", "c", "d")) == ([1, 0, 3, 0], 2)


def test_a_mask_is_empty_ignored_or_of_one_class() -> None:
    counts = [[5, 1, 0], [6, 0, 0], [0, 0, 0], [0, 6, 0], [0, 3, 3]]
    assert kinds(counts, "Background", "cat", "dog") == {"empty_mask": [1], "ignored_mask": [2], "one_class_mask": [3]}
    assert kinds(counts, "sky", "cat", "dog") == {"ignored_mask": [2], "one_class_mask": [1, 3]}
    assert kinds(counts, "sky", "cat", "dog", background=("sky",)) == {"empty_mask": [1], "ignored_mask": [2], "one_class_mask": [3]}


def test_one_class_is_no_finding_where_there_is_only_one() -> None:
    assert kinds([[6], [0]], "cell") == {"ignored_mask": [1]}


def test_a_class_that_a_split_lacks_or_hardly_has_is_told_with_the_split() -> None:
    totals = ClassTotals(3)
    train = np.zeros((300, 3), np.int64)
    train[:, 0], train[:2, 1] = 10, 5
    totals.add("train", train, ignored=7)
    totals.add("val", np.array([[10, 0, 0]]), ignored=0)
    totals.add("val", np.array([[10, 3, 0]]), ignored=1)
    totals.add("test", np.zeros((0, 3), np.int64), ignored=0)
    found = [(finding.kind, finding.split, finding.what) for finding in totals.findings(["sky", "cat", "dog"], SETTINGS)]
    assert found == [
        ("class_rare", "train", "cat is in 2 of train's 300 images (0.67%)"),
        ("class_unseen", "", "dog has no pixel in any of 302 images"),
    ]
    assert totals.pixels["val"].tolist() == [20, 3, 0]
    assert totals.images["val"].tolist() == [2, 1, 0]
    assert totals.ignored == {"train": 7, "val": 1, "test": 0}


def sizes(*pairs: tuple[int, int]) -> dict[int, str]:
    widths, heights = np.array(pairs, np.int32).reshape(-1, 2).T
    return dict(odd_sizes(widths, heights, SETTINGS))


def test_a_size_is_odd_far_from_the_median_area_or_aspect() -> None:
    usual = [(640, 480), (500, 375), (480, 640), (612, 612), (640, 427)] * 4
    found = sizes(*usual, (64, 48), (2000, 1500), (1200, 200))
    assert found == {
        20: "64x48 (width x height): 1/100 of the median area",
        21: "2000x1500 (width x height): 9.77 times the median area",
        22: "1200x200 (width x height): aspect 6, usual is 1.33",
    }


def test_where_nearly_all_images_have_one_size_every_other_is_odd() -> None:
    assert sizes(*[(480, 360)] * 40, (480, 352)) == {40: "480x352 (width x height): 40 of 41 images are 480x360"}
    assert sizes(*[(480, 360)] * 10, (480, 352)) == {}
    assert sizes() == {}


def test_where_sizes_vary_none_is_odd() -> None:
    assert sizes(*[(side, side) for side in (10, 100, 1000)] * 9, (300, 300)) == {}


def odd(traits: list[str]) -> list[tuple[int, str]]:
    ways = sorted(set(traits))
    return odd_traits(np.array([ways.index(trait) for trait in traits], np.int64), ways, SETTINGS)


def test_a_way_of_storing_is_odd_where_few_have_it_and_not_where_all_do() -> None:
    assert odd(["grey, 16 bits"] * 20) == []
    assert odd([""] * 20 + ["CMYK"]) == [(20, "CMYK; most are plain RGB")]
    assert odd(["grey"] * 20 + [""]) == [(20, "plain RGB; most are grey")]
    assert odd([""] * 10 + ["alpha"] * 5) == []
    assert odd([""] * 10 + ["alpha"] * 9 + ["grey"] * 9 + ["CMYK"]) == []
    assert odd([]) == []
