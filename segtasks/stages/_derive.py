"""Stages that read one shard set and write another: one derived shard for one parent shard, in the parent's row order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import replace
from typing import Any, overload

import pyarrow as pa

from segtasks.shards.digest import add_digests, digest_ids
from segtasks.shards.plan import Unit, unit_key
from segtasks.shards.records import ShardRecord
from segtasks.shards.select import Chosen, Where, select
from segtasks.shards.snapshot import Snapshot
from segtasks.stages._carry import copies_of_moved, live_inputs
from segtasks.stages._run import Proposal


def propose_derived(
    parent: Snapshot,
    recipe_id: str,
    own: Snapshot | None,
    *,
    where: Where | None = None,
    limit: int | None = None,
    whole: bool = False,
    volumes: bool = False,
    cut: Callable[[Chosen], Iterable[Chosen]] = lambda chosen: [chosen],
) -> Proposal:
    """What is missing of each parent shard becomes a unit; rows whose parent row is gone are dropped.

    Where the parent's rows only moved to other shards (compaction), ours are copied and not computed again. `whole`: a derived shard
    whose parent changed is dropped and made again as one (its summary could not be mended by rows). `volumes`: rows that are whole volumes
    are taken, too. `cut` makes several units of one where a shard could not hold what becomes of it.
    """
    mine: dict[str, list[ShardRecord]] = {}
    for record in own.shards() if own else []:
        mine.setdefault(record.parent_shard, []).append(record)
    taken = own.listed.keys() if own else frozenset()
    units: list[Unit] = []
    deletions: dict[str, list[int]] = {}
    moved: list[tuple[Unit, Chosen]] = []
    for chosen in select(parent, where, limit, volumes=volumes):
        unit = derived_unit(chosen, recipe_id, taken)
        existing = mine.pop(chosen.record.path, [])
        if not any(record.deleted_rows for record in existing) and _inputs_of(existing) == (unit.ids, unit.inputs):
            continue
        if not existing:
            made = [(derived_unit(part, recipe_id, taken), part) for part in cut(chosen)]
            units += [unit for unit, _ in made]
            moved += made
        elif whole:
            units.append(unit)
            deletions.update({record.path: list(range(record.rows)) for record in existing})
        else:
            assert own is not None
            wanted = set(chosen.ids)
            for record in existing:
                live = live_inputs(own, record)
                if gone := [position for position, of in live if of not in wanted]:
                    deletions[record.path] = gone
                wanted -= {of for _, of in live}
            if wanted:
                units += [derived_unit(part, recipe_id, taken) for part in cut(only(chosen, wanted))]
    orphans = [record for records in mine.values() for record in records]
    deletions.update({record.path: list(range(record.rows)) for record in orphans})
    copies = None if own is None or whole else copies_of_moved(parent, own, moved, orphans)
    return Proposal(units, deletions, copies)


def _inputs_of(records: Sequence[ShardRecord]) -> tuple[str, int]:
    return add_digests(record.ids for record in records), sum(record.inputs for record in records)


def derived_unit(chosen: Chosen, recipe_id: str, taken: Set[str] = frozenset()) -> Unit:
    """`taken`: paths that are listed already. A name of rows that were dropped since is not used again."""
    ids = digest_ids(chosen.ids)
    content = [chosen.record.path, ids, len(chosen.ids)]
    unit = Unit(
        key=unit_key(recipe_id, content),
        split=chosen.record.split,
        inputs=len(chosen.ids),
        bytes=chosen.record.bytes,
        ids=ids,
        parent_shard=chosen.record.path,
        selected=None if chosen.whole else chosen.positions,
    )
    again = 0
    while unit.path in taken:
        again += 1
        unit = replace(unit, key=unit_key(recipe_id, [*content, ["again", again]]))
    return unit


def only(chosen: Chosen, ids: Set[str]) -> Chosen:
    kept = [(position, of) for position, of in zip(chosen.positions, chosen.ids, strict=True) if of in ids]
    return Chosen(chosen.record, tuple(position for position, _ in kept), tuple(of for _, of in kept), whole=False)


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
