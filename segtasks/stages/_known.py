"""What the output of ingest holds already, as sorted arrays: 37 bytes a row (90 while they are sorted) and no object of Python's, so that a
delta over ten million images fits into any driver."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segtasks.readers._base import SourceItem
from segtasks.shards.records import ShardRecord
from segtasks.shards.snapshot import Snapshot
from segtasks.shards.tables import read_parquet
from segtasks.shards.writer import QUARANTINED
from segtasks.stages._ahead import map_ahead

threads = 16
_ROW = np.dtype([("id", "S16"), ("mark", "u8"), ("shard", "i4"), ("position", "i4"), ("refused", "?")])


def id_digest(image_id: str) -> bytes:
    return hashlib.blake2b(image_id.encode(), digest_size=16).digest()


def mark_of(version: str, split: str, group_id: str) -> int:
    """Changes when the image must be read again: its bytes or truth changed, or it belongs elsewhere."""
    return int.from_bytes(hashlib.blake2b(f"{version}\0{split}\0{group_id}".encode(), digest_size=8).digest())


class Known:
    """Live rows of the latest snapshot, refused ones included, sorted by the digest of their ids."""

    def __init__(self, latest: Snapshot | None) -> None:
        records = latest.shards() if latest else []
        parts = map_ahead(lambda at: _rows_of(latest, records[at], at), range(len(records)), threads, 2 * threads)  # type: ignore[arg-type]
        self._rows = np.concatenate([np.empty(0, _ROW), *parts])
        self._rows = self._rows[np.argsort(self._rows["id"], kind="stable")]
        self._ids = np.ascontiguousarray(self._rows["id"])
        self._paths = [record.path for record in records]
        self._seen = np.zeros(len(self._rows), bool)

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, ids: Sequence[bytes]) -> NDArray[np.int64]:
        """Where the rows of these ids are, and -1 for those that are not there."""
        wanted = np.array(ids, "S16")
        places = np.searchsorted(self._ids, wanted)
        there = places < len(self._ids)
        there[there] = self._ids[places[there]] == wanted[there]
        return np.where(there, places, -1)

    def see(self, place: int) -> bool:
        """Note that the source has it; False where that was noted before."""
        before = bool(self._seen[place])
        self._seen[place] = True
        return not before

    def unchanged(self, place: int, item: SourceItem) -> bool:
        return int(self._rows["mark"][place]) == mark_of(item.version, item.split, item.group_id)

    def refused(self, place: int) -> bool:
        return bool(self._rows["refused"][place])

    def gone(self) -> NDArray[np.int64]:
        """Places of the rows whose image the source has no more; to be asked when all is listed."""
        return np.flatnonzero(~self._seen)

    def positions(self, places: NDArray[np.int64]) -> dict[str, list[int]]:
        """Path -> positions in the file."""
        if not len(places):
            return {}
        rows = self._rows[places]
        order = np.lexsort((rows["position"], rows["shard"]))
        shards, starts = np.unique(rows["shard"][order], return_index=True)
        lots = np.split(rows["position"][order], starts[1:])
        return {self._paths[shard]: lot.tolist() for shard, lot in zip(shards.tolist(), lots, strict=True)}


def _rows_of(snapshot: Snapshot, record: ShardRecord, number: int) -> NDArray[np.void]:
    with snapshot.store.open(record.path) as file:
        table = read_parquet(file, columns=["image_id", "source_version", "group_id", "status"])
    ids, versions, groups, statuses = (column.to_pylist() for column in table.columns)
    rows = np.empty(table.num_rows, _ROW)
    rows["id"] = [id_digest(one) for one in ids]
    rows["mark"] = [mark_of(version or "", record.split, group or "") for version, group in zip(versions, groups, strict=True)]
    rows["shard"], rows["position"] = number, np.arange(table.num_rows)
    rows["refused"] = np.array(statuses) == QUARANTINED
    return np.delete(rows, list(record.deleted_rows))
