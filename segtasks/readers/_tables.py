"""Parquet files as a source: footer and small columns for a scan, single rows with their blobs for a read.

Rows come from parts of a row group that are a few MiB large, read one after the other, so that memory is bounded in a file of one
huge row group too; only a page is always whole in memory (pyarrow's writer puts up to 1024 rows into one). A row that lies before
the kept parts is found by reading its row group again from its beginning.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from segtasks.errors import DecodeError, InputError, did_you_mean
from segtasks.readers._ranges import Ranges
from segtasks.storage import Store

part_bytes = 8 << 20
_SHARD = b"segtasks"  # what the footer of a shard of ours has, see docs/format.md
_most_rows = 1024  # in a part
_parts_kept = 2  # of each row group: the reader's threads are at most a few rows apart
_groups_kept = 2  # where one row group ends and the next begins
_buffer_bytes = 1 << 20


def is_picture(kind: pa.DataType) -> bool:
    """Encoded bytes, or Hugging Face's struct of bytes and path."""
    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and _is_bytes(kind.field(at).type)
    return _is_bytes(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def is_path(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


class Table:
    """An open file. Columns are the outermost ones."""

    def __init__(self, path: str, file: IO[bytes] | Ranges, buffer_bytes: int = 0) -> None:
        self.path = path
        try:
            self._file = pq.ParquetFile(file, pre_buffer=False, buffer_size=buffer_bytes)
            self.schema: pa.Schema = self._file.schema_arrow
            self.names: list[str] = self.schema.names
            self._paths = [self._file.schema.column(at).path for at in range(len(self._file.schema))]
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _unreadable(error, InputError(f"{path} is no Parquet file, or is cut off: {error}")) from error
        self.groups: int = self._file.num_row_groups
        self._facts: dict[bytes, bytes] = self._file.metadata.metadata or {}
        if _SHARD in self._facts:
            raise InputError(
                f"{path} is a shard of a segtasks shard set, ingested already; needed: that set's URL where its data is asked for"
            )

    def require(self, name: str) -> None:
        if name not in self.names:
            names = ", ".join(self.names[:20])
            raise InputError(f"{self.path} has no column {name!r}.{did_you_mean(name, self.names)} Its columns: {names}")
        if self.names.count(name) > 1:
            raise InputError(f"{self.path} has {self.names.count(name)} columns {name!r}; needed: one of that name")

    def class_names(self, column: str) -> tuple[str, ...]:
        """The names of the ClassLabel at `column` (`objects.category`); without one of the only ClassLabel there is."""
        found = _class_labels(self._facts)
        if column and column not in found:
            raise InputError(f"{self.path} has no ClassLabel {column!r} in its Hugging Face features.{did_you_mean(column, found)}")
        if not column and len(set(found.values())) > 1:
            raise InputError(
                f"{self.path} has several ClassLabels: {', '.join(found)}; say in class_names which one names the masks' classes"
            )
        return found[column] if column else next(iter(found.values()), ())

    def rows_of(self, group: int) -> int:
        return int(self._file.metadata.row_group(group).num_rows)

    def bytes_a_row(self, group: int, columns: Sequence[str]) -> int:
        """What a row of the group takes in the file, on average."""
        return int(sum(one.total_compressed_size for one in self._leaves(group, columns)) // max(1, self.rows_of(group)))

    def check_rows(self, group: int, column: str) -> None:
        """`InputError` where the footer does not agree with itself on how many rows there are: it would be listed as many as it says."""
        rows, facts = self.rows_of(group), self._file.metadata.row_group(group)
        for place, path in enumerate(self._paths):
            if path in (column, f"{column}.bytes") and facts.column(place).num_values != rows:
                raise InputError(
                    f"{self.path} is damaged: row group {group} has {rows} rows, and {facts.column(place).num_values} values of {column}"
                )

    def all_null(self, column: str) -> bool:
        """Whether the footer says that no row has a value there."""
        for group in range(self.groups):
            for leaf in self._leaves(group, [column]):
                if leaf.statistics is None or leaf.statistics.null_count != self.rows_of(group):
                    return False
        return True

    def _leaves(self, group: int, columns: Sequence[str]) -> Iterator[Any]:
        """The stored columns that make up these ones."""
        facts = self._file.metadata.row_group(group)
        for place, path in enumerate(self._paths):
            if path.split(".")[0] in columns or path in columns:
                yield facts.column(place)

    def small_rows(self, group: int, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The row group's rows with these columns alone, which may be none."""
        if not columns:
            for _ in range(self.rows_of(group)):
                yield {}
            return
        try:
            for part in self.parts(group, columns, _most_rows):
                yield from _rows(part, f"{self.path}, row group {group}")
        except DecodeError as fault:
            raise InputError(str(fault)) from fault

    def column(self, name: str) -> Iterator[Any]:
        """The values of one column, from the first row on to where the file is damaged."""
        for group in range(self.groups):
            try:
                for part in self.parts(group, [name]):
                    yield from (_rows(part.slice(at, 1), self.path)[0][name] for at in range(part.num_rows))
            except DecodeError:
                return

    def parts(self, group: int, columns: Sequence[str], rows: int | None = None) -> Iterator[pa.RecordBatch]:
        """The row group in parts of `rows` rows, otherwise of about `part_bytes`."""
        rows = rows or self.rows_a_part(group, columns)
        try:
            # in this thread: see shards.tables.read_parquet
            yield from self._file.iter_batches(rows, row_groups=[group], columns=list(columns), use_threads=False)
        except (pa.ArrowException, OSError) as error:
            what = f"{self.path}: row group {group} of {self.groups} cannot be read: {' '.join(str(error).split())[:200]}"
            raise _unreadable(error, DecodeError(what)) from error

    def rows_a_part(self, group: int, columns: Sequence[str]) -> int:
        unpacked = sum(max(one.total_compressed_size, one.total_uncompressed_size) for one in self._leaves(group, columns))
        return int(max(1, min(_most_rows, part_bytes * self.rows_of(group) // max(1, unpacked))))


@contextmanager
def open_table(source: Store, path: str) -> Iterator[Table]:
    """For a scan: only what is asked for is fetched. `InputError` where the file is not Parquet or belongs to a segtasks shard set."""
    with Ranges(source, path) as file:
        yield Table(path, file)


class RowReader:
    """Single rows for several threads that go through the files in order, more or less."""

    def __init__(self, source: Store) -> None:
        self._source = source
        self._cursors: OrderedDict[tuple[str, int, tuple[str, ...]], _Cursor] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: str, group: int, row: int, columns: tuple[str, ...]) -> dict[str, Any]:
        """The columns of one row. `DecodeError` where its part of the file is damaged, or the file is not as it was when listed."""
        key = (path, group, columns)
        with self._lock:
            cursor = self._cursors.get(key)
            if cursor is None or not cursor.can_reach(row):
                self._drop(key)
                while len(self._cursors) >= _groups_kept:
                    self._drop(next(iter(self._cursors)))
                cursor = self._cursors[key] = _Cursor(self._source, path, group, columns)
            self._cursors.move_to_end(key)
            try:
                return cursor.get(row)
            except DecodeError:
                raise
            except BaseException:  # the store's: the next row begins anew
                self._drop(key)
                raise

    def _drop(self, key: tuple[str, int, tuple[str, ...]]) -> None:
        cursor = self._cursors.pop(key, None)
        if cursor is not None:
            cursor.close()


class _Cursor:
    """Goes through one row group, and keeps its last parts."""

    def __init__(self, source: Store, path: str, group: int, columns: tuple[str, ...]) -> None:
        self._where = f"{path}: row group {group}"
        self._file = source.open(path)
        try:
            table = Table(path, self._file, _buffer_bytes)
            missing = [name for name in columns if name not in table.names]
            if group >= table.groups or missing:
                raise DecodeError(f"{self._where} is not as it was when listed: the file was written again; run again")
            self._parts, self._rows = table.parts(group, columns), table.rows_of(group)
        except BaseException as error:
            self._file.close()
            if isinstance(error, InputError):
                raise DecodeError(str(error)) from error
            raise
        self._kept: deque[tuple[int, pa.RecordBatch]] = deque(maxlen=_parts_kept)
        self._next = 0
        self._damage = ""  # why no part follows: damage is not looked for again for each row behind it

    def can_reach(self, row: int) -> bool:
        return row >= (self._kept[0][0] if self._kept else 0)

    def get(self, row: int) -> dict[str, Any]:
        while row >= self._next:
            if self._damage:
                raise DecodeError(self._damage)
            try:
                part = next(self._parts, None)
            except DecodeError as fault:
                self._damage = str(fault)
                raise
            if part is None:
                raise DecodeError(f"{self._where} has {self._next} rows; row {row} was listed: the file was written again; run again")
            self._kept.append((self._next, part))
            self._next += part.num_rows
            if self._next >= self._rows:
                self.close()
        start, part = next(kept for kept in reversed(self._kept) if kept[0] <= row)
        return _rows(part.slice(row - start, 1), f"{self._where}, row {row}")[0]

    def close(self) -> None:
        self._file.close()


def _rows(part: pa.RecordBatch, where: str) -> list[dict[str, Any]]:
    """`DecodeError` for text that is not in UTF-8, and for times that Python does not know."""
    try:
        found: list[dict[str, Any]] = part.to_pylist()
    except (ValueError, OverflowError, KeyError, pa.ArrowException) as error:
        what = "text that is not in UTF-8" if isinstance(error, UnicodeDecodeError) else "values that cannot be read"
        raise DecodeError(f"{where} has {what} in {', '.join(part.schema.names)}: {error}") from error
    return found


def _class_labels(facts: Mapping[bytes, bytes]) -> dict[str, tuple[str, ...]]:
    """Names by dotted path, of every ClassLabel in Hugging Face's features."""
    try:
        return _labels_of(json.loads(facts.get(b"huggingface", b"{}"))["info"]["features"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


def _labels_of(feature: Any, path: str = "") -> dict[str, tuple[str, ...]]:
    """Also of those in lists and structs."""
    if isinstance(feature, list):
        return _labels_of(feature[0], path) if feature else {}
    if not isinstance(feature, dict):
        return {}
    names = feature.get("names")
    if feature.get("_type") == "ClassLabel":
        return {path: tuple(str(name) for name in names)} if isinstance(names, list) else {}
    found: dict[str, tuple[str, ...]] = {}
    for key, inner in feature.items():
        below = path if key == "feature" and "_type" in feature else f"{path}.{key}".lstrip(".")
        found |= _labels_of(inner, below)
    return found


def _unreadable(error: Exception, fault: Exception) -> Exception:
    """`fault`, unless the error is the store's or the disk's: Arrow's own have no number."""
    return error if isinstance(error, OSError) and (error.errno is not None or isinstance(error, FileNotFoundError)) else fault
