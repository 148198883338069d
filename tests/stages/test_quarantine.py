"""Bad images are refused with their reason while their neighbours go on; too many stop the run and lose nothing."""

from __future__ import annotations

import struct
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

from segtasks.engines import JSON, Done, Engine, Failed, WorkerFactory, open_engine
from segtasks.errors import InputError, QuarantineLimit
from segtasks.shards import open_snapshot, verify
from segtasks.shards.snapshot import snapshot_numbers
from segtasks.storage import open_store
from tests.stages import world


class Counting:
    """An inline engine that counts the items it is given."""

    def __init__(self) -> None:
        self._engine: Engine = open_engine(world.inline)
        self.name, self.workers, self.items = "local", 0, 0

    def map(self, make_worker: WorkerFactory, items: Sequence[JSON]) -> Generator[Done | Failed, None, None]:
        self.items += len(items)
        yield from self._engine.map(make_worker, items)

    def train(self, *arguments: object) -> JSON:
        raise AssertionError("not a training test")

    def close(self) -> None: ...


def spoil(root: Path, count: int) -> None:
    """Truncated, empty, wrong and lying images, and a mask of another size."""
    folder = root / "images" / "train"
    whole = (folder / "i0000.png").read_bytes()
    bomb = b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 17, 8, 65500, 65500, 3) + b"\x01\x11\x00" * 3 + b"\xff\xd9"
    kinds = {"cut.png": whole[: len(whole) // 2], "empty.png": b"", "text.jpg": b"hello, I am no image", "bomb.jpg": bomb}
    for number in range(count):
        name, data = list(kinds.items())[number % len(kinds)]
        (folder / f"bad{number}-{name}").write_bytes(data)
        (root / "masks" / "train" / f"bad{number}-{Path(name).stem}.png").write_bytes((root / "masks" / "train" / "i0000.png").read_bytes())


def test_bad_images_are_quarantined_with_reasons_and_their_neighbours_are_done(tmp_path: Path) -> None:
    world.write_images(tmp_path / "source", 40)
    spoil(tmp_path / "source", 4)
    result = world.run_ingest(tmp_path / "source", tmp_path / "data")
    assert (result.counts["done"], result.counts["quarantined"], result.counts["inputs"]) == (40, 4, 44)
    reasons = {row["image_id"].rpartition("/")[2]: (row["error_type"], row["error"]) for row in open_snapshot(result.url).quarantined()}
    assert {name: reason[0] for name, reason in reasons.items()} == {
        "bad0-cut.png": "DecodeError",
        "bad1-empty.png": "DecodeError",
        "bad2-text.jpg": "DecodeError",
        "bad3-bomb.jpg": "LimitError",
    }
    assert "65500" in reasons["bad3-bomb.jpg"][1]
    assert verify(result.url).problems == ()


def test_over_the_limit_nothing_is_published_and_a_higher_limit_publishes_without_computing(tmp_path: Path) -> None:
    world.write_images(tmp_path / "source", 40)
    spoil(tmp_path / "source", 4)
    engine = Counting()
    with pytest.raises(QuarantineLimit, match=r"4 of 44 images are quarantined \(9.1%\); max_quarantined allows 5.0%"):
        world.run_ingest(tmp_path / "source", tmp_path / "data", engine, max_quarantined=0.05, shard_rows=100)
    assert snapshot_numbers(open_store(str(tmp_path / "data"))) == []
    made = engine.items
    with pytest.raises(QuarantineLimit):
        world.run_ingest(tmp_path / "source", tmp_path / "data", engine, max_quarantined=0.05, shard_rows=100)
    result = world.run_ingest(tmp_path / "source", tmp_path / "data", engine, max_quarantined=0.2, shard_rows=100)
    assert (result.counts["done"], result.counts["quarantined"]) == (40, 4)
    assert engine.items >= made


def test_a_mask_that_does_not_fit_is_a_label_error(tmp_path: Path) -> None:
    world.write_images(tmp_path / "source", 3)
    masks = tmp_path / "source" / "masks" / "train"
    world.write_images(tmp_path / "other", 1, size=(10, 12))
    (masks / "i0001.png").write_bytes((tmp_path / "other/masks/train/i0000.png").read_bytes())
    result = world.run_ingest(tmp_path / "source", tmp_path / "data")
    (refused,) = open_snapshot(result.url).quarantined()
    assert refused["error_type"] == "LabelError"
    assert "10" in refused["error"]
    assert "24" in refused["error"]


def test_a_source_without_images_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError):
        world.run_ingest(tmp_path / "empty", tmp_path / "data")
    assert not (tmp_path / "data").exists() or snapshot_numbers(open_store(str(tmp_path / "data"))) == []
