"""Images that abort, hang or fill their worker are found, tried alone, and refused; all others are done, none twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from segtasks.engines import EngineConfig, open_engine
from segtasks.shards import open_snapshot, verify
from tests.stages import world


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["local", "ray"])
def test_poison_is_quarantined_and_its_neighbours_are_done(tmp_path: Path, name: str) -> None:
    source = tmp_path / "source"
    world.write_images(source, 32)
    for number, kind in ((7, "abort"), (8, "abort"), (20, "hang"), (28, "eat")):
        for folder in ("images", "masks"):
            (source / folder / "train" / f"i{number:04d}.png").rename(source / folder / "train" / f"i{number:04d}-{kind}.png")
    config = EngineConfig(name=name, workers=2)  # type: ignore[arg-type]
    engine = open_engine(config)
    try:
        result = world.run_ingest(
            source,
            tmp_path / "data",
            engine,
            engine=config,
            format="tests.stages.poison",
            limits={"seconds": 6, "memory_bytes": 1 << 30},
        )
    finally:
        engine.close()
    assert (result.counts["done"], result.counts["quarantined"]) == (28, 4)
    refused = {row["image_id"].rpartition("/")[2]: row["error"] for row in open_snapshot(result.url).quarantined()}
    alone = "2 times of 2 with this image alone"
    assert refused == {
        "i0007-abort.png": f"its worker process died, {alone}",
        "i0008-abort.png": f"its worker process died, {alone}",
        "i0020-hang.png": f"its worker gave no answer within the time limit, {alone}",
        "i0028-eat.png": f"its worker went over the memory limit, {alone}",
    }
    assert verify(result.url).problems == ()
    again = world.run_ingest(source, tmp_path / "data", format="tests.stages.poison")
    assert again.already_done
