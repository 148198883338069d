"""Build one shard in memory and commit it with one create-only write. The file under its final name *is* the commit."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from segtasks.errors import DataFault, StorageError
from segtasks.shards.digest import digest_ids, hash_bytes
from segtasks.shards.plan import Unit
from segtasks.shards.records import KEY, ShardRecord, file_digest, read_record
from segtasks.shards.schema import huggingface_metadata, schema_named, storable
from segtasks.storage import Store

row_group_bytes = 16 << 20
hard_cap_bytes = 256 << 20

OK, QUARANTINED, EMPTY = "ok", "quarantined", "empty"
max_error_characters = 500
compressed_types = {None, "image/jpeg", "image/png", "image/webp", "image/gif", "application/gzip"}  # None: no picture, or a mask alone


def ok(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "status": OK, "error_type": "", "error": ""}


def empty(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of an input that makes none: its id, so that it is seen to be done."""
    return {**row, "status": EMPTY, "error_type": "", "error": ""}


def quarantined(row: Mapping[str, Any], fault: DataFault) -> dict[str, Any]:
    """The row of a refused image: its id and where it came from, no pixels, and why."""
    message = storable(" ".join(str(fault).split())[:max_error_characters])
    return {**row, "status": QUARANTINED, "error_type": type(fault).__name__, "error": message}


class ShardWriter:
    """Takes rows in order; `finish` gives the file's bytes and its record.

    An input that makes no row is written as one row of status `empty`, so that every id that came in also came out.
    """

    def __init__(self, rows: str, recipe: str, plan: int, unit: Unit) -> None:
        schema = schema_named(rows)
        self._unit, self._recipe, self._plan, self._rows_schema = unit, recipe, plan, rows
        self._schema = schema.with_metadata({b"huggingface": huggingface_metadata(schema)})
        self._sink = io.BytesIO()
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[Mapping[str, Any]] = []
        self._waiting_bytes = 0
        self._total_bytes = 0
        self._ids: set[str] = set()
        self._errors: set[str] = set()
        self._done = self._quarantined = self._empty = self._rows = 0
        self._key = "parent_id" if "parent_id" in schema.names else "image_id"

    def add(self, row: Mapping[str, Any]) -> None:
        """`row` has a value for every column that is not null, and a `status`."""
        self._ids.add(row[self._key])
        self._rows += 1
        if row["status"] == QUARANTINED:
            self._quarantined += 1
            self._errors.add(row["error_type"])
        elif row["status"] == EMPTY:
            self._empty += 1
        else:
            self._done += 1
        size = sum(len((row.get(name) or {}).get("bytes") or b"") for name in ("image", "mask"))
        size += sum(len(item["counts"]) for item in row.get("instances") or ())
        self._waiting.append(row)
        self._waiting_bytes += size
        self._total_bytes += size
        if self._total_bytes > hard_cap_bytes:
            raise StorageError(
                f"shard {self._unit.key} has more than {hard_cap_bytes >> 20} MiB; needed: smaller shards (shard_bytes of ingest)"
            )
        if self._waiting_bytes >= row_group_bytes:
            self._flush()

    def extend(self, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            self.add(row)

    def _flush(self) -> None:
        if self._waiting:
            self._parquet().write_table(pa.Table.from_pylist(list(self._waiting), schema=self._schema))
            self._waiting, self._waiting_bytes = [], 0

    def _parquet(self) -> pq.ParquetWriter:
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._sink, self._schema, **_compression(self._schema, self._waiting), use_dictionary=False, write_statistics=False
            )
        return self._writer

    def finish(self, summary: Mapping[str, Any] | None = None) -> tuple[bytes, ShardRecord]:
        """The bytes and the record. Raises if the ids that went out are not those that came in: that would be our own fault."""
        self._flush()
        ids = digest_ids(self._ids)
        if ids != self._unit.ids or len(self._ids) != self._unit.inputs:
            raise RuntimeError(f"shard {self._unit.key}: {len(self._ids)} ids written, {self._unit.inputs} came in, or other ones")
        self._parquet()  # writes its first bytes, also of a shard without rows
        content = self._sink.getbuffer()
        facts = {
            "format": 1,
            "rows_schema": self._rows_schema,
            "recipe": self._recipe,
            "plan": self._plan,
            "unit": self._unit.key,
            "split": self._unit.split,
            "rows": self._rows,
            "done": self._done,
            "quarantined": self._quarantined,
            "empty": self._empty,
            "inputs": self._unit.inputs,
            "ids": ids,
            "parent_shard": self._unit.parent_shard,
            "summary": json.dumps(summary, sort_keys=True) if summary else "",
            "errors": sorted(self._errors),
            "content_bytes": (content_bytes := len(content)),
            "content_sha256": (content_sha256 := hash_bytes(content)),
        }
        content.release()
        self._parquet().add_key_value_metadata({KEY: json.dumps(facts).encode()})
        self._parquet().close()
        data = self._sink.getvalue()
        digest = file_digest(content_sha256, data[content_bytes:])
        return data, ShardRecord.from_json({**facts, "path": self._unit.path, "bytes": len(data), "digest": digest})


def _compression(schema: pa.Schema, rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """zstd, but not over pictures that are compressed already: that saves nothing and costs as much as all else in writing a shard."""
    stored = {"image.bytes", "mask.bytes"} if {row.get("media_type") for row in rows} <= compressed_types else set()
    codecs = {leaf: "NONE" if leaf in stored else "ZSTD" for field in schema for leaf in _leaves(field.name, field.type)}
    return {"compression": codecs, "compression_level": {leaf: 3 for leaf, codec in codecs.items() if codec == "ZSTD"}}


def _leaves(path: str, kind: pa.DataType) -> Iterator[str]:
    """Parquet's names of the columns that a field is stored in."""
    if pa.types.is_struct(kind):
        for child in kind:
            yield from _leaves(f"{path}.{child.name}", child.type)
    elif pa.types.is_list(kind):
        yield from _leaves(f"{path}.list.element", kind.value_type)
    else:
        yield path


def commit(store: Store, data: bytes, record: ShardRecord) -> ShardRecord:
    """Create the shard, or return the record of the one that another worker committed first."""
    if store.create(record.path, data):
        return record
    return read_record(store, record.path, store.size(record.path))
