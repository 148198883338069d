"""What the driver of an open plan knows of its shards, written down now and then, so that a resume over 100,000 shards reads a
hundred lists and not every footer.

`plans/<number>/records/<hash>.parquet` holds records as a snapshot's list does. It proves nothing by itself: a record counts only
for a shard that the store lists, with its size, and that is not younger than the list (one that was deleted and made again is). Any other
shard's footer is read. A snapshot never names a journal; after publishing, `sweep` removes it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from posixpath import basename
from typing import NamedTuple

from segtasks.errors import CorruptError
from segtasks.shards.records import ShardRecord, records_of, table_of
from segtasks.shards.tables import read_table, write_table
from segtasks.storage import Store

log = logging.getLogger(__name__)
records_a_list = 1000  # fewer are not worth an object: their footers are read in a second or two


def journal_folder(plan: int) -> str:
    return f"plans/{plan:06d}/records"


class Journal:
    """Takes the records of committed shards and writes each thousand of them as a list."""

    def __init__(self, store: Store, plan: int) -> None:
        self._store, self._folder = store, journal_folder(plan)
        self._waiting: list[ShardRecord] = []

    def add(self, record: ShardRecord) -> None:
        self._waiting.append(record)
        if len(self._waiting) >= records_a_list:
            self._waiting.sort(key=lambda one: one.path)
            write_table(self._store, self._folder, table_of(self._waiting))
            self._waiting = []


class Listed(NamedTuple):
    """What a listing says of a shard: an `Entry` less what is not needed, since there may be 100,000."""

    size: int
    modified: float


def list_shards(store: Store) -> dict[str, Listed]:
    return {entry.path: Listed(entry.size, entry.modified) for entry in store.list("shards")}


def read_journal(store: Store, plan: int, present: Mapping[str, Listed]) -> dict[str, ShardRecord]:
    """The records that may be believed, by path. `present` are the shards that the store lists."""
    found: dict[str, ShardRecord] = {}
    for written in store.list(journal_folder(plan)):
        try:
            table = read_table(store, journal_folder(plan), basename(written.path).removesuffix(".parquet"))
        except CorruptError as error:
            log.warning("%s; the footers of its shards are read instead", error)
            continue
        for record in records_of(table):
            shard = present.get(record.path)
            if shard is not None and shard.size == record.bytes and 0 < shard.modified <= written.modified:
                found[record.path] = record
    return found
