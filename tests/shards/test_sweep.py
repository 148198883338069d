"""Sweeping removes what killed runs left, and nothing that a snapshot or an open plan needs."""

from __future__ import annotations

import os
import time
from pathlib import Path

from segtasks.shards import verify
from segtasks.shards.sweep import sweep
from segtasks.storage import open_store
from tests.stages import world


def test_orphans_go_and_all_that_is_needed_stays(tmp_path: Path) -> None:
    source, data = tmp_path / "source", tmp_path / "data"
    world.write_images(source, 20)
    world.run_ingest(source, data)
    world.write_images(source, 4, start=50)
    world.run_ingest(source, data)
    store = open_store(str(data))
    orphan = f"shards/train/part-{'0' * 32}.parquet"
    store.create(orphan, b"of a plan that lost")
    store.create(f"snapshots/lists/{'1' * 32}.parquet", b"of a publisher that lost")
    store.create("notes.txt", b"mine")
    (data / "shards/train/.tmp-1").write_bytes(b"half")
    (data / ".segtasks-probe-1").write_bytes(b"x")
    young = sweep(str(data))
    assert (young.removed, young.young) == ((), 4)
    past = time.time() - 3 * 86400
    for folder, _, names in os.walk(data):
        for name in names:
            os.utime(Path(folder, name), (past, past))
    would = sweep(str(data))
    assert set(would.removed) == {orphan, f"snapshots/lists/{'1' * 32}.parquet", "shards/train/.tmp-1", ".segtasks-probe-1"}
    assert (would.dry_run, would.foreign, store.exists(orphan)) == (True, ("notes.txt",), True)
    assert sweep(str(data), dry_run=False).removed == would.removed
    assert not store.exists(orphan)
    assert store.exists("notes.txt")
    assert verify(f"{data}@1").problems == ()
    assert verify(f"{data}@2").problems == ()
    assert sweep(str(data)).removed == ()


def test_the_shards_of_an_open_plan_are_kept(tmp_path: Path) -> None:
    world.write_images(tmp_path / "source", 20)
    world.run_ingest(tmp_path / "source", tmp_path / "data")
    (tmp_path / "data/snapshots/000001.json").unlink()  # as if killed just before
    assert sweep(str(tmp_path / "data"), age_seconds=0).removed == tuple(
        entry.path for entry in open_store(str(tmp_path / "data")).list("snapshots/lists")
    )
