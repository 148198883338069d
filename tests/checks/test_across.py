from __future__ import annotations

from typing import Any

import numpy as np

from segtasks.checks.across import Columns, duplicates, groups_across, near_duplicates
from segtasks.checks.config import CheckSettings, Finding

HASH = 0x0123456789ABCDEF


def columns(*images: dict[str, Any]) -> Columns:
    """Images of which only what matters is said; otherwise each has its own pixels, file, look and no group."""
    random = np.random.default_rng(0)
    strange = random.integers(0, 1 << 64, len(images), dtype=np.uint64)
    splits = sorted({image["split"] for image in images})
    groups = sorted({image["group"] for image in images if "group" in image})
    return Columns(
        image_ids=[image["id"] for image in images],
        splits=np.array([splits.index(image["split"]) for image in images], np.int64),
        split_names=splits,
        groups=np.array([groups.index(image["group"]) if "group" in image else -1 for image in images], np.int64),
        group_names=groups,
        pixels=np.array([[image.get("pixels", 100 + at), 7] for at, image in enumerate(images)], np.uint64).reshape(-1, 2),
        files=np.array([[image.get("file", 100 + at), 7] for at, image in enumerate(images)], np.uint64).reshape(-1, 2),
        phash=np.array([image.get("hash", int(strange[at])) for at, image in enumerate(images)], np.uint64),
        std=np.array([image.get("std", 50.0) for image in images], np.float32),
    )


def said(findings: Any) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(finding.kind, finding.image_id, finding.others) for finding in findings]


def near(*images: dict[str, Any], **settings: Any) -> tuple[list[Finding], dict[str, int]]:
    found = near_duplicates(columns(*images), CheckSettings(**settings))
    return found.findings, found.in_split


TRAIN = [{"id": f"t{number}", "split": "train"} for number in range(4)]


def test_equal_pixels_are_one_finding_a_group_told_of_the_smaller_split() -> None:
    found = list(
        duplicates(
            columns(
                *TRAIN,
                {"id": "a", "split": "train", "pixels": 1, "file": 1},
                {"id": "b", "split": "val", "pixels": 1, "file": 2},
                {"id": "c", "split": "train", "pixels": 1, "file": 1},
                {"id": "d", "split": "train", "pixels": 2, "file": 3},
                {"id": "e", "split": "train", "pixels": 2, "file": 3},
            )
        )
    )
    assert said(found) == [("duplicate_across_splits", "b", ("a", "c")), ("duplicate_in_split", "d", ("e",))]
    assert [one.what for one in found] == [
        "3 images have the same pixels in other bytes, in train, val",
        "2 images have the same bytes",
    ]


def test_images_of_one_colour_are_no_duplicates() -> None:
    black = {"pixels": 1, "std": 0.0}
    assert list(duplicates(columns(*TRAIN, {"id": "a", "split": "train", **black}, {"id": "b", "split": "val", **black}))) == []


def test_a_near_duplicate_across_splits_is_a_finding_of_the_smaller_split_with_the_nearest_first() -> None:
    findings, _ = near(
        *TRAIN,
        {"id": "far", "split": "train", "hash": HASH ^ 0b1111},
        {"id": "v", "split": "val", "hash": HASH},
        {"id": "close", "split": "train", "hash": HASH ^ 0b1},
        {"id": "other", "split": "train", "hash": HASH ^ 0b11111},
    )
    assert said(findings) == [("near_duplicate_across_splits", "v", ("close", "far"))]
    assert findings[0].what == "looks like one in train (1 of 64 bits differ), and 1 more"


def test_the_distance_is_a_setting() -> None:
    images = [*TRAIN, {"id": "a", "split": "train", "hash": HASH}, {"id": "v", "split": "val", "hash": HASH ^ 0b1111}]
    assert said(near(*images, near_distance=3)[0]) == []
    assert said(near(*images, near_distance=4)[0]) == [("near_duplicate_across_splits", "v", ("a",))]


def test_equal_hashes_of_other_pixels_are_near_duplicates_and_of_equal_pixels_are_not() -> None:
    images = [*TRAIN, {"id": "a", "split": "train", "hash": HASH, "pixels": 1}, {"id": "v", "split": "val", "hash": HASH}]
    assert said(near(*images)[0]) == [("near_duplicate_across_splits", "v", ("a",))]
    assert said(near(*images[:-1], {"id": "v", "split": "val", "hash": HASH, "pixels": 1})[0]) == []


def test_frames_of_one_video_are_told_as_such_unless_a_stranger_looks_the_same_too() -> None:
    frames = [{"id": "a", "split": "train", "hash": HASH, "group": "x"}, {"id": "v", "split": "val", "hash": HASH ^ 1, "group": "x"}]
    findings, _ = near(*TRAIN, *frames)
    assert said(findings) == [("near_duplicate_same_group", "v", ("a",))]
    assert findings[0].what == "looks like one of its group x in train (1 of 64 bits differ)"
    stranger = {"id": "s", "split": "train", "hash": HASH ^ 0b111, "group": "y"}
    for images in ([*frames, stranger], [stranger, *frames]):
        assert said(near(*TRAIN, *images)[0]) == [("near_duplicate_across_splits", "v", ("s",))]


def test_inside_a_split_images_that_look_alike_are_only_counted() -> None:
    findings, in_split = near(
        *TRAIN,
        {"id": "a", "split": "train", "hash": HASH},
        {"id": "b", "split": "train", "hash": HASH ^ 1},
        {"id": "c", "split": "train", "hash": HASH ^ 1},
        {"id": "d", "split": "val"},
    )
    assert (findings, in_split) == ([], {"train": 3, "val": 0})


def test_nearly_constant_images_look_like_nothing() -> None:
    assert near(*TRAIN, {"id": "a", "split": "train", "hash": HASH}, {"id": "v", "split": "val", "hash": HASH, "std": 1.0})[0] == []


def test_many_equal_hashes_are_compared_without_comparing_all_pairs() -> None:
    images = [{"id": f"{number}", "split": "train", "hash": HASH} for number in range(3000)]
    findings, in_split = near(*images, {"id": "v", "split": "val", "hash": HASH ^ 3})
    assert said(findings) == [("near_duplicate_across_splits", "v", ("0", "1", "2"))]
    assert findings[0].what.endswith("and 2999 more")
    assert in_split == {"train": 3000, "val": 0}


def test_a_group_in_two_splits_is_one_finding_with_its_shares() -> None:
    found = list(
        groups_across(
            columns(
                *TRAIN,
                {"id": "a", "split": "train", "group": "p1"},
                {"id": "b", "split": "train", "group": "p1"},
                {"id": "c", "split": "val", "group": "p1"},
                {"id": "d", "split": "val", "group": "p2"},
                {"id": "e", "split": "val", "group": "p2"},
            )
        )
    )
    assert said(found) == [("group_across_splits", "c", ("a",))]
    assert found[0].what == "group p1: 2 in train, 1 in val"


def test_no_image_at_all_is_no_finding() -> None:
    nothing = columns()
    assert list(duplicates(nothing)) == list(groups_across(nothing)) == near_duplicates(nothing, CheckSettings()).findings == []
