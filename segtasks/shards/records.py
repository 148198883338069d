"""One row a shard: what a snapshot lists and what a shard's own footer says of itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from segtasks.errors import CorruptError
from segtasks.shards.digest import hash_bytes
from segtasks.storage import Store

KEY = b"segtasks"
_TAIL = 64 << 10  # enough for most footers in one read
_ROWS = 4096  # that are Python objects at a time


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """A committed shard. `digest` proves its bytes: sha256 of (sha256 of the data part, sha256 of the footer part)."""

    path: str
    unit: str
    split: str
    rows: int  # in the file, quarantined and deleted ones included
    bytes: int
    done: int
    quarantined: int
    empty: int  # rows of inputs that made none
    inputs: int  # ids that came in
    ids: str  # digest of the ids that came in and went out
    parent_shard: str
    digest: str
    deleted_rows: tuple[int, ...] = ()
    summary: str = ""  # JSON that adds up over shards (evaluation)
    errors: tuple[str, ...] = field(default=())  # distinct error types of quarantined rows

    @property
    def live_rows(self) -> int:
        return self.rows - len(self.deleted_rows)

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in LIST.names}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ShardRecord:
        values = {name: data[name] for name in LIST.names if name in data}
        values["split"] = sys.intern(values["split"])
        values["deleted_rows"] = tuple(values.get("deleted_rows") or ())
        values["errors"] = tuple(values.get("errors") or ())
        return cls(**values)


LIST = pa.schema(
    [
        ("path", pa.string()),
        ("unit", pa.string()),
        ("split", pa.string()),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("done", pa.int64()),
        ("quarantined", pa.int64()),
        ("empty", pa.int64()),
        ("inputs", pa.int64()),
        ("ids", pa.string()),
        ("parent_shard", pa.string()),
        ("digest", pa.string()),
        ("deleted_rows", pa.list_(pa.int32())),
        ("summary", pa.string()),
        ("errors", pa.list_(pa.string())),
    ]
)


def table_of(records: Sequence[ShardRecord]) -> pa.Table:
    """By column: rows as dicts would take ten times the memory."""
    return pa.Table.from_arrays([pa.array([getattr(record, one.name) for record in records], one.type) for one in LIST], schema=LIST)


def records_of(table: pa.Table) -> Iterator[ShardRecord]:
    for rows in table.to_batches(max_chunksize=_ROWS):
        for row in rows.to_pylist():
            yield ShardRecord.from_json(row)


def file_digest(content_sha256: str, footer: bytes | memoryview) -> str:
    """The digest of a shard file from the hash of its data part and the bytes of its footer part."""
    return hash_bytes(f"{content_sha256}{hash_bytes(footer)}".encode())


def read_record(store: Store, path: str, size: int) -> ShardRecord:
    """The record that the shard's footer carries, with one ranged read (two for a long footer)."""
    tail = store.read_range(path, max(0, size - _TAIL), size)
    if len(tail) < 12 or tail[-4:] != b"PAR1":
        raise CorruptError(f"{store.url_of(path)} ({size} bytes) does not end as a Parquet file: it was cut short or overwritten")
    footer_bytes = int.from_bytes(tail[-8:-4], "little") + 8
    if footer_bytes > len(tail):
        tail = store.read_range(path, max(0, size - footer_bytes), size)
    footer = tail[-footer_bytes:]
    try:
        metadata = pq.read_metadata(pa.BufferReader(b"PAR1" + footer)).metadata or {}
        facts = json.loads(metadata[KEY])
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise CorruptError(f"{store.url_of(path)} has no footer of segtasks: {error}") from error
    data_bytes = size - footer_bytes
    if facts["content_bytes"] != data_bytes:
        raise CorruptError(f"{store.url_of(path)} has {data_bytes} bytes of data; its footer says {facts['content_bytes']}")
    digest = file_digest(facts["content_sha256"], footer)
    return ShardRecord.from_json({**facts, "path": path, "bytes": size, "digest": digest})
