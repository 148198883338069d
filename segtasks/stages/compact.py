"""Compact: many small shards, and those full of dropped rows, become few of the usual size, in a new snapshot. No live row changes.

Plans of one output follow each other: a plan is only made on a snapshot that holds all plans before it. So a compaction and a delta cannot
both drop rows of one shard: whoever finds that the other was first makes its own plan again. A compaction that was left open is finished
by the next run of any kind on the output, since it needs nothing but the shards. What is left of old shards stays for old snapshots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from segtasks.engines import Engine
from segtasks.errors import ConfigError, InputError
from segtasks.refs import Ref
from segtasks.shards.digest import add_digests, digest_ids
from segtasks.shards.plan import Unit, unit_key
from segtasks.shards.recipe import Recipe
from segtasks.shards.records import ShardRecord
from segtasks.shards.snapshot import Snapshot, open_snapshot
from segtasks.stages._ahead import map_ahead
from segtasks.stages._carry import live_inputs
from segtasks.stages._copy import COPIES
from segtasks.stages._manifest import rows_a_shard
from segtasks.stages._move import COMPACT, MoveFactory
from segtasks.stages._run import Proposal, Stage, run
from segtasks.stages.config import CompactConfig
from segtasks.stages.progress import Progress, silent
from segtasks.stages.result import StageResult

holes_worth_a_copy = 0.25  # of a shard's rows: with so many dropped it is written again without them
threads = 16


def compact(config: CompactConfig, engine: Engine, progress: Progress = silent) -> StageResult:
    """Publish a snapshot of the same rows in fewer shards; where there is nothing to merge, nothing is done."""
    if Ref.parse(config.output).snapshot is not None:
        raise ConfigError(f"{config.output} names a snapshot; needed: the URL alone, since a compaction adds a snapshot to the latest one")
    before = open_snapshot(config.output, config.storage)
    recipe = before.recipe
    if any(record.parent_shard for record in before.shards()):
        raise InputError(
            f"{config.output} was made by segtasks {recipe.stage}, and its shards follow those of its input. Compact the data set at the "
            f"beginning (segtasks ingest's output), then run segtasks {recipe.stage} again: it copies its rows and computes none of them"
        )
    config = config.model_copy(update={"output": before.store.url})
    stage = Stage(
        name="compact",
        config=config,
        store=before.store,
        recipe=recipe,
        propose=lambda latest: propose_compaction(latest or before, recipe, config.target_bytes),
        make_worker=lambda plan: MoveFactory(config, recipe.rows, plan),
        input=before.file.input,
        source=before.file.source,
        kind=COMPACT,
    )
    result = run(stage, engine, progress)
    return result.model_copy(update={"details": {**result.details, "shards_before": before.counts.shards}})


def propose_compaction(snapshot: Snapshot, recipe: Recipe, target_bytes: int | None = None) -> Proposal:
    """Cut as a first ingest would cut; shards that are large enough and have few holes stay as they are."""
    target_bytes = target_bytes or recipe.config.get("shard_bytes") or 64 << 20
    lots = list(_lots(snapshot, target_bytes, recipe.config.get("shard_rows") or 10_000))
    made = list(map_ahead(lambda lot: _unit(snapshot, lot, recipe), lots, threads, 2 * threads))
    units = [unit for unit, _ in made]
    deletions = {record.path: range(record.rows) for lot in lots for record in lot}
    copies = pa.concat_tables([copies for _, copies in made]) if made else None
    moved = sum(unit.inputs for unit in units)
    return Proposal(units, deletions, copies, {"moved": moved} if moved else {})


def _lots(snapshot: Snapshot, target_bytes: int, shard_rows: int) -> Iterator[list[ShardRecord]]:
    """Shards that become one: small ones of a split together, in the snapshot's order; large ones with many holes alone."""
    splits: dict[str, list[ShardRecord]] = {}
    for record in snapshot.shards():
        splits.setdefault(record.split, []).append(record)
    for records in splits.values():
        most_rows = rows_a_shard(sum(record.live_rows for record in records), shard_rows)
        lot: list[ShardRecord] = []
        size = rows = 0
        for record in records:
            live_bytes = _live_bytes(record)
            if 2 * live_bytes > target_bytes or 2 * record.live_rows > most_rows:
                if _has_holes(record):
                    yield [record]
                continue
            if size + live_bytes > target_bytes or rows + record.live_rows > most_rows:
                yield lot  # more than half full, so that the next compaction lets it be
                lot, size, rows = [], 0, 0
            lot.append(record)
            size, rows = size + live_bytes, rows + record.live_rows
        if len(lot) > 1 or any(map(_has_holes, lot)):
            yield lot


def _live_bytes(record: ShardRecord) -> int:
    return record.bytes * record.live_rows // record.rows


def _has_holes(record: ShardRecord) -> bool:
    return len(record.deleted_rows) >= holes_worth_a_copy * record.rows


def _unit(snapshot: Snapshot, lot: Sequence[ShardRecord], recipe: Recipe) -> tuple[Unit, pa.Table]:
    """The unit, and where each of its rows comes from."""
    rows: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    digests: list[str] = []
    for record in lot:
        if record.deleted_rows:
            live = live_inputs(snapshot, record)
            rows.append(np.array([position for position, _ in live], np.int64))
            digests.append(digest_ids(of for _, of in live))
        else:
            rows.append(np.arange(record.rows))
            digests.append(record.ids)
    count = sum(map(len, rows))
    unit = Unit(
        key=unit_key(recipe.id, [COMPACT, [[record.path, list(record.deleted_rows)] for record in lot]]),
        split=lot[0].split,
        inputs=count,
        bytes=sum(map(_live_bytes, lot)),
        ids=add_digests(digests),
    )
    paths = np.repeat([record.path for record in lot], list(map(len, rows)))
    columns = [pa.array([unit.key] * count, pa.string()), np.arange(count), pa.array(paths, pa.string()), np.concatenate(rows)]
    return unit, pa.Table.from_arrays(columns, schema=COPIES)
