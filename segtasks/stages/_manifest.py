"""From the items of a listing to units and manifests: listed once, spooled to this machine's disk, cut, and written out.

What stays in memory is numbers, some 80 bytes an item at the peak (110 with groups; benchmarks/ingest_listing.py), and no object of
Python's.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import tempfile
from array import array
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from segtasks.readers._base import SourceItem
from segtasks.shards.digest import digest_ids
from segtasks.shards.plan import Unit, unit_key, write_items
from segtasks.storage import Store

min_rows_for_parallelism = 16  # a small split is still cut into shards of this many rows, so that several workers have work
shards_wanted = 8
_items_a_manifest = 100_000
_details_a_manifest = 64 << 20  # characters: a worker reads the whole manifest that its shard is in
_items_a_batch = 8192
_in_memory_bytes = 16 << 20  # a spool that is smaller never gets to the disk
_batches_kept = 16

_COLUMNS = ("image_id", "path", "size", "version", "split", "group_id", "labels", "details")
_SPOOLED = pa.schema([(name, pa.int64() if name == "size" else pa.string()) for name in _COLUMNS])
ITEMS = pa.schema([("unit", pa.string()), *_SPOOLED])


class Spool:
    """The items of a listing that are to be read."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_in_memory_bytes, prefix="segtasks-")  # noqa: SIM115 - closed by __exit__
        self._writer = pa.ipc.new_file(self._file, _SPOOLED, options=pa.ipc.IpcWriteOptions(compression="zstd"))
        self._waiting: list[tuple[Any, ...]] = []
        self._sizes, self._details = array("q"), array("i")
        self._kinds, self._kind_of = array("i"), dict[tuple[str, bool], int]()
        self._groups = array("q")
        self._grouped = False

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._sizes)

    def add(self, item: SourceItem, *, retried: bool = False) -> None:
        if item.group_id and not self._grouped:
            self._grouped = True
            self._groups.extend(range(-len(self), 0))
        if self._grouped:
            self._groups.append(_number(item.group_id) if item.group_id else -1 - len(self))
        self._sizes.append(item.size)
        self._details.append(len(item.details))
        self._kinds.append(self._kind_of.setdefault((item.split, retried), len(self._kind_of)))
        labels = json.dumps(dict(item.labels), sort_keys=True)
        self._waiting.append((item.image_id, item.path, item.size, item.version, item.split, item.group_id, labels, item.details))
        if len(self._waiting) == _items_a_batch:
            self._flush()

    def _flush(self) -> None:
        columns = [pa.array(column, one.type) for column, one in zip(zip(*self._waiting, strict=True), _SPOOLED, strict=True)]
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=_SPOOLED))
        self._waiting = []

    def lots(self) -> Iterator[Lot]:
        """All is added: the items of each split that are tried for the first time, and of each that are tried again."""
        if not self._sizes:
            return
        kinds, sizes = np.frombuffer(self._kinds, np.int32), np.frombuffer(self._sizes, np.int64)
        groups = np.frombuffer(self._groups, np.int64) if self._grouped else None
        for (split, retried), kind in self._kind_of.items():
            rows = np.flatnonzero(kinds == kind)
            if groups is None:
                yield Lot(split, retried, rows, sizes[rows], None)
            else:
                rows = rows[_together(groups[rows])]
                yield Lot(split, retried, rows, sizes[rows], groups[rows])

    @cached_property
    def _batch(self) -> Callable[[int], pa.RecordBatch]:
        if self._waiting:
            self._flush()
        self._writer.close()
        return lru_cache(_batches_kept)(pa.ipc.open_file(self._file).get_batch)

    def find(self, matches: Callable[[str], bool]) -> str:
        """The first image id that matches."""
        batches = (self._batch(number) for number in range(math.ceil(len(self) / _items_a_batch)))
        ids: Iterator[str] = (one for batch in batches for one in batch["image_id"].to_pylist())
        return next(filter(matches, ids))

    def read(self, rows: NDArray[np.int64]) -> pa.Table:
        """These items, in this order. Nothing can be added after it."""
        batches = rows // _items_a_batch
        parts, places = [], []
        for number in np.unique(batches).tolist():
            where = np.flatnonzero(batches == number)
            parts.append(self._batch(number).take(pa.array(rows[where] % _items_a_batch)))
            places.append(where)
        return pa.Table.from_batches(parts, _SPOOLED).take(pa.array(np.argsort(np.concatenate(places), kind="stable")))

    def details(self, rows: NDArray[np.int64]) -> int:
        """Characters of details of these items."""
        return int(np.frombuffer(self._details, np.int32)[rows].sum())


