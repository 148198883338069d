from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtasks.engines.local import LocalEngine
from segtasks.readers import camvid
from segtasks.shards import open_snapshot
from segtasks.stages.config import IngestConfig
from segtasks.stages.ingest import ingest
from segtasks.storage import open_store
from tests.real import data_folder


def test_camvid_pushed_through_hugging_face_is_ingested_as_camvid_itself(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    root = data_folder("camvid_png_sample")
    source = open_store(str(root))
    original = camvid.build(camvid.Config(), source)
    names = [*original.spec().names, "void"]
    items = list(original.scan())
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.Image(), "names": datasets.Sequence(datasets.ClassLabel(names=names))}
    )
    for split in ("train", "val"):
        chosen = [item for item in items if item.split == split]
        rows = {
            "image": [{"bytes": source.read(item.path), "path": item.path} for item in chosen],
            "label": [{"bytes": source.read(item.labels["mask"]), "path": None} for item in chosen],
            "names": [[] for _ in chosen],
        }
        made = datasets.Dataset.from_dict(rows, features=features)
        made.to_parquet(str(tmp_path / f"hf/data/{split}-00000-of-00001.parquet"))
    config = IngestConfig(source=str(tmp_path / "hf"), output=str(tmp_path / "out"), format="parquet")
    ingest(config, LocalEngine(workers=0))
    snapshot = open_snapshot(str(tmp_path / "out"))
    assert snapshot.spec.names == names
    assert (snapshot.counts.done, snapshot.counts.quarantined) == (9, 0)
    rows = {row["image_id"]: row for record in snapshot.shards() for row in snapshot.read(record).to_pylist()}
    for split in ("train", "val"):
        for number, item in enumerate(one for one in items if one.split == split):
            row = rows[f"data/{split}-00000-of-00001.parquet#row={number}"]
            assert row["split"] == split
            assert row["image"]["bytes"] == source.read(item.path)
            (tmp_path / "mask.png").write_bytes(row["mask"]["bytes"])
            np.testing.assert_array_equal(np.array(Image.open(tmp_path / "mask.png")), np.array(Image.open(root / item.labels["mask"])))
