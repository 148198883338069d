"""Rows that a unit takes over from shards of the same output, so that nothing is computed again when rows only move.

A list names them by unit, place (of the input in the unit), path and row; one input may have many rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from segtasks.shards.plan import LISTS, Unit
from segtasks.shards.tables import read_parquet, read_table, write_table
from segtasks.storage import Store

COPIES = pa.schema([("unit", pa.string()), ("place", pa.int64()), ("path", pa.string()), ("row", pa.int64())])
_rows_a_list = 200_000


def write_copies(store: Store, units: Sequence[Unit], copies: pa.Table) -> list[Unit]:
    """Write the copies of each unit, whole, into lists, and tell the unit which one. `copies` has the units in plan order."""
    named: dict[str, str] = {}
    starts = np.flatnonzero(pc.not_equal(copies["unit"][1:], copies["unit"][:-1]).to_numpy()) + 1
    bounds = [0, *starts.tolist(), copies.num_rows]
    first = 0
    for last in range(1, len(bounds)):
        if bounds[last] - bounds[first] >= _rows_a_list or last == len(bounds) - 1:
            part = copies.slice(bounds[first], bounds[last] - bounds[first])
            name = write_table(store, LISTS, part)
            named |= dict.fromkeys(pc.unique(part["unit"]).to_pylist(), name)
            first = last
    return [replace(unit, copies=named.get(unit.key, "")) for unit in units]


class Copier:
    """Reads copied rows, in the worker. The last list is kept: the next unit is likely in it too."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._list: tuple[str, pa.Table] = ("", COPIES.empty_table())

    def rows_of(self, unit: Unit) -> Mapping[int, Sequence[Mapping[str, Any]]]:
        """The unit's copied rows by place, made when they are asked for. Their shards are read here, and only these rows are kept."""
        if not unit.copies:
            return {}
        if self._list[0] != unit.copies:
            self._list = (unit.copies, read_table(self._store, LISTS, unit.copies))
        wanted = self._list[1].filter(pc.equal(self._list[1]["unit"], unit.key))
        places, paths, rows = (wanted[name].to_pylist() for name in ("place", "path", "row"))
        by_path: dict[str, list[int]] = {}
        by_place: dict[int, list[tuple[str, int]]] = {}
        for place, path, row in zip(places, paths, rows, strict=True):
            kept = by_path.setdefault(path, [])
            by_place.setdefault(place, []).append((path, len(kept)))
            kept.append(row)
        tables = {path: self._read(path, kept) for path, kept in by_path.items()}
        return _Rows(tables, by_place)

    def _read(self, path: str, rows: Sequence[int]) -> pa.Table:
        return read_parquet(pa.BufferReader(self._store.read(path))).take(pa.array(rows, pa.int64()))


class _Rows(Mapping[int, Sequence[Mapping[str, Any]]]):
    def __init__(self, tables: Mapping[str, pa.Table], by_place: Mapping[int, Sequence[tuple[str, int]]]) -> None:
        self._tables, self._by_place = tables, by_place

    def __getitem__(self, place: int) -> Sequence[Mapping[str, Any]]:
        return [self._tables[path].slice(row, 1).to_pylist()[0] for path, row in self._by_place[place]]

    def __iter__(self) -> Iterator[int]:
        return iter(self._by_place)

    def __len__(self) -> int:
        return len(self._by_place)
