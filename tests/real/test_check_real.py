"""`segtasks check` on data sets as they are published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from segtasks.checks.result import CheckReport
from segtasks.engines import open_engine
from segtasks.errors import TooManyFindings
from segtasks.stages.check import check
from segtasks.stages.config import CheckConfig
from segtasks.stages.result import StageResult
from tests.real import data_folder
from tests.stages.world import inline

pytestmark = pytest.mark.slow


def checked(source: Path, output: Path, **settings: Any) -> tuple[StageResult, CheckReport]:
    config = CheckConfig.model_validate({"data": str(source), "output": str(output), "engine": inline, **settings})
    try:
        result = check(config, open_engine(inline))
    except TooManyFindings as error:
        result = StageResult.model_validate(error.result)
    return result, CheckReport.model_validate(result.details["check"])


def test_camvid_passes_and_its_cut_video_is_told(tmp_path: Path) -> None:
    result, report = checked(data_folder("camvid"), tmp_path, format="camvid")
    assert result.details["findings"] == {"group_across_splits": 1}
    assert result.details["over"] == []
    (finding,) = next(one.findings for one in report.found if one.kind == "group_across_splits")
    assert finding.what == "group 0016E5: 204 in train, 101 in val"
    assert {split.name: split.images for split in report.splits} == {"train": 367, "val": 101}
    alike = {split.name: split.near_duplicates for split in report.splits}
    assert alike["val"] > 90  # every other frame of a slow ride
    assert 20 < alike["train"] < 100  # one frame a second


def test_a_random_split_of_camvid_is_told_as_one_of_frames_of_one_video(tmp_path: Path) -> None:
    source = data_folder("camvid")
    for split in ("train", "val"):
        for folder in (split, f"{split}annot"):
            (tmp_path / "source" / folder).mkdir(parents=True)
    for number, path in enumerate(sorted((source / "val").iterdir())):
        split = "train" if number % 4 else "val"
        shutil.copy(path, tmp_path / "source" / split)
        shutil.copy(source / "valannot" / f"{path.stem}.png", tmp_path / "source" / f"{split}annot")
    result, report = checked(tmp_path / "source", tmp_path / "out", format="camvid")
    val = next(split for split in report.splits if split.name == "val")
    assert result.details["findings"]["near_duplicate_same_group"] > 0.8 * val.images
    assert "near_duplicate_across_splits" not in result.details["findings"]


def test_different_photographs_are_no_duplicates(tmp_path: Path) -> None:
    """Thirty cells that look alike to a person, each its own image."""
    root = data_folder("unet_membrane") / "data/membrane/train"
    options = {"images": "image", "masks": "label"}
    result, report = checked(root, tmp_path, format={"name": "folder", "options": options})
    assert result.details["findings"] == {}
    assert [(mode.name, mode.images) for mode in report.modes] == [("grey", 30)]
    assert [split.near_duplicates for split in report.splits] == [0]


def test_cocos_own_areas_and_boxes_pass_and_wrong_ones_do_not(tmp_path: Path) -> None:
    source = tmp_path / "coco"
    shutil.copytree(data_folder("coco_tiny"), source)
    reader = {"name": "coco", "options": {"measures": "json"}}
    _, report = checked(source, tmp_path / "sound", format=reader)
    assert (report.count("instance_area"), report.count("instance_box"), report.images) == (0, 0, 80)
    annotations = source / "annotations/instances_train2017.json"
    content = json.loads(annotations.read_text())
    large = sorted(content["annotations"], key=lambda one: -one["area"])[:2]
    large[0]["area"] *= 3
    large[1]["bbox"][0] += 30
    annotations.write_text(json.dumps(content))
    names = {image["id"]: f"train2017/{image['file_name']}" for image in content["images"]}
    result, report = checked(source, tmp_path / "wrong", format=reader)
    found = {one.kind: {finding.image_id for finding in one.findings} for one in report.found if one.over}
    assert found == {"instance_area": {names[large[0]["image_id"]]}, "instance_box": {names[large[1]["image_id"]]}}
    assert result.details["over"] == ["instance_area", "instance_box"]
