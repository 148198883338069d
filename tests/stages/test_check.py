"""What `segtasks check` finds in a sound data set (nothing) and in a copy with faults (these), and that it is cheap to run again."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segtasks.checks.result import CheckReport
from segtasks.cli.entry import run
from segtasks.codecs.mask import encode_mask
from segtasks.engines import EngineConfig, open_engine
from segtasks.errors import InputError, TooManyFindings
from segtasks.shards import open_snapshot, verify
from segtasks.shards.sweep import sweep
from segtasks.stages.check import check
from segtasks.stages.config import CheckConfig
from segtasks.stages.result import StageResult
from tests.stages.check_world import PALETTE, picture, plant, truth, write_sound
from tests.stages.world import inline, run_ingest, run_preprocess, write_images


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("check") / "farm"
    write_sound(root)
    return root


def run_check(data: Path | str, **settings: Any) -> StageResult:
    """The result, also where it is over a limit."""
    config = CheckConfig.model_validate({"data": str(data), "engine": inline, **settings})
    try:
        return check(config, open_engine(inline))
    except TooManyFindings as error:
        return StageResult.model_validate(error.result)


def found(result: StageResult) -> dict[str, set[str]]:
    """Image ids of the findings by kind, of those kinds that were found; each finding is of another image."""
    report = CheckReport.model_validate(result.details["check"])
    ids = {one.kind: {finding.image_id for finding in one.findings} for one in report.found if one.count}
    assert {kind: len(images) for kind, images in ids.items()} == result.details["findings"]
    return ids


def reasons(result: StageResult, kind: str) -> dict[str, str]:
    report = CheckReport.model_validate(result.details["check"])
    return {finding.image_id: finding.what for one in report.found if one.kind == kind for finding in one.findings}


def test_a_sound_data_set_has_no_finding_and_ten_planted_faults_are_found(sound: Path, tmp_path: Path) -> None:
    clean = run_check(sound, format="folder", output=str(tmp_path / "sound-check"))
    assert (found(clean), clean.counts["rows"]) == ({}, 60)

    wanted = plant(sound, tmp_path / "faulty")
    result = run_check(tmp_path / "faulty", format="folder", output=str(tmp_path / "faulty-check"))
    assert found(result) == wanted
    assert sum(len(ids) for ids in wanted.values()) == 10
    assert result.details["over"] == ["quarantined", "duplicate_across_splits", "near_duplicate_across_splits"]
    refused = reasons(result, "quarantined")
    assert refused["images/train/i001.png"].startswith("DecodeError: ")
    assert "its mask 48x60; needed: the same height and width" in refused["images/train/i002.png"]
    assert "values that are no class: [9]" in refused["images/train/i003.png"]
    assert "masks/val/i104.png is missing" in refused["images/val/i104.png"]
    assert reasons(result, "instance_tiny")["images/train/i006.png"] == "1 with fewer than 10 pixels, the smallest has 3"
    assert reasons(result, "odd_mode")["images/train/i009.jpg"] == "CMYK; most are plain RGB"


def test_the_command_prints_the_table_and_exits_3_and_with_json_one_document(
    sound: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plant(sound, tmp_path / "faulty")
    arguments = ["check", str(tmp_path / "faulty"), "--format", "folder", "--engine", "local", "--workers", "0"]
    output = ["--output", str(tmp_path / "out")]
    assert run([*arguments, *output]) == 3
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[1:] for line in lines if line.startswith("quarantined ")] == [["4", "0", "OVER"]]
    assert "quarantined: 3 LabelError, 1 DecodeError" in lines
    assert "  images/val/i207.png: 2 images have the same bytes, in train, val [images/train/i007.png]" in lines
    assert lines[-1] == f"page: {tmp_path}/out/check.html"
    assert run([*arguments, *output, "--json"]) == 3
    document = json.loads(capfd.readouterr().out)
    assert (document["exit_code"], document["type"], document["computed_shards"]) == (3, "TooManyFindings", 0)
    assert document["details"]["findings"]["quarantined"] == 4
    allowed = ["max_findings={quarantined: 4, duplicate_across_splits: 1}", "max_findings.near_duplicate_across_splits="]
    assert run([*arguments, *output, *allowed]) == 0
    assert capfd.readouterr().out.splitlines()[-2] == "passed"
    page = (tmp_path / "out" / "check.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>")


def test_a_source_and_its_shard_set_are_seen_alike(sound: Path, tmp_path: Path) -> None:
    wanted = plant(sound, tmp_path / "faulty")
    run_ingest(tmp_path / "faulty", tmp_path / "data")
    result = run_check(tmp_path / "data")
    assert (found(result), result.url) == (wanted, str(tmp_path / "data-check"))


def test_other_thresholds_read_no_image_again(sound: Path, tmp_path: Path) -> None:
    run_ingest(sound, tmp_path / "data")
    first = run_check(tmp_path / "data")
    assert first.computed_shards > 0
    again = run_check(tmp_path / "data", min_object_pixels=100, constant_std=255, odd_share=1)
    assert (again.already_done, again.computed_shards) == (True, 0)
    assert again.details["findings"]["near_constant"] == 60
    assert again.details["findings"]["instance_tiny"] > 5


def test_a_grown_data_set_is_checked_where_it_grew(sound: Path, tmp_path: Path) -> None:
    write_sound(tmp_path / "farm", train=20, val=4)
    settings = {"format": "folder", "output": str(tmp_path / "out")}
    assert found(run_check(tmp_path / "farm", **settings)) == {}
    mask, _ = truth(3)
    for folder, pixels in (("images", picture(3)), ("masks", None)):
        target = tmp_path / "farm" / folder / "val" / "i300.png"
        target.write_bytes(encode_mask(mask, PALETTE)) if pixels is None else Image.fromarray(pixels).save(target)
    grown = run_check(tmp_path / "farm", **settings)
    assert grown.computed_shards == 1
    assert found(grown) == {"duplicate_across_splits": {"images/val/i300.png"}}


def test_the_shard_sets_of_a_check_can_be_verified_and_swept(sound: Path, tmp_path: Path) -> None:
    run_check(sound, format="folder", output=str(tmp_path / "out"))
    assert verify(str(tmp_path / "out")).problems == ()
    assert verify(str(tmp_path / "out" / "data")).problems == ()
    assert sweep(str(tmp_path / "out"), age_seconds=0).removed == ()


def test_what_a_mask_alone_shows_is_found(tmp_path: Path) -> None:
    write_sound(tmp_path / "farm", train=40, val=12)
    masks = tmp_path / "farm" / "masks" / "train"
    (masks / "i003.png").write_bytes(encode_mask(np.full((48, 64), 255, np.uint8), PALETTE))
    (masks / "i004.png").write_bytes(encode_mask(np.full((48, 64), 3, np.uint8), PALETTE))
    for number in (3, 4):
        (tmp_path / "farm/instances/train" / f"i{number:03d}.png").unlink()
    small = picture(5)[:24]
    Image.fromarray(small).save(tmp_path / "farm/images/train/i005.png")
    (masks / "i005.png").write_bytes(encode_mask(truth(5)[0][:24], PALETTE))
    Image.fromarray(truth(5)[1][:24]).save(tmp_path / "farm/instances/train/i005.png")
    for path in (tmp_path / "farm/masks/val").iterdir():
        values = np.array(Image.open(path))
        path.write_bytes(encode_mask(np.where(values == 2, 1, values), PALETTE))
    result = run_check(tmp_path / "farm", format="folder", output=str(tmp_path / "out"))
    assert found(result) == {
        "ignored_mask": {"images/train/i003.png"},
        "one_class_mask": {"images/train/i004.png"},
        "odd_size": {"images/train/i005.png"},
        "class_unseen": {""},
    }
    assert reasons(result, "class_unseen") == {"": "dog has no pixel in val's 12 images"}
    assert reasons(result, "one_class_mask") == {"images/train/i004.png": "road alone"}


def test_a_data_set_without_truth_is_looked_at_all_the_same(sound: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(12):
        Image.fromarray(picture(number)).save(images / f"{number}.png")
    result = run_check(images, format="folder", output=str(tmp_path / "out"))
    assert (found(result), result.counts["rows"]) == ({}, 12)


def test_a_data_set_of_which_nothing_can_be_read_is_told_as_such(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(3):
        (images / f"{number}.png").write_bytes(b"no image")
    result = run_check(images, format="folder", output=str(tmp_path / "out"))
    assert (len(found(result)["quarantined"]), result.details["over"]) == (3, ["quarantined"])


def test_a_preprocessed_set_can_be_checked_and_only_one_split_of_it(sound: Path, tmp_path: Path) -> None:
    run_ingest(sound, tmp_path / "data")
    run_preprocess(tmp_path / "data", tmp_path / "prepared", resize={"height": 24, "width": 32})
    result = run_check(tmp_path / "prepared", where={"split": "val"})
    assert (found(result), result.counts["rows"]) == ({}, 15)
    sizes = CheckReport.model_validate(result.details["check"]).sizes
    assert [(size.name, size.images) for size in sizes] == [("32x24", 15)]


def test_tiles_can_be_checked_too(sound: Path, tmp_path: Path) -> None:
    run_ingest(sound, tmp_path / "data")
    run_preprocess(tmp_path / "data", tmp_path / "tiles", tile={"height": 24, "width": 32})
    result = run_check(tmp_path / "tiles", where={"split": "val"})
    report = CheckReport.model_validate(result.details["check"])
    masks = np.array([np.array(Image.open(path)) for path in sorted((sound / "masks/val").iterdir())])
    assert result.counts["rows"] == 4 * len(masks)
    assert [item.pixels["val"] for item in report.classes] == [int((masks == index).sum()) for index in range(4)]


def test_the_totals_are_numpys(sound: Path, tmp_path: Path) -> None:
    report = CheckReport.model_validate(run_check(sound, format="folder", output=str(tmp_path / "out")).details["check"])
    masks = np.array([np.array(Image.open(path)) for path in sorted((sound / "masks/val").iterdir())])
    assert [item.pixels["val"] for item in report.classes] == [int((masks == index).sum()) for index in range(4)]
    assert [item.images["val"] for item in report.classes] == [int((masks == index).any(axis=(1, 2)).sum()) for index in range(4)]
    val = next(split for split in report.splits if split.name == "val")
    assert (val.images, val.labelled, val.ignored_pixels) == (15, 15, int((masks == 255).sum()))
    rows = open_snapshot(str(tmp_path / "out")).read_all(["image_id", "object_pixels"], splits=["val"]).to_pylist()
    ids = np.array(Image.open(sound / "instances/val" / Path(rows[0]["image_id"]).name))
    assert rows[0]["object_pixels"] == np.bincount(ids.reshape(-1))[1:].tolist()


def test_a_dry_run_writes_nothing(sound: Path, tmp_path: Path) -> None:
    result = run_check(sound, format="folder", output=str(tmp_path / "out"), dry_run=True)
    assert (result.stage, result.dry_run, result.details["inputs"]) == ("check", True, 60)
    assert not list(tmp_path.rglob("*.parquet"))


def test_what_is_no_shard_set_is_answered_with_what_to_do(sound: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no shard set at .*--format NAME"):
        run_check(sound, output=str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("settings", "output"),
    [
        ({"data": "s3://b/data@3"}, "s3://b/data-check"),
        ({"data": "run/data/"}, "run/data-check"),
        ({"data": "/mnt/readonly/camvid/", "format": "camvid"}, "camvid-check"),
        ({"data": ".", "format": "folder"}, "data-check"),
        ({"data": "a", "output": "b"}, "b"),
    ],
)
def test_the_default_output_is_beside_a_shard_set_and_here_for_a_source(settings: dict[str, str], output: str) -> None:
    assert CheckConfig.model_validate(settings).output == output


def test_two_workers_find_what_none_does(tmp_path: Path) -> None:
    write_images(tmp_path / "blobs", 40)
    run_ingest(tmp_path / "blobs", tmp_path / "data")
    config = CheckConfig.model_validate({"data": str(tmp_path / "data"), "output": str(tmp_path / "many")})
    with contextlib.closing(open_engine(EngineConfig(name="local", workers=2))) as engine:
        many = check(config, engine)
    assert found(many) == found(run_check(tmp_path / "data", output=str(tmp_path / "one")))


def test_images_by_reference_are_fetched_and_one_that_is_gone_is_told(tmp_path: Path) -> None:
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    for number in range(6):
        Image.fromarray(picture(number)).save(bucket / f"{number}.png")
    run_ingest(bucket, tmp_path / "data", format={"name": "images", "options": {"store": "reference"}})
    (bucket / "3.png").unlink()
    Image.fromarray(picture(40)).save(bucket / "4.png")
    result = run_check(tmp_path / "data")
    assert {image: what.partition(":")[0] for image, what in reasons(result, "quarantined").items()} == {
        "3.png": "MissingObject",
        "4.png": "ChangedObject",
    }


def test_a_volume_is_counted_whole_and_seen_by_its_middle_slice(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    labels = np.random.default_rng(0).integers(0, 3, (5, 20, 30)).astype(np.uint8)
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / "raw" / folder).mkdir(parents=True)
    classes = {"background": 0, "tumour": 1, "organ": 2}
    facts = {"channel_names": {"0": "T1"}, "labels": classes, "numTraining": 2, "file_ending": ".nii.gz"}
    (tmp_path / "raw/dataset.json").write_text(json.dumps(facts))
    voxels = np.random.default_rng(1).normal(size=labels.shape).astype(np.float32)
    for case in ("a", "b"):  # one patient under two names
        nibabel.Nifti1Image(voxels.T, np.eye(4)).to_filename(tmp_path / "raw/imagesTr" / f"{case}_0000.nii.gz")
        nibabel.Nifti1Image(labels.T, np.eye(4)).to_filename(tmp_path / "raw/labelsTr" / f"{case}.nii.gz")
    result = run_check(tmp_path / "raw", format={"name": "nifti", "options": {"mode": "volume"}}, output=str(tmp_path / "out"))
    report = CheckReport.model_validate(result.details["check"])
    assert [sum(item.pixels.values()) for item in report.classes] == (2 * np.bincount(labels.reshape(-1))).tolist()
    assert list(result.details["findings"].items()) == [("duplicate_in_split", 1)]
    assert [(size.name, size.images) for size in report.sizes] == [("30x20", 2)]