@dataclass(frozen=True)
class Lot:
    """Items that are cut into shards together: where they are in the spool, in order, with groups brought together."""

    split: str
    retried: bool
    rows: NDArray[np.int64]
    sizes: NDArray[np.int64]
    groups: NDArray[np.int64] | None  # a number a group; each item without one has its own


def _number(group_id: str) -> int:
    """Two groups of one number would only be kept in one shard."""
    return int.from_bytes(hashlib.blake2b(group_id.encode(), digest_size=8).digest(), "big") >> 1


def _together(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """The order in which the members of a group follow its first one, and else nothing moves."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(first[inverse], kind="stable")


def cut(lot: Lot, shard_bytes: int, shard_rows: int) -> Iterator[NDArray[np.int64]]:
    """Cut into shards of about `shard_bytes`, in order; a group (video, patient) is only cut where it is larger than a shard."""
    most_rows = rows_a_shard(len(lot.rows), shard_rows)
    start = 0
    rows = size = 0
    for stop, part_rows, part_size in _parts(lot, shard_bytes, most_rows):
        if rows and (size + part_size > shard_bytes or rows + part_rows > most_rows):
            yield lot.rows[start : start + rows]
            start, rows, size = stop - part_rows, 0, 0
        rows, size = rows + part_rows, size + part_size
    if rows:
        yield lot.rows[start : start + rows]


def rows_a_shard(rows: int, shard_rows: int) -> int:
    """The largest number of rows in a shard of a split that has `rows`: fewer where the split is small, so that it has several shards."""
    return min(shard_rows, max(min_rows_for_parallelism, math.ceil(rows / shards_wanted)))


def _parts(lot: Lot, shard_bytes: int, most_rows: int) -> Iterator[tuple[int, int, int]]:
    """Runs that stay together: where each ends, its rows and its bytes."""
    rows = size = at = 0
    last: int | None = None
    for start in range(0, len(lot.rows), _items_a_batch):  # not all of them as Python objects at once
        part = slice(start, start + _items_a_batch)
        groups = lot.groups[part].tolist() if lot.groups is not None else itertools.repeat(None)
        for one, group in zip(lot.sizes[part].tolist(), groups):
            same = group is not None and group == last
            if rows and not (same and rows < most_rows and size + one <= shard_bytes):
                yield at, rows, size
                rows = size = 0
            rows, size, at, last = rows + 1, size + one, at + 1, group
    if rows:
        yield at, rows, size


class Namer:
    """Names units by recipe and content. A name that the output lists already is of rows that were dropped since: never used again."""

    def __init__(self, recipe_id: str, again: int, taken: Set[str]) -> None:
        self._recipe_id, self._again, self._taken = recipe_id, again, taken

    def unit(self, lot: Lot, items: pa.Table) -> Unit:
        ids, paths, versions = (items[name].to_pylist() for name in ("image_id", "path", "version"))
        content: list[Any] = [list(one) for one in zip(ids, paths, versions, strict=True)]
        unit = Unit(
            key=unit_key(self._recipe_id, content),
            split=lot.split,
            inputs=len(ids),
            bytes=sum(items["size"].to_pylist()),
            ids=digest_ids(ids),
            retried=lot.retried,
        )
        if lot.retried or unit.path in self._taken:
            unit = replace(unit, key=unit_key(self._recipe_id, [*content, ["again", self._again]]))
        return unit


def make_units(spool: Spool, shard_bytes: int, shard_rows: int, namer: Namer, store: Store | None) -> list[Unit]:
    """Cut everything, and write the items as manifest lists; without a store nothing is written."""
    units: list[Unit] = []
    waiting: list[tuple[Lot, NDArray[np.int64]]] = []
    items = details = 0

    def flush() -> None:
        table = spool.read(np.concatenate([rows for _, rows in waiting]))
        made: list[Unit] = []
        first = 0
        for lot, rows in waiting:
            made.append(replace(namer.unit(lot, table.slice(first, len(rows))), first_item=first))
            first += len(rows)
        if store is not None:
            keys = pa.array(np.repeat([unit.key for unit in made], [unit.inputs for unit in made]), pa.string())
            name = write_items(store, table.add_column(0, "unit", keys).cast(ITEMS))
            made = [replace(unit, items=name) for unit in made]
        units.extend(made)
        waiting.clear()

    for lot in spool.lots():
        for rows in cut(lot, shard_bytes, shard_rows):
            waiting.append((lot, rows))
            items += len(rows)
            details += spool.details(rows)
            if items >= _items_a_manifest or details >= _details_a_manifest:
                flush()
                items = details = 0
    if waiting:
        flush()
    return units
