"""Prove a snapshot again from its bytes: every object present, every hash right, every id accounted for."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from segtasks.config import Config
from segtasks.errors import CorruptError
from segtasks.refs import Ref
from segtasks.shards.digest import add_digests, digest_ids, hash_bytes
from segtasks.shards.drop import key_column
from segtasks.shards.plan import read_plan, read_units
from segtasks.shards.records import ShardRecord, file_digest
from segtasks.shards.schema import schema_named
from segtasks.shards.snapshot import Snapshot, count, open_snapshot
from segtasks.shards.writer import EMPTY, OK, QUARANTINED
from segtasks.storage import StorageOptions

T = TypeVar("T")


class VerifyReport(Config):
    """What was re-proven. `problems` is empty when everything holds."""

    url: str
    snapshot: int
    shards: int
    rows: int
    bytes: int
    ids: str = Field(description="digest of all live input ids, computed again from the rows")
    problems: tuple[str, ...] = ()


def verify(ref: Ref | str, storage: StorageOptions | None = None, threads: int = 4) -> VerifyReport:
    """Read every shard of a snapshot, hash it, count its rows and add up its ids; compare with lists, plan and snapshot."""
    snapshot = open_snapshot(ref, storage)
    problems: list[str] = []
    recipe = _try(problems, lambda: snapshot.recipe)
    records = _try(problems, lambda: list(snapshot.records.values())) or []
    if recipe is not None and recipe.spec != snapshot.spec:
        problems.append("the snapshot's spec differs from the recipe's")
    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(lambda record: check_shard(snapshot, record), records))
    live: list[str] = []
    seen: set[str] = set()
    for record, (found, ids) in zip(records, results, strict=True):
        problems += [f"{record.path}: {problem}" for problem in found]
        twice = seen & ids
        if twice:
            problems.append(f"{record.path}: {len(twice)} ids are in another shard too, for example {min(twice)}")
        seen |= ids
        live.append(digest_ids(ids))
    ids_now = add_digests(live)
    if not problems:
        if ids_now != snapshot.file.ids:
            problems.append(f"the ids in the rows have digest {ids_now}; the snapshot says {snapshot.file.ids}")
        counts = count(snapshot.store, snapshot.file.rows, records)
        if counts != snapshot.counts:
            problems.append(f"counted {counts.model_dump()}; the snapshot says {snapshot.counts.model_dump()}")
    problems += _try(problems, lambda: list(_missing_units(snapshot, records))) or []
    counts_now = snapshot.counts
    return VerifyReport(
        url=snapshot.store.url,
        snapshot=snapshot.number,
        shards=len(records),
        rows=counts_now.rows,
        bytes=counts_now.bytes,
        ids=ids_now,
        problems=tuple(problems),
    )


def _try(problems: list[str], call: Callable[[], T]) -> T | None:
    try:
        return call()
    except CorruptError as error:
        problems.append(str(error))
        return None


def check_shard(snapshot: Snapshot, record: ShardRecord) -> tuple[list[str], set[str]]:
    """Problems of one shard, and the ids of its live inputs."""
    try:
        data = snapshot.store.read(record.path)
    except FileNotFoundError:
        return ["is missing"], set()
    problems = []
    if len(data) != record.bytes:
        problems.append(f"has {len(data)} bytes; the list says {record.bytes}")
    try:
        file = pq.ParquetFile(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        return [*problems, f"is not readable as Parquet: {error}"], set()
    footer_bytes = int.from_bytes(data[-8:-4], "little") + 8
    content = memoryview(data)[: len(data) - footer_bytes]
    if file_digest(hash_bytes(content), data[-footer_bytes:]) != record.digest:
        problems.append("does not hash to the digest in the list")
    schema = schema_named(snapshot.file.rows)
    if not file.schema_arrow.equals(schema, check_metadata=False):
        problems.append("has other columns than its schema")
        return problems, set()
    key = key_column(snapshot.file.rows)
    try:
        table = file.read(columns=[key, "status"], use_threads=False)
    except (pa.ArrowException, OSError) as error:
        return [*problems, f"cannot be read: {error}"], set()
    ids = table[key].to_pylist()
    found = Counter(table["status"].to_pylist())
    rows = (found[OK], found[QUARANTINED], found[EMPTY])
    if digest_ids(set(ids)) != record.ids or len(set(ids)) != record.inputs:
        problems.append(f"has {len(set(ids))} ids; the list says {record.inputs}, or other ones")
    if (len(ids), *rows) != (record.rows, record.done, record.quarantined, record.empty):
        problems.append(
            f"has {len(ids)} rows ({rows[0]} done, {rows[1]} quarantined, {rows[2]} empty); "
            f"the list says {record.rows} ({record.done}, {record.quarantined}, {record.empty})"
        )
    gone = set(record.deleted_rows)
    return problems, {item for position, item in enumerate(ids) if position not in gone}


def _missing_units(snapshot: Snapshot, records: Iterable[ShardRecord]) -> Iterable[str]:
    """Every unit of the plan behind this snapshot is listed."""
    listed = {record.unit: record for record in records}
    plan = read_plan(snapshot.store, snapshot.file.plan)
    for unit in read_units(snapshot.store, plan):
        record = listed.get(unit.key)
        if record is None:
            yield f"unit {unit.key} of plan {plan.number} has no shard in the snapshot"
        elif (record.ids, record.inputs) != (unit.ids, unit.inputs):
            yield f"{record.path}: the plan wanted {unit.inputs} ids with digest {unit.ids}"


def require_intact(report: VerifyReport) -> None:
    """Raise `CorruptError` listing the problems, if there are any."""
    if report.problems:
        lines = "\n".join(f"  {problem}" for problem in report.problems[:20])
        more = f"\n  and {len(report.problems) - 20} more" if len(report.problems) > 20 else ""
        raise CorruptError(f"{report.url}@{report.snapshot} does not hold:\n{lines}{more}")
