"""Stages that read one shard set and write another: one derived shard for one parent shard, in the parent's row order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import pyarrow as pa
import pyarrow.parquet as pq

from segtasks.shards.digest import digest_ids
from segtasks.shards.plan import Unit, unit_key
from segtasks.shards.records import ShardRecord
from segtasks.shards.select import Chosen, Where, select
from segtasks.shards.snapshot import Snapshot
from segtasks.shards.tables import read_parquet
from segtasks.stages._run import Proposal


def propose_derived(
    parent: Snapshot, recipe_id: str, own: Snapshot | None, *, where: Where | None = None, limit: int | None = None, whole: bool = False
) -> Proposal:
    """Units for parent shards that have no derived shard yet; rows whose parent row is gone are dropped.

    `whole`: a derived shard whose parent changed is dropped and made again as one (its summary could not be mended by rows).
    """
    mine: dict[str, list[ShardRecord]] = {}
    for record in own.shards() if own else []:
        mine.setdefault(record.parent_shard, []).append(record)
    units: list[Unit] = []
    deletions: dict[str, list[int]] = {}
    wanted_shards: set[str] = set()
    for chosen in select(parent, where, limit):
        unit = derived_unit(chosen, recipe_id)
        existing = mine.get(chosen.record.path, [])
        wanted_shards.add(chosen.record.path)
        if any(record.unit == unit.key and not record.deleted_rows for record in existing):
            continue
        if not existing or whole:
            units.append(unit)
            deletions.update({record.path: list(range(record.rows)) for record in existing if len(record.deleted_rows) < record.rows})
            continue
        assert own is not None
        deletions.update(_gone(own, existing, set(chosen.ids)))
    for path, records in mine.items():
        if path not in wanted_shards and own is not None:
            deletions.update(_gone(own, records, set()))
    return Proposal(units, deletions)


def derived_unit(chosen: Chosen, recipe_id: str) -> Unit:
    ids = digest_ids(chosen.ids)
    return Unit(
        key=unit_key(recipe_id, [chosen.record.path, ids, len(chosen.ids)]),
        split=chosen.record.split,
        inputs=len(chosen.ids),
        bytes=chosen.record.bytes,
        ids=ids,
        parent_shard=chosen.record.path,
        selected=None if chosen.whole else chosen.positions,
    )


def _gone(own: Snapshot, records: list[ShardRecord], wanted: set[str]) -> Mapping[str, list[int]]:
    """Live rows of our shards whose parent row is not wanted any more."""
    found = {}
    for record in records:
        with own.store.open(record.path) as file:
            names = pq.read_schema(file).names
            key = "parent_id" if "parent_id" in names else "image_id"
            file.seek(0)
            parents = read_parquet(file, columns=[key])[key].to_pylist()
        gone = [at for at, parent in enumerate(parents) if parent not in wanted and at not in set(record.deleted_rows)]
        if gone:
            found[record.path] = gone
    return found


def read_unit(parent: Snapshot, unit: Unit, columns: list[str]) -> pa.Table:
    """The rows of a unit, in file order."""
    return parent.read(parent.records[unit.parent_shard], columns, rows=unit.selected)


class Rows(Sequence[dict[str, Any]]):
    """A table's rows as dicts, made when they are asked for, so that a shard's blobs are held once."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, place: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, place: slice) -> Rows: ...
    def __getitem__(self, place: int | slice) -> dict[str, Any] | Rows:
        if isinstance(place, slice):
            start, stop, _ = place.indices(len(self))
            return Rows(self._table.slice(start, stop - start))
        if not 0 <= place < len(self):
            raise IndexError(place)
        row: dict[str, Any] = self._table.slice(place, 1).to_pylist()[0]
        return row
