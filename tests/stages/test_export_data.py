"""Export: from samples and from predictions, into an empty folder only, resumable, and a fault of one image leaves out that image."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtasks.codecs.mask import decode_mask
from segtasks.engines import EngineConfig, open_engine
from segtasks.errors import ConfigError, IncompleteError, InputError, StorageError
from segtasks.shards import open_snapshot
from segtasks.stages import export_data as stage
from segtasks.stages.config import ExportDataConfig
from segtasks.storage import open_store
from segtasks.storage._store import LocalStore
from segtasks.writers import folder
from tests.contracts.worlds import nifti as nifti_world
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


def test_predictions_keep_the_images_that_they_were_made_of_when_newer_ones_come(tmp_path: Path, data: Path, model: Path) -> None:
    run_infer(data, model, tmp_path / "masks")
    path = tmp_path / "source/images/train/i0002.png"
    before = path.read_bytes()
    shutil.copy(tmp_path / "source/images/train/i0003.png", path)
    run_ingest(tmp_path / "source", data, shard_rows=2)
    result = run_export(tmp_path / "masks", tmp_path / "out", "folder")
    assert result.details["written"] == 9
    assert (tmp_path / "out/images/train/i0002.png").read_bytes() == before


def test_predictions_are_chosen_by_split_alone(tmp_path: Path, data: Path, model: Path) -> None:
    run_infer(data, model, tmp_path / "masks")
    result = run_export(tmp_path / "masks", tmp_path / "out", "folder", where={"split": "val"}, limit=1)
    assert result.details["written"] == 1
    (image,) = (tmp_path / "out/images").rglob("*.png")
    assert image.parent.name == "val"
    assert image.read_bytes() == (tmp_path / "source/images/val" / image.name).read_bytes()
    with pytest.raises(InputError, match="holds predictions, which have no meta; needed: where by split alone"):
        run_export(tmp_path / "masks", tmp_path / "other", "folder", where={"city": "aachen"})


def test_other_data_at_the_same_url_are_another_export(tmp_path: Path, data: Path) -> None:
    run_export(data, tmp_path / "out", "folder")
    shutil.rmtree(data)
    (tmp_path / "source/images/train/i0001.png").unlink()
    (tmp_path / "source/masks/train/i0001.png").unlink()
    run_ingest(tmp_path / "source", data, shard_rows=2)
    with pytest.raises(ConfigError, match=r"holds another export.*\n  content: "):
        run_export(data, tmp_path / "out", "folder")
    assert (tmp_path / "out/images/train/i0001.png").exists()


def test_what_an_older_version_wrote_under_other_names_is_another_export(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_export(data, tmp_path / "out", "folder")
    monkeypatch.setattr(stage, "VERSION", stage.VERSION + 1)
    with pytest.raises(ConfigError, match=r"holds another export.*\n  version: "):
        run_export(data, tmp_path / "out", "folder")


def test_an_export_is_not_complete_while_it_is_written_again(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_export(data, tmp_path / "out", "folder")
    marker = tmp_path / "out/.segtasks-export.json"
    seen = []
    write = folder.FolderWriter.write
    monkeypatch.setattr(folder.FolderWriter, "write", lambda *a: (seen.append(json.loads(marker.read_text())["complete"]), write(*a))[1])
    run_export(data, tmp_path / "out", "folder")
    assert seen == [False] * 9
    assert json.loads(marker.read_text())["complete"] is True


def test_a_dry_run_refuses_what_the_run_would_and_writes_nothing(tmp_path: Path, data: Path) -> None:
    result = run_export(data, tmp_path / "out", "folder", dry_run=True)
    assert (result.details, (tmp_path / "out").exists()) == ({"images": 9, "shards": 5}, False)
    with pytest.raises(ConfigError, match="needed: an empty or new folder"):
        run_export(data, data, "folder", dry_run=True)


def test_an_output_that_is_a_file_is_refused_in_words(tmp_path: Path, data: Path) -> None:
    (tmp_path / "out").write_text("years of work")
    with pytest.raises(ConfigError, match="out is no folder, and cannot become one"):
        run_export(data, tmp_path / "out", "folder")
    assert (tmp_path / "out").read_text() == "years of work"


def test_two_exports_begun_at_one_time_are_not_mixed(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one's marker comes between our look and our own."""
    create = LocalStore.create

    def late(self: LocalStore, path: str, content: bytes) -> bool:
        if path == stage.MARKER:
            monkeypatch.setattr(LocalStore, "create", create)
            run_export(data, tmp_path / "out", "coco")
        return create(self, path, content)

    monkeypatch.setattr(LocalStore, "create", late)
    with pytest.raises(ConfigError, match=r"holds another export.*\n  format.name: \"coco\" -> \"folder\""):
        run_export(data, tmp_path / "out", "folder")
    assert not (tmp_path / "out/images").exists()


