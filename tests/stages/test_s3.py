"""From and to s3:// the rows are those of local files. That no secret is written is in tests/test_secrets.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segtasks.engines import EngineConfig, open_engine
from segtasks.shards import open_snapshot, verify
from segtasks.storage import open_store
from tests.stages import world


def test_the_stages_from_and_to_s3_equal_local_files(tmp_path: Path, model: Path, s3_bucket: tuple[str, dict[str, dict[str, Any]]]) -> None:
    bucket, storage = s3_bucket
    world.write_images(tmp_path / "source", 24)
    (tmp_path / "source/images/train/i0003.png").write_bytes(b"broken")
    remote = open_store(f"{bucket}/source", storage)
    for entry in open_store(str(tmp_path / "source")).list():
        remote.create(entry.path, (tmp_path / "source" / entry.path).read_bytes())
    config = EngineConfig(name="local", workers=2)
    engine = open_engine(config)
    try:
        world.run_ingest(f"{bucket}/source", f"{bucket}/data", engine, engine=config, storage=storage)
        world.run_infer(f"{bucket}/data", model, f"{bucket}/out", engine, engine=config, storage=storage)
    finally:
        engine.close()
    world.run_ingest(tmp_path / "source", tmp_path / "data")
    world.run_infer(tmp_path / "data", model, tmp_path / "out")
    for name in ("data", "out"):
        ours, theirs = world.content(tmp_path / name), world.content(f"{bucket}/{name}", storage)
        assert ours == theirs
        assert verify(f"{bucket}/{name}", storage).problems == ()
    assert open_snapshot(f"{bucket}/data", storage).counts.quarantined == 1
    again = world.run_infer(f"{bucket}/data", model, f"{bucket}/out", storage=storage)
    assert (again.already_done, again.snapshot) == (True, 1)
