"""Which live rows of a snapshot are meant: `where` on split or meta, and the first n. Positions and ids only, no pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from segtasks.errors import InputError
from segtasks.shards.records import ShardRecord
from segtasks.shards.schema import IMAGE_AXES
from segtasks.shards.snapshot import Snapshot, live_rows
from segtasks.shards.tables import read_parquet

Where = Mapping[str, str | Sequence[str]]


@dataclass(frozen=True)
class Chosen:
    """The chosen rows of one shard. `whole` is true when they are all its done rows and none is deleted."""

    record: ShardRecord
    positions: tuple[int, ...]  # in the file
    ids: tuple[str, ...]
    whole: bool


def select(snapshot: Snapshot, where: Where | None = None, limit: int | None = None, *, volumes: bool = False) -> Iterator[Chosen]:
    """The chosen rows of every shard that has any, in the snapshot's order. `InputError` where none is left, and for whole volumes
    unless the stage takes `volumes`."""
    where = where or {}
    left = limit
    found = False
    images = snapshot.file.rows == "samples/1" and not volumes
    for record in snapshot.shards():
        if "split" in where and record.split not in _values(where["split"]):
            continue
        with snapshot.store.open(record.path) as file:
            columns = ["image_id", "status", *(["axes"] if images else []), *(["split", "meta"] if set(where) - {"split"} else [])]
            table = read_parquet(file, columns=columns)
        live = live_rows(record, table["status"])
        chosen = live
        if set(where) - {"split"}:
            rows = table.select(["split", "meta"]).to_pylist()
            chosen = [position for position in live if matches(rows[position], where)]
        if left is not None:
            chosen = chosen[:left]
            left -= len(chosen)
        if chosen:
            found = True
            if images:
                require_images(snapshot, table.take(pa.array(chosen, pa.int64())))
            ids = table["image_id"].to_pylist()
            whole = len(chosen) == len(live) and not record.deleted_rows
            yield Chosen(record, tuple(chosen), tuple(ids[position] for position in chosen), whole)
        if left == 0:
            break
    if not found:
        raise InputError(f"{snapshot.ref} has no image{f' with {dict(where)}' if where else ''}; see: segtasks inspect {snapshot.ref}")


def require_images(snapshot: Snapshot, rows: pa.Table) -> None:
    """`InputError` where one of the rows (columns image_id and axes) is a whole volume, which few stages take."""
    other = rows.filter(pc.not_equal(rows["axes"], IMAGE_AXES)).slice(0, 1).to_pylist()
    if other:
        raise InputError(
            f"{snapshot.ref} has whole volumes ({other[0]['image_id']}, axes {other[0]['axes']}), and this works on images; needed: the "
            "source ingested as slices (format.options.mode: slices)"
        )


def matches(row: Mapping[str, object], where: Where) -> bool:
    """Whether a row's split and meta have one of the wanted values for every key."""
    pairs = row["meta"] if isinstance(row["meta"], list) else []
    values = {"split": row["split"], **{pair["key"]: pair["value"] for pair in pairs}}
    return all(values.get(key) in _values(wanted) for key, wanted in where.items())


def _values(wanted: str | Sequence[str]) -> Sequence[str]:
    return [wanted] if isinstance(wanted, str) else wanted
