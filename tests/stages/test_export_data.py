"""Export: from samples and from predictions, into an empty folder only, resumable, and a fault of one image leaves out that image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtasks.codecs.mask import decode_mask
from segtasks.errors import ConfigError, InputError
from segtasks.shards import open_snapshot
from tests.stages.world import model, run_evaluate, run_infer, run_ingest, write_images
from tests.writers.roundtrip import run_export, samples


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_images(tmp_path / "source", 6)
    write_images(tmp_path / "source", 3, split="val", start=6)
    run_ingest(tmp_path / "source", tmp_path / "data", shard_rows=2)
    return tmp_path / "data"


def test_predictions_go_out_with_the_images_that_they_were_made_of(
    tmp_path: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run_infer(data, model(tmp_path_factory.getbasetemp()), tmp_path / "masks")
    run_export(tmp_path / "masks", tmp_path / "out", "folder")
    snapshot = open_snapshot(str(tmp_path / "masks"))
    rows = snapshot.read_all(["image_id", "mask"]).to_pylist()
    assert len(rows) == 9
    for row in rows:
        written = tmp_path / "out" / row["image_id"].replace("images/", "masks/")
        np.testing.assert_array_equal(np.array(Image.open(written)), decode_mask(row["mask"]["bytes"], 1 << 20))
        assert (tmp_path / "out" / row["image_id"]).read_bytes() == (tmp_path / "source" / row["image_id"]).read_bytes()


def test_labels_alone_of_some_images(tmp_path: Path, data: Path) -> None:
    result = run_export(data, tmp_path / "out", "folder", images=False, where={"split": "val"}, limit=2)
    assert result.details["written"] == 2
    written = [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png")]
    assert len(written) == 2
    assert set(written) < {f"masks/val/i000{number}.png" for number in (6, 7, 8)}


def test_the_same_export_runs_again_and_another_one_is_refused(tmp_path: Path, data: Path) -> None:
    run_export(data, tmp_path / "out", "folder")
    (tmp_path / "out/masks/train/i0001.png").unlink()
    run_export(data, tmp_path / "out", "folder")
    assert (tmp_path / "out/masks/train/i0001.png").exists()
    assert json.loads((tmp_path / "out/.segtasks-export.json").read_text())["complete"] is True
    with pytest.raises(ConfigError, match=r"holds another export.*\n  images: true -> false"):
        run_export(data, tmp_path / "out", "folder", images=False)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match=r"holds thesis.txt, and no export of segtasks; needed: an empty or new folder"):
        run_export(data, tmp_path / "taken", "folder")


def test_an_image_that_the_format_cannot_take_is_named_and_the_others_are_written(tmp_path: Path, data: Path) -> None:
    write_images(tmp_path / "source", 1, split="val", start=9)
    (tmp_path / "source/masks/val/i0009.png").unlink()
    for name in ("i0006", "i0007", "i0008", "i0009"):
        (tmp_path / "source/masks/val" / f"{name}.png").unlink(missing_ok=True)
    spec = (tmp_path / "source/dataset.yaml").read_text()
    for mine, theirs in (("ground", "road"), ("red", "car"), ("green", "tree")):
        spec = spec.replace(f"name: {mine}", f"name: {theirs}")
    (tmp_path / "source/dataset.yaml").write_text(spec)
    run_ingest(tmp_path / "source", tmp_path / "half")
    result = run_export(tmp_path / "half", tmp_path / "out", "camvid")
    assert result.details["written"] == 6
    assert sorted(result.details["left_out"]) == [f"images/val/i000{number}.png" for number in (6, 7, 8, 9)]
    assert "has no mask" in result.details["left_out"]["images/val/i0006.png"]


def test_what_has_no_masks_to_give_is_refused(tmp_path: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    run_infer(data, model(tmp_path_factory.getbasetemp()), tmp_path / "masks")
    run_evaluate(tmp_path / "masks", data, tmp_path / "scores")
    with pytest.raises(InputError, match="holds evaluation; needed: samples or predictions"):
        run_export(tmp_path / "scores", tmp_path / "out", "folder")


def test_what_went_out_comes_in_again(tmp_path: Path, data: Path) -> None:
    run_export(data, tmp_path / "out", "folder")
    run_ingest(tmp_path / "out", tmp_path / "again")
    assert samples(tmp_path / "again") == samples(data)
