"""The files that `segtasks paths` prints open in other tools, and masks are pictures there."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtasks.shards import open_snapshot
from tests.stages import world


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Samples and predictions of eight images and a broken one."""
    folder = tmp_path_factory.mktemp("elsewhere")
    world.write_images(folder / "source", 8)
    (folder / "source/images/train/zzz.png").write_bytes(b"broken")
    world.run_ingest(folder / "source", folder / "data")
    world.run_infer(folder / "data", world.model(tmp_path_factory.mktemp("world")), folder / "out")
    snapshots = [open_snapshot(str(folder / name)) for name in ("data", "out")]
    return [snapshot.store.url_of(record.path) for snapshot in snapshots for record in snapshot.shards()]


def test_pyarrow_reads_them(paths: list[str]) -> None:
    import pyarrow.dataset as ds

    samples = ds.dataset(paths[:1]).to_table(filter=ds.field("status") == "ok")
    assert samples.num_rows == 8
    mask = Image.open(io.BytesIO(samples["mask"][0]["bytes"].as_py()))
    assert (mask.mode, mask.size) == ("P", (32, 24))
    assert set(np.unique(np.asarray(mask)).tolist()) == {0, 1, 2}


def test_duckdb_reads_them(paths: list[str]) -> None:
    import duckdb

    rows = duckdb.sql(
        f"select image_id, octet_length(mask.bytes) n, len(meta) m from read_parquet('{paths[0]}') where status = 'ok'"
    ).fetchall()
    assert len(rows) == 8
    assert all(size > 50 for _, size, _ in rows)
    assert duckdb.sql(f"select sum(list_sum(class_pixels)) from read_parquet('{paths[1]}')").fetchall() == [(8 * 24 * 32,)]


def test_polars_reads_them(paths: list[str]) -> None:
    import polars as pl

    frame = pl.read_parquet(paths[0])
    assert frame.filter(pl.col("status") == "quarantined")["error_type"].to_list() == ["LabelError"]
    first = frame.filter(pl.col("status") == "ok")["mask"].struct.field("bytes")[0]
    assert Image.open(io.BytesIO(first)).size == (32, 24)


@pytest.mark.parametrize("which", [0, 1])
def test_hugging_face_datasets_shows_masks_as_images(paths: list[str], which: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    loaded = datasets.load_dataset("parquet", data_files=[paths[which]], cache_dir=str(tmp_path), split="train")
    assert isinstance(loaded.features["mask"], datasets.Image)
    row = next(row for row in loaded if row["status"] == "ok")
    assert row["mask"].size == (32, 24)
    if which == 0:
        assert row["image"].mode == "RGB"
        assert any(row["status"] == "quarantined" and row["image"] is None for row in loaded)