@pytest.mark.parametrize("text", ["{", "[]", "null"])
def test_a_marker_that_is_none_is_named(tmp_path: Path, data: Path, text: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.segtasks-export.json").write_text(text)
    with pytest.raises(stage.CorruptError, match=r"segtasks-export\.json"):
        run_export(data, tmp_path / "out", "folder")


def test_a_format_that_can_take_no_image_is_no_success(tmp_path: Path, data: Path) -> None:
    write_images(tmp_path / "odd", 2, split="odd")
    run_ingest(tmp_path / "odd", tmp_path / "odd-data")
    with pytest.raises(IncompleteError, match=r"yolo can take none of 2 images:\n  images/odd/i0000.png: LabelError: .*'odd'") as caught:
        run_export(tmp_path / "odd-data", tmp_path / "out", "yolo")
    assert len(caught.value.reasons) == 2
    assert json.loads((tmp_path / "out/.segtasks-export.json").read_text())["complete"] is False
    assert not (tmp_path / "out/data.yaml").exists()


def test_whole_volumes_are_refused_in_words(tmp_path: Path) -> None:
    nifti_world.write(open_store(str(tmp_path / "source")))
    run_ingest(tmp_path / "source", tmp_path / "data", format={"name": "nifti", "options": {"mode": "volume"}})
    with pytest.raises(InputError, match=r"has whole volumes .* needed: the source ingested as slices"):
        run_export(tmp_path / "data", tmp_path / "out", "coco")
    assert not (tmp_path / "out").exists()


def failing(error: Exception, times: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The writer raises `error` for one image so many times; the ids that it was asked for."""
    asked: list[str] = []
    write = folder.FolderWriter.write

    def flaky(self: folder.FolderWriter, sample: folder.Labelled) -> dict[str, object]:
        asked.append(sample.image_id)
        if sample.image_id.endswith("i0003.png") and asked.count(sample.image_id) <= times:
            raise error
        return write(self, sample)

    monkeypatch.setattr(folder.FolderWriter, "write", flaky)
    return asked


def test_a_shard_that_the_store_refuses_for_a_while_is_tried_again_alone(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = failing(StorageError("writing x: 503"), 2, monkeypatch)
    assert run_export(data, tmp_path / "out", "folder").details["written"] == 9
    assert (asked.count("images/train/i0003.png"), asked.count("images/train/i0001.png"), len(asked)) == (3, 1, 13)
    assert len(list((tmp_path / "out/images").rglob("*.png"))) == 9


def test_a_store_that_stays_away_ends_the_export_and_the_same_command_goes_on(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = failing(StorageError("writing x: 503"), 3, monkeypatch)
    with pytest.raises(StorageError, match="writing x: 503"):
        run_export(data, tmp_path / "out", "folder")
    assert asked.count("images/train/i0003.png") == 3
    assert json.loads((tmp_path / "out/.segtasks-export.json").read_text())["complete"] is False
    assert run_export(data, tmp_path / "out", "folder").details["written"] == 9


def test_a_shard_that_cannot_be_written_is_named_with_its_error(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(RuntimeError("no such thing"), 3, monkeypatch)
    with pytest.raises(
        IncompleteError, match=r"1 of 5 shards could not be written in 3 tries each:\n.*RuntimeError: no such thing"
    ) as caught:
        run_export(data, tmp_path / "out", "folder")
    assert [reason.partition(".parquet: ")[2] for reason in caught.value.reasons] == ["RuntimeError: no such thing"]


def test_workers_are_pickled_and_write_into_a_bucket(tmp_path: Path, data: Path, s3_bucket: tuple[str, dict[str, dict[str, str]]]) -> None:
    bucket, storage = s3_bucket
    config = ExportDataConfig.model_validate(
        {"data": str(data), "output": f"{bucket}/out", "format": "coco", "storage": storage, "engine": {"name": "local", "workers": 1}}
    )
    assert pickle.loads(pickle.dumps(stage._Factory(config))) == stage._Factory(config)
    engine = open_engine(EngineConfig(name="local", workers=1))
    try:
        for _ in range(2):
            stage.export_data(config, engine)
    finally:
        engine.close()
    run_export(data, tmp_path / "out", "coco")
    here, there = open_store(str(tmp_path / "out")), open_store(f"{bucket}/out", storage)
    paths = [entry.path for entry in here.list()]
    assert [entry.path for entry in there.list()] == paths
    assert len(paths) == 9 + 2 + 1
    assert all(there.read(path) == here.read(path) for path in paths if path != stage.MARKER)
