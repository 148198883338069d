"""What leaves with the rows that a snapshot drops: their ids and counts. Only shards that lose rows are read, and only small columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from segtasks.errors import CorruptError
from segtasks.shards.records import ShardRecord
from segtasks.shards.schema import schema_named
from segtasks.shards.tables import read_parquet
from segtasks.shards.writer import QUARANTINED
from segtasks.storage import Store

threads = 16


@dataclass(frozen=True)
class Dropped:
    """A shard after it lost rows, and what went."""

    record: ShardRecord  # with the rows in `deleted_rows`, and with the errors of those that are left
    ids: frozenset[str]  # inputs that are gone; an input loses all its rows at once
    statuses: Counter[str]


def drop_rows(store: Store, rows_schema: str, listed: Mapping[str, ShardRecord], deletions: Mapping[str, Sequence[int]]) -> list[Dropped]:
    """Drop rows (path -> positions) of shards that are listed; positions that are dropped already do not count again."""

    def drop(path: str) -> Dropped:
        record = listed.get(path)
        if record is None:
            raise CorruptError(f"the plan drops rows of {path}, which the latest snapshot does not list")
        return _drop(store, rows_schema, record, deletions[path])

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(drop, sorted(deletions)))


def _drop(store: Store, rows_schema: str, record: ShardRecord, positions: Sequence[int]) -> Dropped:
    key = key_column(rows_schema)
    with store.open(record.path) as file:
        table = read_parquet(file, columns=[key, "status", "error_type"])
    now = np.setdiff1d(np.asarray(positions, np.int64), record.deleted_rows)
    gone = table.take(pa.array(now, pa.int64()))
    deleted = tuple(sorted({*record.deleted_rows, *now.tolist()}))
    left = table.take(pa.array(np.setdiff1d(np.arange(table.num_rows), deleted), pa.int64()))
    errors = pc.unique(left.filter(pc.equal(left["status"], QUARANTINED))["error_type"]).to_pylist()
    return Dropped(
        replace(record, deleted_rows=deleted, errors=tuple(sorted(errors))),
        frozenset(gone[key].to_pylist()),
        Counter(gone["status"].to_pylist()),
    )


def key_column(rows_schema: str) -> str:
    """The column that names the input a row was made of."""
    return "parent_id" if "parent_id" in schema_named(rows_schema).names else "image_id"
