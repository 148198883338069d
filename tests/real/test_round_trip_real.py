"""Real data sets go in, out in their own format, and in again: masks are equal pixel by pixel, instances by their run lengths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.real import data_folder
from tests.writers.roundtrip import stem, there_and_back

PANOPTIC = {
    "name": "coco_panoptic",
    "options": {"annotations": [{"file": "panoptic_examples.json", "images": "input_images", "masks": "panoptic_examples"}]},
}
CASES: dict[str, tuple[str, Any, Any, Any, int]] = {  # folder, reader, writer, reader of what was written, images
    "camvid": ("camvid_png_sample", "camvid", "camvid", "camvid", 9),
    "folder": (
        "unet_membrane/data/membrane/train",
        {"name": "folder", "options": {"images": "image", "masks": "label"}},
        "folder",
        "folder",
        30,
    ),
    "coco": ("coco_tiny", "coco", "coco", "coco", 80),
    "coco polygons": ("coco_tiny", "coco", {"name": "coco", "options": {"segmentation": "polygon"}}, "coco", 80),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_nothing_is_lost(case: str, tmp_path: Path) -> None:
    folder, reader, writer, again, images = CASES[case]
    before, after = there_and_back(
        data_folder(folder), tmp_path, reader, writer, again, name=lambda image_id: stem(image_id).rpartition("__")[2]
    )
    assert len(before) == images
    assert after == before
