"""A derived stage follows a compaction of its input without computing: rows whose image is the same are copied from the shards that
were made of the old ones. An image is the same when its id, its source's version, its split and its group are."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from segtasks.shards.drop import key_column
from segtasks.shards.plan import Unit
from segtasks.shards.records import ShardRecord
from segtasks.shards.schema import schema_named
from segtasks.shards.select import Chosen
from segtasks.shards.snapshot import Snapshot
from segtasks.shards.tables import read_parquet
from segtasks.stages._ahead import map_ahead
from segtasks.stages._copy import COPIES

threads = 16
_KEYS = ["image_id", "source_version", "split", "group_id"]


def copies_of_moved(
    parent: Snapshot, own: Snapshot, units: Sequence[tuple[Unit, Chosen]], orphans: Sequence[ShardRecord]
) -> pa.Table | None:
    """Rows of `orphans`, whose parent shards the parent lists no more, that the units (new parent shards) can take over."""
    if not units or not orphans or not {*_KEYS} <= {*schema_named(parent.file.rows).names}:
        return None
    wanted = pa.concat_tables(map_ahead(lambda one: _wanted(parent, *one), units, threads, 2 * threads))
    had = pa.concat_tables(map_ahead(lambda one: _had(parent, own, one), orphans, threads, 2 * threads))
    copies = wanted.join(had, keys=_KEYS, join_type="inner", use_threads=False).select(COPIES.names)
    return copies.sort_by([("unit", "ascending"), ("place", "ascending"), ("row", "ascending")]) if copies.num_rows else None


def live_inputs(own: Snapshot, record: ShardRecord) -> list[tuple[int, str]]:
    """Position and input id of every live row of a shard, refused and empty ones included."""
    key = key_column(own.file.rows)
    with own.store.open(record.path) as file:
        ids = read_parquet(file, columns=[key])[key].to_pylist()
    gone = set(record.deleted_rows)
    return [(position, of) for position, of in enumerate(ids) if position not in gone]


def _wanted(parent: Snapshot, unit: Unit, chosen: Chosen) -> pa.Table:
    with parent.store.open(chosen.record.path) as file:
        table = read_parquet(file, columns=_KEYS).take(pa.array(chosen.positions, pa.int64()))
    table = table.append_column("unit", pa.array([unit.key] * table.num_rows, pa.string()))
    return table.append_column("place", pa.array(range(table.num_rows), pa.int64()))


def _had(parent: Snapshot, own: Snapshot, record: ShardRecord) -> pa.Table:
    """What image is behind each live row; none of them where the shard that it was made of is not in the store any more."""
    rows = pa.Table.from_pydict(
        dict(zip(("row", "image_id"), map(list, zip(*live_inputs(own, record), strict=True)), strict=True)),
        schema=pa.schema([("row", pa.int64()), ("image_id", pa.string())]),
    )
    rows = rows.append_column("path", pa.array([record.path] * rows.num_rows, pa.string()))
    try:
        with parent.store.open(record.parent_shard) as file:
            versions = read_parquet(file, columns=_KEYS).cast(pa.schema([(name, pa.string()) for name in _KEYS]))
    except FileNotFoundError:
        versions = pa.schema([(name, pa.string()) for name in _KEYS]).empty_table()
    return rows.join(versions, keys="image_id", join_type="inner", use_threads=False)
