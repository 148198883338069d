"""The commands on a small data set, one after the other, as a user would type them; inline, so that nothing else has to start."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from segtasks.cli.entry import run
from tests.stages.world import write_images

INLINE = ("--engine", "local", "--workers", "0")
CLASSES = ["ground", "red", "green"]


@dataclass
class World:
    """Outputs of every stage, and the JSON that each command printed."""

    root: Path
    results: dict[str, Any]

    def path(self, name: str) -> str:
        return str(self.root / name)


def printed(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    code = run([*arguments, "--json"])
    return code, json.loads(capfd.readouterr().out)


def printed_to(file: Path, *arguments: str) -> Any:
    """The document of a command that succeeds, where `capfd` cannot be used."""
    saved = os.dup(1)
    with file.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        try:
            assert run([*arguments, "--json"]) == 0
        finally:
            os.dup2(saved, 1)
            os.close(saved)
    return json.loads(file.read_text())


def lines(capfd: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    code = run(arguments)
    captured = capfd.readouterr()
    assert code == 0, captured.err
    return captured.out.splitlines()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("cli")
    images = root / "images"
    write_images(images, 12)
    write_images(images, 4, split="val", start=100)
    (images / "images" / "train" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    (images / "masks" / "train" / "broken.png").write_bytes((images / "masks" / "train" / "i0000.png").read_bytes())
    (root / "train.yaml").write_text("epochs: 40\nbatch_size: 4\nmodel: {name: unet, options: {width: 4}}\nval_split: null\n")

    def of(name: str) -> str:
        return str(root / name)

    commands = {
        "ingest": ["--source", of("images"), "--format", "folder", "--output", of("data")],
        "preprocess": ["--data", of("data"), "--output", of("prepared"), "resize={height: 16, width: 24}"],
        "train": [
            *("-c", of("train.yaml"), "--data", of("prepared"), "--output", of("model")),
            *("epochs=2", "model.options.depth=2"),
        ],
        "infer": ["--data", of("data"), "--checkpoint", of("model"), "--output", of("predictions"), "--where", "split=val"],
        "evaluate": ["--predictions", of("predictions"), "--data", of("data"), "--output", of("evaluation")],
    }
    results = {verb: printed_to(root / f"{verb}.json", verb, *arguments, *INLINE) for verb, arguments in commands.items()}
    report = ["report", "--evaluation", of("evaluation"), "--output", of("report")]
    results["report"] = printed_to(root / "report.json", *report)
    return World(root, results)


def test_each_stage_prints_its_result_as_json(world: World) -> None:
    assert {name: (result["stage"], result["snapshot"], result["already_done"]) for name, result in world.results.items()} == {
        "ingest": ("ingest", 1, False),
        "preprocess": ("preprocess", 1, False),
        "train": ("train", None, False),
        "infer": ("infer", 1, False),
        "evaluate": ("evaluate", 1, False),
        "report": ("report", None, False),
    }
    assert world.results["ingest"]["counts"]["rows"] == 17
    assert world.results["ingest"]["counts"]["quarantined"] == 1
    assert world.results["preprocess"]["counts"]["rows"] == 16
    assert world.results["infer"]["counts"]["rows"] == 4
    assert world.results["train"]["details"]["epoch"] == 2
    scores = world.results["evaluate"]["details"]["summary"]
    assert [item["name"] for item in scores["classes"]] == CLASSES
    assert scores["images"] == 4
    assert (world.root / "report" / "report.html").read_text().lstrip().lower().startswith("<!doctype html>")


def test_a_second_run_says_that_it_is_done(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ("infer", "--data", world.path("data"), "--checkpoint", world.path("model"), "--output", world.path("predictions"))
    first, *_ = lines(capfd, *arguments, "--where", "split=val", *INLINE, "batch_size=1")
    assert first.startswith(f"infer       {world.path('predictions')}@1: 4 images, 1 shard, already done, ")


def test_another_setting_on_the_same_output_exits_2_and_names_it(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ("infer", "--data", world.path("data"), "--checkpoint", world.path("model"), "--output", world.path("predictions"))
    code, document = printed(capfd, *arguments, "--where", "split=train", *INLINE)
    assert (code, document["type"]) == (2, "RecipeMismatch")
    assert document["differences"] == ['config.where.split: "val" -> "train"']


def test_a_dry_run_tells_the_plan_and_writes_nothing(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    output = world.root / "dry"
    code, document = printed(
        capfd, *("infer", "--data", world.path("data"), "--checkpoint", world.path("model"), "--output", str(output), "--dry-run", *INLINE)
    )
    assert (code, document["dry_run"], document["details"]["inputs"]) == (0, True, 16)
    assert not output.exists() or list(output.rglob("*.parquet")) == []


def test_a_score_below_the_threshold_exits_3(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ("evaluate", "--predictions", world.path("predictions"), "--data", world.path("data"), "--output", world.path("evaluation"))
    code, document = printed(capfd, *arguments, *INLINE, "min_miou=1.0")
    assert (code, document["type"]) == (3, "QualityBelowThreshold")
    assert printed(capfd, *arguments, *INLINE, "min_miou=0.0")[0] == 0


def test_more_quarantined_than_allowed_exits_3(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ("ingest", "--source", world.path("images"), "--format", "folder", "--output", world.path("strict"), *INLINE)
    code, document = printed(capfd, *arguments, "max_quarantined=0.01")
    assert (code, document["type"]) == (3, "QuarantineLimit")
    assert printed(capfd, *arguments, "max_quarantined=0.1")[0] == 0


def test_inspect_shows_counts_classes_and_provenance_of_a_shard_set(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    _, document = printed(capfd, "inspect", world.path("data"))
    assert document["kind"] == "samples/1"
    assert [(row["split"], row["done"], row["quarantined"]) for row in document["splits"]] == [("train", 12, 1), ("val", 4, 0)]
    assert [item["name"] for item in document["classes"]] == CLASSES
    assert document["made_by"]["config"]["format"]["name"] == "folder"
    text = lines(capfd, "inspect", world.path("data"))
    assert "17 rows: 16 done, 1 quarantined; " in text[1]
    assert "    1  red     #c81e1e" in text


def test_inspect_lists_the_quarantined_images_with_their_reasons(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    _, document = printed(capfd, "inspect", world.path("data"), "--quarantine")
    (row,) = document["quarantined"]
    assert (row["image_id"], row["split"], row["error_type"]) == ("images/train/broken.png", "train", "DecodeError")
    assert row["error"]
    assert lines(capfd, "inspect", world.path("predictions"), "--quarantine") == [
        f"nothing is quarantined in {world.path('predictions')}@1"
    ]


def test_inspect_describes_a_checkpoint_and_where_it_comes_from(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    _, document = printed(capfd, "inspect", world.path("model"))
    assert (document["kind"], document["final"]) == ("checkpoint", True)
    assert document["model"]["options"]["width"] == 4
    assert document["training"]["data"] == f"{world.path('prepared')}@1"
    text = "\n".join(lines(capfd, "inspect", world.path("model")))
    assert "0 ground, 1 red, 2 green" in text
    assert "16x24 (height x width)" in text


def test_inspect_of_an_evaluation_shows_its_scores_and_their_policy(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    text = lines(capfd, "inspect", world.path("evaluation"))
    scores = world.results["evaluate"]["details"]["summary"]
    assert f"mIoU            {scores['miou']:.4f}" in text
    assert scores["policy"] in text


@pytest.mark.parametrize(("name", "panels"), [("data", 2), ("predictions", 4)])
def test_inspect_writes_a_contact_sheet_in_the_data_sets_colours(
    name: str, panels: int, world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.png"
    _, document = printed(capfd, "inspect", world.path(name), "--output", str(sheet))
    assert document["sheet"] == str(sheet)
    with Image.open(sheet) as image:
        image.load()
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    assert (pixels == (200, 30, 30)).all(axis=2).any()
    assert pixels.shape[1] >= panels * 100


def test_a_checkpoint_has_no_rows_to_show(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    code, document = printed(capfd, "inspect", world.path("model"), "--quarantine")
    assert (code, document["type"]) == (2, "ConfigError")


def test_paths_prints_files_that_pyarrow_opens_by_split(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    every, val = lines(capfd, "paths", world.path("data")), lines(capfd, "paths", world.path("data"), "--split", "val")
    assert set(val) < set(every)
    assert sum(pq.read_metadata(path).num_rows for path in every) == 17
    assert sum(pq.read_metadata(path).num_rows for path in val) == 4
    code, document = printed(capfd, "paths", world.path("data"), "--split", "vall")
    assert (code, document["error"].endswith("Did you mean 'val'?")) == (2, True)


def test_verify_exits_0_on_what_holds_and_3_on_what_was_changed(world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    for file in (world.root / "data").rglob("*"):
        if file.is_file():
            target = copy / file.relative_to(world.root / "data")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    code, document = printed(capfd, "verify", str(copy))
    assert (code, document["rows"], document["problems"]) == (0, 17, [])
    shard = next((copy / "shards").rglob("*.parquet"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 1
    shard.write_bytes(data)
    code, document = printed(capfd, "verify", str(copy))
    assert (code, document["type"]) == (3, "CorruptError")
    assert shard.name in document["error"]


def test_fine_tuning_starts_from_a_checkpoint(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ("train", "-c", world.path("train.yaml"), "--data", world.path("prepared"), "--output", world.path("tuned"), *INLINE)
    code, document = printed(capfd, *arguments, "--init-from", world.path("model"), "--limit", "4", "epochs=1", "model.options.depth=2")
    assert code == 0
    assert any(world.path("model") in note for note in document["details"]["notes"])


def test_what_a_reader_concludes_is_told_on_standard_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "images", 2)
    (tmp_path / "images" / "dataset.yaml").unlink()
    assert run(["ingest", "--source", str(tmp_path / "images"), "--format", "folder", "--output", str(tmp_path / "data"), *INLINE]) == 0
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("ingest: ")]
    assert "values [0, 1, 2] concluded 3 classes" in told[0]
    assert told[1] == "ingest: 2 images in 1 shard, 1 shard to make"
    assert told[-1].startswith("ingest: 1 of 1 shard, 2 images")


def test_sample_data_are_made_by_seed_and_only_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "sample"
    arguments = ("sample", "--output", str(target), "--train", "2", "--val", "1")
    assert printed(capfd, *arguments) == (0, {"output": str(target), "images": 3})
    assert printed(capfd, *arguments) == (0, {"output": str(target), "images": 3})
    assert len(list((target / "images").rglob("*.jpg"))) == 3
    assert printed(capfd, *arguments, "--seed", "1")[0] == 2
