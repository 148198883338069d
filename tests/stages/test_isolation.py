"""Images that abort, hang or fill their worker are found, tried alone, and refused; all others are done, none twice."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest

from segtasks.engines import EngineConfig, open_engine
from segtasks.shards import open_snapshot, verify
from tests.stages import poison, world


def put_poison(source: Path, kinds: dict[int, str]) -> None:
    for number, kind in kinds.items():
        for folder in ("images", "masks"):
            (source / folder / "train" / f"i{number:04d}.png").rename(source / folder / "train" / f"i{number:04d}-{kind}.png")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["local", "ray"])
def test_poison_is_quarantined_and_its_neighbours_are_done(tmp_path: Path, name: str) -> None:
    source = tmp_path / "source"
    world.write_images(source, 32)
    put_poison(source, {7: "abort", 8: "abort", 20: "hang", 28: "eat"})
    config = EngineConfig(name=name, workers=2)  # type: ignore[arg-type]
    engine = open_engine(config)
    try:
        result = world.run_ingest(
            source,
            tmp_path / "data",
            engine,
            engine=config,
            format="tests.stages.poison",
            limits={"seconds": 12, "memory_bytes": 1 << 30},
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


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_of_two_thousand_images_four_are_refused_with_few_restarts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, images, workers = tmp_path / "source", 2000, 2
    world.write_images(source, images)
    put_poison(source, {307: "abort", 411: "abort", 1200: "hang", 1999: "eat"})
    monkeypatch.setenv(poison.LOG, str(tmp_path / "reads.txt"))
    config = EngineConfig(name="local", workers=workers)
    engine = open_engine(config)
    try:
        result = world.run_ingest(
            source,
            tmp_path / "data",
            engine,
            engine=config,
            format="tests.stages.poison",
            shard_rows=250,
            limits={"seconds": 10, "memory_bytes": 1 << 30},
        )
    finally:
        engine.close()
    assert (result.counts["done"], result.counts["quarantined"]) == (images - 4, 4)
    refused = {row["image_id"].rpartition("-")[2]: row["error"] for row in open_snapshot(result.url).quarantined()}
    assert {kind: why.partition(",")[0] for kind, why in refused.items()} == {
        "abort.png": "its worker process died",
        "hang.png": "its worker gave no answer within the time limit",
        "eat.png": "its worker went over the memory limit",
    }
    assert verify(result.url).problems == ()

    lines = [line.split(maxsplit=1) for line in (tmp_path / "reads.txt").read_text().splitlines()]
    reads = Counter(image_id for _, image_id in lines)
    restarts = len({pid for pid, _ in lines}) - workers
    again = sum(1 for count in reads.values() if count > 1)
    print(f"{len(lines)} reads of {images} images, {again} images read more than once, {restarts} workers restarted")
    assert set(reads) == set(world.content(result.url))
    # four shards of eight hold poison; each is tried whole twice, its halves until one image is left (at most twice its rows),
    # that image once more, and the shard without it
    assert again <= 4 * 250
    assert len(lines) <= images + 4 * (1 + 2 + 1) * 250 + 4 * 2
    assert restarts <= 4 * (2 + math.ceil(math.log2(250)) + 2)
