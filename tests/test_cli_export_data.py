"""`segtasks export-data`: what it says and exits with when all, some and none of the images can be written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from segtasks.cli.entry import run
from tests.stages.world import run_ingest, write_images

LOCAL = ("--engine", "local", "--workers", "0")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "source", 2)
    write_images(tmp_path / "source", 12, split="odd", start=2)
    run_ingest(tmp_path / "source", tmp_path / "data")
    return "data"


def test_all_images_are_counted(data: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["export-data", data, "--format", "folder", "--output", "out", "--dry-run", *LOCAL]) == 0
    assert capfd.readouterr().out.startswith("14 images of ")
    assert run(["export-data", data, "--format", "folder", "--output", "out", "--json", *LOCAL]) == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["counts"]["rows"], found["details"]["written"], found["details"]["left_out"]) == (14, 14, {})


def test_ten_of_those_left_out_are_shown_and_the_others_counted(data: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["export-data", data, "--format", "yolo", "--output", "out", *LOCAL]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith(f"2 images in {tmp_path}/out as yolo")
    assert lines[1] == "12 images left out:"
    assert lines[2].startswith("  images/odd/i00")
    assert "LabelError: " in lines[2]
    assert lines[12:] == ["  and 2 more: .segtasks-export.json names them all"]
    assert len(json.loads((tmp_path / "out/.segtasks-export.json").read_text())["left_out"]) == 12


def test_none_is_exit_3_with_every_reason(data: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["export-data", data, "--format", "yolo", "--output", "out", "--where", "split=odd", "--json", *LOCAL]) == 3
    found = json.loads(capfd.readouterr().out)
    assert found["error"].startswith("yolo can take none of 12 images:\n  images/odd/i00")
    assert (found["type"], len(found["reasons"])) == ("IncompleteError", 12)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--format", "coc", "--output", "out"], "no writer is called 'coc'. Did you mean 'coco'?"),
        (["--format", "coco"], "output: missing; needed: where the data set goes: an empty or new folder or URL"),
        (["--format", "coco", "--output", "out", "format.options.segmentation=poly"], "Input should be 'rle' or 'polygon' (found: 'poly')"),
        (["--format", "coco", "--output", "out", "format.options.shape=mask"], "coco.options.shape: unknown setting."),
        (["--format", "coco", "--output", "out", "--where", "split=tset"], "has no image with {'split': 'tset'}"),
        (["--format", "camvid", "--output", "out"], "CamVid has no class for ['green', 'ground', 'red']"),
        (["--format", "coco", "--output", "data"], "and no export of segtasks; needed: an empty or new folder"),
        (["--format", "coco", "--output", "data", "--dry-run"], "and no export of segtasks; needed: an empty or new folder"),
        (["--format", "coco", "--output", "source/dataset.yaml"], "is no folder, and cannot become one"),
    ],
)
def test_mistakes_are_exit_2_and_write_nothing(
    data: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert run(["export-data", data, *arguments, *LOCAL]) == 2
    assert said in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
