"""Real data sets go in, out in their own format, and in again: masks are equal pixel by pixel, instances by their run lengths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.real import data_folder
from tests.writers.roundtrip import stem, there_and_back

PANOPTIC = {
    "name": "coco_panoptic",
    "options": {"annotations": [{"file": "panoptic_examples.json", "images": "input_images", "segments": "panoptic_examples"}]},
}
POLYGONS = {"name": "coco", "options": {"segmentation": "polygon"}}
MEMBRANE = {"name": "folder", "options": {"images": "image", "masks": "label"}}
ALL_IDS = {"name": "cityscapes", "options": {"classes": "all"}}
CASES: dict[str, tuple[str, Any, Any, Any, int]] = {  # folder, reader, writer, reader of what was written, images
    "camvid": ("camvid_png_sample", "camvid", "camvid", "camvid", 9),
    "folder": ("unet_membrane/data/membrane/train", MEMBRANE, "folder", "folder", 30),
    "coco": ("coco_tiny", "coco", "coco", "coco", 80),
    "coco polygons": ("coco_tiny", "coco", POLYGONS, "coco", 80),
    "panoptic": ("coco_panoptic_sample/sample_data", PANOPTIC, "panoptic", "coco_panoptic", 2),
    "voc": ("voc2012_subset", "voc", "voc", "voc", 10),
    "voc objects": ("labelme_examples/instance_segmentation/data_dataset_voc", "voc", "voc", "voc", 3),
    "labelme": ("labelme_examples/instance_segmentation/data_annotated", "labelme", "labelme", "labelme", 3),
    "cityscapes": ("cityscapes", "cityscapes", "cityscapes", "cityscapes", 5),
    "cityscapes raw ids": ("cityscapes", ALL_IDS, "cityscapes", ALL_IDS, 5),
    "dsb2018 to coco": ("dsb2018", "instance_folder", "coco", "coco", 60),
}


@pytest.mark.slow
def test_objects_keep_their_pixels_as_ultralytics_polygons(tmp_path: Path) -> None:
    source = data_folder("labelme_examples/instance_segmentation/data_annotated")
    before, after = there_and_back(source, tmp_path, "labelme", "yolo", {"name": "yolo"})
    assert {name: sample.instances for name, sample in after.items()} == {name: sample.instances for name, sample in before.items()}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_nothing_is_lost(case: str, tmp_path: Path) -> None:
    folder, reader, writer, again, images = CASES[case]
    before, after = there_and_back(
        data_folder(folder), tmp_path, reader, writer, again, name=lambda image_id: stem(image_id).rpartition("__")[2]
    )
    assert len(before) == images
    assert after == before
