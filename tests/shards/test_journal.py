"""A plan's journal is believed only about shards that the store has, as they were when it was written."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from segtasks.shards import journal
from segtasks.shards.digest import digest_ids
from segtasks.shards.journal import Journal, journal_folder, list_shards, read_journal
from segtasks.shards.plan import Unit
from segtasks.shards.records import ShardRecord
from segtasks.shards.writer import ShardWriter, commit, ok
from segtasks.storage import Store, open_store


def make(store: Store, number: int, pixels: int = 1) -> ShardRecord:
    name = f"image-{number}"
    unit = Unit(f"{number:032x}", "train", 1, 10, digest_ids([name]))
    writer = ShardWriter("evaluation/1", "0" * 32, 1, unit)
    writer.add(ok({"image_id": name, "parent_id": name, "split": "train", "valid_pixels": pixels}))
    return commit(store, *writer.finish())


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, list[ShardRecord]]:
    """Three shards, all of them in the journal of plan 1."""
    monkeypatch.setattr(journal, "records_a_list", 3)
    store = open_store(str(tmp_path / "set"))
    records = [make(store, number) for number in range(3)]
    book = Journal(store, 1)
    for record in records:
        book.add(record)
    return store, records


def known(store: Store) -> dict[str, ShardRecord]:
    return read_journal(store, 1, list_shards(store))


def test_the_records_are_those_that_the_workers_returned(written: tuple[Store, list[ShardRecord]]) -> None:
    store, records = written
    assert known(store) == {record.path: record for record in records}
    assert read_journal(store, 2, list_shards(store)) == {}


def test_a_shard_that_is_gone_or_has_another_size_is_not_claimed(written: tuple[Store, list[ShardRecord]]) -> None:
    store, records = written
    store.delete(records[0].path)
    changed = Path(store.url, records[1].path)
    at = changed.stat()
    changed.write_bytes(changed.read_bytes()[:-1])
    os.utime(changed, ns=(at.st_atime_ns, at.st_mtime_ns))
    assert set(known(store)) == {records[2].path}


def test_a_shard_that_was_deleted_and_made_again_is_not_known_though_it_has_the_same_size(
    written: tuple[Store, list[ShardRecord]],
) -> None:
    store, records = written
    store.delete(records[0].path)
    again = make(store, 0, pixels=2)
    assert (again.bytes, again.digest != records[0].digest) == (records[0].bytes, True)
    assert set(known(store)) == {record.path for record in records[1:]}


def test_a_damaged_list_is_said_and_passed_over(written: tuple[Store, list[ShardRecord]], caplog: pytest.LogCaptureFixture) -> None:
    store, _ = written
    (entry,) = store.list(journal_folder(1))
    Path(store.url, entry.path).write_bytes(b"damaged")
    with caplog.at_level(logging.WARNING, "segtasks"):
        assert known(store) == {}
    assert "does not hash to its name" in caplog.text
    assert "footers" in caplog.text
