"""Small Parquet tables named by the hash of their bytes: unit lists, manifests and shard lists; and how any Parquet file is read."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from segtasks.errors import CorruptError
from segtasks.shards.digest import hash_bytes
from segtasks.storage import Store


def write_table(store: Store, folder: str, table: pa.Table, row_group: int = 65_536) -> str:
    """Write `table` as `<folder>/<hash>.parquet` and return the hash. Writing the same content again does nothing."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=row_group)
    data = buffer.getvalue()
    name = hash_bytes(data)[:32]
    store.create(f"{folder}/{name}.parquet", data)
    return name


def read_table(store: Store, folder: str, name: str) -> pa.Table:
    """Read it back; bytes that do not hash to the name are a `CorruptError`."""
    path = f"{folder}/{name}.parquet"
    try:
        data = store.read(path)
    except FileNotFoundError as error:
        raise CorruptError(f"{store.url_of(path)} is missing, though a plan or snapshot names it") from error
    if hash_bytes(data)[:32] != name:
        raise CorruptError(f"{store.url_of(path)} does not hash to its name: it was changed or cut short")
    return read_parquet(pa.BufferReader(data))


def read_parquet(file: Any, columns: Sequence[str] | None = None) -> pa.Table:
    """Columns of an open file, or of a `pa.BufferReader`, in the order asked for, read in this thread.

    `pq.read_table` leaves tasks that hold `file` to Arrow's threads; one that is still there when the interpreter ends aborts the
    process (apache/arrow#34314): 11 of 60 processes on busy CPUs.
    """
    table = pq.ParquetFile(file).read(columns=None if columns is None else list(columns), use_threads=False)
    return table if columns is None else table.select(list(columns))
